"""What a worker makes of a server that stood still, is away, or is out of memory: whom it may take over, and when."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis

from penstock import App, BrokerError, ServerOutOfMemory, TaskFailed
from penstock.consumers.heartbeat import WorkerInfo
from penstock.events import (
    BrokerDown,
    BrokerUp,
    Cancelled,
    EntryStuck,
    Failed,
    Late,
    LoopBlocked,
    Lost,
    Promoted,
    Reclaimed,
    Started,
    Succeeded,
)
from penstock.settings import PRIORITIES
from penstock.streams import consume, keys, settle
from penstock.streams.client import SyncClient
from penstock.streams.consume import Delivery
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, calls_of
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio


class Other:
    """Another worker, as far as the server sees one: the test says what it does, and when."""

    def __init__(self, app: App, namespace: str) -> None:
        self.name = "other"
        self._namespace = namespace
        self._base = keys.base(namespace, "default")
        self._client = SyncClient(app.connector)
        self.held: list[Delivery] = []

    def fetch(self) -> None:
        quotas = [(priority, 10) for priority in PRIORITIES]
        call = consume.fetch(self._base, "default", self.name, 10, quotas, 60.0)
        self.held = self._client.run(call).deliveries
        assert self.held

    def renew(self) -> None:
        held = [(d.priority, d.entry, d.raw_key) for d in self.held]
        lost, _ = self._client.run(consume.renew(self._base, self.name, held))
        assert not lost, "it was robbed"

    def succeed(self) -> None:
        items = [(d, "work", 60.0, msgspec.msgpack.encode("by the other")) for d in self.held]
        assert self._client.run(settle.succeed(self._base, self.name, 60.0, items)) == [settle.Settled.DONE] * len(
            items
        )

    def beat(self, lease: float, ttl: float) -> None:
        about = msgspec.msgpack.encode(WorkerInfo(self.name, "host", 1, time.time(), ("default",), lease=lease))
        self._client.run(consume.heartbeat(self._namespace, self.name, about, ttl, ["default"]))

    def close(self) -> None:
        self._client.close()


@contextmanager
def other_worker(app: App, namespace: str) -> Iterator[Other]:
    other = Other(app, namespace)
    yield other
    other.close()


@contextmanager
def renewing(other: Other, every: float) -> Iterator[None]:
    """It renews in the background, as its lease thread would."""
    over, failures = threading.Event(), list[BaseException]()

    def run() -> None:
        try:
            while not over.wait(every):
                other.renew()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)
    assert not failures, failures


async def lasts(seconds: float) -> None:
    since = time.monotonic()
    await await_until(lambda: time.monotonic() - since > seconds, seconds + 10)


async def _swept_beside(other: Other, raw: redis.Redis, lease: float) -> None:
    """Our worker has swept, which begins with one XREAD each time, while the other one renewed."""
    least = calls_of(raw, "xread") + 2
    with renewing(other, lease / 3):
        await await_until(lambda: calls_of(raw, "xread") >= least)


# A server that stands still, and breaks no connection


async def test_the_living_are_not_robbed_after_a_stall_that_broke_nothing(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis, namespace: str
) -> None:
    """Longer than the lease, shorter than the command timeout: only the time that the sweep's first command took
    tells. Afterwards the owner of many queues, or a slow one, needs a moment until it has renewed all."""
    lease = 1.2

    @app.task(name="work")
    async def work() -> str:
        return "by us"

    handle = await work.adelay()
    with other_worker(app, namespace) as other:
        other.fetch()
        async with app.running(lease=lease):
            for _ in range(2):
                await _swept_beside(other, raw, lease)
                own_server.pause()
                await lasts(lease + 0.5)
                own_server.resume()
                answered = calls_of(raw, "xread")  # the sweep that was under way: its answer is there, too
                await lasts(0.3)
                assert calls_of(raw, "xread") >= answered
                await asyncio.to_thread(other.renew)
            with renewing(other, lease / 3):
                await lasts(lease)
                assert not seen.of(Reclaimed)
            # It is dead from here on.
            assert await handle.aget(timeout=30) == "by us"
    assert not seen.of(BrokerDown), "a connection broke: that is another test"
    assert len(seen.of(Reclaimed)) == len(seen.of(Started)) == 1


async def test_a_loop_that_its_tasks_block_takes_over_all_the_same(app: App, seen: Seen, namespace: str) -> None:
    """Every answer comes late there; it is not the server that stands still."""
    lease = 0.6

    @app.task(name="work")
    async def work(block: bool) -> str:
        while block and not seen.of(Reclaimed) and time.monotonic() < give_up:
            time.sleep(0.25)  # noqa: ASYNC251  # work, of the kind that does not belong on a loop
            await asyncio.sleep(0)
        return "done"

    handle = await work.adelay(False)
    with other_worker(app, namespace) as other:
        other.fetch()
    give_up = time.monotonic() + 40
    blocking = await work.adelay(True)
    async with app.running(lease=lease):
        assert await handle.aget(timeout=60) == await blocking.aget(timeout=60) == "done"
        assert time.monotonic() < give_up
    assert seen.of(Reclaimed)


# A server that is away


@pytest.mark.parametrize("how", ["killed", "stalled"])
async def test_it_is_back_when_it_answers_and_not_before(make_app: MakeApp, own_server: Server, how: str) -> None:
    """Stalled: then it is the reclaimer that notices first, and nobody else for long."""
    app = make_app(lease=0.6, command_timeout=0.3)
    seen = Seen(app)

    @app.task(name="work")
    async def work() -> int:
        return 1

    async with app.running():
        assert await (await work.adelay()) == 1
        await asyncio.to_thread(own_server.kill) if how == "killed" else own_server.pause()
        await seen.arrive(BrokerDown)
        await lasts(2)
        assert not seen.of(BrokerUp) and len(seen.of(BrokerDown)) == 1
        own_server.start() if how == "killed" else own_server.resume()
        assert await (await work.adelay()) == 1
        await seen.arrive(BrokerUp)
    assert len(seen.of(BrokerUp)) == len(seen.of(BrokerDown)) == 1
    assert seen.of(BrokerUp)[0].seconds >= 2


async def test_the_living_are_not_robbed_by_a_sweep_that_the_stall_has_met(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its look was answered at once, and it is on its way to the server when that stands still: carried out afterwards
    it would find every lease run out."""
    lease, reclaim = 1.2, consume.reclaim
    armed, resumed = threading.Event(), threading.Event()

    def resume() -> None:
        own_server.resume()
        resumed.set()

    def met(*args: Any) -> Any:
        if armed.is_set():
            armed.clear()
            own_server.pause()
            threading.Timer(lease + 0.5, resume).start()
        return reclaim(*args)

    monkeypatch.setattr(consume, "reclaim", met)

    @app.task(name="work")
    async def work() -> str:
        return "by us"

    handle = await work.adelay()
    with other_worker(app, namespace) as other:
        other.fetch()
        async with app.running(lease=lease):
            await _swept_beside(other, raw, lease)
            armed.set()
            await await_until(resumed.is_set)
            await lasts(0.3)
            await asyncio.to_thread(other.renew)
            with renewing(other, lease / 3):
                await lasts(lease)
                assert not seen.of(Reclaimed)
            # It is dead from here on.
            assert await handle.aget(timeout=30) == "by us"
    assert not seen.of(BrokerDown), "a connection broke: that is another test"
    assert len(seen.of(Reclaimed)) == len(seen.of(Started)) == 1


