"""Rule 9: "No MAXLEN on a queue; no XDEL of a *pending* entry (an undelivered one may go); DELCONSUMER only when the
heartbeat is gone and pending is 0, in the script; groups are created at `0` by whoever comes first, and again on
NOGROUP."
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from importlib.resources import files
from typing import Any

import pytest
import redis

from penstock import App, Reject, RetryPolicy, Snooze, State, TaskCancelled
from penstock.events import Cancelled, Reclaimed, Started, Succeeded, Unknown
from penstock.settings import Priority
from penstock.streams import keys
from tests.chaos.proxy import Act
from tests.contract.helpers import Queue
from tests.integration.support import Seen, entries, pending
from tests.rules.conftest import MakeApp
from tests.rules.late import SIDE, fault
from tests.rules.support import Monitor, Ran
from tests.servers import Server, await_until
from tests.source import sources

pytestmark = pytest.mark.anyio

#: Stands for a worker that died.
DEAD = "a-dead-worker"
LANES: tuple[Priority, ...] = ("high", "default", "low")


def consumers(raw: redis.Redis, stream: str) -> dict[str, int]:
    """Consumer -> entries that it owns."""
    found: Any = raw.xinfo_consumers(stream, keys.GROUP)
    return {each["name"].decode(): each["pending"] for each in found}


# "No MAXLEN on a queue; no XDEL of a pending entry (an undelivered one may go)"


async def test_nothing_that_a_busy_worker_does_trims_a_stream_or_deletes_a_pending_entry(
    app: App, seen: Seen, raw: redis.Redis, q: Queue
) -> None:
    """MONITOR from before the first send until after the worker's end, with every kind of outcome in between."""

    @app.task(bind=True, retry=RetryPolicy(max_retries=1, delay=0.02, jitter=0))
    async def work(ctx: Any, how: str) -> str:
        match how, ctx.attempt:
            case ("retry", 1):
                raise ValueError
            case ("snooze", _) if not seen.of(Started, id=ctx.id)[1:]:
                raise Snooze(0.02)
            case ("reject", _):
                raise Reject("no")
            case ("wait", _):
                await asyncio.sleep(60)
        return how

    with Monitor(raw) as monitor:
        handles = [
            await work.options(priority=priority, delay=delay).adelay(how)
            for priority in LANES
            for delay in (0, 0.02)
            for how in ("ok", "retry", "snooze", "reject")
            for _ in range(5)
        ]
        late = [await work.options(expires=0.001).adelay("ok") for _ in range(3)]
        waiting = [await work.adelay("ok") for _ in range(3)]
        undelivered = {q.record(h.id.partition(":")[2])["e"] for h in waiting}
        assert all([await handle.acancel() for handle in waiting])
        app.send("nobody.knows.it")
        q.raw.xadd(q.stream(), {"not": "ours"})
        q.send("orphan")
        await await_until(lambda: len(pending_or_read(raw, q)) > 0)
        async with app.running(lease=0.6, concurrency=20):
            doomed = await work.adelay("wait")
            await seen.arrive(Started, id=doomed.id)
            assert await doomed.acancel()
            await seen.arrive(Cancelled, id=doomed.id)
            await seen.arrive(Reclaimed)
            for handle in (*handles, *late):
                await await_until(handle.adone)
            await await_until(lambda: len(seen.of(Unknown)) >= 2)
        ran = monitor.ran()
    assert {"XADD", "XDEL", "XACK", "XGROUP", "XAUTOCLAIM", "succeed", "park", "bury"} <= {r.verb for r in ran}
    assert faults(ran, undelivered) == []


def pending_or_read(raw: redis.Redis, q: Queue) -> Any:
    """What a worker has read that died before it could run it."""
    raw.xgroup_create(q.stream(), keys.GROUP, "0")
    read: Any = raw.xreadgroup(keys.GROUP, DEAD, {q.stream(): ">"}, count=3)
    return read


def faults(ran: list[Ran], undelivered: set[str]) -> list[Ran]:
    """Commands that the rule forbids."""
    acked: set[str] = set()
    wrong = []
    for r in ran:
        match r.verb:
            case "XACK":
                acked |= {f"{r.args[0]} {entry}" for entry in r.args[2:]}
            case "XDEL":
                if any(e not in undelivered and f"{r.args[0]} {e}" not in acked for e in r.args[1:]):
                    wrong.append(r)
            case "XADD":
                if r.args[1] != "*" and r.in_script:  # MAXLEN, MINID and NOMKSTREAM would stand there
                    wrong.append(r)
            case "XTRIM" | "XSETID" | "XDELEX" | "XACKDEL":
                wrong.append(r)
            case "XGROUP" if r.in_script:
                if r.args[0] not in ("CREATE", "DELCONSUMER") or (r.args[0] == "CREATE" and r.args[3] != "0"):
                    wrong.append(r)
            case "DEL" | "UNLINK":
                wrong += [r] * any(":s:" in key for key in r.args)
    return wrong


