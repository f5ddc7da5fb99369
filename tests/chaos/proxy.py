"""A proxy that understands RESP2: it numbers requests by role and verb, and strikes at the n-th of a kind.

Timers make the number of some requests vary from run to run (a fetch more, a sweep less). Numbered by
kind, the n-th request does the same work each time, and those at the end of a worker are reached, too.

All proxies of a process share one event loop in a thread of its own, so that the code under test may
block its own loop, or use sync clients in it.
"""

from __future__ import annotations

import asyncio
import enum
import threading
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from importlib.resources import files
from typing import Any, TypeVar

import msgspec

from penstock.streams.scripts import load
from tests.access import ACCESS

T = TypeVar("T")


class Act(enum.Enum):
    """What happens to a request."""

    #: The connection is cut before the server sees it.
    CUT = "cut before the server saw it"
    #: The server runs it, and the connection is cut before the reply.
    LOSE = "reply lost with its connection"
    #: The server runs it, and the reply never comes; the connection stays.
    SWALLOW = "reply swallowed"
    #: It is passed on `Fault.seconds` later.
    DELAY = "delayed"


class Fault(msgspec.Struct, frozen=True):
    """What to do to request `number` (from 1) of `kind`, a role and a verb."""

    kind: str
    number: int
    act: Act
    seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} #{self.number} {self.act.value}"


class Request(msgspec.Struct, frozen=True):
    """One request as the proxy saw it. Its verb is a script's name or a command."""

    role: str
    verb: str
    #: Among those of the same role and verb, from 1.
    number: int

    @property
    def kind(self) -> str:
        return f"{self.role} {self.verb}"


_HANDSHAKE = frozenset({"CLIENT SETNAME", "CLIENT SETINFO", "SELECT", "AUTH", "HELLO"})
#: The first request after the handshake says what a connection is for.
_ROLES = {"CLIENT ID": "reader", "CLIENT UNBLOCK": "unblock", "SUBSCRIBE": "pubsub", "renew": "leases"}


