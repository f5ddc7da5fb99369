"""Rule 6. Crash deliveries accumulate in the record, over all its entries; a warm hand-back subtracts its own. Over
`max_deliveries` → dead letters. An entry with two or more is reclaimed alone, one at a time per worker: one poison task
must not bury the hundred that ran beside it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from penstock import App, Context, Retry, RetryPolicy, Snooze, State, TaskFailed
from penstock.events import Released, Retried, Snoozed, Started
from tests.commands import Command, Folder
from tests.contract.helpers import Queue
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen

pytestmark = pytest.mark.anyio

LEASE = 0.6
INNOCENTS = 99


def test_one_poison_task_does_not_bury_the_hundred_that_ran_beside_it(
    supervised: Callable[..., Command], send: Callable[..., Any], app: App, q: Queue, folder: Folder
) -> None:
    """A real SIGSEGV, twice with all of them in one process; then alone, until its deliveries are spent."""
    command = supervised("--concurrency", INNOCENTS + 1)
    [first] = command.ready()
    names = [f"innocent-{n}" for n in range(INNOCENTS)]
    innocents = [send("hold_until_calm", name) for name in names]
    poison = send("segfault", "poison", INNOCENTS)
    deaths = command.logged(r"worker (\d+) was killed by SIGSEGV", 2)
    assert deaths[0] == str(first)
    for pid in deaths:  # they did run beside it, and died with it
        here = [note.name for note in folder.notes("begin") if note.pid == int(pid)]
        assert sorted(here) == sorted([*names, "poison"])
    assert not folder.notes("end")

    folder.release("calm")
    assert not {handle.get(timeout=60) for handle in innocents} & {int(pid) for pid in deaths}
    with pytest.raises(TaskFailed, match="3 deliveries ended in a crash") as caught:
        poison.get(timeout=60)
    assert caught.value.reason == "max_deliveries"
    assert len(command.logged(r"worker (\d+) was killed by SIGSEGV", 3)) == len(folder.notes("begin", "poison")) == 3
    assert [dead.id for dead in app.dead_letters().list()] == [poison.id]
    assert sorted(note.name for note in folder.notes("end")) == sorted(names) and q.is_empty()


def test_crashes_accumulate_over_all_entries_and_go_to_the_dead_letters(
    supervised: Callable[..., Command], send: Callable[..., Any], app: App, folder: Folder
) -> None:
    """Crash, snooze, crash, snooze, crash: each snooze makes a new entry, and forgives no crash."""
    supervised("--workers", 2).ready(2)
    handle = send("crash_then_snooze", "task")
    with pytest.raises(TaskFailed, match="3 deliveries ended in a crash") as caught:
        handle.get(timeout=60)
    assert caught.value.reason == "max_deliveries"
    words = [note.word for note in folder.notes(name="task") if note.word != "begin"]
    assert words == ["crash", "snooze", "crash", "snooze", "crash"]
    assert [dead.id for dead in app.dead_letters().list()] == [handle.id]


@pytest.mark.parametrize("how", ["snooze", "retry", "release"])
async def test_a_warm_hand_back_subtracts_its_own(app: App, seen: Seen, q: Queue, how: str) -> None:
    """One crash, then more hand-backs than deliveries are allowed: all of them are the second delivery."""
    deliveries: list[int] = []
    kind: type[Any] = {"snooze": Snoozed, "retry": Retried, "release": Released}[how]

    @app.task(bind=True, max_deliveries=2)
    async def work(ctx: Context) -> str:
        deliveries.append(ctx.deliveries)
        if len(deliveries) > 6:
            return "done"
        if how == "release":
            await asyncio.sleep(60)
        raise Snooze(0) if how == "snooze" else Retry(delay=0)

    handle = await work.options(retry=RetryPolicy(max_retries=100)).adelay()
    (crashed,) = q.fetch("dead").deliveries
    q.age(crashed, consumer="dead")
    for n in range(1, 7 if how == "release" else 1):
        async with app.running(lease=LEASE, grace=0):
            await seen.arrive(Started, n)
    async with app.running(lease=LEASE):
        assert await handle.aget(20) == "done"
    assert deliveries == [2] * 7 and len(seen.of(kind)) == 6


async def test_handed_back_more_often_than_max_deliveries_it_is_not_buried(app: App, seen: Seen) -> None:
    @app.task
    async def work() -> None:
        await asyncio.sleep(60)

    handle = await work.adelay()
    for n in range(1, 8):  # more often than max_deliveries
        async with app.running(grace=0):
            await seen.arrive(Started, n)
    assert (await handle.ainfo()).state is State.QUEUED
    assert len(seen.of(Released)) == 7


async def test_an_entry_with_two_crashes_or_more_is_reclaimed_alone_one_at_a_time_per_worker(
    make_app: MakeApp, q: Queue
) -> None:
    """Two workers with many free slots; what has not crashed runs beside them as ever."""
    most: dict[str, int] = {}
    beside: list[str] = []
    suspects_running: dict[str, set[str]] = {}
    calm = asyncio.Event()

    async def suspect(ctx: Context) -> str:
        here = suspects_running.setdefault(ctx.worker, set())
        here.add(ctx.id)
        most[ctx.worker] = max(most.get(ctx.worker, 0), len(here))
        await calm.wait()
        here.discard(ctx.id)
        return ctx.worker

    async def normal(ctx: Context) -> None:
        if suspects_running.get(ctx.worker):
            beside.append(ctx.id)

    apps = [make_app(), make_app()]
    for app in apps:
        app.task(name="suspect", bind=True)(suspect)
        app.task(name="normal", bind=True)(normal)
    handles = await apps[0].tasks["suspect"].abulk([()] * 6)
    q.age(*[q.crash(delivery, "dead too") for delivery in q.fetch("dead").deliveries], consumer="dead too")
    assert {q.record(handle.id.partition(":")[2])["d"] for handle in handles} == {"2"}

    seen = [Seen(app) for app in apps]
    async with apps[0].running(lease=LEASE), apps[1].running(lease=LEASE):
        for each in seen:
            await each.arrive(Started, name="suspect")
        while len(beside) < 20:
            await asyncio.gather(*[h.aget(20) for h in await apps[0].tasks["normal"].abulk([()] * 10)])
        assert sum(len(each.of(Started, name="suspect")) for each in seen) == 2
        calm.set()
        ran_on = await asyncio.gather(*[handle.aget(20) for handle in handles])
    assert most == dict.fromkeys(ran_on, 1) and len(most) == 2
