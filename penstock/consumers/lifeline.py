"""What a worker process tells its supervisor, over a pipe that ends with either of them."""

from __future__ import annotations

import os
from contextlib import suppress

#: Environment variable with the pipe's number. The underscore keeps it out of the settings.
VARIABLE = "PENSTOCK__LIFELINE"


class Lifeline:
    """The worker's end. Without a supervisor everything here does nothing."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    @classmethod
    def from_environment(cls) -> Lifeline:
        """The pipe that a supervisor has left for this process, if it has one."""
        text = os.environ.pop(VARIABLE, "")  # not for children of this process
        if not text.isdecimal():
            return cls(None)
        os.set_inheritable(int(text), False)
        return cls(int(text))

    @property
    def is_supervised(self) -> bool:
        return self._fd is not None

    def ready(self) -> None:
        """The worker fetches."""
        self._say("ready")

    def beat(self, kill_at: float | None) -> None:
        """If nothing more is heard until `kill_at` (monotonic, the same clock in all processes), kill this one."""
        self._say("beat" if kill_at is None else f"beat {kill_at:.3f}")

    def replace(self, reason: str) -> None:
        """Start another worker; this one drains and ends."""
        self._say(f"replace {reason}")

    def _say(self, line: str) -> None:
        if self._fd is not None:
            # A supervisor that is gone, or does not read (the pipe holds 64 KiB), is not our trouble.
            with suppress(OSError):
                os.write(self._fd, line.replace("\n", " ").encode() + b"\n")
