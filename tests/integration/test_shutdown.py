"""Stopping a worker: what runs may finish, the rest goes back at once, nothing is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import App, Context, State
from penstock.events import Late, Released, Started, Succeeded, WorkerStopped
from tests.integration.support import Seen, WorkerProcess, entries, pending, share
from tests.servers import await_until

MakeApp = Callable[..., App]
pytestmark = pytest.mark.anyio


async def test_what_runs_may_finish_within_the_grace_period(app: App, seen: Seen) -> None:
    @app.task
    async def work() -> int:
        await asyncio.sleep(0.5)
        return 1

    @app.task
    def in_thread() -> int:
        time.sleep(0.5)
        return 2

    async with app.running(grace=30):
        handles = [await work.adelay(), await in_thread.adelay()]
        await seen.arrive(Started, 2)
    assert [await handle.astate() for handle in handles] == [State.SUCCEEDED] * 2
    assert await asyncio.gather(*handles) == [1, 2]


async def test_a_stopping_worker_fetches_nothing_more(app: App, seen: Seen) -> None:
    go = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        await go.wait()
        return n

    async with app.running(grace=30, concurrency=1) as worker:
        first = await work.adelay(1)
        await seen.arrive(Started)
        rest = await work.abulk([(i,) for i in range(5)])
        worker.stop()
        go.set()
        await seen.arrive(WorkerStopped)
    assert await first == 1
    assert [await handle.astate() for handle in rest] == [State.QUEUED] * 5


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_the_rest_is_handed_back_at_once(
    app: App, make_app: MakeApp, seen: Seen, tmp_path: Path, raw: redis.Redis, namespace: str, kind: str
) -> None:
    started = tmp_path / "started"
    task: Any
    if kind == "async":

        @app.task
        async def work(path: str, seconds: float) -> None:
            started.touch()
            await asyncio.sleep(seconds)

        task = work
    elif kind == "thread":

        @app.task
        def work_sync(path: str, seconds: float) -> None:
            Path(path).touch()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                time.sleep(0.01)

        task = work_sync
    else:
        task = share(app).busy
    async with app.running(lease=60, grace=0.1, processes=1):
        handle = await task.adelay(str(started), 60)
        await await_until(started.exists, 60)
    # Not a lease later: it is there, for others, spending neither an attempt nor a delivery.
    assert entries(raw, namespace) == 1 and pending(raw, namespace) == []
    info = await handle.ainfo()
    assert (info.state, info.attempt, info.deliveries) == (State.QUEUED, 0, 0)
    assert seen.of(Released)[0].id == handle.id

    other = make_app("other")

    @other.task(name=task.name, bind=True)
    async def quick(ctx: Context, path: str, seconds: float) -> list[int]:
        return [ctx.attempt, ctx.deliveries]

    async with other.running():
        assert await other.handle(handle.id) == [1, 1]


async def test_a_second_stop_does_not_wait_for_the_grace_period(app: App, seen: Seen) -> None:
    @app.task
    async def work() -> None:
        await asyncio.sleep(60)

    since = time.monotonic()
    async with app.running(grace=60) as worker:
        handle = await work.adelay()
        await seen.arrive(Started)
        worker.stop()
        worker.stop()
        await seen.arrive(Released)
    assert time.monotonic() - since < 30
    assert await handle.astate() is State.QUEUED


async def test_results_that_are_ready_are_stored_before_the_end(app: App, seen: Seen) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    handles = await work.abulk([(i,) for i in range(500)])
    async with app.running(grace=0):
        await seen.arrive(Started, 100)
    states = [await handle.astate() for handle in handles]
    assert set(states) <= {State.SUCCEEDED, State.QUEUED}
    assert states.count(State.SUCCEEDED) == len(seen.of(Succeeded)) >= 100
    assert not seen.of(Late)


async def test_an_orderly_end_removes_the_workers_traces(app: App, raw: redis.Redis, namespace: str) -> None:
    @app.task
    async def work() -> None: ...

    async with app.running() as worker:
        await (await work.adelay())
        await await_until(lambda: raw.zscore(f"{{{namespace}}}:workers", worker.name))
    assert raw.zcard(f"{{{namespace}}}:workers") == 0
    assert raw.xinfo_consumers(f"{{{namespace}:default}}:s:default", "w") == []
    assert list(raw.scan_iter(match=f"{{{namespace}}}:w:*")) == []


async def test_no_thread_or_task_is_left_behind(app: App) -> None:
    @app.task
    async def work() -> int:
        return 1

    @app.task
    def in_thread() -> int:
        return 1

    tasks, threads = set(asyncio.all_tasks()), set(threading.enumerate())
    async with app.running():
        assert await (await work.adelay()) + await (await in_thread.adelay()) == 2
    await app.aclose()

    def left() -> list[threading.Thread]:
        return [t for t in threading.enumerate() if t not in threads and t.name.startswith("penstock")]

    await await_until(lambda: not left())
    assert {task for task in asyncio.all_tasks() if task.get_name().startswith("penstock")} <= tasks


async def test_sigterm_hands_back_what_the_grace_period_cuts(
    app: App, start_worker: Callable[..., WorkerProcess], raw: redis.Redis, namespace: str, tmp_path: Path
) -> None:
    shared = share(app)
    worker = start_worker(grace=0.2, lease=60)
    handle = await shared.note.adelay(str(tmp_path / "log"), 60)
    await await_until(lambda: (tmp_path / "log").exists())
    assert await asyncio.to_thread(worker.stop) == 0
    assert (await handle.ainfo()).state is State.QUEUED and pending(raw, namespace) == []


async def test_an_error_in_the_block_still_stops_the_worker(app: App, seen: Seen) -> None:
    @app.task
    async def work() -> None: ...

    async def fail() -> None:
        async with app.running():
            await (await work.adelay())
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert len(seen.of(WorkerStopped)) == 1
