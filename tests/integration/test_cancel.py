"""Cancelling: a scheduled, queued and running task, in all three kinds, from another app. See also tests/rules."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import App, RetryPolicy, State, TaskCancelled, TaskNotFound
from penstock.events import Cancelled, Retried, Succeeded
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, entries, share
from tests.servers import await_until

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("delay", [0, 3600])
async def test_a_waiting_task_ends_at_once_with_no_worker_up(
    app: App, make_app: MakeApp, raw: redis.Redis, namespace: str, delay: int
) -> None:
    @app.task
    async def work() -> None: ...

    handle = await work.options(delay=delay).adelay()
    other = make_app("other").handle(handle.id)
    assert await other.acancel() is True
    info = await handle.ainfo()
    assert info.state is State.CANCELLED and info.finished_at is not None
    with pytest.raises(TaskCancelled, match=handle.id):
        await handle
    assert entries(raw, namespace) == 0
    assert raw.zcard(f"{{{namespace}:default}}:z") == 0
    assert await other.acancel() is False  # it had ended already


def test_cancel_has_a_sync_twin(app: App) -> None:
    @app.task
    def work() -> None: ...

    handle = work.delay()
    assert handle.cancel() is True
    assert handle.state() is State.CANCELLED
    with pytest.raises(TaskNotFound):
        app.handle("default:nobody").cancel()


async def test_a_cancelled_task_does_not_run_later(app: App, seen: Seen) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    handles = await work.abulk([(i,) for i in range(10)])
    parked = await work.options(delay=0.1).adelay(99)
    for handle in (*handles[::2], parked):
        assert await handle.acancel()
    async with app.running():
        assert await asyncio.gather(*handles[1::2]) == [1, 3, 5, 7, 9]
        await (await work.options(delay=0.3).adelay(0))
    assert len(seen.of(Succeeded)) == 6


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_a_running_task_is_stopped_from_another_app(
    app: App, make_app: MakeApp, seen: Seen, tmp_path: Path, kind: str
) -> None:
    started, stopped = tmp_path / "started", threading.Event()
    task: Any
    if kind == "async":

        @app.task
        async def work(path: str, seconds: float) -> None:
            started.touch()
            try:
                await asyncio.sleep(seconds)
            finally:
                stopped.set()

        task = work
    elif kind == "thread":

        @app.task
        def work_sync(path: str, seconds: float) -> None:
            Path(path).touch()
            try:
                end = time.monotonic() + seconds
                while time.monotonic() < end:
                    time.sleep(0.01)
            finally:
                stopped.set()

        task = work_sync
    else:
        task = share(app).busy
    async with app.running(processes=1):
        handle = await task.adelay(str(started), 60)
        await await_until(started.exists, 60)
        other = make_app("other").handle(handle.id)
        assert await other.acancel() is True
        with pytest.raises(TaskCancelled):
            await handle.aget(timeout=20)
        with pytest.raises(TaskCancelled):
            await other.aget(timeout=20)
        assert (await seen.arrive(Cancelled))[0].id == handle.id
        assert kind == "process" or stopped.is_set()
    info = await handle.ainfo()
    assert info.state is State.CANCELLED and info.started_at is not None


async def test_cancel_between_two_retries(app: App, seen: Seen) -> None:
    @app.task(retry=RetryPolicy(max_retries=5, delay=3600, jitter=0))
    async def work() -> None:
        raise ValueError

    async with app.running():
        handle = await work.adelay()
        await seen.arrive(Retried)
        assert await handle.astate() is State.SCHEDULED
        assert await handle.acancel()
        with pytest.raises(TaskCancelled):
            await handle


def test_a_cancelled_task_is_remembered_where_no_results_are_kept(make_app: MakeApp) -> None:
    app = make_app(result_ttl=0)

    @app.task(name="work")
    def work() -> None: ...

    handle = work.delay()
    assert handle.cancel()
    assert handle.state() is State.CANCELLED
