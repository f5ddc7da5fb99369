"""One bad task, message, key or right ends nothing but itself: the worker and its duties go on."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import msgspec
import pytest
import redis

from penstock import App, RetryPolicy, State, TaskFailed
from penstock.consumers import leases
from penstock.consumers.worker import Worker, WorkerOptions
from penstock.events import Failed, Released, Started, Succeeded
from penstock.streams import consume, keys
from tests.integration.support import Seen, pending
from tests.servers import Server, await_until

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
        {"r": [3, 9.0, 1.0, 1.0]},
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


async def test_dead_letters_of_another_type_do_not_hold_up_other_queues(
    app: App, raw: redis.Redis, namespace: str
) -> None:
    @app.task(queue="bad")
    async def fails() -> None:
        raise ValueError

    @app.task(queue="good")
    async def fine() -> int:
        return 1

    dead = keys.dead(keys.base(namespace, "bad"))
    raw.set(dead, "somebody else's", px=60_000)
    async with app.running() as worker:
        handle = await fails.adelay()
        cancelled = await fails.adelay()
        for _ in range(5):
            assert await (await fine.adelay()).aget(10) == 1
        await await_until(lambda: not WATCHED[0]() if WATCHED else True)
        del worker, handle, cancelled


WATCHED: list[Any] = []
