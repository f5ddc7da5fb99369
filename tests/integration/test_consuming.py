"""The running worker: kinds side by side, context, slots, leases."""

from __future__ import annotations

import asyncio
import contextvars
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from penstock import App, ConfigurationError, Context, State, TaskFailed, current
from penstock.events import (
    Late,
    Lost,
    Reclaimed,
    Released,
    Started,
    Succeeded,
    TaskEvent,
    WorkerStarted,
    WorkerStopped,
)
from penstock.streams import keys
from tests.integration.support import Seen, WorkerProcess, calls_of, entries, pending, share
from tests.servers import Server, await_until

MakeApp = Callable[..., App]
StartWorker = Callable[..., WorkerProcess]
pytestmark = pytest.mark.anyio


async def test_async_thread_and_process_tasks_in_one_worker(app: App) -> None:
    @app.task
    async def on_loop() -> list[int]:
        return [os.getpid(), threading.get_ident()]

    @app.task
    def in_thread() -> list[int]:
        return [os.getpid(), threading.get_ident()]

    shared = share(app)
    here = [os.getpid(), threading.get_ident()]
    async with app.running(processes=1):
        assert await (await on_loop.adelay()) == here
        pid, thread = await (await in_thread.adelay())
        assert pid == here[0] and thread != here[1]
        assert await (await shared.pid_of_child.adelay()) != here[0]
        handles = [await task.adelay() for _ in range(5) for task in (on_loop, in_thread, shared.pid_of_child)]
        assert len(await asyncio.gather(*handles)) == 15


async def test_bind_and_current_give_the_context(app: App) -> None:
    @app.task(bind=True, queue="mail", priority="low")
    async def bound(ctx: Context, n: int) -> dict[str, Any]:
        assert current() == ctx
        await asyncio.sleep(0)
        assert current() == ctx
        return {
            "n": n,
            "id": ctx.id,
            "attempt": ctx.attempt,
            "queue": ctx.queue,
            "worker": ctx.worker,
            "p": ctx.priority,
        }

    @app.task(queue="mail")
    def in_thread() -> str:
        return current().id

    shared = share(app)
    async with app.running(processes=1) as worker:
        handle = await bound.adelay(3)
        expected = {"n": 3, "id": handle.id, "attempt": 1, "queue": "mail", "worker": worker.name, "p": "low"}
        assert await handle == expected
        threaded = await in_thread.adelay()
        assert await threaded == threaded.id
        in_process = await shared.who.adelay()
        assert await in_process == [in_process.id, 1, "default"]
    with pytest.raises(LookupError, match="no task is running"):
        current()


async def test_context_variables_do_not_leak_between_tasks(app: App) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    @app.task
    async def on_loop(name: str) -> str:
        before = user.get()
        user.set(name)
        await asyncio.sleep(0.01)
        assert user.get() == name
        return before

    @app.task
    def in_thread(name: str) -> str:
        before = user.get()
        user.set(name)
        return before

    async with app.running(concurrency=1, threads=1):
        handles = [await task.adelay(f"u{i}") for i in range(5) for task in (on_loop, in_thread)]
        assert set(await asyncio.gather(*handles)) == {"nobody"}
    async with app.running():
        handles = await on_loop.abulk([(f"u{i}",) for i in range(20)])
        assert set(await asyncio.gather(*handles)) == {"nobody"}


async def test_a_child_task_of_a_task_sees_its_context(app: App) -> None:
    @app.task
    async def outer() -> str:
        async def inner() -> str:
            return current().id

        async with asyncio.TaskGroup() as group:
            found = group.create_task(inner())
        return await found

    async with app.running():
        handle = await outer.adelay()
        assert await handle == handle.id


@pytest.mark.parametrize(("kind", "setting"), [("async", "concurrency"), ("thread", "threads")])
async def test_exactly_as_many_run_as_there_are_slots(
    app: App, seen: Seen, raw: redis.Redis, namespace: str, kind: str, setting: str
) -> None:
    go, running = threading.Event(), []
    task: Any
    if kind == "async":

        @app.task
        async def work() -> None:
            running.append(1)
            await await_until(go.is_set, 60)

        task = work
    else:

        @app.task
        def work_sync() -> None:
            running.append(1)
            go.wait(60)

        task = work_sync
    handles = await task.abulk([()] * 30)
    settings: dict[str, Any] = {setting: 4}
    async with app.running(**settings):
        await seen.arrive(Started, 4)
        await await_until(lambda: len(running) == 4)
        # Nothing is read ahead: what cannot start stays undelivered, for others.
        assert len(pending(raw, namespace)) == 4 and entries(raw, namespace) == 30
        assert [(await h.astate()) for h in handles].count(State.QUEUED) == 26
        go.set()
        await asyncio.gather(*handles)
    assert len(seen.of(Succeeded)) == 30 and not seen.of(Released)


