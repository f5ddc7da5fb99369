"""``timeout`` and ``soft_timeout`` stop code for real: on the loop, in a thread, in a process."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock import App, RetryPolicy, SoftTimeout, TaskFailed
from penstock.events import Retried, Succeeded, ThreadStuck
from tests.integration.support import Seen, share
from tests.servers import await_until

pytestmark = pytest.mark.anyio


async def test_an_async_task_is_stopped(app: App) -> None:
    cleaned = asyncio.Event()

    @app.task(timeout=0.2)
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    async with app.running():
        with pytest.raises(TaskFailed, match=r"0\.2 s") as caught:
            await (await work.adelay())
    assert caught.value.reason == "timeout" and caught.value.type.endswith("HardTimeout")
    assert cleaned.is_set()


async def test_a_thread_is_stopped(app: App) -> None:
    stopped = threading.Event()

    @app.task(timeout=0.2)
    def work() -> None:
        try:
            while True:
                time.sleep(0.01)
        finally:
            stopped.set()

    async with app.running():
        with pytest.raises(TaskFailed) as caught:
            await (await work.adelay())
    assert caught.value.reason == "timeout"
    assert stopped.is_set()


async def test_a_process_is_killed(app: App, tmp_path: Path) -> None:
    shared = share(app)
    async with app.running(processes=1):
        pid = await (await shared.pid_of_child.adelay())
        with pytest.raises(TaskFailed) as caught:
            await (await shared.busy.options(timeout=0.3).adelay(str(tmp_path / "x"), 60))
        assert caught.value.reason == "timeout"
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert await (await shared.square.adelay(3)) == 9  # the slot works on, with a new child


async def test_soft_timeout_lets_an_async_task_clean_up(app: App) -> None:
    @app.task(soft_timeout=0.1, timeout=60)
    async def work() -> str:
        try:
            await asyncio.sleep(60)
        except SoftTimeout:
            await asyncio.sleep(0)
            return "cleaned up"
        return "?"

    @app.task(soft_timeout=0.1)
    async def careless() -> None:
        await asyncio.sleep(60)

    async with app.running():
        assert await (await work.adelay()) == "cleaned up"
        with pytest.raises(TaskFailed, match="SoftTimeout") as caught:
            await (await careless.adelay())
        assert caught.value.reason == "timeout"


async def test_soft_timeout_lets_a_thread_clean_up(app: App) -> None:
    @app.task(soft_timeout=0.1, timeout=60)
    def work() -> str:
        try:
            while True:
                time.sleep(0.01)
        except SoftTimeout:
            return "cleaned up"

    async with app.running():
        assert await (await work.adelay()) == "cleaned up"


async def test_soft_timeout_lets_a_process_clean_up(app: App, tmp_path: Path) -> None:
    shared = share(app)
    async with app.running(processes=1):
        assert await (await shared.busy_soft.adelay(str(tmp_path / "x"))) == "cleaned up"
    assert (tmp_path / "x").read_text() == "soft"


async def test_a_timeout_is_retried_by_the_policy(app: App, seen: Seen) -> None:
    runs = 0

    @app.task(timeout=0.1, retry=RetryPolicy(max_retries=2, delay=0.01, jitter=0))
    async def work() -> int:
        nonlocal runs
        runs += 1
        if runs < 3:
            await asyncio.sleep(60)
        return runs

    async with app.running():
        assert await (await work.adelay()) == 3
    assert len(seen.of(Retried)) == 2
    assert all("HardTimeout" in event.error for event in seen.of(Retried))


async def test_a_call_may_ask_for_its_own_timeout(app: App) -> None:
    @app.task(timeout=60)
    async def work() -> None:
        await asyncio.sleep(30)

    @app.task(timeout=0.05)
    async def slow() -> int:
        await asyncio.sleep(0.3)
        return 1

    async with app.running():
        with pytest.raises(TaskFailed, match=r"0\.1 s"):
            await (await work.options(timeout=0.1).adelay())
        assert await (await slow.options(timeout=0).adelay()) == 1  # 0: no limit


async def test_a_task_without_a_timeout_has_none(app: App) -> None:
    @app.task
    async def work() -> int:
        await asyncio.sleep(2)
        return 1

    async with app.running(lease=0.6):
        assert await (await work.adelay()) == 1


async def test_a_thread_that_does_not_stop_is_reported_and_its_task_settled(app: App, seen: Seen) -> None:
    release = threading.Event()

    @app.task(timeout=0.1)
    def stubborn() -> None:
        while not release.is_set():
            try:
                release.wait(0.2)
            except BaseException:
                continue

    @app.task
    def other() -> int:
        return 1

    try:
        async with app.running(threads=1, grace=1):
            handle = await stubborn.adelay()
            with pytest.raises(TaskFailed) as caught:
                await handle
            assert caught.value.reason == "timeout"
            stuck = (await seen.arrive(ThreadStuck))[0]
            assert stuck.id == handle.id and stuck.overdue > 0
            assert await (await other.adelay()) == 1  # its slot is free again
    finally:
        release.set()
    assert not seen.of(Succeeded, id=handle.id)


async def test_time_in_the_queue_does_not_count(app: App) -> None:
    @app.task(timeout=1.5)
    async def work() -> int:
        await asyncio.sleep(0.6)
        return 1

    async with app.running(concurrency=1):
        handles = await work.abulk([()] * 4)
        assert await asyncio.gather(*handles) == [1] * 4


async def test_a_wedged_loop_is_noticed_by_the_lease_thread(
    app: App, seen: Seen, start_worker: Callable[..., object]
) -> None:
    """A task that swallows its cancellation: settled only when it ends, and as what it is."""
    swallowed = asyncio.Event()
    go = asyncio.Event()

    @app.task(timeout=0.1)
    async def stubborn() -> int:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed.set()
        await go.wait()
        return 1

    async with app.running():
        handle = await stubborn.adelay()
        await await_until(swallowed.is_set)
        go.set()
        with pytest.raises(TaskFailed) as caught:
            await handle.aget(timeout=20)
        assert caught.value.reason == "timeout"
