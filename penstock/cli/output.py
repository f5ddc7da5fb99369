"""What commands print: tables for people, JSON with ``--json`` for programs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from penstock.cli.printable import printable, printable_json

_KEY = "penstock.json"
#: Columns where the output is no terminal: nothing should be cut off on its way to grep.
_WIDE = 1000


def choose(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    """Callback of ``--json``."""
    ctx.meta[_KEY] = value


def wants_json() -> bool:
    """True if the command was given ``--json``."""
    return bool(click.get_current_context().meta.get(_KEY))


def print_json(value: object) -> None:
    """`value` as indented JSON; what JSON does not know is shown by its repr."""
    try:
        text = msgspec.json.encode(value, enc_hook=repr)
    except (TypeError, ValueError):  # a dict with keys that are no strings, a lone surrogate
        text = msgspec.json.encode(_plain(value), enc_hook=repr)
    click.echo(printable_json(msgspec.json.format(text, indent=2).decode()))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """A table; numbers to the right. Without rows: the line `empty`."""
    rows = [list(row) for row in rows]
    if not rows:
        click.echo(empty)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, column in enumerate(columns):
        right = all(isinstance(row[i], int) or row[i] == "" for row in rows)
        table.add_column(_text(column), justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(*[_text(value) for value in row])
    console = _console()
    with console.capture() as capture:
        console.print(table)
    lines = [line.rstrip() for line in capture.get().splitlines()]
    click.echo("\n".join(line for line in lines if line))  # without the box's empty first and last line


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """Names and values, one to a line; without those that are None."""
    shown = [(printable(name, in_a_line=True), _cell(value)) for name, value in fields if value is not None]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        value = printable(value).replace("\n", "\n" + " " * (width + 2))  # no line of it can pass for a field
        click.echo(f"{click.style(name.ljust(width), dim=True)}  {value}")


def ago(seconds: float | None) -> str:
    """A length of time for people: ``3 s``, ``5 min``, ``2 h 10 min``, ``4 d``; "" for None."""
    if seconds is None:
        return ""
    if not math.isfinite(seconds):
        return "?"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = int(seconds // 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d"


def clock(moment: datetime, timespec: str = "milliseconds") -> str:
    """A moment in local time."""
    return moment.astimezone().isoformat(sep=" ", timespec=timespec)


def shortened(text: str, length: int = 80) -> str:
    """The first line, cut to `length` characters."""
    line = text.partition("\n")[0]
    return line if len(line) <= length else line[: length - 1] + "…"


def _console() -> Console:
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDE
    return console


def _text(value: object) -> Text:
    """Not a str: in that rich would obey its own markup, ``[red]``."""
    return Text(printable(_cell(value), in_a_line=True))


def _cell(value: object) -> str:
    if isinstance(value, datetime):
        return clock(value)
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value)
    return "" if value is None else str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        value = msgspec.structs.asdict(value)
    if isinstance(value, dict):
        return {_plain(str(key)): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
