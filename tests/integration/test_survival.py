"""One bad task, message, key or right ends nothing but itself: the worker and its duties go on."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import anyio
import msgspec
import pytest
import redis

from penstock import App, RetryPolicy, State, TaskFailed
from penstock.consumers.fetcher import Fetcher
from penstock.consumers.reclaimer import Reclaimer
from penstock.consumers.worker import WorkerOptions
from penstock.events import BrokerDown, Failed, Released, Started, Succeeded
from penstock.streams import consume, keys
from tests.access import ACCESS
from tests.integration.support import Seen, pending
from tests.servers import await_until

MakeApp = Callable[..., App]
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "fields",
    [
        {"t": float("inf")},
        {"t": float("nan")},
        {"t": 1e300},
        {"t": -1.0},
        {"o": float("nan")},
        {"o": -1.0},
        {"r": [-2]},
        {"r": [3, float("nan")]},
        {"r": [3, 1.0, 0.5]},
        {"r": [3, 1.0, 1.0, 1.0, 7.0]},
    ],
    ids=str,
)
async def test_numbers_that_no_producer_sends_end_their_own_message_only(
    app: App, raw: redis.Redis, namespace: str, fields: dict[str, Any]
) -> None:
    @app.task(name="work")
    async def work(fail: bool = False) -> int:
        if fail:
            raise ValueError
        return 1

    stream = keys.stream(keys.base(namespace, "default"), "default")
    handles = [await work.adelay()]
    arguments = msgspec.msgpack.encode({"fail": "r" in fields})
    message = msgspec.msgpack.encode({"n": "work", "a": msgspec.Raw(arguments), **fields})
    raw.xadd(stream, {"k": "hostile", "m": message})
    handles.append(await work.adelay())
    async with app.running():
        assert await asyncio.gather(*[handle.aget(10) for handle in handles]) == [1, 1]
        with pytest.raises(TaskFailed):
            await app.handle("default:hostile").aget(10)
        assert await (await work.adelay()).aget(10) == 1
    assert raw.xlen(stream) == 0


async def test_a_retry_filter_that_exits_fails_its_task_only(app: App) -> None:
    def wanted(error: BaseException) -> bool:
        sys.exit("no")

    @app.task(retry=RetryPolicy(on=wanted))
    async def fails() -> None:
        raise ValueError("boom")

    @app.task
    async def fine() -> int:
        return 1

    async with app.running():
        with pytest.raises(TaskFailed, match="boom"):
            await (await fails.adelay()).aget(10)
        assert await (await fine.adelay()).aget(10) == 1


@pytest.mark.parametrize("after", [0.0, 0.05])
async def test_what_a_task_leaves_behind_to_cancel_it_hits_nobody(app: App, seen: Seen, after: float) -> None:
    """It comes when the task has ended: to a runner that has nothing to do, or is about to begin the next task."""
    fired = 0

    @app.task
    async def leaves_a_cancel_behind() -> int:
        task = asyncio.current_task()
        assert task is not None

        def late() -> None:
            nonlocal fired
            fired += 1
            task.cancel()

        loop = asyncio.get_running_loop()
        loop.call_soon(late) if not after else loop.call_later(after, late)
        return 1

    @app.task
    async def fine() -> int:
        await asyncio.sleep(0)
        return 2

    async with app.running(concurrency=2):
        for expected in range(1, 6):
            assert await (await leaves_a_cancel_behind.adelay()).aget(20) == 1
            await await_until(lambda expected=expected: fired == expected)  # type: ignore[misc]
            handles = await fine.abulk([()] * 20)
            assert await asyncio.gather(*[handle.aget(20) for handle in handles]) == [2] * 20
    assert len(seen.of(Succeeded)) == 5 + 100


async def test_a_task_that_cancels_itself_fails_and_its_runner_goes_on(app: App) -> None:
    @app.task
    async def cancels_itself() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    @app.task
    async def swallows_it() -> int:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            return 1
        return 0

    @app.task
    async def awaits_what_is_cancelled() -> None:
        other = asyncio.ensure_future(asyncio.sleep(60))
        other.cancel()
        await other

    @app.task
    async def fine() -> int:
        async with asyncio.timeout(10):
            await asyncio.sleep(0)
        return 1

    async with app.running(concurrency=1):
        for _ in range(2):
            with pytest.raises(TaskFailed, match="CancelledError"):
                await (await cancels_itself.adelay()).aget(10)
            assert await (await swallows_it.adelay()).aget(10) == 1
            with pytest.raises(TaskFailed, match="CancelledError"):
                await (await awaits_what_is_cancelled.adelay()).aget(10)
            assert await (await fine.adelay()).aget(10) == 1


async def test_the_lease_thread_survives_a_bug(
    app: App, seen: Seen, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = asyncio.Event()
    renewed = threading.Event()

    @app.task
    async def work() -> None:
        await go.wait()

    renew = consume.renew
    failures = [RuntimeError("a bug")]

    def renew_or_fail(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        renewed.set()
        return renew(*args)

    monkeypatch.setattr(consume, "renew", renew_or_fail)
    async with app.running(lease=0.9):
        handle = await work.adelay()
        await await_until(renewed.is_set, 10)
        go.set()
        await handle.aget(10)


async def test_a_worker_that_is_cancelled_hands_its_tasks_back(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    @app.task
    async def work() -> None:
        await asyncio.sleep(60)

    handle = await work.adelay()
    with anyio.CancelScope() as scope:
        async with app.running(grace=60):
            await seen.arrive(Started)
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await handle.astate() is State.QUEUED
    assert not pending(raw, namespace)


async def test_a_worker_that_is_torn_down_renews_no_more(app: App, seen: Seen) -> None:
    @app.task
    async def work() -> None:
        await asyncio.sleep(60)

    await work.adelay()
    worker = app.worker(lease=60)
    task = asyncio.create_task(worker.run())
    await seen.arrive(Started)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await await_until(lambda: not [t for t in threading.enumerate() if t.name == "penstock-leases"], 10)


async def test_a_worker_that_cannot_start_ends_with_its_block(make_app: MakeApp) -> None:
    app = make_app(url="redis://127.0.0.1:1/0", retry_for=0)
    with anyio.move_on_after(0.3) as scope:
        async with app.running():
            raise AssertionError("unreachable")
    assert scope.cancelled_caught
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "penstock-worker"]


async def test_drain_keeps_its_timeout_without_a_server(make_app: MakeApp) -> None:
    app = make_app(url="redis://127.0.0.1:1/0", retry_for=0)
    with pytest.raises(TimeoutError, match="not drained"):
        await asyncio.wait_for(asyncio.to_thread(app.drain, timeout=0.3), 20)
    with pytest.raises(TimeoutError, match="not drained"):
        await app.adrain(timeout=0.3)


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_code_that_fails_on_being_stopped_is_handed_back(app: App, seen: Seen, kind: str) -> None:
    task: Any
    if kind == "async":

        @app.task
        async def work() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                raise RuntimeError("interrupted")

        task = work
    else:

        @app.task
        def work_sync() -> None:
            try:
                while True:
                    threading.Event().wait(0.01)
            finally:
                raise RuntimeError("interrupted")

        task = work_sync
    async with app.running(grace=0):
        handle = await task.adelay()
        await seen.arrive(Started)
    assert await handle.astate() is State.QUEUED
    assert seen.of(Released) and not seen.of(Failed)


# Rights that are missing, queues beside others


@pytest.fixture
def user(raw: redis.Redis, namespace: str) -> Iterator[str]:
    """A user of the test's own, who may do everything but subscribe."""
    raw.execute_command("ACL", "SETUSER", namespace, "on", ">pw", "~*", "+@all", "resetchannels")
    yield namespace
    raw.execute_command("ACL", "DELUSER", namespace)


