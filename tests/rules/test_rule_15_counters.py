"""Rule 15: "Outcome counters are incremented in the settling script (true across SIGKILL); histograms and gauges are
flushed with the heartbeat."
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
import redis

from penstock import App, State
from penstock.consumers.heartbeat import WorkerInfo
from penstock.events import Started
from penstock.streams import keys
from tests.chaos.crash_tasks import noted
from tests.chaos.proxy import Act
from tests.contract.helpers import Queue
from tests.integration.support import Seen
from tests.rules.late import SIDE, fault, outcomes
from tests.rules.late_tasks import Process, make_app
from tests.rules.support import Monitor
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def late(url: str, namespace: str, tmp_path: Any) -> Iterator[App]:
    """Client, and worker when asked, of the tasks of `late_tasks`."""
    app = make_app(url, namespace, str(tmp_path))
    yield app
    app.close()


# "Outcome counters are incremented in the settling script"


async def test_each_outcome_is_counted_by_the_script_that_stores_it(late: App, raw: redis.Redis, q: Queue) -> None:
    ends = late.tasks["ends"]
    with Monitor(raw) as monitor:
        async with late.running():
            handles = [await ends.adelay(how) for how in ("succeeds", "retries", "snoozes", "rejects")]
            for handle in handles:
                await await_until(handle.adone)
        ran = [r for r in monitor.ran() if r.verb in ("HINCRBY", "succeed", "park", "bury")]
    counted = [r for r in ran if r.verb == "HINCRBY" and r.args[0] == keys.counters(q.base)]
    assert counted and all(r.in_script for r in counted)
    settles = {"succeeded": "succeed", "retried": "park", "snoozed": "park", "failed": "bury"}
    for each in counted:
        before = [r.verb for r in ran[: ran.index(each)] if r.verb != "HINCRBY"]
        assert before[-1] == settles[each.args[1].partition("|")[0]]
    assert outcomes(raw, q.namespace) == {"succeeded": 3, "retried": 1, "snoozed": 1, "failed": 1}


# "(true across SIGKILL)"

POINTS = [
    ("succeeds", "succeed", Act.LOSE, {"succeeded": 1}),
    ("succeeds", "succeed", Act.CUT, {"succeeded": 1}),
    ("retries", "park", Act.LOSE, {"retried": 1, "succeeded": 1}),
    ("rejects", "bury", Act.LOSE, {"failed": 1}),
]


@pytest.mark.parametrize(("how", "verb", "act", "truth"), POINTS, ids=[f"{p[1]}, {p[2].value}" for p in POINTS])
async def test_a_worker_killed_while_it_settles_is_counted_once(
    late: App, server: Server, q: Queue, tmp_path: Any, how: str, verb: str, act: Act, truth: dict[str, int]
) -> None:
    """Between the script and its reply; or before it, and then the one who takes over counts."""
    with fault(server, f"main {verb}", act) as way:
        worker = Process(way.url(SIDE), q.namespace, str(tmp_path))
        way.on_strike = worker.strike
        handle = await late.tasks["ends"].adelay(how)
        await await_until(lambda: way.struck, 20)
        worker.wait()
        assert sum(outcomes(q.raw, q.namespace).values()) == (1 if act is Act.LOSE else 0)
        async with late.running():
            await await_until(handle.adone, 20)
    assert outcomes(q.raw, q.namespace) == truth
    assert len(noted(str(tmp_path))) == (1 if how != "retries" and act is Act.LOSE else 2)


async def test_the_counters_are_true_after_a_storm_of_kills(late: App, q: Queue, url: str, tmp_path: Any) -> None:
    """Five workers, each killed amid its work; then what the counters say is what the records say."""
    ends, folder, each = late.tasks["ends"], str(tmp_path), 150
    kinds = ("succeeds", "retries", "rejects", "snoozes")
    handles = await late.abulk(ends.s(how) for _ in range(each) for how in kinds)
    for _ in range(5):
        before = len(noted(folder))
        worker = Process(url, q.namespace, folder)
        await await_until(lambda: len(noted(folder)) >= before + 40, 20)  # noqa: B023 - awaited in its turn
        worker.kill()
    async with late.running():
        for handle in handles:
            await await_until(handle.adone, 30)
    states = [await handle.astate() for handle in handles]
    attempts = [int(q.raw.hget(q.record_key(handle.id.partition(":")[2]), "a") or 0) for handle in handles]
    deliveries = [int(q.raw.hget(q.record_key(handle.id.partition(":")[2]), "d") or 0) for handle in handles]
    assert max(deliveries) > 1, "no kill has hit a task that ran: this proves nothing"
    counted = outcomes(q.raw, q.namespace)
    assert counted["succeeded"] == states.count(State.SUCCEEDED) == 3 * each
    assert counted["failed"] == states.count(State.FAILED) == each == len(q.dead())
    assert counted["retried"] == sum(attempts) == each
    # The note is written before the snooze is settled: who was killed in between did not snooze.
    assert 0.5 * each <= counted["snoozed"] <= len([line for line in noted(folder) if line.startswith("snoozed")])


# "gauges are flushed with the heartbeat"


async def test_a_heartbeat_says_what_the_worker_does(
    app: App, seen: Seen, raw: redis.Redis, q: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.consumers.heartbeat.INTERVAL", 0.05)
    go = asyncio.Event()

    @app.task
    async def work() -> None:
        await go.wait()

    async with app.running() as worker:

        def said() -> tuple[int, int]:
            about: Any = raw.get(keys.worker(q.namespace, worker.name))
            info = msgspec.msgpack.decode(about, type=WorkerInfo)
            return info.running, info.done

        handles = await work.abulk([()] * 3)
        await seen.arrive(Started, 3)
        await await_until(lambda: said() == (3, 0))
        go.set()
        await asyncio.gather(*handles)
        await await_until(lambda: said() == (0, 3))
