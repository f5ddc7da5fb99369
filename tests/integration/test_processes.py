"""Worker processes that die, and share: nothing is lost. (What else they may do: tests/rules.)"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from penstock import App, State
from penstock.events import Reclaimed, Started
from tests.integration.support import Seen, WorkerProcess, share
from tests.servers import await_until

StartWorker = Callable[..., WorkerProcess]
pytestmark = pytest.mark.anyio


async def test_tasks_of_a_killed_worker_run_again(
    app: App, seen: Seen, start_worker: StartWorker, tmp_path: Path
) -> None:
    shared = share(app)
    log = tmp_path / "log"
    worker = start_worker(lease=1.0)
    handles = await shared.note.abulk([(str(log), 60)] * 5)
    await await_until(lambda: log.exists() and log.read_text().count("start") == 5)
    worker.kill()
    log.unlink()
    since = time.monotonic()
    app.tasks["tests.integration.shared_tasks.note"].fn = _quick
    async with app.running(lease=1.0):
        await asyncio.gather(*[h.aget(timeout=60) for h in handles])
    # Within the lease and 2 s; generous, since this measures the machine, too.
    assert time.monotonic() - since < 20
    assert sum(event.count for event in seen.of(Reclaimed)) == 5
    info = await handles[0].ainfo()
    assert (info.state, info.attempt) == (State.SUCCEEDED, 1)  # a crash spends no attempt


async def _quick(ctx: object, path: str, seconds: float) -> str:
    return "quick"


async def test_max_deliveries_of_a_task(app: App, start_worker: StartWorker, tmp_path: Path) -> None:
    """A task that is fine the second time is not buried by an earlier crash."""
    shared = share(app)
    flag = tmp_path / "die"
    flag.touch()
    handle = await shared.die_if.adelay(str(flag))
    worker = start_worker(lease=0.6)
    await await_until(lambda: worker.process.poll() is not None, 60)
    flag.unlink()
    start_worker(lease=0.6)
    assert await handle.aget(timeout=60) == "alive"
    assert (await handle.ainfo()).attempt == 1


async def test_two_worker_processes_share_the_work(app: App, start_worker: StartWorker, tmp_path: Path) -> None:
    shared = share(app)
    log = tmp_path / "log"
    start_worker(concurrency=2)
    start_worker(concurrency=2)
    handles = await shared.note.abulk([(str(log), 0.02)] * 60)
    workers = await asyncio.gather(*[handle.aget(timeout=60) for handle in handles])
    assert len(set(workers)) == 2
    assert log.read_text().count("done") == 60


async def test_killing_workers_at_any_moment_loses_nothing(app: App, start_worker: StartWorker, tmp_path: Path) -> None:
    shared = share(app)
    handles = await shared.note.abulk([(str(tmp_path / "log"), 0.05)] * 200)
    done = 0
    for _ in range(3):
        worker = start_worker(lease=0.6, concurrency=10)
        await await_until(partial(_reached, tmp_path / "log", done + 20))
        worker.kill()
        done = _count(tmp_path / "log")
    start_worker(lease=0.6)
    await asyncio.gather(*[handle.aget(timeout=60) for handle in handles])
    assert {await handle.astate() for handle in handles} == {State.SUCCEEDED}


def _reached(log: Path, count: int) -> bool:
    return _count(log) >= count


def _count(log: Path) -> int:
    return log.read_text().count("done") if log.exists() else 0


async def test_children_die_with_their_worker(app: App, start_worker: StartWorker, tmp_path: Path) -> None:
    shared = share(app)
    worker = start_worker(lease=0.6, processes=1)
    pid = await (await shared.pid_of_child.adelay()).aget(timeout=60)
    handle = await shared.busy.adelay(str(tmp_path / "x"), 60)
    await await_until(lambda: (tmp_path / "x").exists(), 60)
    worker.kill()
    await await_until(lambda: not _lives(pid))
    await handle.acancel()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


async def test_an_early_lease_is_not_taken_while_the_owner_renews(
    app: App, seen: Seen, start_worker: StartWorker
) -> None:
    shared = share(app)
    start_worker(lease=0.6)
    start_worker(lease=0.6)
    handles = await shared.add.abulk([(i, 1) for i in range(200)])
    assert await asyncio.gather(*handles) == [i + 1 for i in range(200)]
    assert not seen.of(Started)
