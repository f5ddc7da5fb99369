"""What the demo shows: a line for each thing that happens, a progress bar, and the table at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from penstock.cli.demo.report import Report, Times
from penstock.cli.demo.stage import pid_of

#: Changes of the bar per second.
_FRAMES = 10


class Screen:
    """Writes to a terminal; to a file or pipe the same without the bar; nothing if `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet, highlight=False)
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("       "),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[rate]:,.0f}/s[/]"),
            TextColumn("[red]{task.fields[failed]} failed[/]"),
            console=self._console,
            refresh_per_second=_FRAMES,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._failed = 0
"""To be continued."""
