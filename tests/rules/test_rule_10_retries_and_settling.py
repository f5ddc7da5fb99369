"""Rule 10: "redis-py's own retries are off (they duplicate writes); we retry idempotent verbs, with backoff and jitter,
through restarts and failovers; a worker keeps finished results (bounded; then it stops fetching) until Redis has them.
One settle is in flight; all that gathered meanwhile goes next, bounded by count and bytes."
"""

from __future__ import annotations

import asyncio
import inspect
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice, pairwise
from typing import Any

import pytest
import redis

from penstock import App, BrokerUnavailable, Reject, RetryPolicy, Snooze, State, TaskFailed
from penstock.errors import IdTaken
from penstock.events import BrokerDown, BrokerUp, Retried, Started, Succeeded
from penstock.settings import Settings
from penstock.streams import settle
from penstock.streams.client import pauses
from penstock.streams.connector import Connector
from penstock.streams.urls import resolve_url
from tests.chaos.proxy import Act
from tests.contract.helpers import Queue
from tests.integration.support import Seen, entries
from tests.rules.conftest import MakeApp
from tests.rules.late import SIDE, fault, gate
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio

#: How a client of each kind is made.
CLIENTS: dict[str, Callable[[Connector], Any]] = {
    "sync": lambda c: c.sync_client(),
    "sync node": lambda c: c.sync_node("{a}"),
    "pubsub": lambda c: c.pubsub_client(),
    "async": lambda c: c.async_client(),
    "async node": lambda c: c.async_node("{a}"),
    "async pubsub": lambda c: c.async_pubsub_client(),
    "reader": lambda c: c.async_reader("{a}", 1.0),
}


async def answer(client: Any, *command: str) -> Any:
    reply = client.execute_command(*command)
    return await reply if inspect.isawaitable(reply) else reply


# "redis-py's own retries are off (they duplicate writes)"


@pytest.mark.parametrize("kind", CLIENTS)
async def test_a_write_whose_reply_was_lost_happens_once(
    server: Server, raw: redis.Redis, namespace: str, kind: str
) -> None:
    """The proxy cuts after the server has run it; with redis-py's defaults it is run up to four times."""
    key = f"{{{namespace}}}:count"
    with fault(server, "main INCR", Act.LOSE) as way:
        client = CLIENTS[kind](Connector(resolve_url(way.url(SIDE), {}), Settings()))
        with pytest.raises((redis.ConnectionError, OSError)):
            await answer(client, "INCR", key)
        assert way.struck and way.counts[f"{SIDE}:main INCR"] == 1
        await client.aclose() if hasattr(client, "aclose") else client.close()
    assert raw.getdel(key) == b"1"


# "we retry idempotent verbs"


@pytest.mark.parametrize("act", [Act.LOSE, Act.CUT])
@pytest.mark.parametrize("verb", ["enqueue", "cancel", "redrive", "read"])
async def test_what_a_producer_asks_is_asked_again_and_done_once(
    make_app: MakeApp, server: Server, q: Queue, verb: str, act: Act
) -> None:
    with fault(server, f"main {verb}", act) as way:
        app = make_app(url=way.url(SIDE))
        if verb == "enqueue":
            sent = app.send("t")  # with an id that nobody else can have sent
            assert sent.created and q.queued() == [sent.id.partition(":")[2]]
        elif verb == "cancel":
            q.send("k")
            assert await app.handle("default:k").acancel() is True
            assert q.counters() == {"cancelled": 1}
        elif verb == "redrive":
            q.bury("a", q.start_one())
            assert app.redrive("default:k") == 1
            assert q.queued() == ["k"] and q.dead() == []
        else:
            q.send("k")
            assert app.handle("default:k").state() is State.QUEUED
        assert way.struck and way.counts[f"{SIDE}:main {verb}"] == 2
        await app.aclose()


@pytest.mark.parametrize("act", [Act.LOSE, Act.CUT])
@pytest.mark.parametrize("verb", ["succeed", "park", "bury"])
async def test_what_a_worker_settles_is_settled_again_and_counted_once(
    make_app: MakeApp, server: Server, q: Queue, verb: str, act: Act
) -> None:
    with fault(server, f"main {verb}", act) as way:
        app, direct = make_app(url=way.url(SIDE)), make_app("direct")
        seen = Seen(app)

        @app.task(name="work", retry=RetryPolicy(max_retries=1, delay=0, jitter=0))
        async def work() -> int:
            if verb == "bury":
                raise Reject("no")
            if verb == "park" and len(seen.of(Started)) == 1:
                raise ValueError
            return 1

        async with app.running():
            handle = direct.task_named("work", id="k").delay()
            if verb == "bury":
                with pytest.raises(TaskFailed):
                    await handle.aget(timeout=20)
            else:
                assert await handle.aget(timeout=20) == 1
        assert way.struck and way.counts[f"{SIDE}:main {verb}"] == 2
        await app.aclose()
    counted = {name.partition("|")[0]: n for name, n in q.counters().items()}
    assert counted == {"succeed": {"succeeded": 1}, "park": {"retried": 1, "succeeded": 1}, "bury": {"failed": 1}}[verb]
    assert len(seen.of(Started)) == (2 if verb == "park" else 1)


