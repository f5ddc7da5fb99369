"""The service manager's end of NOTIFY_SOCKET: a real datagram socket that remembers what it was told."""

from __future__ import annotations

import socket
from types import TracebackType

from tests.commands import PATIENCE
from tests.servers import wait_until


class Manager:
    """`address` is a path, or ``@name`` for an abstract socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self._told: list[str] = []

    def __enter__(self) -> Manager:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def variables(self, watchdog: float | None = None) -> dict[str, str]:
        """The environment that systemd would give; `watchdog` in seconds."""
        given = {"NOTIFY_SOCKET": self.address}
        return given if watchdog is None else {**given, "WATCHDOG_USEC": str(int(watchdog * 1e6))}

    def told(self) -> list[str]:
        """All lines so far, of all messages, in order."""
        try:
            while True:
                self._told += self._socket.recv(65536).decode().split("\n")
        except BlockingIOError:
            return self._told

    def forget(self) -> None:
        """What was told until now is not asked for again."""
        self.told()
        self._told = []

    def wait(self, line: str, count: int = 1, timeout: float = PATIENCE) -> None:
        """Until `line` was told so many times."""
        try:
            wait_until(lambda: self.told().count(line) >= count, timeout)
        except TimeoutError:
            raise TimeoutError(f"{line!r} was not told {count} times: {self._told}") from None
