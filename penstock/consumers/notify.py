"""Tells systemd (or whoever else left a NOTIFY_SOCKET) that a service is ready, alive, or stopping: sd_notify(3)."""

# No library: sdnotify is of 2017 and knows no watchdog, systemd-python and pystemd are compiled against libsystemd,
# cysystemd has wheels for Linux only; and the protocol is one datagram.

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger("penstock.supervisor")

SOCKET, WATCHDOG, WATCHDOG_PID = "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"
#: How long (s) a manager that does not read may hold us up, and when it is tried again.
PATIENCE, AGAIN = 1.0, 1.0


class Notify:
    """What this process has to say to its service manager. Without one everything here does nothing."""

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        """`address`: a path, or ``@name`` for Linux's abstract sockets; `watchdog`: seconds of silence after which
        the manager kills this process."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        # Half of it: so says sd_watchdog_enabled(3).
        self._every = None if watchdog is None or not address else watchdog / 2
        self._due = 0.0
        self._status = ""
        self._heard = True

    @classmethod
    def from_environment(cls) -> Notify:
        """The socket that a manager has left for this process, if there is one.

        It is taken out of the environment: what a child says is not what this process is.
        """
        address, usec, pid = (os.environ.pop(name, "") for name in (SOCKET, WATCHDOG, WATCHDOG_PID))
        meant = pid in ("", str(os.getpid()))
        return cls(address, int(usec) / 1e6 if usec.isdecimal() and int(usec) > 0 and meant else None)

    def ready(self, status: str = "") -> None:
        """The service does its work from now on; the manager starts what waits for it."""
        self._status = status
        self._send("READY=1", f"STATUS={status}")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent when it is another one than the last."""
        if text != self._status and self._send(f"STATUS={text}"):
            self._status = text

    def alive(self) -> None:
        """Called in each round of the loop that this process lives by: half the watchdog's time after the last word,
        it sends the next."""
        now = time.monotonic()
        if self._every is not None and now >= self._due:
            self._due = now + (self._every if self._send("WATCHDOG=1") else min(self._every, AGAIN))

    def next_alive(self) -> float | None:
        """When `alive` must be called again (monotonic); None: no matter."""
        return None if self._every is None else self._due

    def stopping(self, within: float, status: str = "") -> None:
        """The service ends in order, within so many seconds: also if the manager was told less (TimeoutStopSec)."""
        self._status = status
        self._send("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(within * 1e6)}", f"STATUS={status}")

    def _send(self, *lines: str) -> bool:
        """False if it did not arrive."""
        if not self._address:
            return True
        try:
            # A new one each time, as libsystemd does: the manager may have been replaced. Connected, because only then
            # does the timeout wait for room in the manager's queue.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
                there.settimeout(PATIENCE)
                there.connect(self._address)
                there.send("\n".join(line.replace("\n", " ") for line in lines).encode())
        except (OSError, AttributeError) as error:  # AttributeError: a platform without unix sockets
            if self._heard:  # else it was said when it began
                log.warning("the service manager was not told %s: %s", lines[0], error)
            self._heard = False
            return False
        self._heard = True
        return True
