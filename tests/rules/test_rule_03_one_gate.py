"""Rule 3. An entry starts only after one `admit`, whichever way it came (fetch script, blocking read, reclaim, orphan):
there cancelled, expired and paused ones stop and the state becomes `running`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis

from penstock import App, Context, Handle, State
from penstock.events import Started
from penstock.streams import keys
from penstock.streams.reader import Arrival, Reader
from tests.chaos.proxy import Act, Fault, Proxy
from tests.contract.helpers import Queue
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen
from tests.rules.support import Monitor, blocked
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio

LEASE = 0.6
Between = Callable[[Handle[Any]], Awaitable[None]]
#: Each brings one entry to a worker. Between its sending and its `admit` the test does what it likes.
WAYS = ["fetch script", "blocking read", "reclaim", "orphan"]


class Way:
    """An app whose worker gets its one task in a certain way."""

    #: Of the worker whose blocking read loses its reply: no reclaim helps.
    lease = 60.0

    def __init__(self, apps: tuple[App, App], q: Queue, monkeypatch: pytest.MonkeyPatch, proxy: Proxy) -> None:
        app, self._direct = apps
        self.app, self.q, self._monkeypatch, self._proxy = app, q, monkeypatch, proxy
        self.seen = Seen(app)
        #: State and record when its code began.
        self.began: list[tuple[State, dict[bytes, bytes], Context]] = []

        @app.task(bind=True, name="work")
        async def work(ctx: Context) -> int:
            record: Any = q.raw.hgetall(q.record_key(ctx.id.partition(":")[2]))
            self.began.append((await app.handle(ctx.id).astate(), record, ctx))
            return 1

        self.work = work

    def come(self, way: str, between: Between, **options: Any) -> Any:
        """A worker that has got the entry, and with it the task's handle. `async with`."""
        ways = {
            "fetch script": self._fetched,
            "blocking read": self._read,
            "reclaim": self._reclaimed,
            "orphan": self._orphaned,
        }
        return ways[way](between, **options)

    @asynccontextmanager
    async def _fetched(self, between: Between, **options: Any) -> AsyncIterator[Handle[int]]:
        """It waits in the stream when the worker starts."""
        handle = await self.work.options(**options).adelay()
        await between(handle)
        async with self.app.running():
            yield handle

    @asynccontextmanager
    async def _read(self, between: Between, **options: Any) -> AsyncIterator[Handle[int]]:
        """The worker sits in its blocking read, which has just been given the entry."""
        brought: list[Arrival] = []
        go = asyncio.Event()
        read = Reader.read

        async def held(reader: Reader, streams: Any, then: Any) -> tuple[list[Arrival] | None, Any]:
            arrivals, started = await read(reader, streams, then)
            if arrivals and not brought:
                brought.extend(arrivals)
                await go.wait()
            return arrivals, started

        self._monkeypatch.setattr(Reader, "read", held)
        async with self.app.running():
            await await_until(lambda: blocked(self.q.raw))
            handle = await self.work.options(**options).adelay()
            await await_until(lambda: brought)
            assert list(self.q.pending()) == [brought[0][2]] and not self.began
            await between(handle)
            go.set()
            yield handle

    @asynccontextmanager
    async def _reclaimed(self, between: Between, **options: Any) -> AsyncIterator[Handle[int]]:
        """It was delivered to a worker that died before it could admit it."""
        handle = await self.work.options(**options).adelay()
        self.q.raw.xgroup_create(self.q.stream(), keys.GROUP, "0")
        ((_, entry),) = self.q.read_blocking("dead", "default")
        self.q.claim("dead", "default", entry, idle=60)
        await between(handle)
        async with self.app.running(lease=LEASE):
            yield handle

    @asynccontextmanager
    async def _orphaned(self, between: Between, **options: Any) -> AsyncIterator[Handle[int]]:
        """The blocking read's reply is lost with its connection. The worker must find out what it has brought."""
        struck, go = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()

        def lose() -> None:  # in the proxy's own loop: the reply is there, and goes no further
            loop.call_soon_threadsafe(struck.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(20)

        self._proxy.fault, self._proxy.on_strike = Fault("worker:reader XREADGROUP", 1, Act.LOSE), lose
        async with self.app.running(lease=self.lease):
            await await_until(lambda: blocked(self.q.raw))
            handle = await self.send(**options)
            await struck.wait()
            assert len(self.q.pending()) == 1 and not self.began
            await between(handle)
            go.set()
            yield handle

    async def send(self, **options: Any) -> Handle[int]:
        """Past the proxy, which stands still while it strikes."""
        return await self._direct.task_named("work", **options).adelay()


@pytest.fixture
async def way(
    make_app: MakeApp, server: Server, q: Queue, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[[str], Way]]:
    proxy = Proxy(server.port, ["worker"])
    made: list[App] = []

    def make(kind: str) -> Way:
        app = make_app(url=proxy.url("worker")) if kind == "orphan" else make_app()
        made.append(app)
        return Way((app, make_app("direct")), q, monkeypatch, proxy)

    yield make
    for app in made:
        await app.aclose()
    proxy.close()


async def _nothing(handle: Handle[Any]) -> None: ...


@pytest.mark.parametrize("kind", WAYS)
async def test_an_entry_starts_only_after_one_admit_and_the_state_becomes_running(
    way: Callable[[str], Way], q: Queue, raw: redis.Redis, kind: str
) -> None:
    w = way(kind)
    with Monitor(raw) as monitor:
        async with w.come(kind, _nothing) as handle:
            assert await handle.aget(20) == 1
        [(state, record, ctx)] = w.began
        admits = [ran for ran in monitor.ran("HSET") if ran.args[1:3] == ["s", "r"]]
    assert state is State.RUNNING and record[b"w"].decode() == ctx.worker and b"d" not in record  # it would be 1
    assert len(admits) == 1 and admits[0].in_script
    assert (ctx.attempt, ctx.deliveries) == (1, 1) and q.is_empty()


@pytest.mark.parametrize("kind", WAYS[1:])
async def test_a_cancelled_entry_stops_there(way: Callable[[str], Way], app: App, q: Queue, kind: str) -> None:
    """By a fetch none can come: what was cancelled before its delivery is deleted from the stream."""

    async def cancel(handle: Handle[Any]) -> None:
        assert await app.handle(handle.id).acancel()
        assert await app.handle(handle.id).astate() is State.QUEUED  # its delivery is under way

    w = way(kind)
    async with w.come(kind, cancel) as handle:
        await await_until(lambda: _is(handle, State.CANCELLED))
    assert not w.began and not w.seen.of(Started) and q.is_empty()
    assert q.counters()["cancelled|work"] == 1


async def test_what_was_cancelled_before_its_delivery_never_comes(app: App, seen: Seen, q: Queue) -> None:
    @app.task
    async def work() -> int:
        return 1

    cancelled, kept = await work.adelay(), await work.adelay()
    assert await cancelled.acancel() and len(q.entries()) == 1
    async with app.running():
        assert await kept.aget(20) == 1
    assert [event.id for event in seen.of(Started)] == [kept.id]


@pytest.mark.parametrize("kind", WAYS)
async def test_an_expired_entry_stops_there(way: Callable[[str], Way], app: App, q: Queue, kind: str) -> None:
    async def expire(handle: Handle[Any]) -> None:
        at = int(q.record(handle.id.partition(":")[2])["x"])
        assert await app.handle(handle.id).astate() is State.QUEUED
        await await_until(lambda: q.now() >= at)

    w = way(kind)
    async with w.come(kind, expire, expires=0.3) as handle:
        await await_until(lambda: _is(handle, State.EXPIRED))
    assert not w.began and not w.seen.of(Started) and q.is_empty()
    assert q.counters()["expired|work"] == 1


@pytest.mark.parametrize("kind", WAYS)
async def test_an_entry_of_a_paused_queue_stops_there(
    way: Callable[[str], Way], app: App, q: Queue, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def pause(handle: Handle[Any]) -> None:
        assert await app.apause("default")

    w = way(kind)
    w.lease = LEASE  # what a lost reply has brought to a paused queue is found when its lease is over
    with caplog.at_level("INFO", "penstock"):
        async with w.come(kind, pause) as handle:
            # It was asked for and refused: said by the fetch that follows, or by the sweep.
            await await_until(lambda: "is paused" in caplog.text)
            assert await app.handle(handle.id).astate() is State.QUEUED and not w.began
            assert len(q.entries()) == 1
            assert await app.aresume("default")
            assert await app.handle(handle.id).aget(20) == 1
    assert len(w.began) == 1 and q.is_empty()


async def _is(handle: Handle[Any], state: State) -> bool:
    return await handle.astate() is state
