"""Tasks that take long, compute, or wait for their time are not delivered again while their worker lives."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from typing import Any, get_type_hints

import pytest
import redis

from penstock import App, ResultTimeout, State
from penstock.events import Late, LoopBlocked, Lost, Reclaimed, Started, Succeeded
from penstock.settings import Settings
from penstock.streams import keys
from tests.commands import Folder
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, calls_of, entries, pending, share
from tests.lessons.conftest import StartJobs
from tests.servers import await_until

pytestmark = pytest.mark.anyio

LEASE = 0.6


async def swept(raw: redis.Redis, times: int) -> None:
    """Wait for so many sweeps for entries that nobody renews: each begins with one XREAD."""
    begun = calls_of(raw, "xread")
    await await_until(lambda: calls_of(raw, "xread") >= begun + times, 20)


def no_second_delivery(seen: Seen, ids: list[str]) -> bool:
    """Each of these was started once, and nothing was taken over, lost or late."""
    starts = Counter(event.id for event in seen.of(Started))
    return starts == dict.fromkeys(ids, 1) and not any(isinstance(e, Reclaimed | Lost | Late) for e in seen.events)


async def test_a_task_longer_than_its_lease_is_not_run_again(make_app: MakeApp, raw: redis.Redis) -> None:
    """celery/celery#5935, #2599, #3270, pretix/pretix#2058, learningequality/studio#3395: what ran longer than the
    visibility timeout was delivered to another worker, once per timeout."""
    one, other = make_app(lease=LEASE), make_app(lease=LEASE)
    seen = Seen(one, other)
    go, go_thread = asyncio.Event(), threading.Event()

    async def upload(n: int) -> int:
        await go.wait()
        return n

    def encode(n: int) -> int:
        go_thread.wait(60)
        return n

    for app in (one, other):
        app.task(name="upload")(upload)
        app.task(name="encode")(encode)
    async with one.running():
        handles = [await one.tasks[name].adelay(n) for n, name in enumerate(["upload", "encode"])]
        await seen.arrive(Started, 2)
        since = time.monotonic()
        async with other.running():
            await await_until(lambda: time.monotonic() - since > 4 * LEASE)
            await swept(raw, 3)  # it was looked for, with free slots, while it was older than four leases
            go.set()
            go_thread.set()
            assert await asyncio.gather(*handles) == [0, 1]
    assert no_second_delivery(seen, [handle.id for handle in handles])


async def test_an_eta_past_any_timeout_is_not_delivered_twice(
    make_app: MakeApp, raw: redis.Redis, namespace: str
) -> None:
    """celery/celery#5935, #2599: an ETA further away than the visibility timeout was handed to one worker after
    the other, and in the end ran once for each."""
    one, other = make_app(lease=LEASE), make_app(lease=LEASE)
    seen = Seen(one, other)

    async def remind(n: int) -> int:
        return n

    for app in (one, other):
        app.task(name="remind")(remind)
    async with one.running(), other.running():
        sent = time.monotonic()
        handles = await one.abulk(one.tasks["remind"].options(delay=6 * LEASE).s(n) for n in range(20))
        await await_until(lambda: time.monotonic() - sent > 2.5 * LEASE)
        assert not seen.of(Started), "this machine is too slow: nothing is proven"
        # Nobody holds them: they are in no stream, hence in nobody's hands.
        assert entries(raw, namespace) == 0 and not pending(raw, namespace)
        assert await asyncio.gather(*handles) == list(range(20))
        await swept(raw, 2)
    assert no_second_delivery(seen, [handle.id for handle in handles])


async def test_a_lease_short_enough_to_notice_a_crash_suits_a_task_of_any_length(
    make_app: MakeApp, start_worker: Any, tmp_path: Any
) -> None:
    """taskiq-python/taskiq-redis#101, #86: entries idle for ten minutes were claimed from their living worker, so
    users set the time to a year, and what a dead one left behind then waited for a year."""
    app = make_app(lease=LEASE)
    seen, shared, log, go = Seen(app), share(app), tmp_path / "log", asyncio.Event()

    @app.task(queue="long")
    async def long() -> int:
        await go.wait()
        return 1

    dying = start_worker(lease=LEASE)
    lost = await shared.note.adelay(str(log), 60)
    await await_until(log.exists, 20)
    async with app.running(["long", "default"]):
        kept = await long.adelay()
        await seen.arrive(Started, id=kept.id)
        dying.kill()
        assert dying.process.returncode < 0
        await seen.arrive(Started, id=lost.id)
        assert seen.of(Reclaimed)
        await lost.acancel()
        go.set()
        assert await kept == 1
    assert len(seen.of(Started, id=kept.id)) == len(seen.of(Succeeded, id=kept.id)) == 1


async def test_a_task_that_computes_on_the_event_loop_is_not_run_again_by_others(
    make_app: MakeApp, worker: StartJobs, folder: Folder
) -> None:
    """agno-agi/agno PR #9512, taskforcesh/bullmq#2857: the heartbeat lived on the loop that it certified; a task
    that computed made a healthy worker look dead, and ran again elsewhere."""
    app = make_app(lease=1.0)
    seen = Seen(app)
    again: list[str] = []

    @app.task(name="tests.lessons.jobs.spin")
    async def spin(folder: str, name: str, seconds: float) -> int:
        again.append(name)
        return 0

    busy = worker(PENSTOCK_LEASE="1")
    busy.ready()
    handle = await spin.adelay(str(folder), "spun", 3.5)
    await asyncio.to_thread(folder.wait, "begin", "spun")
    async with app.running():
        assert await handle.aget(timeout=60) > 0
    assert busy.logged("event loop has been blocked")
    assert not again and not seen.of(Reclaimed) and len(folder.notes("begin")) == 1


async def test_a_worker_whose_loop_was_blocked_does_not_run_its_own_task_again(app: App, seen: Seen) -> None:
    """agno-agi/agno PR #9512; streaq's worker ("ran twice in the same worker"): after the block its own sweep found
    its own entry idle, and took it over from itself."""
    runs: list[int] = []

    @app.task
    async def spin(n: int) -> int:
        runs.append(n)
        end = time.monotonic() + 2.2
        while time.monotonic() < end:
            pass
        return n

    async with app.running(lease=0.5):
        handle = await spin.adelay(1)
        assert await handle.aget(timeout=60) == 1
        await seen.arrive(Succeeded)
    assert seen.of(LoopBlocked)
    assert runs == [1] and not seen.of(Lost) and not seen.of(Late)


async def test_a_task_without_a_limit_outlives_every_time_that_can_be_set(make_app: MakeApp, raw: redis.Redis) -> None:
    """tobymao/saq#302, litestar-org/litestar-saq#37: a default timeout of ten seconds that nobody had set ended tasks;
    #277, #126: what ran was swept away. Here all times of the settings are one second."""
    times = {name: 1.0 for name, kind in get_type_hints(Settings).items() if kind is float}
    assert {"lease", "result_ttl", "command_timeout", "unknown_ttl", "grace", "dead_ttl"} <= set(times)
    app, other = make_app(**times), make_app(**times)
    seen, go, go_thread = Seen(app, other), asyncio.Event(), threading.Event()

    async def crawl() -> int:
        await go.wait()
        return 1

    def render() -> int:
        go_thread.wait(60)
        return 2

    for each in (app, other):
        each.task(name="crawl")(crawl)
        each.task(name="render")(render)
    async with app.running(), other.running():
        handles = [await app.tasks[name].adelay() for name in ("crawl", "render")]
        await seen.arrive(Started, 2)
        since = time.monotonic()
        with pytest.raises(ResultTimeout):  # who waits has a limit of its own, which ends nothing else
            await handles[0].aget(timeout=0.1)
        await await_until(lambda: time.monotonic() - since > 3.0)
        assert [await handle.astate() for handle in handles] == [State.RUNNING] * 2
        waiting = asyncio.gather(*handles)
        go.set()
        go_thread.set()
        assert await waiting == [1, 2]
    assert no_second_delivery(seen, [handle.id for handle in handles])


async def test_an_expiry_that_passes_while_a_task_runs_does_not_end_it(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    """tobymao/saq#277, #126: one number was the time limit, the lease and the time to live, so jobs were swept while
    they ran."""
    go = asyncio.Event()

    @app.task(expires=1.0)
    async def work() -> int:
        await go.wait()
        return 1

    async with app.running(lease=LEASE):
        handle = await work.adelay()
        started = await seen.arrive(Started)
        record = keys.record(keys.base(namespace, "default"), handle.id.partition(":")[2])
        expires: Any = raw.hget(record, "x")
        await await_until(lambda: server_ms(raw) > int(expires))
        await swept(raw, 2)
        assert await handle.astate() is State.RUNNING
        go.set()
        assert await handle == 1
    assert len(seen.of(Started)) == len(started) == 1


def server_ms(raw: redis.Redis) -> int:
    """The server's clock."""
    now: Any = raw.time()
    return int(now[0] * 1000 + now[1] // 1000)