async def test_the_same_id_sent_before_during_and_after_its_run_changes_nothing(app: App, seen: Seen, q: Queue) -> None:
    """Scheduled, queued, running, waiting for its retry, succeeded: created once, and run for its two attempts."""
    go = asyncio.Event()

    @app.task(retry=RetryPolicy(max_retries=1, delay=0.3, jitter=0))
    async def work(n: int) -> int:
        await go.wait()
        if len(seen.of(Started)) == 1:
            raise ValueError
        return n

    @app.task
    async def other() -> None: ...

    mine = work.options(id="k")
    first = await mine.options(delay=0.05).adelay(1)
    created = [first.created]

    async def again(state: State) -> None:
        assert await first.astate() is state
        created.extend(
            [mine.delay(2).created, (await mine.adelay(3)).created, (await app.abulk([mine.s(4)]))[0].created]
        )
        created.append((await mine.options(delay=60, priority="high").adelay(5)).created)
        with pytest.raises(IdTaken):
            await other.options(id="k").adelay()
        assert await first.astate() is state

    await again(State.SCHEDULED)
    q.make_due("k")
    q.promote()
    await again(State.QUEUED)
    async with app.running():
        await seen.arrive(Started)
        await again(State.RUNNING)
        go.set()
        await seen.arrive(Retried)
        await again(State.SCHEDULED)
        assert await first.aget(timeout=20) == 1
        await again(State.SUCCEEDED)
    assert created == [True] + [False] * 20
    assert len(seen.of(Started)) == 2 and q.is_empty() and q.counters() == {
        f"retried|{work.name}": 1, f"succeeded|{work.name}": 1,
    }  # fmt: skip


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_the_same_id_sent_after_it_ended_otherwise_changes_nothing(
    app: App, seen: Seen, q: Queue, end: str
) -> None:
    @app.task
    async def work() -> None:
        raise Reject("no")

    mine = work.options(id="k")
    handle = await mine.adelay()
    if end == "cancelled":
        assert await handle.acancel()
    async with app.running():
        await await_until(handle.adone)
        assert (await mine.adelay()).created is False
        await (await work.options(id="clock").adelay()).adone()
    assert await handle.astate() is State(end)
    assert len(seen.of(Started, id=handle.id)) == (end == "failed")


# "with backoff and jitter"


@contextmanager
def deaf_server() -> Iterator[tuple[int, list[float]]]:
    """A port that accepts and hangs up; and when it did."""
    times: list[float] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            while True:
                connection, _ = listener.accept()
                times.append(time.monotonic())
                connection.close()
        except OSError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1], times
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(5)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_tries_of_a_producer_back_off(make_app: MakeApp, kind: str) -> None:
    with deaf_server() as (port, times):
        app = make_app(url=f"redis://127.0.0.1:{port}/0", retry_for=1.0)
        with pytest.raises(BrokerUnavailable):
            await asyncio.to_thread(app.send, "t") if kind == "sync" else await app.asend("t")
        # 0.02, 0.04, 0.08 .. at most: six tries fit, seven perhaps, never dozens.
        gaps = [b - a for a, b in pairwise(times)]
        assert 3 <= len(times) <= 8
        # No try comes sooner than half its pause. (A slow machine makes a gap longer only.)
        assert all(gap >= 0.009 * 2**i for i, gap in enumerate(gaps))
        await app.aclose()


def test_pauses_are_jittered() -> None:
    """Clients that a restart has cut off at the same moment do not come back in step."""
    runs = [list(islice(pauses(), 12)) for _ in range(50)]
    assert len({tuple(run) for run in runs}) == 50
    for run in runs:
        assert all(0.01 * 2**i <= pause <= 0.02 * 2**i for i, pause in enumerate(run[:6]))
        assert all(0.5 <= pause <= 1.0 for pause in run[6:])


# "through restarts and failovers; a worker keeps finished results until Redis has them"


async def test_finished_results_outlive_a_restart(app: App, seen: Seen, own_server: Server) -> None:
    """All kinds of outcomes, of code that ends while the server is away; nothing runs again."""
    go = asyncio.Event()

    @app.task(retry=RetryPolicy(max_retries=1, delay=0, jitter=0))
    async def work(how: str) -> str:
        await go.wait()
        if how == "fails":
            raise Reject(how)
        if how == "retries" and len(seen.of(Retried)) == 0:
            raise ValueError
        if how == "snoozes" and len(seen.of(Started)) <= 4:
            raise Snooze(0.01)
        return how

    async with app.running(lease=15):
        handles = {how: await work.adelay(how) for how in ("succeeds", "fails", "retries", "snoozes")}
        await seen.arrive(Started, 4)
        await asyncio.to_thread(own_server.kill)
        go.set()
        await seen.arrive(BrokerDown)
        own_server.start()  # here: it dies with the thread that starts it
        for how in ("succeeds", "retries", "snoozes"):
            assert await handles[how].aget(timeout=20) == how
        with pytest.raises(TaskFailed):
            await handles["fails"].aget(timeout=20)
    assert seen.of(BrokerUp) and len(seen.of(Started)) == 6


