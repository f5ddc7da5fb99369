"""One worker process as its supervisor sees it, and the rules for what follows its end."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from penstock.consumers.lifeline import Lifeline

log = logging.getLogger("penstock.supervisor")

#: Seconds beyond the grace period: to unwind what is stopped, and to store the last results.
MARGIN = 15.0
#: The grace period of a worker that has not said its own yet.
DEFAULT_GRACE = 20.0
#: A worker that lived for longer than this (s) was a good one: the next death is the first again.
SETTLED_AFTER = 30.0
#: Pauses (s) before a worker is started again after its death: doubling from the first to the longest.
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 30.0
#: Exit code of a worker that cannot start, and could not the next time either.
UNUSABLE = 2


class Backoff:
    """How long to wait before a worker is started again; one for each of the N places."""

    def __init__(self) -> None:
        #: Deaths in a row.
        self.failures = 0

    def pause(self, lived: float) -> float:
        """Seconds to wait after a worker that lived for `lived` seconds has died."""
        self.failures = 1 if lived > SETTLED_AFTER else self.failures + 1
        return min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(self.failures - 1, 30))


class Ward:
    """One worker process. Its pipe is a socket pair, whose end is seen by both sides on every platform."""

    def __init__(self, number: int, process: subprocess.Popen[bytes], pipe: socket.socket) -> None:
        self.number = number
        self.process = process
        self.pipe = pipe
        self.started = time.monotonic()
        self.ready = False
        #: Another one was started in its place: it drains and ends.
        self.draining = False
        #: Why this supervisor has killed it.
        self.killed = ""
        self.grace = DEFAULT_GRACE
        #: When it must have been heard of again (monotonic); None: no matter.
        self.beat_by: float | None = None
        #: When to send SIGTERM to one that drains, and when to send SIGKILL (monotonic); None: not at all.
        self.term_at: float | None = None
        self.kill_at: float | None = None
        #: Nothing more will be heard of it.
        self.silent = False
        self._buffer = b""

    @classmethod
    def start(cls, number: int, argv: Sequence[str]) -> Ward:
        """Start ``python -m penstock`` with these arguments, in a session of its own.

        So a terminal's Ctrl-C reaches the supervisor only. The main thread must do this, see `Lifeline.follow`.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            theirs.setblocking(False)
            process = subprocess.Popen(
                [sys.executable, "-m", "penstock", *argv],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **Lifeline.variables(theirs.fileno(), number)},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        return cls(number, process, ours)

    @property
    def pid(self) -> int:
        return self.process.pid

    def lines(self) -> list[str]:
        """What it has said since the last look."""
        try:
            while data := self.pipe.recv(65536):
                self._buffer += data
            self.silent = True
        except BlockingIOError:
            pass
        except OSError:
            self.silent = True
        *complete, self._buffer = self._buffer.split(b"\n")
        return [line.decode(errors="replace") for line in complete]

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens if it has ended."""
        self.process.send_signal(number)

    def stop(self, now: bool) -> None:
        """SIGTERM, and SIGKILL if that has no effect in time.

        One that drains already would take a SIGTERM as its second, so it gets it at the end of the grace period.
        """
        grace = 0.0 if now else self.grace
        self.kill_at = time.monotonic() + grace + MARGIN
        if self.draining and not now:
            self.term_at = time.monotonic() + grace
        else:
            self.term_at = None
            self.send(signal.SIGTERM)

    def kill(self, why: str) -> None:
        """SIGKILL to it and all in its process group."""
        log.error("worker %d is killed: %s", self.pid, why)
        self.killed = why
        self.kill_at = self.beat_by = None
        # Its children for process tasks die with it by themselves, but not programs that tasks have started.
        with suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)

    def check(self, now: float) -> None:
        """Do what is due."""
        if self.term_at is not None and now >= self.term_at:
            self.term_at = None
            self.send(signal.SIGTERM)
        if self.beat_by is not None and now >= self.beat_by:
            self.kill("a task is past its time limit and cannot be stopped")
        elif self.kill_at is not None and now >= self.kill_at:
            self.kill("it has not ended within its grace period")

    def next_check(self) -> float | None:
        """When `check` has something to do; None: never."""
        return min((at for at in (self.term_at, self.beat_by, self.kill_at) if at is not None), default=None)


def describe_exit(code: int) -> str:
    """``ended with exit code 1``, ``was killed by SIGKILL; perhaps there was not enough memory``."""
    if code == 0:
        return "has ended"
    if code > 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:  # a real-time signal
        name = f"signal {-code}"
    return f"was killed by {name}" + ("; perhaps there was not enough memory" if code == -signal.SIGKILL else "")
