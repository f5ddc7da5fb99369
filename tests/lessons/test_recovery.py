"""A worker is killed, at any step: what it had is run by another one, whatever lies before it and whoever dies next."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import App, State, TaskFailed
from penstock.events import Reclaimed, Started
from penstock.streams import keys
from penstock.streams.scripts import load
from tests.chaos.proxy import Act, Fault, Proxy
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, WorkerProcess, entries, pending, share
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio

LEASE = 0.6
LIVING = 3000


class DyingWorker:
    """A worker process that is killed at a request of its own."""

    def __init__(self, proxy: Proxy, namespace: str, fault: Fault) -> None:
        self.proxy = proxy
        settings = {"url": proxy.url("dying"), "namespace": namespace, "lease": LEASE, "processes": 8}
        self.worker = WorkerProcess(settings)
        # The process needs far longer than this to send its first request.
        proxy.on_strike = self.worker.process.kill
        proxy.fault = fault

    async def death(self) -> None:
        """Wait until it has died of its fault."""
        await await_until(lambda: self.worker.process.poll() is not None, 60)
        assert self.proxy.struck is not None and self.worker.process.returncode == -signal.SIGKILL


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """Leads the dying worker to the server."""
    made = Proxy(server.port, ["dying"])
    yield made
    made.close()


@pytest.fixture
def dying(proxy: Proxy, raw: redis.Redis, namespace: str) -> Iterator[Any]:
    """Starts a worker process that dies of this fault."""
    started: list[DyingWorker] = []
    for name in ("fetch", "reclaim", "succeed", "park"):
        raw.script_load(load(name).text)  # else the first request of each only asks whether it is known

    def start(fault: Fault) -> DyingWorker:
        started.append(DyingWorker(proxy, namespace, fault))
        return started[-1]

    yield start
    for each in started:
        each.worker.kill()


async def test_a_dead_workers_task_behind_thousands_of_live_ones_is_found(
    make_app: MakeApp, start_worker: Any, tmp_path: Path, raw: redis.Redis, namespace: str
) -> None:
    """chrisguidry/docket PR #467, #463: each sweep began at 0-0 and looked at a few entries only, so those behind the
    ones that living workers held were never reached."""
    crowd, heir = make_app(lease=3.0, result_ttl=0), make_app(lease=3.0)
    seen, shared, go, log = Seen(heir), share(heir), asyncio.Event(), tmp_path / "log"
    held = 0

    @crowd.task(name="held")
    async def hold() -> None:
        nonlocal held
        held += 1
        await go.wait()

    async with crowd.running(concurrency=LIVING):
        await hold.abulk([()] * LIVING)
        await await_until(lambda: held == LIVING, 60)
        dying = start_worker(lease=3.0)
        handle = await shared.note.adelay(str(log), 60)
        await await_until(log.exists, 20)
        dying.kill()
        newest: Any = raw.xrevrange(f"{{{namespace}:default}}:s:default", count=1)
        assert newest[0][1][b"k"].decode() == handle.id.partition(":")[2], "it does not lie behind the others"
        async with heir.running(concurrency=1):
            await seen.arrive(Started, id=handle.id, timeout=30)
            assert held == LIVING and entries(raw, namespace) == LIVING + 1
            await handle.acancel()
            go.set()
        await await_until(lambda: entries(raw, namespace) == 0, 60)


@pytest.mark.parametrize("act", [Act.CUT, Act.LOSE], ids=["before-the-claim", "after-the-claim"])
async def test_a_worker_killed_while_reclaiming_does_not_end_recovery(
    app: App, seen: Seen, raw: redis.Redis, namespace: str, dying: Any, act: Act
) -> None:
    """taskiq-python/taskiq-redis#131, #123: reclaiming took a lock without a timeout; whoever was killed while it held
    the lock ended recovery for all, for ever."""
    shared = share(app)
    handles = await shared.add.abulk([(n, 1) for n in range(5)])
    stream = keys.stream(keys.base(namespace, "default"), "default")
    raw.xgroup_create(stream, "w", "0")
    reply: Any = raw.xreadgroup("w", "first-dead", {stream: ">"})
    idle_for_an_hour = [entry for entry, _ in reply[0][1]]
    raw.xclaim(stream, "w", "first-dead", 0, idle_for_an_hour, idle=3_600_000, justid=True)
    # The first sweep is of the high priority, the second one of these.
    await dying(Fault("dying:main reclaim", 2, act)).death()
    owners = {row["consumer"] for row in pending(raw, namespace)}
    assert len(pending(raw, namespace)) == 5 and (b"first-dead" in owners) == (act is Act.CUT)
    async with app.running(lease=LEASE):
        assert await asyncio.gather(*handles) == [1, 2, 3, 4, 5]
    assert sum(event.count for event in seen.of(Reclaimed)) == 5


@pytest.mark.parametrize(
    ("kind", "act", "starts"),
    [
        ("fetch", Act.LOSE, 1),  # delivered to it, and never heard of
        ("succeed", Act.CUT, 2),  # has run, and could not say so
        ("succeed", Act.LOSE, 1),  # has said so: it must not run again
    ],
    ids=str,
)
async def test_a_task_whose_worker_was_killed_is_neither_lost_nor_active_for_ever(
    app: App, seen: Seen, raw: redis.Redis, namespace: str, dying: Any, tmp_path: Path, kind: str, act: Act, starts: int
) -> None:
    """celery/celery#3541, #1628, #7924, coleifer/huey#844, #418, tobymao/saq#127: a task was acknowledged before it
    ran, or its state was set by the process that died: SIGKILL lost it, or left it "active" for ever."""
    shared, log = share(app), tmp_path / "log"
    handle = await shared.note.adelay(str(log))
    await dying(Fault(f"dying:main {kind}", 1, act)).death()
    assert len(pending(raw, namespace)) == (0 if kind == "succeed" and act is Act.LOSE else 1)
    async with app.running(lease=LEASE):
        assert await handle.aget(timeout=30)
        await await_until(lambda: not pending(raw, namespace))
    assert await handle.astate() is State.SUCCEEDED and entries(raw, namespace) == 0
    assert log.read_text().count("start") == starts
    assert len(seen.of(Started)) == (0 if act is Act.LOSE and kind == "succeed" else 1)


@pytest.mark.parametrize("act", [Act.CUT, Act.LOSE], ids=["before", "after"])
async def test_a_task_whose_worker_was_killed_while_parking_it_is_in_one_place(
    app: App, raw: redis.Redis, namespace: str, dying: Any, tmp_path: Path, act: Act
) -> None:
    """coleifer/huey#418, rq/rq#2015: a task was taken from one list and put into another; killed in between, it was
    in neither."""
    shared = share(app)
    handle = await shared.snooze_once.adelay(str(tmp_path / "snoozed"))
    await dying(Fault("dying:main park", 1, act)).death()
    places = entries(raw, namespace) + raw.zcard(keys.parked(keys.base(namespace, "default")))
    assert places == 1
    async with app.running(lease=LEASE, processes=1):
        assert await handle.aget(timeout=30) == "awake"


async def test_a_killed_child_process_does_not_leave_its_task_active(app: App, tmp_path: Path) -> None:
    """celery/celery#7924, rq/rq#2015: the kernel's OOM killer took the child, and the parent waited for its answer."""
    shared, log = share(app), tmp_path / "busy"
    async with app.running(processes=1):
        child = await (await shared.pid_of_child.adelay()).aget(timeout=60)
        handle = await shared.busy.adelay(str(log), 60)
        await await_until(log.exists, 20)
        os.kill(child, signal.SIGKILL)
        with pytest.raises(TaskFailed):
            await handle.aget(timeout=30)
        assert await handle.astate() is State.FAILED
        assert await (await shared.square.adelay(3)).aget(timeout=60) == 9


async def test_tasks_sent_before_there_is_any_worker_are_not_skipped(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    """taskiq-redis (group made at "$" by the first worker), infiniflow/ragflow PR #958, google/ax#354: what was sent
    before a worker had ever run was never delivered."""

    @app.task
    async def work(n: int) -> int:
        return n

    calls = [
        work.s(n).options(queue=queue, priority=priority)  # type: ignore[arg-type]
        for n, (queue, priority) in enumerate((q, p) for q in ("a", "b") for p in ("high", "default", "low"))
    ]
    handles = [*await app.abulk(calls), await work.options(queue="a", delay=0.1).adelay(6)]
    for queue in ("a", "b"):
        for priority in ("high", "default", "low"):
            stream = keys.stream(keys.base(namespace, queue), priority)
            assert raw.xlen(stream) == 1 and raw.xinfo_groups(stream) == [], "there is a group already"
    async with app.running(["a", "b"]):
        assert await asyncio.gather(*handles) == list(range(7))
    assert len(seen.of(Started)) == 7