def as_user(url: str, user: str) -> str:
    return url.replace(f"://{ACCESS.login}", f"://{user}:pw@")


async def test_a_worker_without_channels_takes_over_all_the_same(
    make_app: MakeApp, raw: redis.Redis, url: str, namespace: str, user: str
) -> None:
    app = make_app(url=as_user(url, user), lease=0.6)
    seen = Seen(app)

    @app.task
    async def work() -> int:
        return 1

    handle = await work.adelay()
    stream = keys.stream(keys.base(namespace, "default"), "default")
    raw.xgroup_create(stream, "w", "0")
    assert raw.xreadgroup("w", "a-dead-worker", {stream: ">"})
    async with app.running():
        assert await handle.aget(20) == 1
    assert not seen.of(BrokerDown)


async def test_a_queue_without_rights_does_not_hold_up_the_search_for_lost_entries(
    make_app: MakeApp, raw: redis.Redis, url: str, namespace: str, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.consumers.promoter.BACKSTOP", 60.0)  # it would leave that queue out, too
    app = make_app(url=as_user(url, user))

    @app.task(queue="good")
    async def good() -> int:
        return 1

    @app.task(queue="bad")
    async def bad() -> None: ...

    async with app.running():
        assert await (await good.adelay()).aget(10) == 1
        raw.execute_command("ACL", "SETUSER", user, "resetkeys", f"~{{{namespace}:good}}*", f"~{{{namespace}}}*")
        raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "USER", user)
        assert await (await good.adelay()).aget(5) == 1


