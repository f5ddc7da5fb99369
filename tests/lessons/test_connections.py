"""Connections are cut, fall silent or lead to a server that has started anew: workers and producers go on."""

from __future__ import annotations

import asyncio
import time

import pytest
import redis

from penstock import App, TaskCancelled
from penstock.events import BrokerDown, Started, Succeeded
from tests.commands import Folder
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, entries, pending
from tests.lessons.conftest import StartJobs
from tests.lessons.half_open import HalfOpen
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio


def blocked(raw: redis.Redis) -> bool:
    """A worker waits in a blocking read."""
    return int(raw.info("clients")["blocked_clients"]) > 0


async def test_a_worker_whose_connections_were_cut_goes_on_consuming(app: App, seen: Seen, raw: redis.Redis) -> None:
    """celery/celery#8030, #8091, #4453, taskforcesh/bullmq#2466, Bogdanp/dramatiq#207: the worker connected again,
    said so, and consumed nothing any more."""
    gate = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        return n

    @app.task
    async def endless() -> None:
        await gate.wait()

    async with app.running(lease=60):  # so that nothing is mended by taking over
        for n in range(5):
            await await_until(lambda: blocked(raw))
            assert sum(raw.client_kill_filter(_type=kind, skipme=True) for kind in ("normal", "pubsub")) >= 2
            now, later = await work.adelay(n), await work.options(delay=0.1).adelay(n)
            running = await endless.adelay()
            assert [await now.aget(timeout=20), await later.aget(timeout=20)] == [n, n]
            await seen.arrive(Started, id=running.id)
            assert await running.acancel()
            with pytest.raises(TaskCancelled):
                await running.aget(timeout=20)
    assert len(seen.of(Started)) == 15


@pytest.fixture
def short_deadlines(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A silent connection is given up after BLOCK + command_timeout: here after 1.5 s."""
    monkeypatch.setattr("penstock.consumers.fetcher.BLOCK", 0.5)
    monkeypatch.setattr("penstock.streams.control.QUIET", 0.5)
    return {"command_timeout": 1.0, "connect_timeout": 1.0}


async def test_a_worker_whose_connections_fell_silent_goes_on_consuming(
    make_app: MakeApp, half_open: HalfOpen, short_deadlines: dict[str, float], raw: redis.Redis
) -> None:
    """Vexa-ai/vexa#267 (a stall of 10.5 hours), taskforcesh/bullmq#3088, redis/redis-py#2243: a NAT had forgotten the
    connections; no FIN came, and the blocking read waited for ever."""
    app, direct = make_app(url=half_open.url, lease=3.0, **short_deadlines), make_app()
    seen, go = Seen(app), asyncio.Event()

    @app.task(name="work")
    async def work(n: int) -> int:
        if n == 0:
            await go.wait()
        return n

    async with app.running():
        running = await direct.task_named("work").adelay(0)
        await seen.arrive(Started)
        await await_until(lambda: blocked(raw))
        assert half_open.forget() >= 4  # the reader, commands, leases, control
        handles = [await direct.task_named("work").adelay(n) for n in range(1, 6)]
        handles.append(await direct.task_named("work", delay=0.2).adelay(6))
        assert await asyncio.gather(*[handle.aget(timeout=60) for handle in handles]) == [1, 2, 3, 4, 5, 6]
        go.set()
        assert await running.aget(timeout=60) == 0
    assert half_open.swallowed > 0 and seen.of(BrokerDown)
    await app.aclose()
    await direct.aclose()


async def test_an_entry_that_was_handed_to_a_dead_connection_runs_without_waiting_for_its_lease(
    make_app: MakeApp, half_open: HalfOpen, short_deadlines: dict[str, float], raw: redis.Redis, namespace: str
) -> None:
    """taskforcesh/bullmq#648, celery/celery#8091: the server gave the task to a client that had long gone; it was
    nobody's until a timeout of an hour."""
    app, direct = make_app(url=half_open.url, lease=600.0, **short_deadlines), make_app()
    seen = Seen(app)

    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    async with app.running():
        assert await (await direct.task_named("work").adelay(0)).aget(timeout=20) == 0
        await await_until(lambda: blocked(raw))
        half_open.forget()
        handle = await direct.task_named("work").adelay(1)
        assert pending(raw, namespace), "the server has not handed it to anybody"
        assert not seen.of(Started, id=handle.id)
        assert await handle.aget(timeout=60) == 1
    assert len(seen.of(Succeeded)) == 2
    await app.aclose()
    await direct.aclose()


async def test_a_control_channel_that_fell_silent_does_not_make_timers_late_for_ever(
    make_app: MakeApp, half_open: HalfOpen, monkeypatch: pytest.MonkeyPatch, raw: redis.Redis
) -> None:
    """Vexa-ai/vexa#267, redis/redis-py#2243: nothing is ever read from a subscription that was forgotten, so nobody
    notices."""
    monkeypatch.setattr("penstock.streams.control.QUIET", 0.5)
    monkeypatch.setattr("penstock.consumers.promoter.BACKSTOP", 600.0)  # it would hear of nothing by itself
    app, direct = make_app(url=half_open.url), make_app()

    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    async with app.running():
        assert await (await direct.task_named("work", delay=0.1).adelay(0)).aget(timeout=20) == 0
        assert half_open.forget(b"SUBSCRIBE") == 1
        handles = [await direct.task_named("work", delay=0.1).adelay(n) for n in range(1, 4)]
        assert await asyncio.gather(*[handle.aget(timeout=30) for handle in handles]) == [1, 2, 3]
    await app.aclose()
    await direct.aclose()


async def test_a_producer_whose_connection_fell_silent_sends_once_and_in_time(
    make_app: MakeApp, half_open: HalfOpen, raw: redis.Redis, namespace: str
) -> None:
    """celery/celery#4453, redis/redis-py#2243: `delay` on a connection that had been forgotten hung, or was repeated
    by the client and sent twice."""
    app = make_app(url=half_open.url, command_timeout=1.0)

    @app.task
    def work(n: int) -> int:
        return n

    await asyncio.to_thread(work.delay, 0)
    await work.adelay(1)
    for expected in (3, 4):
        assert half_open.forget() >= 1
        since = time.monotonic()
        handle = await (asyncio.to_thread(work.delay, 2) if expected == 3 else work.adelay(3))
        assert handle.created and time.monotonic() - since < 15  # it goes on trying for that long
        assert entries(raw, namespace) == expected
    assert half_open.swallowed > 0
    await app.aclose()


async def test_a_server_that_starts_anew_finds_the_same_worker_process_consuming(
    app: App, worker: StartJobs, own_server: Server, folder: Folder
) -> None:
    """celery/celery#8030, #8091, taskforcesh/bullmq#2466: after a restart of Redis the worker had to be restarted,
    too."""
    add = app.task_named("tests.lessons.jobs.add")
    supervised = worker()
    pids = supervised.ready()
    assert await (await add.adelay(1, 1)).aget(timeout=30) == 2
    for n in range(2):
        await asyncio.to_thread(own_server.kill if n else own_server.stop)
        await asyncio.to_thread(supervised.logged, "the server does not answer", n + 1)
        own_server.start()  # here: it dies with the thread that starts it
        now, later = await add.adelay(n, 2), await add.options(delay=0.1).adelay(n, 3)
        assert [await now.aget(timeout=30), await later.aget(timeout=30)] == [n + 2, n + 3]
    assert supervised.ready() == pids
    await app.aclose()
