"""What the demo shows: a line for each thing that happens, a progress bar, and the tables at the end."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from penstock.cli.demo.report import Report, Times
from penstock.cli.demo.stage import pid_of

#: Columns where the output is no terminal.
_WIDTH = 100


class Screen:
    """Writes to a terminal; to a file or pipe without the bar; nothing if `quiet`."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(quiet=quiet, highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDTH
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("       "),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("{task.fields[failed]} failed  [dim]{task.fields[workers]}"),
            console=self._console,
            transient=True,
            disable=quiet or not self._console.is_terminal,
        )
        self._row = self._bar.add_task("", total=None, failed=0, workers="", start=False)
        self._failed = 0

    def title(self, text: str) -> None:
        """The first line."""
        self._console.print(Text(text, "bold"))

    def say(self, text: str, style: str = "") -> None:
        """One line for something that has happened, with the seconds since the start."""
        line = Text(f"{time.monotonic() - self._began:5.1f} s  ", "dim").append(text, style or "default not dim")
        self._console.print(line, soft_wrap=True)

    @contextmanager
    def progress(self, total: int) -> Iterator[None]:
        """Show the bar inside this block."""
        self._bar.start_task(self._row)
        self._bar.update(self._row, total=total)
        with self._bar:
            yield

    def advance(self, failed: bool) -> None:
        """One task has ended."""
        self._failed += failed
        self._bar.update(self._row, advance=1, failed=self._failed)

    def workers(self, names: Iterable[str]) -> None:
        """The worker processes that live, shown beside the bar."""
        self._bar.update(self._row, workers="workers " + " ".join(str(pid_of(name)) for name in names))

    def show(self, report: Report) -> None:
        """The tables, and the proof."""
        show = self._console.print
        show()
        show(Columns([_numbers(report), _imports(report)], padding=(0, 6)))
        show(_failures(report))
        for problem in report.problems:
            show(Text(f"WRONG: {problem}", "bold red"))
        for file in report.missing:
            show(Text(f"       missing: {file}", "red"))
        if not report.problems:
            proof = (
                f"{report.files:,} files sent, {report.files:,} records read back, each of a task that has ended: "
                f"{report.indexed:,} indexed and added up, {report.failed} among the dead letters."
            )
            show(Text("✓ No file is missing. ", "bold green").append(proof, "not bold default"))


class _Rate(ProgressColumn):
    """Tasks per second, since the first one was sent."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.completed / (task.elapsed or 1):4,.0f} tasks/s", "cyan")


def _numbers(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows: list[tuple[str, str, str]] = [
        ("files", f"{report.files:,}", f"{report.indexed:,} indexed"),
        ("lines", f"{report.lines:,}", ""),
        ("functions", f"{report.functions:,}", ""),
        ("classes", f"{report.classes:,}", ""),
        ("", "", ""),
        ("tasks/s", f"{report.tasks_per_second:,.0f}", ""),
        ("wait", *_times(report.wait)),
        ("run", *_times(report.run)),
        ("retried", str(report.retried), "made to stumble, on purpose"),
        ("failed", str(report.failed), "dead letters, below"),
        ("taken over", str(len(report.taken_over)), _recovery(report)),
        ("wall time", f"{report.wall:.1f} s", ""),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def _imports(report: Report) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right", style="dim")
    table.add_row(Text("imported most", "dim"), "files")
    for module, files in report.imports:
        table.add_row(module, f"{files:,}")
    return table


def _failures(report: Report) -> RenderableType:
    widest = max((len(failure.file) for failure in report.failures), default=0)
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="dim", expand=True)
    table.add_column("dead letters", min_width=widest, no_wrap=True)
    table.add_column("error", style="red", ratio=1, no_wrap=True, overflow="ellipsis")
    for failure in report.failures:
        table.add_row(Text(failure.file), Text(failure.error))
    return Padding(table, (1, 0))


def _times(times: Times) -> tuple[str, str]:
    return _seconds(times.p50), f"p50;  p99 {_seconds(times.p99)}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1000:.0f} ms"


def _recovery(report: Report) -> str:
    if report.recovered_in is None:
        return ""
    return f"from the killed worker, in {report.recovered_in:.1f} s"
