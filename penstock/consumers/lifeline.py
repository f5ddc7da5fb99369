"""What a worker process tells its supervisor, over a pipe that ends with either of them."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Mapping

#: Environment variables with the pipe's number, and which of the supervisor's workers this is (0: the
#: first). The underscore keeps them out of the settings.
VARIABLE, NUMBER = "PENSTOCK__LIFELINE", "PENSTOCK__NUMBER"

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Lifeline:
    """The worker's end. Without a supervisor everything here does nothing."""

    def __init__(self, fd: int | None, number: int = 0) -> None:
        self._fd = fd
        #: Which of the supervisor's workers this is, counted from 0.
        self.number = number

    @classmethod
    def from_environment(cls) -> Lifeline:
        """The pipe that a supervisor has left for this process, if it has one."""
        text = os.environ.pop(VARIABLE, "")  # not for children of this process
        number = os.environ.pop(NUMBER, "")
        if not text.isdecimal():
            return cls(None)
        os.set_inheritable(int(text), False)
        return cls(int(text), int(number) if number.isdecimal() else 0)

    @staticmethod
    def variables(fd: int, number: int) -> Mapping[str, str]:
        """The environment by which a worker process finds its end."""
        return {VARIABLE: str(fd), NUMBER: str(number)}

    @property
    def is_supervised(self) -> bool:
        return self._fd is not None

    @property
    def fd(self) -> int | None:
        """Readable when the supervisor has gone; None without one."""
        return self._fd

    def follow(self) -> bool:
        """Have this process be sent SIGTERM when the supervisor dies; False where the kernel cannot do that.

        Linux sends it when the *thread* that started this process ends: the supervisor has but one.
        """
        if self._fd is None:
            return True
        if sys.platform != "linux":
            return False
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if select.select([self._fd], [], [], 0)[0]:  # it died before the kernel was told
            os.kill(os.getpid(), signal.SIGTERM)
        return True

    def grace(self, seconds: float) -> None:
        """How long this worker lets tasks finish after SIGTERM: its app's setting, which the supervisor cannot know."""
        self._say(f"grace {seconds:.3f}")

    def ready(self) -> None:
        """The worker fetches."""
        self._say("ready")

    def beat(self, kill_at: float | None) -> None:
        """If nothing more is heard until `kill_at` (monotonic, the same clock in all processes), kill this one."""
        heard = self._say("beat" if kill_at is None else f"beat {kill_at:.3f}")
        if not heard and kill_at is not None and time.monotonic() >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)  # the supervisor has gone, and nobody else would

    def replace(self, reason: str) -> None:
        """Start another worker; this one drains and ends."""
        self._say(f"replace {reason}")

    def _say(self, line: str) -> bool:
        """False if the supervisor has gone."""
        if self._fd is not None:
            try:
                os.write(self._fd, line.replace("\n", " ").encode() + b"\n")
            except BrokenPipeError:
                return False
            except OSError:
                pass  # it does not read (the pipe is non-blocking): not our trouble
        return True
