"""Tasks with a time of their own are Redis's until they are due: no worker holds them, loses them or keeps them."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest
import redis

from penstock import App
from penstock.events import Promoted, Started, Succeeded
from penstock.streams import keys
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, calls_of, entries, pending, share
from tests.servers import await_until

pytestmark = pytest.mark.anyio

MANY = 3000


async def test_far_etas_are_not_held_in_a_workers_memory(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    """celery/celery#9849, #2218, #2541: a worker fetched every ETA task there was and kept it in its memory until the
    time came: it was killed for that, started again, and fetched them all again."""

    @app.task
    async def work(n: int) -> int:
        return n

    parked = keys.parked(keys.base(namespace, "default"))
    handles = await app.abulk(work.s(n).options(delay=3600) for n in range(MANY))
    async with app.running(concurrency=MANY):
        # It does its work meanwhile, also that of the promoter: a sooner one is started.
        assert await (await work.options(delay=0.1).adelay(-1)).aget(timeout=20) == -1
        assert raw.zcard(parked) == MANY
        assert entries(raw, namespace) == 0 and not pending(raw, namespace)
        # As if the hour were over.
        raw.zadd(parked, dict.fromkeys((handle.id.partition(":")[2] for handle in handles), 1), xx=True)
        raw.publish(keys.control_channel(keys.base(namespace, "default")), "due")
        await seen.arrive(Succeeded, MANY + 1, timeout=60)
    promoted = [event.count for event in seen.of(Promoted)]
    assert sum(promoted) == MANY + 1 and max(promoted) <= 200  # bounded batches: the server serves others in between
    assert len(seen.of(Started)) == MANY + 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
async def test_a_scheduled_task_does_not_go_down_with_the_worker_that_saw_it_first(
    app: App, seen: Seen, start_worker: Any, tmp_path: Any, raw: redis.Redis, number: signal.Signals
) -> None:
    """celery/celery#2541, celery/kombu#533: ETA tasks were stuck on the worker that had fetched them, and lost on
    TERM."""
    shared, log = share(app), tmp_path / "log"
    worker = start_worker(lease=0.6)
    assert await (await shared.add.options(delay=0.05).adelay(1, 1)).aget(timeout=20) == 2  # its promoter is at work
    handles = [await shared.note.options(delay=1.0).adelay(str(log)) for _ in range(10)]
    looks = calls_of(raw, "zrange")
    await await_until(lambda: calls_of(raw, "zrange") > looks or calls_of(raw, "zrange") > 2)  # it knows of them
    worker.process.send_signal(number)
    worker.process.wait(30)
    assert worker.process.returncode == (0 if number is signal.SIGTERM else -number)
    assert not log.exists(), "this machine is too slow: they were due before"
    async with app.running(lease=0.6):
        await asyncio.gather(*[handle.aget(timeout=20) for handle in handles])
    assert log.read_text().count("start") == 10 == len(seen.of(Started))


async def test_two_workers_do_not_both_start_what_is_due(make_app: MakeApp) -> None:
    """celery/celery#9849, celery/kombu#533: what several workers held in their memories ran once for each."""
    apps = [make_app(lease=0.6) for _ in range(3)]
    seen, runs = Seen(*apps), [0] * 300

    async def work(n: int) -> None:
        runs[n] += 1

    for app in apps:
        app.task(name="work")(work)
    async with apps[0].running(), apps[1].running(), apps[2].running():
        handles = await apps[0].abulk(apps[0].tasks["work"].s(n).options(delay=0.3) for n in range(300))
        await asyncio.gather(*handles)
    assert runs == [1] * 300 and len(seen.of(Started)) == 300
    assert sum(event.count for event in seen.of(Promoted)) == 300
