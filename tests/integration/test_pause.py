"""A paused queue: nothing of it starts in any worker; the other queues, and what runs, go on."""

from __future__ import annotations

import threading

import pytest
import redis

from penstock import App
from penstock.events import Started, Succeeded
from penstock.streams import consume, keys
from penstock.streams.client import SyncClient
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen
from tests.servers import await_until, wait_until


def _register(app: App) -> None:
    @app.task(name="mail", queue="mail")
    async def mail(n: int) -> int:
        return n

    @app.task(name="other", queue="other")
    async def other(n: int) -> int:
        return n


@pytest.mark.anyio
async def test_nothing_of_it_starts_and_the_others_go_on_until_it_is_resumed(app: App, seen: Seen) -> None:
    _register(app)
    assert await app.apause("mail") and not await app.apause("mail")
    async with app.running():
        waiting = await app.tasks["mail"].adelay(1)
        assert await (await app.tasks["other"].adelay(2)).aget(timeout=20) == 2
        assert (await waiting.astate()) == "queued" and not seen.of(Started, name="mail")
        assert await app.aresume("mail")
        assert await waiting.aget(timeout=4.9) == 1, "the worker was told, it did not wait for its next look"


@pytest.mark.anyio
async def test_one_that_comes_while_the_worker_sits_in_its_blocking_read_does_not_start(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    _register(app)
    async with app.running():
        await await_until(lambda: _blocked(raw))
        await app.apause("mail")
        assert _blocked(raw), "the pause itself ends no read"
        handle = await app.tasks["mail"].adelay(1)
        base = keys.base(namespace, "mail")
        stream = keys.stream(base, "default")
        # It was read, and is back: the second entry of this stream, and nobody owns it.
        await await_until(lambda: _added(raw, stream) == 2)
        assert raw.xpending(stream, keys.GROUP)["pending"] == 0
        assert not seen.of(Started)
        await app.aresume("mail")
        assert await handle.aget(timeout=20) == 1
    assert len(seen.of(Started)) == 1
    info = await handle.ainfo()
    assert (info.deliveries, info.attempt) == (1, 1)


@pytest.mark.anyio
async def test_what_runs_when_it_is_paused_ends(app: App) -> None:
    began, go_on = threading.Event(), threading.Event()

    @app.task(name="long")
    def long() -> str:
        began.set()
        go_on.wait(20)
        return "done"

    async with app.running():
        handle = await long.adelay()
        await await_until(began.is_set)
        await app.apause("default")
        go_on.set()
        assert await handle.aget(timeout=20) == "done"
    await app.aresume("default")


@pytest.mark.anyio
async def test_a_resume_that_workers_did_not_hear_of_is_noticed(app: App, raw: redis.Redis, namespace: str) -> None:
    _register(app)
    await app.apause("mail")
    async with app.running(["mail"]):
        handle = await app.tasks["mail"].adelay(1)
        raw.delete(keys.paused(keys.base(namespace, "mail")))  # as `resume`, without its message
        assert await handle.aget(timeout=20) == 1


@pytest.mark.anyio
async def test_a_burst_does_not_wait_for_a_paused_queue(app: App, seen: Seen) -> None:
    _register(app)
    await app.apause("mail")
    await app.tasks["mail"].adelay(1)
    await app.tasks["other"].adelay(1)
    await app.adrain(timeout=20)
    await app.adrain(["mail"], timeout=20)
    assert [event.name for event in seen.of(Succeeded)] == ["other"]
    await app.aresume("mail")
    await app.adrain(timeout=20)
    assert [event.name for event in seen.of(Succeeded)] == ["other", "mail"]


def test_tasks_of_a_dead_worker_are_taken_over_when_the_queue_is_resumed(
    make_app: MakeApp, namespace: str, raw: redis.Redis
) -> None:
    app = make_app(lease=0.5)
    seen = Seen(app)
    _register(app)
    handle = app.tasks["mail"].delay(1)
    base = keys.base(namespace, "mail")
    client = SyncClient(app.connector)
    assert client.run(consume.fetch(base, "mail", "dead", 1, [("default", 1)], 60.0)).read == 1
    app.pause("mail")
    stream = keys.stream(base, "default")
    with app.running():
        wait_until(lambda: int(raw.xpending_range(stream, keys.GROUP, "-", "+", 1)[0]["time_since_delivered"]) > 1500)
        assert not seen.of(Started)
        app.resume("mail")
        assert handle.get(timeout=20) == 1
    client.close()


def _blocked(raw: redis.Redis) -> bool:
    return any("xreadgroup" in client["cmd"] and "b" in client["flags"] for client in raw.client_list())


def _added(raw: redis.Redis, stream: str) -> int:
    """Entries ever added; from Redis 7.0 on."""
    return int(raw.xinfo_stream(stream)["entries-added"])
