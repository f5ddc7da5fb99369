"""A server comes back: every duty goes on by itself within 5 s, however long it was away and in whatever way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import pytest
import redis

from penstock import App, TaskCancelled
from penstock.consumers import duty, promoter, settler
from penstock.events import BrokerDown, BrokerUp, Cancelled, Late, Lost, Promoted, Reclaimed, Started, Succeeded
from penstock.streams import client, consume, keys
from penstock.streams.client import AsyncClient
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, calls_of
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio

#: Seconds: what is promised.
BOUND = 5.0
LEASE = 1.5
#: So that a server can stand still for longer than all of them in a test.
SHORT: dict[str, Any] = {"connect_timeout": 0.5, "command_timeout": 0.5, "retry_for": 60.0}


class Pauses:
    """All pauses between tries: one list for each time that somebody began to try."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[list[float]] = []
        for module in (duty, client):  # the listener takes it from there
            monkeypatch.setattr(module, "pauses", self._record)

    def _record(self, *args: float) -> Iterator[float]:
        made: list[float] = []
        self.made.append(made)
        for pause in _pauses(*args):
            made.append(pause)
            yield pause

    def at_the_ceiling(self) -> int:
        """How many have tried ten times or more in a row."""
        return sum(len(made) >= 10 for made in self.made)


_pauses = client.pauses


def test_no_pause_is_longer_than_a_second() -> None:
    """The ceiling by which the bound of 5 s is kept: a try, its pause, and the next try."""
    made = list(islice(client.pauses(), 1000))
    assert max(made[:3]) < 0.1 < 0.5 < min(made[10:]) and max(made) <= 1.0
    assert settler.OOM_PAUSE <= 1.0 and promoter.BACKSTOP > BOUND  # the tests below do not rest on a look by chance


async def away(server: Server, how: str, pauses: Pauses, begun: asyncio.Event) -> float:
    """The server is away, and is back; when it answered (monotonic)."""
    since = time.monotonic()
    if how == "stalled":
        server.pause()
        begun.set()
        await await_until(lambda: time.monotonic() - since > 2.5)
        server.resume()
    else:
        await asyncio.to_thread(server.kill)
        assert not server.running
        begun.set()
        if how == "long":
            await await_until(lambda: pauses.at_the_ceiling() >= 6, 60)
        else:
            await await_until(lambda: pauses.made[-1:] != [[]])
        server.start()
    with server.client() as raw:
        await asyncio.to_thread(raw.ping)
    return time.monotonic()


async def after(at: float, waiting: Awaitable[Any]) -> float:
    """Seconds from `at` to the end of `waiting`, without those in which the machine gave this process no time."""
    lost, over = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal lost
        while not over.is_set():
            since = time.monotonic()
            with suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), 0.02)
            lost += max(0.0, time.monotonic() - since - 0.1)

    watching = asyncio.create_task(watch())
    try:
        await waiting
    finally:
        over.set()
        await watching
    return time.monotonic() - at - lost


@pytest.mark.parametrize("how", ["stalled", "restarted", "long"])
async def test_every_duty_goes_on(
    make_app: MakeApp, own_server: Server, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, namespace: str, how: str
) -> None:
    monkeypatch.setattr("penstock.consumers.fetcher.BLOCK", 0.5)
    raw.config_set("appendfsync", "no")  # else a kill may lose what was answered while a sync was under way
    pauses = Pauses(monkeypatch)
    app = make_app(lease=LEASE, **SHORT)
    seen = Seen(app)
    go = asyncio.Event()

    @app.task(name="work")
    async def work(what: str) -> str:
        if what == "runs":
            await go.wait()
        return what

    dead = await work.adelay("dead")
    await die_with(app, namespace)
    async with app.running(), app.running():
        runs = await work.adelay("runs")
        await seen.arrive(Started)
        due = await work.options(delay=1).adelay("due")
        waiting = [asyncio.create_task(runs.aget(40)), asyncio.create_task(asyncio.to_thread(runs.get, 40))]
        begun = asyncio.Event()
        back = asyncio.create_task(away(own_server, how, pauses, begun))
        await begun.wait()
        sending = asyncio.create_task(work.adelay("sent"))
        at = await back
        renewed = calls_of(raw, "xclaim")

        async def sent_runs() -> None:
            await seen.arrive(Started, id=(await sending).id)

        async def settled() -> None:
            go.set()
            await seen.arrive(Succeeded, id=runs.id)

        probes: dict[str, Awaitable[Any]] = {
            "fetcher": sent_runs(),
            "promoter": seen.arrive(Promoted),
            "promoted": seen.arrive(Started, id=due.id),
            "leases": await_until(lambda: calls_of(raw, "xclaim") >= renewed + 2),
            "reclaimer": seen.arrive(Reclaimed),
        }
        took = dict(zip(probes, await asyncio.gather(*[after(at, probe) for probe in probes.values()]), strict=True))
        assert took.pop("reclaimer") < LEASE + BOUND  # first the living renew: one lease
        assert max(took.values()) < BOUND, took
        assert await after(time.monotonic(), settled()) < BOUND
        assert await asyncio.gather(*waiting, dead.aget(40)) == ["runs", "runs", "dead"]
        await seen.arrive(BrokerUp, len(seen.of(BrokerDown)))
    assert seen.of(BrokerDown) and not seen.of(Lost) and not seen.of(Late)
    assert len(seen.of(Started)) == 4


