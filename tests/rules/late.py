"""What the tests of rules 9 to 16 share: gates in a proxy, replies that are held back, users without channels."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from typing import Any, cast

import redis

from penstock.streams import keys
from penstock.streams.scripts import load
from tests.access import ACCESS
from tests.chaos.proxy import Act, Fault, Proxy
from tests.proxies import proxy
from tests.servers import Server

#: One side of a proxy: that of the worker under test.
SIDE = "w"


class Gate(Proxy):
    """A proxy whose `closed` verbs never reach the server: their connection is cut before, each time."""

    def __init__(self, server: Server, *closed: str) -> None:
        super().__init__(server.port, (SIDE,))
        self.closed = set(closed)

    def seen(self, role: str, verb: str) -> Act | None:
        return Act.CUT if super().seen(role, verb) or verb in self.closed else None

    def count(self, *verbs: str) -> int:
        """Requests of these verbs until now."""
        return sum(n for kind, n in self.counts.items() if kind.partition(" ")[2] in verbs)


@contextmanager
def gate(server: Server, *closed: str) -> Iterator[Gate]:
    load_scripts(server)
    made = Gate(server, *closed)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def fault(server: Server, kind: str, act: Act, number: int = 1, seconds: float = 0.0) -> Iterator[Proxy]:
    """A proxy that does `act` to request `number` of `kind`, as ``main succeed``."""
    load_scripts(server)
    made = Proxy(server.port, (SIDE,), Fault(f"{SIDE}:{kind}", number, act, seconds))
    try:
        yield made
    finally:
        made.close()


def load_scripts(server: Server) -> None:
    """So that the first EVALSHA of each does its work, and is not answered NOSCRIPT."""
    with server.client() as client:
        for file in (files("penstock.streams") / "lua").iterdir():
            if not file.name.startswith("_"):
                client.script_load(load(file.name.removesuffix(".lua")).text)


class Hold:
    """Replies to one script are held back: `held` is set when there is one, `release` lets it go."""

    def __init__(self, script: str) -> None:
        self.mark = load(script).sha.encode()
        self.held = threading.Event()
        self._go = threading.Event()
        self._go.set()

    def close(self) -> None:
        """From now on."""
        self._go.clear()

    def release(self) -> None:
        self._go.set()

    def wrap(self, plain: socket.socket) -> socket.socket:
        return cast(socket.socket, _Held(self, ACCESS.wrap(plain)))

    def wait(self) -> None:
        if not self._go.is_set():
            self.held.set()
            self._go.wait(30)


class _Held:
    """The client's end of a connection through the proxy, as far as the proxy uses it."""

    def __init__(self, hold: Hold, end: socket.socket) -> None:
        self._hold = hold
        self._end = end
        self._asked = False

    def __enter__(self) -> _Held:
        return self

    def __exit__(self, *exc: object) -> None:
        self._end.close()

    def shutdown(self, how: int) -> None:
        self._end.shutdown(how)

    def recv(self, *args: Any) -> bytes:
        data = self._end.recv(*args)
        self._asked = self._asked or self._hold.mark in data
        return data

    def sendall(self, data: Any, *args: Any) -> None:
        if self._asked:
            self._asked = False
            self._hold.wait()
        self._end.sendall(data, *args)


@contextmanager
def holding(server: Server, script: str) -> Iterator[tuple[str, Hold]]:
    """A URL of the server by way of a proxy, and the hold on the replies to `script`."""
    load_scripts(server)
    hold = Hold(script)
    with proxy(server.port, wrap=hold.wrap) as port:
        try:
            yield server.url_at(port), hold
        finally:
            hold.release()


@contextmanager
def mute(raw: redis.Redis, server: Server, namespace: str, but: str = "") -> Iterator[str]:
    """The URL of a user who may do everything but publish and subscribe, and what `but` says."""
    raw.execute_command("ACL", "SETUSER", namespace, "on", ">pw", "~*", "+@all", "resetchannels", *but.split())
    try:
        yield server.url_for(f"{namespace}:pw@")
    finally:
        raw.execute_command("ACL", "DELUSER", namespace)


def denied(raw: redis.Redis, user: str) -> int:
    """How many PUBLISHes of this user the server has refused."""
    connection: Any = raw.connection_pool.get_connection()
    try:
        connection.send_command("ACL", "LOG", 128)  # redis-py's own reading of it differs by version
        entries = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in connection.read_response()]
    finally:
        raw.connection_pool.release(connection)
    return sum(e[b"count"] for e in entries if e[b"username"] == user.encode() and e[b"reason"] == b"channel")


def outcomes(raw: redis.Redis, namespace: str, queue: str = "default") -> dict[str, int]:
    """The queue's outcome counters, summed over all tasks."""
    found: Any = raw.hgetall(keys.counters(keys.base(namespace, queue)))
    total: dict[str, int] = {}
    for field, n in found.items():
        outcome = field.decode().partition("|")[0]
        total[outcome] = total.get(outcome, 0) + int(n)
    return total