class Proxy:
    """Stands before a server on loopback. Each of `sides` has its own port and its own numbering.

    A role is ``<side>:<connection>``: ``connect`` (handshakes), ``main``, ``reader`` (the blocking one),
    ``unblock``, ``leases`` (the thread that renews), ``pubsub``, or ``pushed`` (messages from the server;
    CUT and LOSE then both cut the connection before the message).
    """

    def __init__(self, target: int, sides: Sequence[str], fault: Fault | None = None) -> None:
        self._target = target
        self.fault = fault
        #: Called in the proxy's thread when the fault strikes, before anything is cut.
        self.on_strike: Callable[[], object] = lambda: None
        #: The request that was struck; None: not yet.
        self.struck: Request | None = None
        self.requests: list[Request] = []
        #: By role and verb.
        self.counts: Counter[str] = Counter()
        self._servers: list[asyncio.Server] = []
        self._links: set[_Link] = set()
        self.ports = dict(zip(sides, _in_loop(self._listen(sides)), strict=True))

    def url(self, side: str) -> str:
        return ACCESS.url("redis", f"127.0.0.1:{self.ports[side]}", path="/0")

    def close(self) -> None:
        """Stop listening and close all connections."""
        _in_loop(self._close())

    async def _listen(self, sides: Sequence[str]) -> list[int]:
        for side in sides:
            server = await asyncio.start_server(partial(self._serve, side), "127.0.0.1", 0, ssl=ACCESS.context())
            self._servers.append(server)
        return [server.sockets[0].getsockname()[1] for server in self._servers]

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for link in list(self._links):
            link.cut()

    async def _serve(self, side: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        link = _Link(self, side, (reader, writer), upstream)
        self._links.add(link)
        try:
            await link.run()
        finally:
            self._links.discard(link)

    def seen(self, role: str, verb: str) -> Act | None:
        """Number a request; what is to be done to it."""
        kind = f"{role} {verb}"
        self.counts[kind] += 1
        request = Request(role, verb, self.counts[kind])
        self.requests.append(request)
        fault = self.fault
        if fault is None or self.struck is not None or (fault.kind, fault.number) != (kind, request.number):
            return None
        self.struck = request
        return fault.act


class _Link:
    """One connection through the proxy."""

    def __init__(
        self,
        proxy: Proxy,
        side: str,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._side = side
        self._client, self._server = client, server
        self._role = ""
        #: What is to be done to the replies that are still to come, in order.
        self._due: deque[Act | None] = deque()

    async def run(self) -> None:
        both = [asyncio.ensure_future(self._requests()), asyncio.ensure_future(self._replies())]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        self.cut()
        await asyncio.gather(*both, return_exceptions=True)

    def cut(self) -> None:
        """Close both ends at once."""
        for _, writer in (self._client, self._server):
            writer.transport.abort()

    async def _requests(self) -> None:
        buffer, out = b"", self._server[1]
        with suppress(OSError):
            while data := await self._client[0].read(1 << 16):
                buffer += data
                while (end := frame_end(buffer)) > 0:
                    frame, buffer = buffer[:end], buffer[end:]
                    act = self._see(verb_of(frame))
                    if act is Act.CUT:
                        self._proxy.on_strike()
                        return
                    if act is Act.DELAY and self._proxy.fault is not None:
                        self._proxy.on_strike()
                        await asyncio.sleep(self._proxy.fault.seconds)  # poll: the fault itself
                    self._due.append(act)
                    out.write(frame)
                await out.drain()

    async def _replies(self) -> None:
        buffer, out = b"", self._client[1]
        with suppress(OSError):
            while data := await self._server[0].read(1 << 16):
                buffer += data
                while (end := frame_end(buffer)) > 0:
                    frame, buffer = buffer[:end], buffer[end:]
                    act = self._due.popleft() if self._due else self._pushed(frame)
                    if act in (Act.LOSE, Act.SWALLOW, Act.CUT):
                        self._proxy.on_strike()
                        if act is not Act.SWALLOW:
                            return
                    else:
                        out.write(frame)
                await out.drain()

    def _pushed(self, frame: bytes) -> Act | None:
        """Of a SUBSCRIBE to several channels, the replies after the first are not counted."""
        return self._proxy.seen(f"{self._side}:pushed", "message") if frame.startswith(_MESSAGE) else None

    def _see(self, verb: str) -> Act | None:
        if verb in _HANDSHAKE:
            return self._proxy.seen(f"{self._side}:connect", verb)
        if not self._role:
            self._role = f"{self._side}:{_ROLES.get(verb, 'main')}"
        return self._proxy.seen(self._role, verb)


_MESSAGE = b"*3\r\n$7\r\nmessage\r\n"


def frame_end(buffer: bytes, start: int = 0) -> int:
    """Where the RESP2 value that begins at `start` ends; -1: not all of it is there yet."""
    line_end = buffer.find(b"\r\n", start)
    if line_end < 0:
        return -1
    kind, end = buffer[start : start + 1], line_end + 2
    if kind in (b"+", b"-", b":"):
        return end
    size = int(buffer[start + 1 : line_end])
    if kind == b"$":
        end += size + 2 if size >= 0 else 0
        return end if len(buffer) >= end else -1
    if kind != b"*":
        raise ValueError(f"not RESP2: {buffer[start : start + 20]!r}")
    for _ in range(size):
        end = frame_end(buffer, end)
        if end < 0:
            return -1
    return end


def _scripts() -> dict[bytes, str]:
    folder = files("penstock.streams") / "lua"
    names = [file.name.removesuffix(".lua") for file in folder.iterdir() if not file.name.startswith("_")]
    scripts = [load(name) for name in names]
    return {key: script.name for script in scripts for key in (script.sha.encode(), script.text.encode())}


_NAMES = _scripts()


def verb_of(frame: bytes) -> str:
    """The script's name of an EVALSHA or EVAL, else the command, with its second word for CLIENT."""
    words = _words(frame, 2)
    command = words[0].decode().upper()
    if command in ("EVALSHA", "EVAL"):
        return _NAMES.get(words[1], command)
    return f"CLIENT {words[1].decode().upper()}" if command == "CLIENT" else command


def _words(frame: bytes, most: int) -> list[bytes]:
    words: list[bytes] = []
    at = frame.index(b"\r\n") + 2
    for _ in range(min(most, int(frame[1 : at - 2]))):
        begin = frame.index(b"\r\n", at) + 2
        size = int(frame[at + 1 : begin - 2])
        words.append(frame[begin : begin + size])
        at = begin + size + 2
    return words


_loop: asyncio.AbstractEventLoop | None = None
_lock = threading.Lock()


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in the loop of the proxies, from any other thread."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="proxies", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(work, _loop).result(30)
