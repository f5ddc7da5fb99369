"""What a server is asked, told by MONITOR: commands of clients, and those inside scripts."""

from __future__ import annotations

import re
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import redis

from tests.access import ACCESS, ADMIN
from tests.servers import wait_until

_WORD = re.compile(rb'"((?:[^"\\]|\\.)*)"')


class Monitor:
    """Reads in a thread of its own."""

    def __init__(self, port: int, client: redis.Redis) -> None:
        self._client = client
        self._socket = socket.create_connection(("127.0.0.1", port))
        if ACCESS.closed:
            self._socket.sendall(f"AUTH {ADMIN}\r\n".encode())
            assert self._socket.recv(5) == b"+OK\r\n"
        self._socket.sendall(b"MONITOR\r\n")
        assert self._socket.recv(5) == b"+OK\r\n"
        self._lines: list[bytes] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def take(self) -> list[list[str]]:
        """The commands since the last call, as words: a marker of our own ends them."""
        marker = secrets.token_hex(8).encode()
        self._client.echo(marker)
        wait_until(lambda: any(marker in line for line in self._lines[-1000:]), 30)
        end = next(i for i, line in enumerate(self._lines) if marker in line)
        lines = self._lines[:end]
        del self._lines[: end + 1]
        return [[word.decode("latin-1") for word in _WORD.findall(line)] for line in lines]

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(timeout=5)
        self._socket.close()

    def _read(self) -> None:
        with suppress(OSError), self._socket.makefile("rb") as file:
            for line in file:
                self._lines.append(line)


@contextmanager
def monitored(port: int, client: redis.Redis) -> Iterator[Monitor]:
    """What is asked of the server at `port` in this block."""
    monitor = Monitor(port, client)
    try:
        yield monitor
    finally:
        monitor.close()