async def test_a_burst_does_not_end_while_a_queue_waits_for_a_slot(
    app: App, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.consumers.watch.BURST_INTERVAL", 0.0005)

    @app.task(queue="slow")
    def slow() -> None:
        threading.Event().wait(0.012)

    @app.task(queue="quick")
    async def quick() -> None: ...

    stream = keys.stream(keys.base(namespace, "slow"), "default")
    for _ in range(10):
        await slow.abulk([() for _ in range(20)])
        await quick.adelay()
        await app.worker(WorkerOptions(burst="ready"), threads=1).run()
        assert raw.xlen(stream) == 0


async def test_a_queue_that_was_not_asked_for_want_of_a_slot_is_not_taken_for_empty(
    app: App, raw: redis.Redis, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sweep has begun to ask for its slot after the fetch was planned. A burst would end with work left."""
    stream = keys.stream(keys.base(namespace, "slow"), "default")
    fetch, block = Fetcher._fetch, Fetcher._block
    skipped: list[str] = []
    idle: list[bool] = []

    async def fetch_without(self: Fetcher, bases: Sequence[str]) -> set[str]:
        if skipped:
            return await fetch(self, bases)
        skipped.append("slow")
        with self._state.slots.asking("slow", 1):
            return await fetch(self, bases)

    async def look_and_block(self: Fetcher, bases: frozenset[str]) -> AbstractSet[str]:
        idle.append(self.idle and raw.xlen(stream) > 0)
        return await block(self, bases)

    monkeypatch.setattr(Fetcher, "_fetch", fetch_without)
    monkeypatch.setattr(Fetcher, "_block", look_and_block)

    @app.task(queue="slow")
    def slow() -> None: ...

    @app.task(queue="quick")
    async def quick() -> None: ...

    await slow.adelay()
    await app.worker(WorkerOptions(burst="ready"), threads=1).run()
    assert skipped and idle and not any(idle)
    assert raw.xlen(stream) == 0


async def test_a_slot_that_gets_free_during_a_fetch_of_others_is_used_at_once(
    app: App, seen: Seen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The blocking read that follows does not wait for that queue, which had no slot when it was planned."""
    monkeypatch.setattr("penstock.consumers.fetcher.BLOCK", 60.0)

    async def no_sweep(_: Reclaimer) -> None:
        """Each sweep ends such a read, too."""

    monkeypatch.setattr(Reclaimer, "once", no_sweep)
    go, fetched = threading.Event(), asyncio.Event()

    @app.task(queue="slow")
    def slow() -> None:
        go.wait(20)

    @app.task(queue="quick")
    async def quick() -> None: ...

    fetch = Fetcher._fetch

    async def fetch_slowly(self: Fetcher, bases: Sequence[str]) -> set[str]:
        total = await fetch(self, bases)
        if len(bases) == 1 and not go.is_set():
            go.set()
            await seen.arrive(Succeeded, name=slow.name)
            fetched.set()
        return total

    monkeypatch.setattr(Fetcher, "_fetch", fetch_slowly)
    async with app.running(threads=1):
        await slow.abulk([(), ()])
        await fetched.wait()
        await seen.arrive(Succeeded, 2, timeout=10, name=slow.name)
