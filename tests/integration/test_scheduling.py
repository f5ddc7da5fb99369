"""Delayed tasks and expiry."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
import redis

from penstock import App, ConfigurationError, RetryPolicy, State, TaskExpired
from penstock.events import Dropped, Promoted, Retried, Started, Succeeded
from tests.integration.support import Seen, entries
from tests.servers import await_until

MakeApp = Callable[..., App]
pytestmark = pytest.mark.anyio


async def test_delay_eta_and_countdown_start_when_due_and_not_before(app: App) -> None:
    @app.task
    async def work() -> float:
        return time.time()

    async with app.running():
        now = time.time()
        handles = [
            await work.options(delay=0.5).adelay(),
            await work.options(delay=timedelta(milliseconds=500)).adelay(),
            await work.options(countdown=0.5).adelay(),
            await work.options(eta=datetime.now(UTC) + timedelta(seconds=0.5)).adelay(),
        ]
        for handle in handles:
            info = await handle.ainfo()
            assert info.state is State.SCHEDULED and info.due_at is not None
            assert abs(info.due_at.timestamp() - now - 0.5) < 0.4
        assert all(at >= now + 0.49 for at in await asyncio.gather(*handles))
        for handle in handles:
            info = await handle.ainfo()
            assert info.started_at is not None and info.enqueued_at is not None
            assert info.started_at - info.enqueued_at >= timedelta(seconds=0.39)


async def test_an_eta_in_the_past_runs_at_once(app: App) -> None:
    @app.task
    async def work() -> int:
        return 1

    handle = await work.options(eta=datetime(2020, 1, 1, tzinfo=UTC)).adelay()
    assert await handle.astate() is State.QUEUED
    async with app.running():
        assert await handle == 1
    with pytest.raises(ConfigurationError, match="time zone"):
        work.options(eta=datetime(2030, 1, 1))


async def test_a_sooner_task_wakes_the_promoter_that_sleeps(app: App, seen: Seen) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    async with app.running():
        await work.options(delay=3600).adelay(1)
        since = time.monotonic()
        handle = await work.options(delay=0.2).adelay(2)
        assert await handle.aget(timeout=30) == 2
        # The promoter looks by itself every ten seconds only.
        assert time.monotonic() - since < 8


async def test_a_retry_wakes_the_promoter_that_sleeps(app: App, seen: Seen) -> None:
    @app.task(retry=RetryPolicy(max_retries=1, delay=0.2, jitter=0))
    async def flaky() -> int:
        if len(seen.of(Started)) < 2:
            raise ValueError
        return 1

    async with app.running():
        since = time.monotonic()
        assert await (await flaky.adelay()).aget(timeout=30) == 1
        assert time.monotonic() - since < 8
    assert len(seen.of(Retried)) == 1


async def test_many_that_are_due_at_once(app: App, seen: Seen) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    handles = await app.abulk(work.s(i).options(delay=0.2) for i in range(700))
    async with app.running():
        assert await asyncio.gather(*handles) == list(range(700))
    assert sum(event.count for event in seen.of(Promoted)) == 700
    assert len(seen.of(Succeeded)) == 700


async def test_they_start_in_the_order_of_their_due_times(app: App) -> None:
    order: list[int] = []

    @app.task
    async def work(n: int) -> None:
        order.append(n)

    for n in (3, 1, 2):
        await work.options(delay=0.2 + 0.2 * n).adelay(n)
    await app.adrain(timeout=30)
    assert order == [1, 2, 3]


async def test_what_has_expired_does_not_run(app: App, seen: Seen, raw: redis.Redis, namespace: str) -> None:
    @app.task(expires=0.05)
    async def work() -> int:
        return 1

    @app.task
    async def other() -> int:
        return 1

    expired = [
        await work.adelay(),
        await other.options(expires=timedelta(milliseconds=50)).adelay(),
        await other.options(expires=datetime.now(UTC) + timedelta(seconds=0.05)).adelay(),
        await other.options(delay=0.1, expires=datetime.now(UTC) + timedelta(seconds=0.05)).adelay(),
    ]
    fine = [await work.options(expires=0).adelay(), await other.options(expires=60).adelay()]
    clock = await other.options(delay=0.3).adelay()
    async with app.running(queues=["elsewhere"]):
        await await_until(lambda: raw.time()[0] * 1000 >= 0)
    wait = app.handle(clock.id)
    async with app.running(queues=["default"], concurrency=1) if await _over(raw, 0.2) else app.running():
        assert await wait == 1
        for handle in expired:
            with pytest.raises(TaskExpired, match=handle.id):
                await handle.aget(timeout=20)
        assert [await handle for handle in fine] == [1, 1]
    assert (await expired[0].ainfo()).state is State.EXPIRED
    assert sum(event.count for event in seen.of(Dropped)) >= 3
    assert entries(raw, namespace) == 0


async def _over(raw: redis.Redis, seconds: float) -> bool:
    """The server's clock has gone on by so much."""
    start = raw.time()

    def passed() -> bool:
        now = raw.time()
        return now[0] - start[0] + (now[1] - start[1]) / 1e6 >= seconds

    await await_until(passed)
    return True


async def test_expires_is_about_the_first_start_only(app: App, seen: Seen) -> None:
    @app.task(expires=1.0, retry=RetryPolicy(max_retries=1, delay=1.5, jitter=0))
    async def flaky() -> int:
        if len(seen.of(Started)) < 2:
            raise ValueError
        return 1

    async with app.running():
        assert await (await flaky.adelay()).aget(timeout=30) == 1


async def test_a_delay_survives_the_worker(app: App, make_app: MakeApp) -> None:
    @app.task
    async def work() -> int:
        return 1

    async with app.running():
        handle = await work.options(delay=0.3).adelay()
    async with app.running():
        assert await handle.aget(timeout=20) == 1


def test_options_that_make_no_sense_are_refused(app: App) -> None:
    @app.task
    def work() -> None: ...

    for options in ({"delay": -1}, {"delay": 5, "countdown": 5}, {"delay": 10, "expires": 5}, {"delay": "soon"}):
        with pytest.raises(ConfigurationError):
            work.options(**options)
