"""Rule 4. Renewal only of entries in flight here and still ours (a blind XCLAIM steals back), with JUSTID, in chunks
≤ 500, from an **OS thread with its own sync connection**. It is also the watchdog: past timeout + grace it stops
renewing, and the supervisor (always there) kills and replaces a wedged process. Renew returns entries lost and entries
to cancel; a lost lease cancels the attempt. In flight = from delivery until Redis has answered the settle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from penstock import App, State, TaskCancelled, TaskFailed
from penstock.events import Late, Lost, Reclaimed, Started, Succeeded
from tests.chaos.proxy import Act, Fault, Proxy
from tests.commands import Command, Folder, is_alive
from tests.contract.helpers import Queue
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen
from tests.rules.support import Monitor, Told
from tests.servers import Server, await_until, wait_until

pytestmark = pytest.mark.anyio

LEASE = 0.6


# What is renewed


async def test_what_is_no_longer_ours_is_not_stolen_back_and_its_attempt_is_cancelled(
    app: App, seen: Seen, q: Queue, raw: redis.Redis
) -> None:
    stopped = asyncio.Event()

    @app.task
    async def work() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            stopped.set()
            raise

    async with app.running(lease=LEASE):
        handle = await work.adelay()
        await seen.arrive(Started)
        (entry,) = q.pending()
        q.claim("somebody-else", "default", entry)
        raw.hset(q.record_key(handle.id.partition(":")[2]), "w", "somebody-else")
        with Monitor(raw) as monitor:
            assert (await seen.arrive(Lost))[0].id == handle.id
            await await_until(stopped.is_set)
            assert monitor.ran("renew") and not [r for r in monitor.ran("XCLAIM") if entry in r.args]
        assert await handle.acancel()
        with pytest.raises(TaskCancelled):  # nobody renews for somebody-else: taken over, and ended there
            await handle.aget(timeout=20)
    assert len(seen.of(Started)) == 1


async def test_what_is_ours_and_not_in_flight_here_is_not_renewed(app: App, seen: Seen, q: Queue) -> None:
    """Delivered in this worker's name, without its knowing: renewed blindly, nobody would ever run it."""
    go = asyncio.Event()

    @app.task
    async def work() -> None:
        await go.wait()

    async with app.running(lease=LEASE, concurrency=1) as worker:
        held = await work.adelay()
        await seen.arrive(Started)
        unknown = await work.options(priority="low").adelay()
        ((_, entry),) = q.read_blocking(worker.name, "low")
        await await_until(lambda: q.pending("low")[entry].idle > 2 * LEASE * 1000)
        assert all(pending.idle < 2 * LEASE * 1000 for pending in q.pending().values())
        go.set()
        await asyncio.gather(held.aget(20), unknown.aget(20))
    assert not seen.of(Lost)


async def test_it_is_with_justid(app: App, seen: Seen, q: Queue, raw: redis.Redis) -> None:
    """Else each renewal would count as a delivery."""
    go = asyncio.Event()

    @app.task
    async def work() -> None:
        await go.wait()

    async with app.running(lease=LEASE):
        await work.adelay()
        await seen.arrive(Started)
        with Monitor(raw) as monitor:
            await await_until(lambda: len(monitor.ran("XCLAIM")) >= 4)
            assert all(ran.args[-1] == "JUSTID" for ran in monitor.ran("XCLAIM"))
        (pending,) = q.pending().values()
        go.set()
    assert pending.deliveries == 1


async def test_it_is_in_chunks_of_500(app: App, seen: Seen, raw: redis.Redis) -> None:
    go = asyncio.Event()

    @app.task
    async def work() -> None:
        await go.wait()

    async with app.running(lease=1.5, concurrency=1100):
        handles = await work.abulk([()] * 1100)
        await seen.arrive(Started, 1100)
        with Monitor(raw) as monitor:
            await await_until(lambda: len(_renewed(monitor)[1]) == 1100)
            sizes, _ = _renewed(monitor)
        go.set()
        await asyncio.gather(*handles)
    assert max(sizes) == 500 and not seen.of(Lost)


