"""Leases: of workers that differ in it, and of results that are too large to be stored."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest
import redis

from penstock import App, TaskFailed
from penstock.events import Lost, Reclaimed, Started, Succeeded
from penstock.streams import keys
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio


def idle_ms(raw: redis.Redis, stream: str) -> int:
    """How long the first pending entry has not been renewed."""
    rows: Any = raw.xpending_range(stream, "w", "-", "+", 1)
    return int(rows[0]["time_since_delivered"])


def sweeps(raw: redis.Redis) -> int:
    """Sweeps so far: each begins with one XREAD."""
    return int(raw.info("commandstats").get("cmdstat_xread", {"calls": 0})["calls"])


async def test_a_worker_with_a_short_lease_does_not_rob_one_with_a_long_one(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture, raw: redis.Redis, namespace: str
) -> None:
    stream = keys.stream(keys.base(namespace, "default"), "default")
    slow, quick = make_app(lease=30.0), make_app(lease=0.5)
    started, go = threading.Event(), asyncio.Event()

    async def body() -> int:
        started.set()
        await go.wait()
        return 1

    slow.task(name="long")(body)
    quick.task(name="long")(body)
    seen = Seen(slow, quick)
    handle = await slow.tasks["long"].adelay()
    async with slow.running():
        await asyncio.to_thread(started.wait, 20)
        async with quick.running():
            other = await quick.tasks["long"].options(queue="default").adelay()
            # Sweeps that would take it, if they went by the sweeper's own lease: the first renewal of a
            # lease of 30 s comes after 10 s only.
            await await_until(lambda: idle_ms(raw, stream) > 1000)
            swept = sweeps(raw)
            await await_until(lambda: sweeps(raw) >= swept + 3)
            go.set()
            assert await handle == await other == 1
    assert "another worker's lease is 30 s" in caplog.text
    assert not seen.of(Reclaimed) and not seen.of(Lost)
    assert len(seen.of(Succeeded)) == 2


async def test_a_lost_lease_is_told_once_however_long_the_code_goes_on(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis
) -> None:
    """Each renewal finds it lost, and this code takes no notice of being cancelled."""
    go = asyncio.Event()

    @app.task(name="stubborn")
    async def stubborn() -> None:
        while not go.is_set():
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(0.05)

    def calls() -> int:
        return int(raw.info("commandstats")["cmdstat_evalsha"]["calls"])

    async with app.running(lease=0.6):
        await stubborn.adelay()
        await seen.arrive(Started)
        raw.flushall()
        await seen.arrive(Lost)
        before = calls()
        await await_until(lambda: calls() >= before + 15)  # most of them renewals, five a second
        go.set()
    assert len(seen.of(Lost)) == 1


async def test_a_result_that_is_too_large_fails_the_task_and_holds_up_no_other(make_app: MakeApp) -> None:
    app = make_app(max_result=1000)

    @app.task(name="large")
    async def large(size: int) -> bytes:
        return b"x" * size

    async with app.running():
        handles = [await large.adelay(size) for size in (10, 2000, 20)]
        assert [len(await handles[0]), len(await handles[2])] == [10, 20]
        with pytest.raises(TaskFailed, match=r"unencodable_result.*max_result is 1,000"):
            await handles[1]
