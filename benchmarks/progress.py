"""What is being run, and the time left: a bar on a terminal, else a line for each run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

Key = tuple[str, str]


class Progress:
    """A context manager. `guesses` are the seconds of a scenario's steps before one of them has been seen."""

    def __init__(self, console: Console, guesses: Mapping[str, float]) -> None:
        self._console = console
        self._guesses = guesses
        self._seen: dict[Key, float] = {}
        self._spent = 0.0
        self._bar: Bar | None = None
        self._line = TaskID(0)
        self._text, self._left = "", 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (BarColumn(30), TextColumn("{task.fields[left]} left"), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=self._console, transient=True)
            self._line = self._bar.add_task("", total=None, left="")
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def begin(self, key: Key, text: str, later: Iterable[Key]) -> None:
        """`text` runs now, and the steps `later` after it."""
        self._text = text
        self._left = self._guess(key) + sum(map(self._guess, later))
        if self._bar:
            total = self._spent + self._left
            self._bar.update(
                self._line, description=text, total=total, completed=self._spent, left=duration(self._left)
            )

    def done(self, key: Key, seconds: float, note: str) -> None:
        """What has begun has ended; it is counted with the seconds it took."""
        self._left -= self._guess(key)
        self._seen[key] = seconds
        self._spent += seconds
        if self._bar is None:
            self.say(f"{time.strftime('%H:%M:%S')}  {self._text}: {note} ({duration(self._left)} left)")
        elif note.startswith("failed"):
            self.say(f"{self._text}: {note}")

    def _guess(self, key: Key) -> float:
        return self._seen.get(key, self._guesses[key[0]])


def duration(seconds: float) -> str:
    """``1 h 05 min``, ``12 min``, ``40 s``."""
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes >= 2 else f"{minutes * 60 + rest} s"