def test_what_the_rule_forbids_is_found() -> None:
    """The check itself."""
    bad = [
        Ran("XDEL", ["s", "1-1"], True),
        Ran("XADD", ["s", "MAXLEN", "~", "9", "*", "k", "v"], True),
        Ran("XTRIM", ["s", "MINID", "1"], False),
        Ran("XGROUP", ["CREATE", "s", "w", "$"], True),
        Ran("XGROUP", ["DESTROY", "s", "w"], True),
        Ran("DEL", ["{n:q}:s:low"], True),
    ]
    fine = [
        Ran("XACK", ["s", "w", "1-1", "2-1"], True),
        Ran("XDEL", ["s", "1-1", "2-1", "3-1"], True),
        Ran("XADD", ["s", "*", "k", "v"], True),
        Ran("XGROUP", ["CREATE", "s", "w", "0", "MKSTREAM"], True),
    ]
    assert faults([*bad, *fine], {"3-1"}) == bad


def test_no_line_of_lua_or_python_trims_a_stream() -> None:
    lua = {f.name: f.read_text() for f in (files("penstock.streams") / "lua").iterdir()}
    lines = [(name, line.partition("--")[0]) for name, text in lua.items() for line in text.splitlines()]
    calls = [(name, line) for name, line in lines if re.search(r"'X[A-Z]+'", line)]
    assert len(calls) > 20
    assert not [c for c in calls if re.search(r"MAXLEN|MINID|XTRIM|XSETID", c[1])]
    assert all("'*'" in line for _, line in calls if "'XADD'" in line)
    assert all("'0'" in line for _, line in calls if "'XGROUP', 'CREATE'" in line)
    # Where entries are deleted: `drop`, after its XACK; a success, after XACK has answered 1; a cancel of what
    # XPENDING has not got.
    assert sorted(name for name, line in calls if "'XDEL'" in line) == ["_prelude.lua", "cancel.lua", "succeed.lua"]
    assert [name for name, line in calls if "DELCONSUMER" in line] == ["retire.lua"]
    text = "\n".join(source.text for source in sources() if not source.module.endswith(("rights", "examine")))
    assert not re.findall(r'"(?:XADD|XTRIM|XDEL|XSETID|XGROUP|MAXLEN)\b', text)


async def test_a_cancel_between_the_blocking_read_and_its_admission_leaves_the_entry(
    make_app: MakeApp, any_server: Server, raw: redis.Redis, namespace: str
) -> None:
    """The state is still `queued` and the entry delivered: on 6.2 a deleted one would stay in the pending list."""
    direct = make_app("direct")
    found: list[Any] = []

    def cancel() -> None:
        found.append(direct.handle("default:k").cancel())
        found.extend([entries(raw, namespace), len(pending(raw, namespace))])

    with fault(any_server, "main admit", Act.DELAY) as way:
        app = make_app(url=way.url(SIDE))

        @app.task(name="work")
        async def work() -> None: ...

        way.on_strike = cancel
        async with app.running():
            await await_until(lambda: way.counts[f"{SIDE}:reader XREADGROUP"])
            await direct.task_named("work", id="k").adelay()
            with pytest.raises(TaskCancelled):
                await direct.handle("default:k").aget(timeout=20)
        await app.aclose()
        assert way.struck and found == [True, 1, 1]  # still there when the cancel was answered
    assert entries(raw, namespace) == 0 and not pending(raw, namespace)


# "DELCONSUMER only when the heartbeat is gone and pending is 0, in the script"


@pytest.fixture
def quick_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"INTERVAL": 0.1, "GONE_AFTER": 0.5, "RETIRE_AFTER": 0.2}.items():
        monkeypatch.setattr(f"penstock.consumers.heartbeat.{name}", seconds)


@pytest.mark.usefixtures("quick_heartbeats")
async def test_a_consumer_is_deleted_only_once_it_owns_nothing(
    app: App, seen: Seen, raw: redis.Redis, q: Queue
) -> None:
    @app.task(name="work")
    async def work() -> int:
        return 1

    await work.adelay()
    raw.xgroup_create(q.stream(), keys.GROUP, "0")
    assert raw.xreadgroup(keys.GROUP, DEAD, {q.stream(): ">"})
    raw.xgroup_createconsumer(q.stream(), keys.GROUP, "owns-nothing")
    with Monitor(raw) as monitor:
        async with app.running(lease=1.0):
            await await_until(lambda: "owns-nothing" not in consumers(raw, q.stream()))
            assert consumers(raw, q.stream())[DEAD] == 1 and not seen.of(Reclaimed)
            await seen.arrive(Succeeded)  # taken over after the lease
            await await_until(lambda: DEAD not in consumers(raw, q.stream()))
        deleted = [r.args[3] for r in monitor.ran("XGROUP") if r.args[0] == "DELCONSUMER"]
        assert {DEAD, "owns-nothing"} < set(deleted)
        assert all(r.in_script for r in monitor.ran("XGROUP") if r.args[0] == "DELCONSUMER")


