"""The command line. `main` is the entrance; each command's module is imported when it is used."""

from __future__ import annotations

from penstock.cli.root import main

__all__ = ["main"]
