"""Rule 5. Reclaim (XAUTOCLAIM) keeps its cursor until `0-0`, jittered, no lock, at most the free slots; never an id
already in the local table (XAUTOCLAIM also gives back one's own). After a reconnect: renew and settle first, reclaim
one lease later (a stalled server makes every lease look old). With nothing pending at T the next sweep is at T + lease,
else at the earliest possible expiry + ≤ 1 s.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from penstock import App
from penstock.consumers.leases import Leases
from penstock.consumers.reclaimer import Reclaimer
from penstock.events import BrokerDown, BrokerUp, Late, Lost, Reclaimed, Started, Succeeded
from penstock.streams import consume, keys
from penstock.streams.calls import Call
from tests.commands import Command, Folder
from tests.contract.helpers import Queue
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, calls_of
from tests.servers import Server, await_until, wait_until

pytestmark = pytest.mark.anyio

LEASE = 0.6


class Sweeps:
    """Every step of every sweep, when it was asked for, and what it brought."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[tuple[float, str, consume.Sweep]] = []
        self.answers: list[tuple[consume.Sweep, consume.Reclaimed]] = []
        reclaim = consume.reclaim

        def watched(base: str, queue: str, consumer: str, sweep: consume.Sweep, ttl: float) -> Call[consume.Reclaimed]:
            call = reclaim(base, queue, consumer, sweep, ttl)
            self.asked.append((time.monotonic(), consumer, sweep))

            def read(reply: Any) -> consume.Reclaimed:
                answer = call.read(reply)
                self.answers.append((sweep, answer))
                return answer

            return Call(call.script, call.keys, call.args, read)

        monkeypatch.setattr(consume, "reclaim", watched)

    def of(self, priority: str) -> list[tuple[consume.Sweep, consume.Reclaimed]]:
        """Those of one stream."""
        return [(sweep, answer) for sweep, answer in self.answers if sweep.priority == priority]


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> Sweeps:
    return Sweeps(monkeypatch)


def leave_to_a_dead_worker(q: Queue, count: int) -> None:
    """All that waits is delivered to a worker that dies at once."""
    q.raw.xgroup_create(q.stream(), keys.GROUP, "0")
    assert len(q.read_blocking("dead", count=count)) == count
    for entry in q.pending():
        q.claim("dead", "default", entry, idle=60)


# A sweep


async def test_it_keeps_its_cursor_until_the_end_and_takes_at_most_the_free_slots(
    app: App, seen: Seen, q: Queue, sweeps: Sweeps
) -> None:
    go = asyncio.Semaphore(0)

    @app.task
    async def work(n: int) -> int:
        await go.acquire()
        return n

    handles = await work.abulk([(n,) for n in range(7)])
    leave_to_a_dead_worker(q, 7)
    async with app.running(concurrency=2, lease=LEASE):
        await seen.arrive(Started, 2)
        owners = Counter(pending.consumer for pending in q.pending().values())
        assert owners.pop("dead") == 5 and list(owners.values()) == [2]
        for started in range(3, 8):
            go.release()
            await seen.arrive(Started, started)
        go.release()
        go.release()
        assert await asyncio.gather(*[handle.aget(20) for handle in handles]) == list(range(7))

    steps = [(sweep, answer) for sweep, answer in sweeps.of("default") if sweep.limit]
    assert all(answer.batch.read <= sweep.limit <= 2 for sweep, answer in steps)
    assert sum(answer.batch.read for _, answer in steps) == 7 and len(seen.of(Started)) == 7
    assert steps[0][0].cursor == "0-0" and any(sweep.cursor != "0-0" for sweep, _ in steps)
    for (_, before), (sweep, _) in pairwise(steps):
        assert sweep.cursor == before.cursor


async def test_there_is_no_lock(make_app: MakeApp, q: Queue, sweeps: Sweeps) -> None:
    """Three workers sweep at the same time what a dead one had; each entry goes to one of them."""
    apps = [make_app(), make_app(), make_app()]
    ran: list[int] = []

    async def work(n: int) -> int:
        ran.append(n)
        await asyncio.sleep(0.05)  # work
        return n

    for app in apps:
        app.task(name="work")(work)
    seen = [Seen(app) for app in apps]
    handles = await apps[0].tasks["work"].abulk([(n,) for n in range(90)])
    leave_to_a_dead_worker(q, 90)
    settings: dict[str, Any] = {"lease": LEASE, "concurrency": 10}
    async with apps[0].running(**settings), apps[1].running(**settings), apps[2].running(**settings):
        assert await asyncio.gather(*[handle.aget(20) for handle in handles]) == list(range(90))
    assert sorted(ran) == list(range(90))
    taken = [sum(event.count for event in each.of(Reclaimed)) for each in seen]
    assert sum(taken) == 90 and sum(map(bool, taken)) >= 2