@pytest.mark.usefixtures("quick_heartbeats")
async def test_a_consumer_whose_heart_beats_is_not_deleted(app: App, seen: Seen, raw: redis.Redis, q: Queue) -> None:
    """All its slots are taken for long: it reads nothing, so that its consumers look idle where it owns nothing."""
    go = asyncio.Event()

    @app.task
    async def work() -> None:
        await go.wait()

    async with app.running(concurrency=1) as busy:
        handle = await work.adelay()
        await seen.arrive(Started)
        async with app.running():
            await await_until(partial(is_idle, raw, q.stream("low"), busy.name))
            for _ in range(2):  # sweeps that find `busy` idle
                raw.xgroup_createconsumer(q.stream("low"), keys.GROUP, "gone")
                await await_until(lambda: "gone" not in consumers(raw, q.stream("low")))
            assert busy.name in consumers(raw, q.stream("low")) and busy.name in consumers(raw, q.stream("high"))
            go.set()
            await handle
    assert busy.name not in consumers(raw, q.stream())  # its own orderly end


def is_idle(raw: redis.Redis, stream: str, consumer: str) -> bool:
    """Not seen for longer than `RETIRE_AFTER`, or deleted already."""
    found: Any = raw.xinfo_consumers(stream, keys.GROUP)
    return all(each["idle"] > 300 for each in found if each["name"].decode() == consumer)


async def test_a_consumer_that_retires_while_an_entry_is_delivered_to_it_stays_with_it(
    make_app: MakeApp, any_server: Server, raw: redis.Redis, q: Queue
) -> None:
    """The entry comes after the worker has looked for the last time, and before its `retire` runs."""
    direct = make_app("direct")

    @direct.task(name="work")
    async def work() -> int:
        return 1

    def deliver() -> None:
        work.options(id="k").delay()
        assert raw.xreadgroup(keys.GROUP, name, {q.stream(): ">"})

    with fault(any_server, "main retire", Act.DELAY) as way:
        app = make_app(url=way.url(SIDE))
        way.on_strike = deliver
        async with app.running() as worker:
            name = worker.name
        await app.aclose()
        assert way.struck and consumers(raw, q.stream()) == {name: 1}
    async with direct.running(lease=0.5):
        assert await direct.handle("default:k").aget(timeout=20) == 1


# "groups are created at `0` by whoever comes first, and again on NOGROUP"


@pytest.mark.parametrize("count", [1, 3])
async def test_what_was_sent_before_there_was_a_group_is_delivered(app: App, count: int) -> None:
    """Several workers come first at the same time."""
    runs: list[int] = []

    @app.task
    async def work(n: int) -> int:
        runs.append(n)
        return n

    handles = [await work.options(priority=priority).adelay(n) for n, priority in enumerate(LANES * 4)]
    workers = [app.worker() for _ in range(count)]
    running = [asyncio.create_task(worker.run()) for worker in workers]
    assert await asyncio.gather(*handles) == list(range(12))
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
    assert sorted(runs) == list(range(12))


async def test_a_group_that_is_gone_is_made_again_at_0(app: App, raw: redis.Redis, q: Queue) -> None:
    """Destroyed under blocked readers, and what was sent while there was none: it runs, and nothing else again."""
    runs: list[int] = []

    @app.task
    async def work(n: int) -> int:
        runs.append(n)
        return n

    async with app.running() as one, app.running() as two:
        assert await asyncio.gather(*await work.abulk([(n,) for n in range(10)])) == list(range(10))
        for n in range(10, 20):
            await await_until(lambda: {one.name, two.name} <= set(consumers(raw, q.stream())))
            destroyed = raw.pipeline()
            destroyed.xgroup_destroy(q.stream(), keys.GROUP)
            destroyed.exists(q.stream())
            assert destroyed.execute() == [1, 1]
            assert await (await work.adelay(n)).aget(timeout=20) == n
    assert sorted(runs) == list(range(20))


async def test_an_old_group_is_not_moved(app: App, raw: redis.Redis, q: Queue) -> None:
    """NOGROUP is the only reason to make one: one that is there keeps its place, and its pending entries."""

    @app.task
    async def work() -> int:
        return 1

    async with app.running():
        await (await work.adelay())
    q.send("pending")
    q.raw.xreadgroup(keys.GROUP, DEAD, {q.stream(): ">"})
    async with app.running(lease=15):
        assert await (await work.adelay()).aget(timeout=20) == 1
        assert [each["consumer"] for each in pending(raw, q.namespace)] == [DEAD.encode()]
    assert await app.handle("default:pending").astate() is State.QUEUED
