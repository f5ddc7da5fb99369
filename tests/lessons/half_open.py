"""A TCP proxy that forgets connections, as a NAT, a firewall or a load balancer does: no FIN, no RST, no data."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from tests.access import ACCESS
from tests.proxies import Wrap


class HalfOpen:
    """Leads to port `target` on loopback. Each connection is served by two threads. `wrap`: as in `tests.proxies`."""

    def __init__(self, target: int, wrap: Wrap = ACCESS.wrap) -> None:
        self._target = target
        self._wrap = wrap
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._links: list[_Link] = []
        self._threads: list[threading.Thread] = []
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)

    @property
    def url(self) -> str:
        return ACCESS.url("redis", f"127.0.0.1:{self.port}", path="/0")

    def forget(self, word: bytes = b"") -> int:
        """Connections that are open now carry nothing any more, and neither end is told; their number.

        With `word`: those on which a client has sent it.
        """
        links = self._alive(word)
        for link in links:
            link.forgotten.set()
        return len(links)

    def count(self, word: bytes = b"") -> int:
        """Connections that are open and not forgotten; with `word`: on which a client has sent it."""
        return len(self._alive(word))

    def _alive(self, word: bytes) -> list[_Link]:
        return [link for link in self._links if link.is_open and not link.forgotten.is_set() and word in link.sent]

    @property
    def swallowed(self) -> int:
        """Bytes that were sent by either end of a forgotten connection, and have not arrived."""
        return sum(link.swallowed for link in self._links)

    def close(self) -> None:
        """Close everything, and wait for the threads."""
        for one in (self._listener, *[end for link in self._links for end in link.ends]):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join(timeout=5)

    def _run(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client = self._wrap(self._listener.accept()[0])
                link = _Link(client, socket.create_connection(("127.0.0.1", self._target)))
                self._links.append(link)
                self._run(link.pump, *link.ends)
                self._run(link.pump, *reversed(link.ends))


class _Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.ends = (client, server)
        self.forgotten = threading.Event()
        self.is_open = True
        self.swallowed = 0
        #: The first that the client has sent.
        self.sent = b""

    def pump(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass on what comes from `source`; its end, too, unless this connection is forgotten."""
        with suppress(OSError):
            while data := source.recv(65536):
                if source is self.ends[0] and len(self.sent) < 1000:
                    self.sent += data
                if self.forgotten.is_set():
                    self.swallowed += len(data)
                else:
                    sink.sendall(data)
        self.is_open = False
        if not self.forgotten.is_set():
            with suppress(OSError):
                sink.shutdown(socket.SHUT_RDWR)
