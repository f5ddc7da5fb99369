"""Who waits for a result gets it, through cuts and restarts; and who asks for a task that does not exist is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from penstock import App, State, TaskNotFound
from penstock.events import Started
from tests.chaos.proxy import Act, Fault, Proxy
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen
from tests.lessons.half_open import HalfOpen
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """Leads who waits to the server."""
    made = Proxy(server.port, ["waiter"])
    yield made
    made.close()


async def test_get_returns_although_the_server_was_restarted_meanwhile(
    app: App, seen: Seen, own_server: Server
) -> None:
    """celery/celery#4857, #4470: after a restart of Redis the result consumer listened to nothing, and `.get()`
    hung."""
    go = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        await go.wait()
        return n

    async with app.running():
        handles = [await work.adelay(n) for n in range(2)]
        await seen.arrive(Started, 2)
        waiting = [asyncio.create_task(asyncio.to_thread(handles[0].get, 60)), asyncio.create_task(handles[1].aget(60))]
        await await_until(lambda: _someone_waits(own_server, app))
        await asyncio.to_thread(own_server.kill)
        own_server.start()  # here: it dies with the thread that starts it
        assert not any(each.done() for each in waiting)
        go.set()
        assert await asyncio.gather(*waiting) == [0, 1]


def _someone_waits(server: Server, app: App) -> bool:
    """Both have left word in the records."""
    with server.client() as client:
        found: Any = [client.hget(key, "l") for key in client.scan_iter(match="*:t:*")]
    return len(found) == 2 and None not in found


@pytest.mark.parametrize("act", [Act.CUT, Act.SWALLOW], ids=["connection-cut", "message-lost"])
@pytest.mark.parametrize("way", ["get", "aget"])
async def test_get_returns_although_nobody_heard_that_the_task_has_ended(
    make_app: MakeApp, proxy: Proxy, act: Act, way: str
) -> None:
    """celery/celery#4857, #4561: the one message that tells of the result was published while the subscription was
    broken, and nobody looked again."""
    worker, waiter = make_app(), make_app(url=proxy.url("waiter"))
    seen, go = Seen(worker), asyncio.Event()

    @worker.task(name="work")
    async def work() -> int:
        await go.wait()
        return 1

    async with worker.running():
        handle = waiter.handle((await work.adelay()).id)
        await seen.arrive(Started)
        waiting = asyncio.create_task(handle.aget(60) if way == "aget" else asyncio.to_thread(handle.get, 60))
        await await_until(lambda: proxy.counts["waiter:pubsub SUBSCRIBE"] and proxy.counts["waiter:main read"] >= 2)
        proxy.fault = Fault("waiter:pushed message", 1, act)
        go.set()
        assert await waiting == 1
    assert proxy.struck is not None
    await waiter.aclose()


async def test_a_subscription_that_fell_silent_is_made_anew(
    make_app: MakeApp, half_open: HalfOpen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """celery/celery#4470, redis/redis-py#2243: the forgotten subscription was kept for ever."""
    monkeypatch.setattr("penstock.streams.listener.QUIET", 0.3)
    monkeypatch.setattr("penstock.streams.listener.LOOK_AGAIN", 0.1)
    app = make_app(url=half_open.url, command_timeout=1.0)

    @app.task
    async def work(n: int) -> int:
        return n

    gate = await work.options(delay=600).adelay(0)
    waiting = asyncio.create_task(gate.aget(60))
    await await_until(lambda: half_open.count(b"SUBSCRIBE") == 1)
    assert half_open.forget(b"SUBSCRIBE") == 1
    await await_until(lambda: half_open.count(b"SUBSCRIBE") == 1, 20)
    assert not waiting.done()
    waiting.cancel()
    await app.aclose()


async def test_an_id_that_nobody_has_sent_is_not_pending(app: App) -> None:
    """celery/celery#4561, #4857: any id at all was PENDING, and waiting for it hung."""
    nobody = app.handle("default:nobody")
    for ask in (nobody.aget, nobody.astate, nobody.ainfo, nobody.adone, nobody.acancel):
        with pytest.raises(TaskNotFound, match="default:nobody"):
            await ask()
    for ask_sync in (nobody.get, nobody.state, nobody.info, nobody.done, nobody.cancel):
        with pytest.raises(TaskNotFound, match="default:nobody"):
            await asyncio.to_thread(ask_sync)


async def test_a_wait_ends_when_the_server_has_forgotten_the_task(
    app: App, own_server: Server, raw: redis.Redis
) -> None:
    """celery/celery#4470, #4561: after FLUSHALL, or once its result had expired, the id was PENDING again, and who
    waited went on."""

    @app.task
    async def work() -> int:
        return 1

    handle = await work.adelay()
    assert await handle.astate() is State.QUEUED
    waiting = [asyncio.create_task(handle.aget(60)), asyncio.create_task(asyncio.to_thread(handle.get, 60))]
    await await_until(lambda: _pubsub(raw))
    raw.flushall()
    for each in waiting:
        with pytest.raises(TaskNotFound):
            await each


def _pubsub(raw: redis.Redis) -> bool:
    return bool(raw.pubsub_channels("*:l:*"))