async def test_a_longer_lease_is_remembered_through_an_outage(
    app: App,
    seen: Seen,
    own_server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    raw: redis.Redis,
    namespace: str,
) -> None:
    """Heartbeats run out while nobody can write one; who is the first to write again must not believe to be alone."""
    for name, seconds in {"INTERVAL": 0.1, "LEARN_INTERVAL": 0.1, "GONE_AFTER": 2.0}.items():
        monkeypatch.setattr(f"penstock.consumers.heartbeat.{name}", seconds)

    @app.task(name="work")
    async def work() -> str:
        return "by us"

    handle = await work.adelay()
    with other_worker(app, namespace) as other:
        other.fetch()
        other.beat(lease=30.0, ttl=1.0)
        async with app.running(lease=0.5):
            await await_until(lambda: "another worker's lease is 30 s" in caplog.text)
            await asyncio.to_thread(own_server.kill)
            await seen.arrive(BrokerDown)
            await lasts(1.2)
            own_server.start()
            await seen.arrive(BrokerUp)
            await await_until(lambda: raw.zscore(keys.workers(namespace), other.name) is None)  # it counts as gone
            await lasts(1.0)
            # It has swept since the server was started (and counts from 0): at the pace of the longer lease.
            assert calls_of(raw, "xread") > 0 and not seen.of(Reclaimed)
            other.beat(lease=30.0, ttl=4.0)
            await lasts(2.0)
            assert not seen.of(Reclaimed)
            other.succeed()
            assert await handle.aget(timeout=30) == "by the other"
            # Once it is not heard of for long, its lease does not matter any more.
            left = await work.adelay()
            await left.aget(timeout=30)
    assert not seen.of(Lost)


