"""What can go wrong that its reader can mend."""

from __future__ import annotations


class BenchError(Exception):
    """Its text says what to do. What it is about is left out, or the whole benchmark ends."""