async def test_never_what_is_in_the_local_table(
    app: App, seen: Seen, q: Queue, sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its renewals are late, and XAUTOCLAIM gives the worker what it has in its hands."""
    stopped = True
    renew = Leases.once
    monkeypatch.setattr(Leases, "once", lambda leases: True if stopped else renew(leases))
    go = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        await go.wait()
        return n

    async with app.running(lease=LEASE):
        handles = await work.abulk([(n,) for n in range(5)])
        await seen.arrive(Started, 5)
        own = set(q.pending())
        await await_until(lambda: {d.entry for _, answer in sweeps.answers for d in answer.batch.deliveries} == own)
        stopped = False
        go.set()
        assert await asyncio.gather(*[handle.aget(20) for handle in handles]) == list(range(5))
    assert len(seen.of(Started)) == len(seen.of(Succeeded)) == 5
    assert not seen.of(Reclaimed) and not seen.of(Lost) and not seen.of(Late)


# After an outage


def test_a_server_stalled_for_longer_than_the_lease_lets_nothing_run_twice(
    supervised: Callable[..., Command], send: Callable[..., Any], own_server: Server, folder: Folder
) -> None:
    """Two worker processes, a real SIGSTOP of the server for three leases; tasks of both kinds run meanwhile."""
    command = supervised("--workers", 2)
    command.ready(2)
    names = [f"task-{n}" for n in range(10)]
    handles = [send("hold" if n % 2 else "hold_in_thread", name) for n, name in enumerate(names)]
    folder.wait("begin", count=10)
    own_server.pause()
    command.logged("the server does not answer as it should", 2)
    since = time.monotonic()
    wait_until(lambda: time.monotonic() - since > 3 * LEASE)
    own_server.resume()
    command.logged(r"the server answers again after \d\.\d s", 2)
    with own_server.client() as client:
        renewed = calls_of(client, "xclaim")
        wait_until(lambda: calls_of(client, "xclaim") >= renewed + 8)  # two leases, of both workers
    folder.release(*names)
    assert len([handle.get(timeout=60) for handle in handles]) == 10
    assert sorted(note.name for note in folder.notes("begin")) == sorted(names)
    assert "took over" not in command.text and "is killed" not in command.text


async def test_after_a_reconnect_it_renews_and_settles_first_and_reclaims_one_lease_later(
    app: App, seen: Seen, own_server: Server, sweeps: Sweeps, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewals: list[float] = []
    renew = consume.renew

    def watched(*args: Any) -> Any:
        renewals.append(time.monotonic())
        return renew(*args)

    monkeypatch.setattr(consume, "renew", watched)
    times: dict[str, float] = {}
    app.observe(lambda event: times.setdefault(type(event).__name__, time.monotonic()) and None)
    go, ended = asyncio.Event(), asyncio.Event()

    @app.task
    async def short() -> int:
        await ended.wait()
        return 1

    @app.task
    async def long() -> int:
        await go.wait()
        return 2

    async with app.running(lease=LEASE, command_timeout=0.5):
        first, second = await short.adelay(), await long.adelay()
        await seen.arrive(Started, 2)
        await await_until(lambda: sweeps.asked)
        own_server.pause()
        await seen.arrive(BrokerDown)
        since = time.monotonic()
        await await_until(lambda: time.monotonic() - since > 2 * LEASE)
        ended.set()
        own_server.resume()
        await seen.arrive(BrokerUp)
        up = times["BrokerUp"]
        assert await first.aget(20) == 1
        await await_until(lambda: [at for at, _, _ in sweeps.asked if at > up])
        go.set()
        assert await second.aget(20) == 2
    reclaimed = min(at for at, _, _ in sweeps.asked if at > up)
    assert reclaimed - up >= LEASE * 0.99
    assert min(at for at in renewals if at > since) < reclaimed and times["Succeeded"] < reclaimed
    assert not [at for at, _, _ in sweeps.asked if since < at < up]
    assert len(seen.of(Started)) == 2 and not seen.of(Reclaimed) and not seen.of(Lost)


# When


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds between sweeps, as each has asked for them."""
    found: list[float] = []
    once = Reclaimer.once

    async def watched(self: Reclaimer) -> float | None:
        known = self._state.reclaim_after is not None  # else it only waits for the first heartbeat
        pause = await once(self)
        if known and pause is not None:
            found.append(pause)
        return pause

    monkeypatch.setattr(Reclaimer, "once", watched)
    return found


async def test_with_nothing_pending_the_next_sweep_is_a_lease_later_jittered(app: App, pauses: list[float]) -> None:
    @app.task
    async def work() -> None: ...

    async with app.running(lease=0.3), app.running(lease=0.3), app.running(lease=0.3):
        await await_until(lambda: len(pauses) >= 12)
    assert all(0.3 * 0.9 <= pause <= 0.3 for pause in pauses)
    assert len(set(pauses)) == len(pauses)


@pytest.mark.parametrize("lease", [0.6, 15.0, 600.0])
async def test_else_it_is_soon_after_the_earliest_possible_expiry(
    app: App, seen: Seen, pauses: list[float], lease: float
) -> None:
    """Whatever the lease: of what is pending, something may have run out a moment after the sweep."""

    @app.task
    async def work() -> None:
        await await_until(lambda: len(pauses) >= 2, 30)

    handle = await work.adelay()
    async with app.running(lease=lease):
        await handle.aget(40)
    assert max(pauses[:2]) <= min(1.0, lease / 3)
