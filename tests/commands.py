"""The command line in processes of their own, for tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.servers import die_with_parent, wait_until

ROOT = Path(__file__).parent.parent
#: Seconds for what should take a moment; nothing is ever measured by it.
PATIENCE = 60.0


class Note(NamedTuple):
    """What a task of `tests.apps.chores` wrote down."""

    word: str
    name: str
    pid: int
    time: float


class Command:
    """One `penstock` process; its standard error is in a file. Killed with its workers by `close`."""

    def __init__(self, args: Sequence[str], env: dict[str, str], log: Path) -> None:
        self._log = log
        with open(log, "wb") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock", *args],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **env},
                cwd=ROOT,
                preexec_fn=die_with_parent,
            )

    @property
    def text(self) -> str:
        """What it and its workers have logged."""
        return self._log.read_text(errors="replace")

    def logged(self, pattern: str, count: int = 1, timeout: float = PATIENCE) -> list[str]:
        """Wait until `pattern` was logged `count` times; what its group (or the whole of it) matched."""

        def found() -> list[str]:
            matches = re.findall(pattern, self.text)
            return matches if len(matches) >= count else []

        try:
            return wait_until(found, timeout)
        except TimeoutError:
            raise TimeoutError(f"{pattern!r} was not logged {count} times:\n{self.text}") from None

    def ready(self, count: int = 1) -> list[int]:
        """Wait for `count` ready workers; their process ids, in the order of becoming so."""
        return [int(pid) for pid in self.logged(r"worker (\d+) ready", count)]

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"still running:\n{self.text}") from None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        for pid in set(re.findall(r"worker (\d+) ready", self.text)):
            with suppress(OSError):
                # Its workers are in sessions of their own; none may outlive the test, whatever it did to them.
                if is_alive(int(pid)):
                    os.killpg(int(pid), signal.SIGKILL)
        wait_until(lambda: not any(is_alive(int(pid)) for pid in re.findall(r"worker (\d+) ready", self.text)))


class Folder:
    """What tasks of `tests.apps.chores` have noted, and what they wait for."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def notes(self, word: str = "", name: str = "") -> list[Note]:
        """The notes of this kind and of this task, in order."""
        return [note for note in self._all() if word in ("", note.word) and name in ("", note.name)]

    def wait(self, word: str, name: str = "", count: int = 1, timeout: float = PATIENCE) -> list[Note]:
        """The same, once there are `count` of them."""
        wait_until(lambda: len(self.notes(word, name)) >= count, timeout)
        return self.notes(word, name)

    def release(self, *names: str) -> None:
        """Let these `hold` tasks end."""
        for name in names:
            (self.path / name).touch()

    def _all(self) -> Iterator[Note]:
        file = self.path / "notes"
        for line in file.read_text().splitlines() if file.exists() else ():
            word, name, pid, moment = line.split()
            yield Note(word, name, int(pid), float(moment))


def is_alive(pid: int) -> bool:
    """False also for a zombie: it has ended, and nobody has asked yet."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True
