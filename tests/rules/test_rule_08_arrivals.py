"""Rules 3 and 8. What a blocking read brings is admitted in the read's own round trip, as far as that is safe."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import App, TaskCancelled
from penstock.consumers.arrivals import FRESH
from penstock.events import Started, Succeeded
from penstock.streams import consume
from penstock.streams.calls import Call
from penstock.streams.consume import Batch
from penstock.streams.reader import Arrival, Reader
from tests.contract.helpers import Queue
from tests.integration.support import PATIENCE, Seen, WorkerProcess, share
from tests.rules.support import Monitor, blocked
from tests.servers import await_until

pytestmark = pytest.mark.anyio


async def _one_by_one(app: App, raw: redis.Redis, count: int) -> list[str]:
    """Each is sent to a worker that waits for it. What the server was asked to admit them."""

    @app.task
    async def work(n: int) -> int:
        return n

    with Monitor(raw) as monitor:
        async with app.running():
            for n in range(count):
                await await_until(lambda: blocked(raw))
                assert await (await work.adelay(n)).aget(20) == n
            await await_until(lambda: blocked(raw))
        return [ran.verb for ran in monitor.ran("admit", "arrived")]


async def test_while_tasks_come_each_is_admitted_with_its_read(
    app: App, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.consumers.arrivals.FRESH", PATIENCE)
    asked = await _one_by_one(app, raw, 5)
    # The first comes to an idle worker. Then the script goes with each read: first as text, and with one that is ended.
    assert asked == ["admit", *["arrived"] * 4]


async def test_an_idle_workers_reads_go_alone(app: App, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.consumers.arrivals.LIVELY", -1.0)
    assert await _one_by_one(app, raw, 3) == ["admit"] * 3


async def test_so_do_those_of_many_queues(app: App, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.consumers.arrivals.MOST_QUEUES", 0)
    assert await _one_by_one(app, raw, 3) == ["admit"] * 3


async def test_what_the_script_has_not_found_is_admitted_by_a_call(
    app: App, seen: Seen, raw: redis.Redis, q: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server forgets its scripts while the read waits."""

    @app.task
    async def work(n: int) -> int:
        return n

    with Monitor(raw) as monitor:
        async with app.running():
            for n in range(4):
                await await_until(lambda: blocked(raw))
                if n == 2:
                    raw.script_flush()
                assert await (await work.adelay(n)).aget(20) == n
            await seen.arrive(Started, 4)
        assert [ran.verb for ran in monitor.ran("admit")] == ["admit"] * 2 and q.is_empty()


async def test_what_else_the_script_has_found_is_not_run_again(
    app: App, seen: Seen, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs when the server makes the reply, and has ended when that is looked at."""
    arrived, read = consume.arrived, Reader.read
    end, brought, go = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def from_the_beginning(queues: Any, consumer: str, since: int, *rest: float) -> Call[tuple[str, Batch]]:
        return arrived(queues, consumer, 0, *rest)

    async def held(reader: Reader, streams: Any, then: Any) -> tuple[list[Arrival] | None, Any]:
        found = await read(reader, streams, then)
        if seen.of(Started):
            brought.set()
            await go.wait()
        return found

    monkeypatch.setattr("penstock.consumers.arrivals.FRESH", PATIENCE)
    monkeypatch.setattr(consume, "arrived", from_the_beginning)
    monkeypatch.setattr(Reader, "read", held)

    @app.task
    async def slow() -> None:
        await end.wait()

    @app.task
    async def quick() -> int:
        return 1

    async with app.running():
        await slow.adelay()
        await seen.arrive(Started)
        await await_until(lambda: blocked(raw))
        handle = await quick.adelay()
        await brought.wait()
        end.set()
        await seen.arrive(Succeeded)
        go.set()
        assert await handle.aget(20) == 1
    assert [event.name for event in seen.of(Started)] == [slow.name, quick.name]


async def test_one_that_is_cancelled_before_its_reply_is_looked_at_does_not_run(
    app: App, seen: Seen, start_worker: Callable[..., WorkerProcess], q: Queue, tmp_path: Path
) -> None:
    """The worker is stopped meanwhile, and hears of it before it knows the task."""
    shared = share(app)
    log = tmp_path / "log"
    worker = start_worker(lease=60.0)
    await (await shared.note.adelay(str(log))).aget(20)
    await await_until(lambda: blocked(q.raw))
    os.kill(worker.process.pid, signal.SIGSTOP)
    handle = await shared.note.adelay(str(log))
    sent = q.now()
    assert q.record(handle.id.partition(":")[2])["s"] == "r" and await handle.acancel()
    await await_until(lambda: q.now() > sent + 1000 * FRESH)
    os.kill(worker.process.pid, signal.SIGCONT)
    with pytest.raises(TaskCancelled):
        await handle.aget(20)
    await (await shared.note.adelay(str(log))).aget(20)
    assert worker.stop() == 0 and f"start {handle.id}" not in log.read_text()


@pytest.mark.parametrize("ends", [True, False])
async def test_what_came_while_the_worker_was_stopped_is_not_run_twice(
    app: App, seen: Seen, start_worker: Callable[..., WorkerProcess], q: Queue, tmp_path: Path, ends: bool
) -> None:
    """It is admitted while the worker cannot know, and taken over by another when its lease has run out. The reply
    still lies in the stopped one's socket: it must not start what others run, or have run."""
    shared = share(app)
    log = tmp_path / "log"
    worker = start_worker(lease=0.6)
    await (await shared.note.adelay(str(log))).aget(20)  # from now on its reads have the script with them
    await await_until(lambda: blocked(q.raw))
    os.kill(worker.process.pid, signal.SIGSTOP)
    handle = await shared.note.adelay(str(log), 0.0 if ends else 2.0)
    key = handle.id.partition(":")[2]
    assert q.record(key)["s"] == "r" and q.record(key)["w"] != ""
    async with app.running(lease=0.6) as mine:
        await seen.arrive(Started)
        if ends:
            await handle.aget(timeout=20)
        os.kill(worker.process.pid, signal.SIGCONT)
        assert await handle.aget(timeout=20) == mine.name
    # It works, and has looked at what it was brought.
    again = await shared.note.adelay(str(log))
    assert await again.aget(timeout=20) != mine.name
    assert worker.stop() == 0
    assert log.read_text().count(f"start {handle.id}") == 1