# "(bounded; then it stops fetching)"


async def test_a_worker_that_cannot_store_its_results_stops_fetching_at_its_bound(
    make_app: MakeApp, server: Server, raw: redis.Redis, namespace: str
) -> None:
    """Only the settle is cut off: it could go on fetching for ever, and keep ever more."""
    with gate(server, "succeed") as way:
        app = make_app(url=way.url(SIDE))
        seen = Seen(app)
        runs: list[int] = []

        @app.task
        async def work(n: int) -> int:
            runs.append(n)
            return n

        handles = await work.abulk([(n,) for n in range(1500)])
        async with app.running(concurrency=100):
            await await_until(lambda: len(runs) >= 1000, 30)
            tried = way.count("succeed")
            await await_until(lambda: way.count("succeed") >= tried + 3)
            # 1000 wait to be stored, and those may come that were running when they became so many.
            assert 1000 <= len(runs) <= 1100
            kept = len(runs)
            tried, fetched = way.count("succeed"), way.count("fetch")
            await await_until(lambda: way.count("succeed") >= tried + 2)
            assert len(runs) == kept and way.count("fetch") == fetched
            assert entries(raw, namespace) == 1500 and not seen.of(Succeeded)
            way.closed.clear()
            await seen.arrive(Succeeded, 1500)
            assert await handles[-1] == 1499
        assert sorted(runs) == list(range(1500))
        await app.aclose()


async def loop_turns() -> None:
    """The worker does all that it has to do at this moment: who would send a second settle, sends it."""
    for _ in range(100):
        await asyncio.sleep(0)  # not a wait, but work of others


# "One settle is in flight; all that gathered meanwhile goes next, bounded by count and bytes"


@pytest.mark.parametrize(
    ("count", "size", "batches"),
    [(1200, 1, [500, 500, 200]), (8, 400_000, [3, 3, 2])],
    ids=["by count", "by bytes"],
)
async def test_all_that_gathers_during_a_settle_goes_with_the_next(
    make_app: MakeApp, own_server: Server, monkeypatch: pytest.MonkeyPatch, count: int, size: int, batches: list[int]
) -> None:
    """The server stands still while the first result is on its way, and the other tasks end."""
    sent: list[int] = []
    succeed = settle.succeed

    def spy(*args: Any) -> Any:
        sent.append(len(args[-1]))
        return succeed(*args)

    monkeypatch.setattr(settle, "succeed", spy)
    with gate(own_server) as way:
        app = make_app(url=way.url(SIDE))
        seen = Seen(app)
        first, rest, ended = asyncio.Event(), asyncio.Event(), []

        @app.task
        async def work(n: int) -> bytes:
            await (rest if n else first).wait()
            ended.append(n)
            return bytes(size)

        async with app.running(concurrency=count + 1, lease=60):
            handles = await work.abulk([(n,) for n in range(count + 1)])
            await seen.arrive(Started, count + 1)
            own_server.pause()
            first.set()
            await await_until(lambda: way.count("succeed") == 1)
            rest.set()
            await await_until(lambda: len(ended) == count + 1)
            await loop_turns()
            assert way.count("succeed") == 1 and sent == [1]
            own_server.resume()
            await seen.arrive(Succeeded, count + 1)
        assert sent == [1, *batches] and way.count("succeed") == len(sent)
        assert await handles[-1] == bytes(size)
        await app.aclose()


async def test_outcomes_of_all_kinds_go_in_one_round_trip(make_app: MakeApp, own_server: Server) -> None:
    """And one settle means one of all verbs: no success overtakes while a failure is on its way."""
    with gate(own_server) as way:
        app = make_app(url=way.url(SIDE))
        seen = Seen(app)
        first, rest, ended = asyncio.Event(), asyncio.Event(), []

        @app.task
        async def work(how: str) -> str:
            await (first if how == "first" else rest).wait()
            ended.append(how)
            if how == "fails":
                raise Reject(how)
            if how == "snoozes" and len(seen.of(Started)) == 5:
                raise Snooze(0.01)
            return how

        async with app.running(lease=60):
            kinds = ["first", "succeeds", "fails", "snoozes", "succeeds"]
            handles = [await work.adelay(how) for how in kinds]
            await seen.arrive(Started, 5)
            own_server.pause()
            first.set()
            await await_until(lambda: way.count("succeed") == 1)
            rest.set()
            await await_until(lambda: len(ended) == 5)
            await loop_turns()
            assert way.count("succeed", "park", "bury") == 1
            own_server.resume()
            assert await handles[3].aget(timeout=20) == "snoozes"
        order = [r.verb for r in way.requests if r.verb in ("succeed", "park", "bury")]
        assert (order[0], sorted(order[1:4]), order[4:]) == ("succeed", ["bury", "park", "succeed"], ["succeed"])
        await app.aclose()
