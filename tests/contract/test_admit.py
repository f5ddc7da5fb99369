"""admit: what a blocking read brought starts here, if it is still ours."""

from __future__ import annotations

import pytest

from penstock.streams import keys
from penstock.streams.record import State, moment
from tests.contract.helpers import MESSAGE, TTL, Queue, close_to, keys_of


@pytest.fixture
def grouped(q: Queue) -> Queue:
    q.fetch()  # makes the groups
    return q


def test_it_starts_as_by_a_fetch(grouped: Queue) -> None:
    q = grouped
    q.send("h", priority="high")
    q.send("l", priority="low")
    entries = [*q.read_blocking("w1", "high"), *q.read_blocking("w1", "low")]
    assert q.record("h")["s"] == "q"
    batch = q.admit("w1", *entries)
    assert (batch.read, batch.problem) == (2, "")
    assert [(d.key, d.priority, d.message, d.retries, d.deliveries) for d in batch.deliveries] == [
        ("h", "high", MESSAGE, 0, 1),
        ("l", "low", MESSAGE, 0, 1),
    ]
    record = q.record("h")
    assert (record["s"], record["w"]) == ("r", "w1")
    info = q.read("h").info()  # type: ignore[union-attr]
    assert info.deliveries == 1 and info.started_at == moment(batch.deliveries[0].now)


def test_what_is_no_longer_ours_is_left_alone(grouped: Queue) -> None:
    q = grouped
    q.send("stolen", "acked", "free")
    entries = q.read_blocking("a", count=2)
    q.claim("b", *entries[0])
    q.raw.xack(q.stream(), keys.GROUP, entries[1][1])
    undelivered = ("default", list(q.entries())[2])
    before = q.state()
    batch = q.admit("a", *entries, undelivered, ("low", "1-1"))
    assert (batch.read, batch.deliveries, batch.problem) == (0, [], "")
    assert q.state() == before
    assert keys_of(q.admit("b", entries[0])) == ["stolen"]


@pytest.mark.parametrize("loss", ["flush", "destroy", "type"])
def test_nothing_is_ours_when_the_group_is_gone(grouped: Queue, loss: str) -> None:
    q = grouped
    q.send("k")
    entries = q.read_blocking("a")
    if loss == "flush":
        q.raw.flushall()
    elif loss == "destroy":
        q.raw.xgroup_destroy(q.stream(), keys.GROUP)
    else:
        q.raw.set(q.stream(), "x")
    assert q.admit("a", *entries).read == 0
    q.raw.delete(q.stream(), q.record_key("k"))


def test_cancelled_and_expired_ones_end(grouped: Queue) -> None:
    q = grouped
    q.send("cancelled")
    q.send("expired", expires="1")
    entries = q.read_blocking("a", count=2)
    assert q.cancel("cancelled")[0].requested
    batch = q.admit("a", *entries)
    assert (batch.read, batch.deliveries) == (2, [])
    for key, state in (("cancelled", State.CANCELLED), ("expired", State.EXPIRED)):
        assert q.read(key).state is state  # type: ignore[union-attr]
        assert close_to(q.ttl(q.record_key(key)), TTL)
    assert q.is_empty() and q.counters() == {"cancelled": 1, "expired": 1}


def test_an_entry_that_was_deleted_leaves_the_pending_list(grouped: Queue) -> None:
    q = grouped
    q.send("k", "l")
    entries = q.read_blocking("a", count=2)
    q.raw.xdel(q.stream(), entries[0][1])
    assert keys_of(q.admit("a", *entries)) == ["l"]
    assert list(q.pending()) == [entries[1][1]]
    q.raw.delete(q.record_key("k"))


def test_an_entry_of_somebody_else(grouped: Queue) -> None:
    q = grouped
    q.raw.xadd(q.stream(), {"x": 1})
    (delivery,) = q.admit("a", *q.read_blocking("a")).deliveries
    assert delivery.key == ""
    q.bury("a", delivery)
    assert q.is_empty()


def test_a_record_of_another_type_stays_pending_and_its_neighbours_start(grouped: Queue) -> None:
    q = grouped
    q.send("a", "bad", "c")
    entries = q.read_blocking("w", count=3)
    q.break_record("bad")
    batch = q.admit("w", *entries)
    assert (keys_of(batch), batch.read) == (["a", "c"], 3) and "bad" in batch.problem
    assert len(q.pending()) == 3
    q.raw.delete(q.record_key("bad"))


def test_work_starts_although_memory_is_full(grouped: Queue) -> None:
    q = grouped
    q.send("k")
    entries = q.read_blocking("a")
    with q.out_of_memory():
        batch = q.admit("a", *entries)
    assert (keys_of(batch), batch.problem) == (["k"], "")


def test_a_lost_reply_counts_no_crash(grouped: Queue) -> None:
    q = grouped
    q.send("k")
    entries = q.read_blocking("a")
    q.admit("a", *entries)
    (again,) = q.orphans("a").deliveries
    assert again.deliveries == 1
