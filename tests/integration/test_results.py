"""States and results: what a handle says at each stage, how waiting works, and how long things are kept."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import pytest
import redis

from penstock import (
    App,
    Context,
    Handle,
    ResultNotKept,
    ResultTimeout,
    RetryPolicy,
    State,
    TaskCancelled,
    TaskExpired,
    TaskFailed,
    TaskNotFound,
)
from penstock.events import Retried, Started
from tests.integration.support import Seen, calls_of
from tests.servers import Server, await_until, wait_until

MakeApp = Callable[..., App]
pytestmark = pytest.mark.anyio


class Order(msgspec.Struct):
    id: int
    at: datetime


async def test_info_of_a_task_from_scheduled_to_succeeded(app: App, seen: Seen) -> None:
    go = asyncio.Event()

    @app.task(queue="mail", priority="high")
    async def work() -> int:
        await go.wait()
        return 1

    handle = await work.options(delay=0.3).adelay()
    info = await handle.ainfo()
    assert (info.id, info.name, info.queue, info.priority) == (handle.id, work.name, "mail", "high")
    assert info.state is State.SCHEDULED and not await handle.adone()
    assert info.due_at is not None and info.enqueued_at is not None
    assert (info.started_at, info.finished_at, info.worker, info.error, info.attempt) == (None, None, None, None, 0)
    async with app.running() as worker:
        await seen.arrive(Started)
        info = await handle.ainfo()
        assert info.state is State.RUNNING and info.worker == worker.name
        assert (info.attempt, info.deliveries, info.due_at) == (1, 1, None)
        assert info.started_at is not None and info.enqueued_at is not None
        assert info.started_at - info.enqueued_at >= timedelta(seconds=0.29)
        go.set()
        assert await handle == 1
    info = await handle.ainfo()
    assert info.state is State.SUCCEEDED and await handle.adone()
    assert info.started_at is not None and info.finished_at is not None
    assert info.finished_at >= info.started_at and info.finished_at.tzinfo is UTC
    assert (info.attempt, info.worker) == (1, worker.name)


async def test_every_other_ending_shows(app: App, seen: Seen) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("no")

    @app.task(retry=RetryPolicy(max_retries=5, delay=60, jitter=0))
    async def again() -> None:
        raise ValueError("not yet")

    queued = await fail.adelay()
    assert await queued.astate() is State.QUEUED
    failed, retrying = await fail.adelay(), await again.adelay()
    cancelled, expired = await fail.adelay(), await fail.options(expires=0.001).adelay()
    await cancelled.acancel()
    async with app.running():
        with pytest.raises(TaskFailed):
            await failed
        with pytest.raises(TaskExpired):
            await expired
        with pytest.raises(TaskCancelled):
            await cancelled
        await seen.arrive(Retried)
    assert (await failed.ainfo()).error == "ValueError: no"
    info = await retrying.ainfo()
    assert (info.state, info.error, info.attempt) == (State.SCHEDULED, "ValueError: not yet", 1)
    for handle, state in ((failed, State.FAILED), (cancelled, State.CANCELLED), (expired, State.EXPIRED)):
        info = await handle.ainfo()
        assert info.state is state and info.state.finished and info.finished_at is not None


def test_the_sync_methods_of_a_handle(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    handle = double.delay(2)
    assert handle.state() is State.QUEUED and handle.state() == "queued" and not handle.done()
    with pytest.raises(ResultTimeout, match=r"default:.* 0\.05 s") as caught:
        handle.get(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    with app.running():
        assert handle.get(timeout=10) == 4
    assert handle.done() and handle.info().state is State.SUCCEEDED
    assert handle.get() == 4  # as often as one likes
    assert handle.cancel() is False


async def test_results_have_the_annotated_type(app: App, make_app: MakeApp) -> None:
    when = datetime(2026, 1, 2, tzinfo=UTC)

    @app.task
    async def make(n: int) -> list[Order]:
        return [Order(i, when) for i in range(n)]

    handle = await make.adelay(20)  # over 64 B: in a key of its own
    small = await make.adelay(0)
    async with app.running():
        assert await handle == [Order(i, when) for i in range(20)]
        assert await small == []
    plain = await make_app("other").handle(handle.id).aget(timeout=5)
    assert plain[0] == {"id": 0, "at": when.isoformat().replace("+00:00", "Z")} or plain[0]["id"] == 0


async def test_none_and_false_are_results(app: App) -> None:
    @app.task
    async def nothing() -> None: ...

    @app.task
    async def no() -> bool:
        return False

    async with app.running():
        assert await app.handle((await nothing.adelay()).id) is None
        assert await (await no.adelay()) is False


async def test_waiting_is_woken_and_does_not_poll(app: App, raw: redis.Redis) -> None:
    @app.task
    async def work() -> int:
        await asyncio.sleep(3)
        return 1

    async with app.running():
        handle = await work.adelay()
        assert (await handle.astate()).finished is False
        waiting = asyncio.create_task(handle.aget(timeout=60))
        await await_until(lambda: calls_of(raw, "pubsub|numsub") >= 0 and raw.pubsub_channels("*:l:*"))
        before, since = calls_of(raw, "hgetall"), time.monotonic()
        assert await waiting == 1
        seconds = time.monotonic() - since
        # Once a second, and once each for the subscription, the wake and the first look.
        assert calls_of(raw, "hgetall") - before <= seconds + 3


async def test_a_waiter_is_woken_at_once(app: App) -> None:
    go = asyncio.Event()
    ended: list[float] = []

    @app.task
    async def work() -> None:
        await go.wait()
        ended.append(time.monotonic())

    delays = []
    async with app.running():
        for _ in range(5):
            go.clear()
            handle = await work.adelay()
            waiting = asyncio.create_task(handle.aget(timeout=60))
            await await_until(partial(_is_waited_for, app, handle))
            go.set()
            await waiting
            delays.append(time.monotonic() - ended[-1])
    # A poll once a second would take half a second in the mean.
    assert min(delays) < 0.2


async def test_waiting_survives_the_loss_of_its_connection(app: App, raw: redis.Redis, own_server: Server) -> None:
    go = asyncio.Event()

    @app.task
    async def work() -> int:
        await go.wait()
        return 1

    async with app.running():
        handle = await work.adelay()
        waiting = asyncio.create_task(handle.aget(timeout=60))
        await await_until(lambda: raw.pubsub_channels("*:l:*"))
        assert raw.client_kill_filter(_type="pubsub") >= 1
        await await_until(lambda: raw.pubsub_channels("*:l:*"))
        go.set()
        assert await waiting == 1


async def test_waiting_survives_a_restart_of_the_server(app: App, own_server: Server) -> None:
    go = asyncio.Event()

    @app.task
    async def work() -> int:
        await go.wait()
        return 1

    async with app.running():
        handle = await work.adelay()
        waiting = asyncio.create_task(handle.aget(timeout=60))
        threaded = asyncio.create_task(asyncio.to_thread(handle.get, timeout=60))
        await await_until(lambda: len(app._listener._waiting.get(handle.id, ())) == 2)
        await asyncio.to_thread(own_server.stop)
        own_server.start()  # here: it dies with the thread that starts it
        go.set()
        assert await waiting == 1
        assert await threaded == 1


async def test_a_failure_carries_type_message_and_traceback_as_text(app: App) -> None:
    class OutOfStock(Exception):
        pass

    @app.task
    async def sell(n: int) -> None:
        raise OutOfStock(f"only {n} left")

    async with app.running():
        with pytest.raises(TaskFailed) as caught:
            await (await sell.adelay(3))
    error = caught.value
    assert error.type.endswith("OutOfStock") and error.type.startswith("tests.")
    assert (error.message, error.reason) == ("only 3 left", "error")
    assert 'raise OutOfStock(f"only {n} left")' in error.traceback and "in sell" in error.traceback
    assert "penstock/consumers" not in error.traceback  # the user's part only
    assert "only 3 left" in str(error) and "Remote traceback" in str(error)


async def test_result_ttl_0_keeps_none_and_encodes_none(app: App) -> None:
    @app.task(result_ttl=0)
    async def work() -> Any:
        return object()  # could not be encoded

    @app.task
    async def keeps() -> int:
        return 1

    async with app.running():
        handle, other = await work.adelay(), await keeps.options(result_ttl=0).adelay()
        for each in (handle, other):
            with pytest.raises(ResultNotKept, match=r"succeeded; its result was not stored"):
                await each.aget(timeout=10)
        assert await handle.astate() is State.SUCCEEDED
        assert await (await keeps.adelay()) == 1


async def test_results_expire_after_their_ttl(make_app: MakeApp) -> None:
    app = make_app(resend_window=0.1)

    @app.task(result_ttl=0.1)
    async def work(n: int) -> str:
        return "x" * n

    @app.task(result_ttl=60)
    async def kept() -> str:
        return "x" * 100

    async with app.running():
        small, large, stays = await work.adelay(1), await work.adelay(100), await kept.adelay()
        assert await stays == "x" * 100
        for handle in (small, large):
            await await_until(partial(_gone, handle))
            with pytest.raises(TaskNotFound, match="never sent, or its record has expired"):
                await handle
        assert await stays == "x" * 100
        created = await work.options(id="again").adelay(1)
        await await_until(lambda: _gone(created))
        assert (await work.options(id="again").adelay(1)).created is True  # the window of idempotence is over


def _is_waited_for(app: App, handle: Handle[Any]) -> bool:
    return handle.id in app._listener._waiting


async def _gone(handle: Any) -> bool:
    try:
        await handle.astate()
    except TaskNotFound:
        return True
    return False


async def test_a_record_outlives_its_result_for_the_resend_window(make_app: MakeApp) -> None:
    app = make_app(resend_window=60)

    @app.task(result_ttl=0.05)
    async def work() -> str:
        return "x" * 100

    async with app.running():
        handle = await work.options(id="once").adelay()

        async def not_kept() -> bool:
            try:
                await handle
            except ResultNotKept:
                return True
            return False

        await await_until(not_kept)
        assert (await work.options(id="once").adelay()).created is False


async def test_get_inside_a_task_is_refused_unless_allowed(app: App) -> None:
    @app.task
    async def inner() -> int:
        return 1

    @app.task
    def outer(allowed: bool) -> int:
        return inner.delay().get(timeout=10, allow_in_task=allowed)

    @app.task
    async def outer_async() -> int:
        return await (await inner.adelay())

    async with app.running():
        with pytest.raises(TaskFailed, match=r"SyncInAsync.*allow_in_task=True"):
            await (await outer.adelay(False))
        assert await (await outer.adelay(True)) == 1
        assert await (await outer_async.adelay()) == 1


async def test_many_wait_for_one_task(app: App, make_app: MakeApp) -> None:
    go = asyncio.Event()

    @app.task
    async def work() -> int:
        await go.wait()
        return 5

    handle = await work.adelay()
    others = [make_app(f"app{i}").handle(handle.id) for i in range(10)]  # more than fit into the record's field
    waiting = [asyncio.create_task(h.aget(timeout=60)) for h in (*[handle] * 20, *others)]
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(handle.get(timeout=60))) for _ in range(5)]
    for thread in threads:
        thread.start()
    async with app.running():
        await await_until(lambda: len(app._listener._waiting.get(handle.id, ())) == 25)
        go.set()
        assert await asyncio.gather(*waiting) == [5] * 30
    await await_until(lambda: len(results) == 5)
    for thread in threads:
        thread.join()


async def test_giving_up_leaves_no_waiter_behind(app: App) -> None:
    @app.task
    async def work() -> None: ...

    handle = await work.adelay()
    with pytest.raises(ResultTimeout):
        await handle.aget(timeout=0.05)
    waiting = asyncio.create_task(handle.aget())
    await await_until(lambda: app._listener._waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not app._listener._waiting


def test_a_closed_app_can_be_used_again(app: App, raw: redis.Redis) -> None:
    go = threading.Event()

    @app.task
    def work() -> int:
        go.wait(30)
        return 1

    def go_when_subscribed() -> None:
        wait_until(lambda: raw.pubsub_channels("*:l:*"))
        go.set()

    with app.running():
        go.set()
        assert work.delay().get(timeout=10) == 1
        app.close()
        go.clear()
        handle = work.delay()
        threading.Thread(target=go_when_subscribed, daemon=True).start()
        assert handle.get(timeout=10) == 1  # woken by push: else `go` would never be set


async def test_meta_reaches_the_task(app: App) -> None:
    @app.task(bind=True)
    async def work(ctx: Context) -> dict[str, Any]:
        return ctx.meta

    async with app.running():
        assert await (await work.options(meta={"tenant": 7}).adelay()) == {"tenant": 7}
        assert await (await work.adelay()) == {}
