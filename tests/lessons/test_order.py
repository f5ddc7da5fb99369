"""What runs when, and beside what: priorities as named, no hidden prefetch, all kinds of code in one worker."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import App, ConfigurationError
from penstock.events import Started
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, pending, share
from tests.servers import await_until

pytestmark = pytest.mark.anyio


async def test_high_is_before_low_and_low_is_never_starved(app: App, seen: Seen) -> None:
    """celery/celery#4028, #8967, tobymao/saq#217: priorities were numbers that meant the opposite on Redis, were
    clamped to four steps, or changed nothing; and low ones might never run."""

    @app.task
    async def work() -> None: ...

    for priority in ("low", "default", "high"):  # the least urgent first: this order must not count
        await work.options(priority=priority).abulk([()] * 200)
    async with app.running(concurrency=1):
        await seen.arrive(Started, 600)
    order = [event.priority for event in seen.of(Started)]
    shares = Counter(order[:100])  # while all have work
    assert shares["high"] > shares["default"] > shares["low"] > 0
    middle = {priority: sum(i for i, p in enumerate(order) if p == priority) / 200 for priority in shares}
    assert middle["high"] < middle["default"] < middle["low"]


async def test_an_urgent_task_does_not_wait_behind_what_was_fetched_before(app: App, seen: Seen) -> None:
    """celery/celery#4028: the worker had prefetched hundreds of unimportant ones, and priorities began behind them."""

    @app.task
    async def work() -> None:
        await asyncio.sleep(0.002)

    await work.options(priority="low").abulk([()] * 500)
    async with app.running(concurrency=2):
        await seen.arrive(Started, 10)
        urgent = await work.options(priority="high").adelay()
        await urgent
        before = [event.id for event in seen.of(Started)].index(urgent.id)
        assert before < 400
        assert [event.priority for event in seen.of(Started)].count("low") < 500
        await seen.arrive(Started, 501)


def test_a_priority_that_does_not_exist_is_refused_where_it_is_asked_for(app: App) -> None:
    """celery/celery#8967, tobymao/saq#217: a wrong number was accepted, and clamped or ignored."""

    @app.task
    def work() -> None: ...

    for wrong in (0, 9, "urgent", "HIGH"):
        with pytest.raises(ConfigurationError, match="high, default, low"):
            work.options(priority=wrong)  # type: ignore[arg-type]


async def test_a_busy_worker_holds_no_more_tasks_than_it_runs(
    app: App, seen: Seen, start_worker: Any, raw: redis.Redis, namespace: str, tmp_path: Path
) -> None:
    """tastyware/streaq#106, mitodl/ol-infrastructure PR #5598, klippa-app/keda-celery-scaler: busy workers hid a queue
    in their prefetch: nothing seemed to wait, and the workers that were added had nothing to do."""
    shared, log = share(app), tmp_path / "log"
    start_worker(concurrency=2, threads=2, processes=2, lease=5)
    handles = [await shared.note.adelay(str(log), 600) for _ in range(6)]
    await await_until(lambda: log.exists() and log.read_text().count("start") == 2, 20)
    assert len(pending(raw, namespace)) == 2  # the other four are there for all to see
    async with app.running():
        await seen.arrive(Started, 4)  # and to take
        assert {event.id for event in seen.of(Started)} <= {handle.id for handle in handles}
        assert len(pending(raw, namespace)) == 6
        for handle in handles:
            await handle.acancel()


async def test_async_thread_and_process_tasks_run_beside_each_other_in_one_worker(
    make_app: MakeApp, tmp_path: Path
) -> None:
    """celery/celery#6552, #3884, #7874, #5493: no async tasks, no async client; an event loop in a pool that forks, or
    a blocking call on the loop, held up or hung all that ran beside it."""
    app = make_app()
    shared, log, met = share(app), tmp_path / "busy", threading.Barrier(2)
    here = asyncio.Event()

    # In queues of their own: what is read from one queue is bounded by the scarcest kind of slot in it.
    @app.task(queue="loop")
    async def on_loop() -> str:
        await asyncio.to_thread(met.wait, 60)  # a thread task is there at the same time
        await await_until(log.exists, 60)  # and a process, too
        here.set()
        return "loop"

    @app.task(queue="threads")
    def in_thread() -> str:
        met.wait(60)
        return "thread"

    async with app.running(processes=1, threads=1, concurrency=1):
        handles = [
            await shared.busy.adelay(str(log), 600),
            await asyncio.to_thread(in_thread.delay),  # the sync producer
            await on_loop.adelay(),  # the async one
        ]
        assert await handles[2].aget(60) == "loop" and here.is_set()
        assert await asyncio.to_thread(handles[1].get, 60) == "thread"
        assert not await handles[0].adone()  # it computes still, and has held up nobody
        await handles[0].acancel()
