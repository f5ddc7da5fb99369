"""Rule 11: "Cancel sets a flag in the record and wakes the worker (message, and again through renew); retry, promote
and reclaim of a flagged task end as `cancelled`; a success already reached wins."
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import App, Handle, Retry, RetryPolicy, Snooze, State, TaskCancelled, TaskNotFound
from penstock.events import Cancelled, Reclaimed, Released, Retried, Snoozed, Started, Succeeded
from penstock.streams import keys
from penstock.streams.settle import Settled
from tests.contract.helpers import Queue
from tests.integration.support import Seen, WorkerProcess, share
from tests.rules.conftest import MakeApp
from tests.rules.late import SIDE, denied, gate, mute
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio

DEAD = "a-dead-worker"


async def gone(handle: Handle[Any]) -> bool:
    try:
        await handle.astate()
    except TaskNotFound:
        return True
    return False


# "Cancel sets a flag in the record"


@pytest.fixture
def forgetful(make_app: MakeApp) -> App:
    """Records of what has ended are kept for 0.2 s."""
    return make_app(result_ttl=0.2, resend_window=0.2)


async def test_cancelled_while_queued_for_longer_than_any_ttl(forgetful: App, raw: redis.Redis, q: Queue) -> None:
    """No worker is up. It ends at once, with its entry: there is nothing left to run when the record has gone."""
    seen = Seen(forgetful)

    @forgetful.task
    async def work() -> int:
        return 1

    handles = [await work.options(priority=priority).adelay() for priority in ("high", "default", "low")]
    for handle in handles:
        assert await handle.acancel() is True
    assert q.is_empty()
    for handle in handles:
        await await_until(partial(gone, handle))
    async with forgetful.running():
        assert await (await work.adelay()) == 1
    assert len(seen.of(Started)) == 1 and q.counters() == {f"cancelled|{work.name}": 3, f"succeeded|{work.name}": 1}


@pytest.mark.parametrize("how", ["read and never admitted", "running"])
async def test_cancelled_while_its_worker_is_dead_for_longer_than_any_ttl(forgetful: App, q: Queue, how: str) -> None:
    """The entry lives, pending: then so does the flag, however long nobody takes it over."""
    seen = Seen(forgetful)

    @forgetful.task
    async def work() -> int:
        return 1

    handle = await work.options(id="k").adelay()
    if how == "running":
        assert len(q.fetch(DEAD).deliveries) == 1
    else:
        q.raw.xgroup_create(q.stream(), keys.GROUP, "0")
        q.read_blocking(DEAD)
    assert await handle.acancel() is True
    assert q.record("k")["c"] and q.ttl(q.record_key("k")) == -1
    ended = await work.options(id="clock").adelay()  # a record that goes meanwhile
    assert await ended.acancel()
    await await_until(partial(gone, ended))
    assert q.record("k")["c"] and list(q.entries().values()) == ["k"]
    async with forgetful.running(lease=0.5):
        with pytest.raises((TaskCancelled, TaskNotFound)):
            await handle.aget(timeout=20)
        await seen.arrive(Reclaimed)
    assert not seen.of(Started) and q.is_empty()
    assert q.counters() == {f"cancelled|{work.name}": 2}


# "and wakes the worker (message, and again through renew)"


async def test_a_running_task_is_told_by_the_message(make_app: MakeApp, seen: Seen, app: App) -> None:
    """Renewals are 100 s apart here."""

    @app.task
    async def work() -> None:
        await asyncio.sleep(3600)

    async with app.running(lease=300):
        handle = await work.adelay()
        await seen.arrive(Started)
        assert await make_app("other").handle(handle.id).acancel() is True
        await seen.arrive(Cancelled, id=handle.id)
    assert await handle.astate() is State.CANCELLED


async def test_and_again_by_renewal_when_the_message_was_lost(
    app: App, make_app: MakeApp, seen: Seen, server: Server, raw: redis.Redis, namespace: str
) -> None:
    """Who cancels may not publish: the server refuses the message, and takes the flag."""

    @app.task
    async def work() -> None:
        await asyncio.sleep(3600)

    with mute(raw, server, namespace) as url:
        async with app.running(lease=0.6):
            handle = await work.adelay()
            await seen.arrive(Started)
            before = denied(raw, namespace)
            assert await make_app("mute", url=url).handle(handle.id).acancel() is True
            assert denied(raw, namespace) == before + 1
            await seen.arrive(Cancelled, id=handle.id)
    assert await handle.astate() is State.CANCELLED


async def test_a_worker_that_was_not_listening_looks_at_its_renewal(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis
) -> None:
    """Its subscription is cut at the moment of the cancel, again and again."""

    @app.task
    async def work() -> None:
        await asyncio.sleep(3600)

    async with app.running(lease=0.9):
        handle = await work.adelay()
        await seen.arrive(Started)
        cut = raw.pipeline()
        cut.client_kill_filter(_type="pubsub", skipme=True)
        cut.hset(keys.record(keys.base(app.settings.namespace, "default"), handle.id.partition(":")[2]), "c", "token")
        assert cut.execute()[0] >= 1
        await seen.arrive(Cancelled, id=handle.id)
    assert await handle.astate() is State.CANCELLED


# "retry, promote and reclaim of a flagged task end as `cancelled`"


@pytest.mark.parametrize("how", ["error", "retry", "snooze", "shutdown"])
async def test_a_flagged_task_is_not_parked(
    app: App, make_app: MakeApp, seen: Seen, server: Server, raw: redis.Redis, q: Queue, how: str
) -> None:
    """The message is lost, and the code ends by itself before the renewal that would tell."""
    go = asyncio.Event()

    @app.task(retry=RetryPolicy(max_retries=9, delay=0, jitter=0))
    async def work() -> None:
        await go.wait()
        match how:
            case "error":
                raise ValueError
            case "retry":
                raise Retry(delay=0.01)
            case "snooze":
                raise Snooze(0.01)
        await asyncio.sleep(3600)

    with mute(raw, server, q.namespace) as url:
        async with app.running(lease=300, grace=0):
            handle = await work.adelay()
            await seen.arrive(Started)
            assert await make_app("mute", url=url).handle(handle.id).acancel() is True
            if how != "shutdown":
                go.set()
                await seen.arrive(Cancelled, id=handle.id)
    assert await handle.astate() is State.CANCELLED and q.is_empty()
    assert len(seen.of(Started)) == 1 and not seen.of(Retried) and not seen.of(Snoozed) and not seen.of(Released)
    assert q.counters() == {f"cancelled|{work.name}": 1}


async def test_a_flagged_task_is_not_handed_round(app: App, q: Queue) -> None:
    """Asked for while the worker that knows nothing of the task hands it back: the park finds the flag."""
    q.send("k")
    (delivery,) = q.fetch("a").deliveries
    assert q.cancel("k")[0].requested
    assert q.park("a", delivery, kind="unknown") == [Settled.CANCELLED]
    assert await app.handle("default:k").astate() is State.CANCELLED and q.is_empty()


async def test_a_cancelled_task_that_turns_it_into_an_error_is_not_retried(app: App, seen: Seen) -> None:
    @app.task(retry=RetryPolicy(max_retries=5, delay=0, jitter=0))
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise ValueError("in a hurry") from None

    async with app.running():
        handle = await work.adelay()
        await seen.arrive(Started)
        assert await handle.acancel()
        with pytest.raises(TaskCancelled):
            await handle.aget(timeout=20)
    assert not seen.of(Retried) and len(seen.of(Started)) == 1


async def test_a_flagged_task_that_is_promoted_does_not_start(app: App, seen: Seen, q: Queue) -> None:
    """A parked task is not flagged but ended; should one be, then promotion does not help it to a start."""

    @app.task
    async def work() -> None: ...

    handle = await work.options(id="k", delay=0.05).adelay()
    q.raw.hset(q.record_key("k"), "c", "token")
    async with app.running():
        with pytest.raises(TaskCancelled):
            await handle.aget(timeout=20)
    assert not seen.of(Started) and q.is_empty() and q.counters() == {f"cancelled|{work.name}": 1}


async def test_cancels_that_race_the_promoter(app: App, seen: Seen, q: Queue) -> None:
    """Each is cancelled about when it falls due: it either ends as cancelled, or was not cancelled any more."""
    ran: set[str] = set()

    @app.task(bind=True)
    async def work(ctx: Any) -> None:
        ran.add(ctx.id)

    rng = random.Random(11)

    async def one(delay: float) -> tuple[Handle[None], bool]:
        handle = await work.options(delay=delay).adelay()
        await asyncio.sleep(max(0.0, delay + rng.uniform(-0.01, 0.01)))  # work: the race itself
        return handle, await handle.acancel()

    async with app.running():
        pairs = await asyncio.gather(*[one(0.1 + 0.002 * i) for i in range(150)])
        for handle, _ in pairs:
            with contextlib.suppress(TaskCancelled):
                await handle.aget(timeout=20)
    states = {handle.id: await handle.astate() for handle, _ in pairs}
    assert set(states.values()) == {State.CANCELLED, State.SUCCEEDED}, "no race: this proves nothing"
    assert all(accepted for handle, accepted in pairs if states[handle.id] is State.CANCELLED)
    assert {id for id, state in states.items() if state is State.SUCCEEDED} <= ran
    assert q.is_empty() and sum(q.counters().values()) == 150


async def test_a_flagged_task_that_is_taken_over_does_not_start(
    app: App, seen: Seen, start_worker: Callable[..., WorkerProcess], q: Queue, tmp_path: Path
) -> None:
    """Its worker was killed while it ran; the cancel comes before the takeover."""
    worker = start_worker(lease=0.6)
    log = tmp_path / "log"
    handle = await share(app).note.adelay(str(log), 60)
    await await_until(log.exists)
    worker.kill()
    assert await handle.acancel() is True
    async with app.running(lease=0.6):
        with pytest.raises(TaskCancelled):
            await handle.aget(timeout=20)
    assert log.read_text().count("start") == 1 and not seen.of(Started) and q.is_empty()


# "a success already reached wins"


async def test_a_success_that_is_stored_wins(app: App) -> None:
    @app.task
    async def work() -> int:
        return 1

    async with app.running():
        handle = await work.adelay()
        assert await handle == 1
        assert await handle.acancel() is False
        assert await handle.astate() is State.SUCCEEDED


async def test_a_success_that_is_not_stored_yet_wins(
    make_app: MakeApp, server: Server, raw: redis.Redis, q: Queue
) -> None:
    """The code has returned, and its settle does not get through; then the cancel comes, and then the settle."""
    with gate(server, "succeed") as way:
        app, direct = make_app(url=way.url(SIDE)), make_app("direct")
        seen = Seen(app)

        @app.task(name="work")
        async def work() -> str:
            return "done"

        async with app.running(lease=0.6):
            handle = await direct.task_named("work", id="k").adelay()
            await await_until(lambda: way.count("succeed") >= 2)
            assert await handle.acancel() is True  # asked for, and too late
            renewed = way.count("renew")
            await await_until(lambda: way.count("renew") >= renewed + 2)  # the worker has heard of it
            way.closed.clear()
            assert await handle.aget(timeout=20) == "done"
        assert len(seen.of(Succeeded)) == 1 and not seen.of(Cancelled)
        await app.aclose()
    assert {name.partition("|")[0] for name in q.counters()} == {"succeeded"}


async def test_code_that_returns_all_the_same_has_succeeded(app: App, seen: Seen) -> None:
    @app.task
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "done"
        return "?"

    async with app.running():
        handle = await stubborn.adelay()
        await seen.arrive(Started)
        assert await handle.acancel() is True
        assert await handle.aget(timeout=20) == "done"