def _renewed(monitor: Monitor) -> tuple[list[int], set[str]]:
    """Entries in each renewal, and all of them. A renewal's arguments: two keys, the consumer, then triples."""
    calls = [ran.args[3:] for ran in monitor.ran("renew")]
    return [len(call) // 3 for call in calls], {entry for call in calls for entry in call[1::3]}


async def test_in_flight_is_until_the_server_has_answered_the_settle(
    make_app: MakeApp, app: App, seen: Seen, server: Server, q: Queue
) -> None:
    """The settle is on its way for three leases; the code has ended long ago, and another worker looks for work."""
    proxy = Proxy(server.port, ["worker"], Fault("worker:main succeed", 1, Act.DELAY, 3 * LEASE))
    slow = make_app(url=proxy.url("worker"), command_timeout=20.0)
    theirs = Seen(slow)

    async def body() -> int:
        return 1

    slow.task(name="work")(body)
    app.task(name="work")(body)
    try:
        async with slow.running(lease=LEASE):
            handle = await slow.tasks["work"].adelay()
            await theirs.arrive(Started)
            async with app.running(lease=LEASE):
                assert await handle.aget(20) == 1
            await theirs.arrive(Succeeded)
        await slow.aclose()
    finally:
        proxy.close()
    assert proxy.struck is not None and proxy.counts["worker:leases renew"] >= 3
    assert not seen.of(Started) and not seen.of(Reclaimed) and not theirs.of(Lost) and not theirs.of(Late)


# From where


async def test_it_has_a_connection_of_its_own(app: App, seen: Seen, server: Server) -> None:
    """All renewals come by one connection, and nothing else does."""
    proxy = Proxy(server.port, ["worker"])
    try:
        async with App("x", url=proxy.url("worker"), namespace=app.settings.namespace) as through:

            @through.task
            async def work() -> None:
                await await_until(lambda: proxy.counts["worker:leases renew"] >= 3)

            async with through.running(lease=LEASE):
                await (await work.adelay()).aget(20)
    finally:
        proxy.close()
    kinds = {request.role: set() for request in proxy.requests}  # type: dict[str, set[str]]
    for request in proxy.requests:
        kinds[request.role].add(request.verb)
    assert kinds["worker:leases"] == {"renew"} and "renew" not in kinds["worker:main"]


def test_a_task_that_blocks_the_loop_for_three_leases_is_not_run_twice_and_is_named(
    supervised: Callable[..., Command], send: Callable[..., Any], folder: Folder, told: Told
) -> None:
    """Two worker processes compete; the other one is idle all the time, and sweeps."""
    command = supervised("--workers", 2)
    pids = command.ready(2)
    handle = send("block", "long", 2.5)
    [begun] = folder.wait("begin", "long")
    [event] = told.wait("LoopBlocked", 1, pid=begun.pid)
    assert handle.get(timeout=60) == begun.pid
    assert send("add", 1, 2).get(timeout=60) == 3

    assert event["tasks"] == [f"tests.rules.tasks.block ({handle.id})"] and event["seconds"] >= 1.0
    assert "time.sleep(seconds)" in event["stack"]
    command.logged(rf"the event loop has been blocked for \d\.\d s by tests\.rules\.tasks\.block \({handle.id}\)")
    assert len(folder.notes("begin", "long")) == 1 and all(is_alive(pid) for pid in pids)
    assert not told.of("Reclaimed") and not told.of("Lost") and not told.of("Late")


# The watchdog


def test_a_wedged_process_is_no_longer_renewed_killed_and_replaced(
    supervised: Callable[..., Command], send: Callable[..., Any], folder: Folder
) -> None:
    """``while True`` in an async task, a limit of 0.3 s, twice; an innocent task runs beside it the first time."""
    command = supervised()
    [old] = command.ready()
    innocent = send("hold", "innocent")
    folder.wait("begin", "innocent")
    guilty = send("spin", "guilty")
    folder.wait("begin", "guilty")

    command.logged(f"{guilty.id} is past its time limit and cannot be stopped; no longer renewed")
    command.logged(f"worker {old} is killed: a task is past its time limit and cannot be stopped")
    folder.release("innocent")
    with pytest.raises(TaskFailed) as caught:
        guilty.get(timeout=60)

    assert caught.value.reason == "max_deliveries"
    killed = [note.pid for note in folder.notes("begin", "guilty")]
    assert len(killed) == len(set(killed)) == 2 and not any(is_alive(pid) for pid in killed)
    assert innocent.get(timeout=60) not in (None, old) and folder.notes("begin", "innocent")[0].pid == old
    assert send("add", 1, 2).get(timeout=60) == 3


@pytest.mark.parametrize("task", ["sleep_with_the_gil", "backtrack"])
def test_a_c_call_that_holds_the_gil_does_not_wedge_the_worker_for_ever(
    supervised: Callable[..., Command], send: Callable[..., Any], folder: Folder, task: str
) -> None:
    """The lease thread stands still as well: it is the supervisor that knows of the time limit."""
    command = supervised()
    [old] = command.ready()
    guilty = send(task, "guilty")
    folder.wait("begin", "guilty")
    innocent = send("add", 1, 2)

    command.logged(f"worker {old} is killed: a task is past its time limit and cannot be stopped", timeout=20)
    assert innocent.get(timeout=60) == 3 and not is_alive(old)
    with pytest.raises(TaskFailed) as caught:
        guilty.get(timeout=60)
    assert caught.value.reason == "max_deliveries"
    assert [note.pid for note in folder.notes("begin", "guilty")] == [old]


def test_a_c_call_that_ignores_its_timeout_does_not_wedge_the_worker(
    supervised: Callable[..., Command], send: Callable[..., Any], folder: Folder, told: Told
) -> None:
    """In a thread, without the GIL: its task is settled, and another process takes this one's place."""
    command = supervised("--threads", 1, TEST_WEDGED_AFTER="5")
    [old] = command.ready()
    handle = send("sleep_in_c", "deaf", 3.5)
    with pytest.raises(TaskFailed) as caught:
        handle.get(timeout=60)
    assert caught.value.reason == "timeout" and not folder.notes("end", "deaf")

    [event] = told.wait("ThreadStuck", pid=old)
    assert event["id"] == handle.id and event["overdue"] > 0
    command.logged(rf"worker {old} is replaced: a thread of tests\.rules\.tasks\.sleep_in_c does not stop")
    assert send("pid").get(timeout=60) == command.ready(2)[1]
    wait_until(lambda: not is_alive(old), 60)  # it drains, and ends by itself
    assert "is killed" not in command.text and handle.state() is State.FAILED


# What a renewal returns


async def test_it_returns_entries_lost_and_entries_to_cancel(app: App, seen: Seen, q: Queue) -> None:
    """Each for itself: the others of the same renewal go on."""
    go = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        await go.wait()
        return n

    async with app.running(lease=LEASE):
        handles = await work.abulk([(n,) for n in range(5)])
        await seen.arrive(Started, 5)
        lost, cancelled = (handle.id.partition(":")[2] for handle in handles[1:3])
        q.raw.hset(q.record_key(cancelled), "c", 1)  # what a cancel does; nobody tells the worker
        q.claim("somebody-else", "default", q.record(lost)["e"])
        q.raw.hset(q.record_key(lost), "w", "somebody-else")
        assert [event.id for event in await seen.arrive(Lost)] == [handles[1].id]
        with pytest.raises(TaskCancelled):
            await handles.pop(2).aget(20)
        go.set()  # the lost one is taken back when nobody renews it, and runs again
        assert await asyncio.gather(*[handle.aget(20) for handle in handles]) == [0, 1, 3, 4]
    assert len(seen.of(Lost)) == 1 and len(seen.of(Started)) == 6
