"""arrived: the script that goes with a blocking read starts what that has brought, before the reply is on its way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from penstock.streams import consume, keys
from penstock.streams.connector import Connector
from penstock.streams.reader import Reader
from penstock.streams.record import State
from tests.contract.helpers import MESSAGE, TTL, Queue, close_to, keys_of
from tests.rules.support import blocked
from tests.servers import await_until


@pytest.fixture
def grouped(q: Queue) -> Queue:
    q.fetch()  # makes the groups
    return q


@pytest.fixture
async def reader(connector: Connector, grouped: Queue) -> AsyncIterator[Reader]:
    reader = Reader(connector, grouped.base, "a", 10)
    yield reader
    await reader.aclose()


def test_it_starts_as_by_a_fetch(grouped: Queue) -> None:
    q = grouped
    q.send("k", priority="high")
    q.read_blocking("a", "high")
    batch = q.arrived("a")
    assert (batch.read, batch.problem) == (1, "") and abs(batch.now - q.now()) < 10_000
    assert [(d.key, d.priority, d.message, d.retries, d.deliveries) for d in batch.deliveries] == [
        ("k", "high", MESSAGE, 0, 1)
    ]
    assert (q.record("k")["s"], q.record("k")["w"]) == ("r", "a")


def test_nothing_has_come(grouped: Queue) -> None:
    before = grouped.state()
    assert grouped.arrived("a") == consume.Batch(0, [], "")
    assert grouped.state() == before


def test_what_came_before_is_not_looked_at(grouped: Queue) -> None:
    q = grouped
    q.send("old")
    q.read_blocking("a")
    before = q.state()
    assert q.arrived("a", since=q.now() + 1000).read == 0
    assert q.state() == before
    q.raw.delete(q.record_key("old"))


def test_what_came_in_the_same_millisecond_is_found(grouped: Queue) -> None:
    q = grouped
    q.send("k")
    (_, entry), *_ = q.read_blocking("a")
    assert keys_of(q.arrived("a", since=int(entry.partition("-")[0]))) == ["k"]


def test_what_others_have_is_left_alone(grouped: Queue) -> None:
    q = grouped
    q.send("theirs", "free")
    q.read_blocking("b")
    before = q.state()
    batch = q.arrived("a")
    assert (batch.read, batch.deliveries, batch.problem) == (0, [], "") and q.state() == before
    assert keys_of(q.arrived("b")) == ["theirs"]


def test_behind_entries_of_others_it_is_found(grouped: Queue) -> None:
    q = grouped
    q.send("theirs", "mine")
    q.read_blocking("b")
    q.read_blocking("a")
    assert keys_of(q.arrived("a")) == ["mine"]


def test_what_runs_already_is_one_start(grouped: Queue) -> None:
    q = grouped
    q.start_one("first")
    q.send("second")
    q.read_blocking("a")
    before = q.record("first")
    batch = q.arrived("a")
    assert keys_of(batch) == ["first", "second"] and q.record("first") == before
    assert [d.deliveries for d in batch.deliveries] == [1, 1]


def test_a_cancelled_one_ends(grouped: Queue) -> None:
    q = grouped
    q.send("k")
    q.read_blocking("a")
    assert q.cancel("k")[0].requested
    batch = q.arrived("a")
    assert (batch.read, batch.deliveries) == (1, [])
    assert q.read("k").state is State.CANCELLED and close_to(q.ttl(q.record_key("k")), TTL)  # type: ignore[union-attr]
    assert q.is_empty() and q.counters() == {"cancelled": 1}


def test_one_that_is_cancelled_before_the_reply_is_looked_at_ends_when_it_is_asked_for_once_more(
    grouped: Queue,
) -> None:
    q = grouped
    q.send("k")
    entries = q.read_blocking("a")
    assert keys_of(q.arrived("a")) == ["k"] and q.cancel("k")[0].requested
    batch = q.admit("a", *entries)
    assert (batch.read, batch.deliveries) == (1, [])
    assert q.read("k").state is State.CANCELLED and q.is_empty()  # type: ignore[union-attr]
    assert q.counters() == {"cancelled": 1}


def test_one_that_may_expire_is_left_to_admit(grouped: Queue) -> None:
    """To be started would end that, and the worker may not be there to run it."""
    q = grouped
    q.send("k", expires="+60000")
    entries = q.read_blocking("a")
    before = q.state()
    assert (q.arrived("a").read, q.state()) == (0, before)
    assert keys_of(q.admit("a", *entries)) == ["k"]


def test_a_suspect_that_a_sweep_holds_back_stays_where_it_is(grouped: Queue) -> None:
    q = grouped
    heir = q.crash(q.start_one("held"), "b")
    q.age(heir, consumer="b")
    assert q.reclaim("a", suspects=0).held == 1
    before = q.record("held")
    assert q.arrived("a").deliveries == [] and q.record("held") == before


def test_an_entry_of_a_paused_queue_goes_back(grouped: Queue) -> None:
    q = grouped
    q.send("k", priority="low")
    ((_, entry),) = q.read_blocking("a", "low")
    q.raw.set(keys.paused(q.base), q.now())
    batch = q.arrived("a")
    assert (batch.read, batch.deliveries) == (0, [])
    assert not q.pending("low") and list(q.entries("low")) != [entry] and q.record("k")["s"] == "q"
    q.raw.delete(keys.paused(q.base))


def test_work_starts_although_memory_is_full(grouped: Queue) -> None:
    q = grouped
    q.send("k")
    q.read_blocking("a")
    with q.out_of_memory():
        batch = q.arrived("a")
    assert (keys_of(batch), batch.problem) == (["k"], "")


def test_a_record_of_another_type_is_left_to_admit_and_its_neighbours_start(grouped: Queue) -> None:
    q = grouped
    q.send("a", "bad", "c")
    entries = q.read_blocking("w", count=3)
    q.break_record("bad")
    batch = q.arrived("w")
    assert (keys_of(batch), batch.read, batch.problem) == (["a", "c"], 2, "")
    assert "bad" in q.admit("w", entries[1]).problem and len(q.pending()) == 3
    q.raw.delete(q.record_key("bad"))


@pytest.mark.anyio
async def test_it_runs_as_soon_as_the_read_has_ended(grouped: Queue, reader: Reader) -> None:
    """Both go in one request; what the wait has brought is started in the same reply, on every server."""
    q, then = grouped, consume.arrived({grouped.base: grouped.name}, "a", grouped.now(), 20, TTL)
    for key in ("first", "second"):  # by its text, and by its SHA
        reading = asyncio.ensure_future(reader.read([(q.base, "default"), (q.base, "low")], then))
        await await_until(lambda: reader._reading and blocked(q.raw))
        q.send(key, priority="low")
        arrivals, started = await reading
        assert arrivals is not None and started is not None
        base, batch = started
        assert base == q.base and batch.deliveries[-1].place == arrivals[0]
        assert q.record(key)["s"] == "r"


@pytest.mark.anyio
async def test_a_script_that_the_server_has_forgotten_goes_with_the_next_read(grouped: Queue, reader: Reader) -> None:
    q, then = grouped, consume.arrived({grouped.base: grouped.name}, "a", 0, 20, TTL)
    answered = []
    for n in range(3):
        q.send(f"k{n}")
        arrivals, started = await reader.read([(q.base, "default")], then)
        assert arrivals is not None and len(arrivals) == 1
        answered.append(started is not None)
        q.raw.script_flush()
    assert answered == [True, False, True]


@pytest.mark.anyio
async def test_an_error_of_the_read_is_told_and_the_connection_stays(grouped: Queue, reader: Reader) -> None:
    """Two replies come, whatever the first is: one that nobody reads would be taken for that of the next read."""
    q, then = grouped, consume.arrived({grouped.base: grouped.name}, "a", 0, 20, TTL)
    q.raw.xgroup_destroy(q.stream(), keys.GROUP)
    assert await reader.read([(q.base, "default")], then) == ([], None)
    q.fetch()
    q.send("k")
    arrivals, started = await reader.read([(q.base, "default")], then)
    assert arrivals is not None and started is not None and keys_of(started[1]) == ["k"]


@pytest.mark.anyio
async def test_of_several_queues_it_starts_what_came_in_one(
    grouped: Queue, connector: Connector, reader: Reader
) -> None:
    if connector.is_cluster:
        pytest.skip("a read is of one queue there")
    q, other = grouped, grouped.sibling("other")
    other.fetch()
    then = consume.arrived({q.base: q.name, other.base: other.name}, "a", 0, 20, TTL)
    other.send("k")
    arrivals, started = await reader.read([(q.base, "default"), (other.base, "default")], then)
    assert arrivals is not None and started is not None
    assert started[0] == other.base and [d.place for d in started[1].deliveries] == arrivals
    assert started[1].deliveries[0].queue == "other" and other.record("k")["s"] == "r"