async def test_a_full_kind_does_not_hold_up_other_queues(app: App, seen: Seen) -> None:
    go = threading.Event()

    @app.task(queue="slow")
    def slow() -> None:
        go.wait(60)

    @app.task(queue="quick")
    async def quick(n: int) -> int:
        return n

    try:
        await slow.abulk([()] * 10)
        async with app.running(threads=2, grace=30):
            await seen.arrive(Started, 2, name=slow.name)
            handles = await quick.abulk([(i,) for i in range(50)])
            assert await asyncio.wait_for(asyncio.gather(*handles), 20) == list(range(50))
            assert len(seen.of(Started, name=slow.name)) == 2
            go.set()
            await seen.arrive(Succeeded, 10, name=slow.name)
    finally:
        go.set()


async def test_a_kind_that_the_queue_is_not_known_for_does_not_spin(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    """A thread task sent to a queue of async tasks, while all threads are busy: over-read, handed back, and left."""
    go = threading.Event()

    @app.task(queue="threads")
    def slow() -> int:
        go.wait(60)
        return 1

    @app.task(queue="loop")
    async def quick() -> int:
        return 2

    try:
        async with app.running(threads=1):
            first = await slow.adelay()
            await seen.arrive(Started, name=slow.name)
            second = await slow.options(queue="loop").adelay()
            await await_until(lambda: entries(raw, namespace, "loop") == 1 and not pending(raw, namespace, "loop"))
            before, since = calls_of(raw, "xreadgroup", "xadd"), time.monotonic()
            handle = await slow.options(queue="threads", delay=1).adelay()  # a clock: the second below is over
            await await_until(lambda: _is_queued(handle))
            assert calls_of(raw, "xreadgroup", "xadd") - before < 20 * (time.monotonic() - since + 1)
            go.set()
            assert [await each for each in (first, second, handle)] == [1, 1, 1]
            assert await (await quick.adelay()) == 2
    finally:
        go.set()


async def _is_queued(handle: Any) -> bool:
    return await handle.astate() is State.QUEUED


async def test_a_long_task_keeps_its_lease(app: App, make_app: MakeApp, seen: Seen) -> None:
    runs: list[int] = []

    @app.task
    async def long() -> int:
        runs.append(1)
        await asyncio.sleep(2)
        return 1

    other = make_app("other")
    other.task(name=long.name)(long.fn)
    theirs = Seen(other)
    async with app.running(lease=0.6):
        handle = await long.adelay()
        await seen.arrive(Started)
        async with other.running(lease=0.6):
            assert await handle == 1
    assert runs == [1]
    assert not theirs.of(Reclaimed) and not seen.of(Lost) and not seen.of(Late)


async def test_a_wait_that_observers_are_told_lasts_until_the_start(app: App, seen: Seen) -> None:
    """And not until the delivery: both come in one batch, and the first holds up the loop."""

    @app.task(name="block")
    async def block() -> None:
        time.sleep(0.5)  # noqa: ASYNC251 - what it must not do

    @app.task(name="next")
    async def after() -> None: ...

    handles = [await block.adelay(), await after.adelay()]
    async with app.running(concurrency=2):
        await asyncio.gather(*handles)
    assert seen.of(Started, name="next")[0].waited >= 0.5


async def test_a_thread_task_keeps_its_lease(app: App, seen: Seen) -> None:
    runs: list[int] = []

    @app.task
    def long() -> int:
        runs.append(1)
        time.sleep(1.5)
        return 1

    async with app.running(lease=0.6):
        assert await (await long.adelay()) == 1
    assert runs == [1] and not seen.of(Lost)


async def test_events_tell_the_life_of_a_task_and_of_its_worker(app: App, seen: Seen) -> None:
    @app.task(queue="mail")
    async def work() -> None: ...

    async with app.running() as worker:
        handle = await work.adelay()
        await handle
        await seen.arrive(Succeeded)
    assert seen.of(WorkerStarted)[0].queues == ("mail",)
    assert seen.of(WorkerStopped)[0].worker == worker.name
    kinds = [type(event).__name__ for event in seen.events if isinstance(event, TaskEvent)]
    assert kinds == ["Sent", "Started", "Succeeded"]
    started, succeeded = seen.of(Started)[0], seen.of(Succeeded)[0]
    assert (started.id, started.name, started.attempt) == (handle.id, work.name, 1)
    assert 0 <= started.waited < 60 and 0 <= succeeded.ran < 60


async def test_an_observer_that_fails_harms_nobody(app: App) -> None:
    @app.observe
    def broken(event: object) -> None:
        raise RuntimeError("broken observer")

    seen = Seen(app)

    @app.task
    async def work() -> int:
        return 1

    async with app.running():
        assert await (await work.adelay()) == 1
        await seen.arrive(Succeeded)


async def test_a_worker_serves_only_the_queues_it_is_given(app: App, seen: Seen) -> None:
    @app.task(queue="a")
    async def one() -> str:
        return "a"

    @app.task(queue="b")
    async def two() -> str:
        return "b"

    first, second = await one.adelay(), await two.adelay()
    async with app.running(queues=["a"]):
        assert await first == "a"
    assert await second.astate() is State.QUEUED
    async with app.running(queues="b"):
        assert await second == "b"
    with pytest.raises(ConfigurationError, match="queue"):
        app.running(queues=["no spaces"])


async def test_two_workers_in_one_process_share_the_work(app: App, seen: Seen) -> None:
    @app.task(bind=True)
    async def work(ctx: Context) -> str:
        await asyncio.sleep(0.01)
        return ctx.worker

    async with app.running(concurrency=2) as one, app.running(concurrency=2) as two:
        assert one.name != two.name
        names = await asyncio.gather(*await work.abulk([()] * 100))
    assert len(seen.of(Succeeded)) == 100
    assert set(names) == {one.name, two.name}


async def test_running_in_a_thread_inside_a_loop(app: App) -> None:
    @app.task
    async def work() -> int:
        return threading.get_ident()

    with app.running():
        assert await (await work.adelay()) != threading.get_ident()
    assert not [t for t in threading.enumerate() if t.name == "penstock-worker"]


async def test_drain_runs_everything_parked_tasks_too(app: App) -> None:
    runs: list[str] = []

    @app.task
    async def work(name: str) -> None:
        runs.append(name)

    @app.task(queue="other")
    def spawn() -> None:
        runs.append("spawn")
        work.delay("child")

    await work.adelay("now")
    await work.options(delay=0.3).adelay("later")
    await spawn.adelay()
    await app.adrain(timeout=30)
    assert sorted(runs) == ["child", "later", "now", "spawn"]
    await app.adrain(timeout=30)  # nothing left: ends at once
    await work.adelay("again")
    await asyncio.to_thread(app.drain, timeout=30)
    assert runs[-1] == "again"


async def test_drain_gives_up_after_its_timeout(app: App) -> None:
    @app.task
    async def work() -> None: ...

    handle = await work.options(delay=3600).adelay()
    with pytest.raises(TimeoutError, match=r"not drained within 0\.3 s"):
        await app.adrain(timeout=0.3)
    with pytest.raises(TimeoutError):
        await asyncio.to_thread(app.drain, timeout=0.3)
    assert await handle.astate() is State.SCHEDULED


async def test_an_idle_worker_asks_for_little(
    app: App, seen: Seen, raw: redis.Redis, namespace: str, own_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.consumers.tally.INTERVAL", 0.05)

    def measured() -> int:
        packed: Any = raw.hget(keys.measures(keys.base(namespace, "default")), "e")
        return sum(msgspec.msgpack.decode(packed)[1:]) if packed else 0

    @app.task
    async def work() -> None: ...

    async with app.running():
        await (await work.adelay())
        await work.options(delay=1).adelay()
        await await_until(lambda: measured() == 2)  # what came with the start is over
        before, since = raw.info("stats")["total_commands_processed"], time.monotonic()
        await asyncio.to_thread(raw.blpop, ["nothing"], timeout=6)  # a clock
        used, seconds = raw.info("stats")["total_commands_processed"] - before, time.monotonic() - since
    assert used <= 2.2 * seconds + 2


async def test_a_task_may_send_others(app: App) -> None:
    @app.task
    async def leaf(n: int) -> int:
        return n

    @app.task
    async def fan_out(n: int) -> list[str]:
        return [handle.id for handle in await leaf.abulk([(i,) for i in range(n)])]

    async with app.running():
        ids = await (await fan_out.adelay(10))
        assert await asyncio.gather(*[app.handle(id) for id in ids]) == list(range(10))


async def test_a_dying_child_fails_its_attempt_only(app: App, tmp_path: Path) -> None:
    shared = share(app)
    async with app.running(processes=2):
        slow = await shared.busy.adelay(str(tmp_path / "x"), 1.0)
        await await_until(lambda: (tmp_path / "x").exists(), 60)
        with pytest.raises(TaskFailed, match="exit code 7"):
            await (await shared.die_in_child.adelay())
        assert await slow is None
        assert await (await shared.square.adelay(3)) == 9


async def test_large_arguments_and_results(app: App) -> None:
    @app.task
    async def echo(data: bytes) -> bytes:
        return data

    data = os.urandom(900_000)
    async with app.running():
        assert await (await echo.adelay(data)) == data
        assert await asyncio.gather(*await echo.abulk([(data,)] * 10)) == [data] * 10
