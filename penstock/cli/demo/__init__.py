"""``penstock demo``: index Python's standard library with two workers, kill one, lose nothing.

`tasks` is what a user would write, `app` what the workers load; `story` tells what happens when.
"""

from __future__ import annotations

from penstock.cli.demo.command import demo

__all__ = ["demo"]