async def test_the_living_are_not_robbed_when_writes_are_taken_again(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis, namespace: str
) -> None:
    """Reading goes on all the time: that the server answers does not mean that it renews leases."""
    lease = 1.2

    @app.task(name="work")
    async def work() -> str:
        return "by us"

    handle = await work.adelay()
    with other_worker(app, namespace) as other:
        other.fetch()
        async with app.running(lease=lease):
            await _swept_beside(other, raw, lease)
            raw.config_set("min-replicas-to-write", 1)
            with pytest.raises(BrokerError, match="NOREPLICAS"):
                other.renew()
            await seen.arrive(BrokerDown)
            await lasts(2 * lease)
            assert len(seen.of(BrokerDown)) == 1 and not seen.of(BrokerUp)
            raw.config_set("min-replicas-to-write", 0)
            await lasts(0.3)
            with renewing(other, lease / 3):
                await asyncio.to_thread(other.renew)
                await seen.arrive(BrokerUp)
                await lasts(1.5 * lease)
                assert not seen.of(Reclaimed)
            assert await handle.aget(timeout=30) == "by us"  # it is dead
    assert len(seen.of(BrokerDown)) == len(seen.of(BrokerUp)) == 1
    assert len(seen.of(Reclaimed)) == len(seen.of(Started)) == 1


# A server that is out of memory


async def test_out_of_memory_for_long(
    app: App, seen: Seen, own_server: Server, monkeypatch: pytest.MonkeyPatch, raw: redis.Redis, namespace: str
) -> None:
    """Heartbeats fail; but leases are renewed, so what dead workers had is taken over, run, and stored."""
    monkeypatch.setattr("penstock.consumers.heartbeat.INTERVAL", 0.2)
    lease, go = 1.0, asyncio.Event()

    @app.task(name="work")
    async def work(what: str) -> str:
        if what in ("runs", "fails", "long"):
            await go.wait()
        if what == "long":
            await asyncio.Event().wait()
        if what == "fails":
            raise ValueError(what)
        return what * 100

    handles = {"dead": await work.adelay("dead")}
    with other_worker(app, namespace) as other:
        other.fetch()
        async with app.running(lease=lease), app.running(lease=lease):
            for what in ("runs", "fails", "long"):
                handles[what] = await work.adelay(what)
            await seen.arrive(Started, 3)
            for what in ("queued", "due"):
                handles[what] = await work.options(delay=600 if what == "queued" else 0.5).adelay(what)
            with renewing(other, lease / 4):
                raw.config_set("maxmemory", 1)
                await seen.arrive(BrokerDown, 2)  # by the heartbeats of both
                with pytest.raises(ServerOutOfMemory):
                    await work.adelay("refused")
            # The other one is dead from here on.
            await seen.arrive(Reclaimed)
            assert await handles["dead"].aget(timeout=30) == "dead" * 100
            go.set()
            assert await handles["runs"].aget(timeout=30) == "runs" * 100
            with pytest.raises(ServerOutOfMemory):
                await handles["long"].acancel()
            await lasts(lease)
            assert not seen.of(Promoted) and not seen.of(Failed) and not seen.of(BrokerUp)
            assert not seen.of(Lost) and not seen.of(Late) and not seen.of(EntryStuck)
            raw.config_set("maxmemory", 0)
            assert await handles["due"].aget(timeout=30) == "due" * 100
            assert await handles["long"].acancel()
            with pytest.raises(TaskFailed, match="fails"):
                await handles["fails"].aget(timeout=30)
            await seen.arrive(Cancelled)
            await seen.arrive(BrokerUp, 2)
            assert await handles["queued"].acancel()
    assert len(seen.of(BrokerUp)) == len(seen.of(BrokerDown)) == 2  # told once each, however often it was tried
    assert len(seen.of(Started)) == 5 and len(seen.of(Reclaimed)) == 1
    assert len(seen.of(Succeeded)) == 3 and not seen.of(LoopBlocked)