async def die_with(app: App, namespace: str) -> None:
    """A worker has taken the only task of the queue, and is gone."""
    other = AsyncClient(app.connector)
    base = keys.base(namespace, "default")
    held = await other.run(consume.fetch(base, "default", "dead", 1, [("default", 1)], 60.0))
    assert len(held.deliveries) == 1
    await other.aclose()


@pytest.mark.parametrize("how", ["stalled", "restarted", "long"])
async def test_what_ended_meanwhile_is_stored_and_told(
    make_app: MakeApp, own_server: Server, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The settler, the listener for results and the control channel, with nothing else that might help."""
    monkeypatch.setattr("penstock.consumers.fetcher.BLOCK", 0.5)
    monkeypatch.setattr("penstock.tasks.results.LOOK_AGAIN", 600.0)
    raw.config_set("appendfsync", "no")
    pauses = Pauses(monkeypatch)
    app = make_app(lease=60.0, **SHORT)
    seen = Seen(app)
    go = asyncio.Event()

    @app.task(name="work")
    async def work(what: str) -> str:
        await (go.wait() if what == "ends" else asyncio.Event().wait() if what == "long" else asyncio.sleep(0))
        return what

    async with app.running():
        ends, long = await work.adelay("ends"), await work.adelay("long")
        await seen.arrive(Started, 2)
        waiting = {
            "aget": asyncio.create_task(ends.aget(40)),
            "get": asyncio.create_task(asyncio.to_thread(ends.get, 40)),
            "cancelled": asyncio.create_task(long.aget(40)),
        }
        await await_until(lambda: raw.pubsub_channels("*:l:*"))
        await await_until(lambda: is_waited_for(raw, app, ends.id))
        begun = asyncio.Event()
        back = asyncio.create_task(away(own_server, how, pauses, begun))
        await begun.wait()
        go.set()  # while nobody can store it
        at = await back
        assert await after(at, await_until(lambda: listening(own_server))) < BOUND
        cancelling = asyncio.create_task(long.acancel())  # what is sent before that, the next renewal brings
        soon = asyncio.create_task(work.options(delay=0.2).adelay("soon"))  # an earlier head: the promoter is told
        assert await after(at, seen.arrive(Succeeded, id=ends.id)) < BOUND
        assert await after(at, asyncio.gather(waiting["aget"], waiting["get"])) < BOUND
        assert await cancelling and await after(at, seen.arrive(Cancelled, id=long.id)) < BOUND
        with pytest.raises(TaskCancelled):
            await waiting["cancelled"]
        assert await after(at, seen.arrive(Started, id=(await soon).id)) < BOUND
    assert len(seen.of(Succeeded)) == 2 and not seen.of(Late)


def listening(server: Server) -> bool:
    """Workers hear what they are told, as far as the server knows."""
    with server.client() as raw:
        return bool(raw.pubsub_channels("*}:c"))


def is_waited_for(raw: redis.Redis, app: App, id: str) -> bool:
    """Somebody waits for this task, by its record."""
    queue, _, key = id.partition(":")
    return bool(raw.hget(f"{keys.base(app.settings.namespace, queue)}:t:{key}", "l"))


async def test_nobody_hangs_while_the_server_stands_still(make_app: MakeApp, own_server: Server) -> None:
    app = make_app(connect_timeout=0.5, command_timeout=0.5, retry_for=0.5)

    @app.task(name="work")
    async def work() -> None: ...

    handle = await work.adelay()
    calls: list[Callable[[], Any]] = [work.adelay, handle.astate, handle.acancel, lambda: handle.aget(timeout=0.5)]
    blocking: list[Callable[[], Any]] = [work.delay, handle.state, handle.cancel, lambda: handle.get(timeout=0.5)]
    own_server.pause()
    running = [asyncio.ensure_future(call()) for call in calls]
    running += [asyncio.ensure_future(asyncio.to_thread(call)) for call in blocking]
    done, hanging = await asyncio.wait(running, timeout=20)
    assert not hanging
    assert all(isinstance(each.exception(), ConnectionError) for each in done), [each.exception() for each in done]
    own_server.resume()
    assert (await work.adelay()).created
