"""renew: only what is still ours, without counting a delivery."""

from __future__ import annotations

import pytest

from penstock.streams import keys
from penstock.streams.consume import RENEW_BATCH
from penstock.streams.produce import BATCH_TASKS
from tests.contract.helpers import Queue


def test_idle_begins_anew_and_no_delivery_is_counted(q: Queue) -> None:
    first, second = q.start("k", "l")
    q.age(first, second, seconds=1000)
    assert q.renew("a", first) == ([], [])
    pending = q.pending()
    assert pending[first.entry].idle < 60_000 and pending[first.entry].deliveries == 1
    assert pending[second.entry].idle >= 1000_000
    assert q.read("k").info().deliveries == 1  # type: ignore[union-attr]


def test_a_renewed_entry_is_not_reclaimed(q: Queue) -> None:
    delivery = q.start_one()
    q.age(delivery)
    q.renew("a", delivery)
    assert q.reclaim("b").batch.read == 0


def test_what_was_taken_over_is_lost_and_not_stolen_back(q: Queue) -> None:
    kept, stolen = q.start("kept", "stolen")
    q.claim("b", "default", stolen.entry, idle=7)
    assert q.renew("a", kept, stolen) == ([1], [])
    assert q.pending()[stolen.entry].consumer == "b" and q.pending()[stolen.entry].idle >= 7000
    assert q.pending()[kept.entry].consumer == "a"


def test_what_has_ended_is_lost(q: Queue) -> None:
    deliveries = q.start("a", "b", "c")
    q.succeed("a", deliveries[1])
    assert q.renew("a", *deliveries) == ([1], [])
    assert q.entries().keys() == {deliveries[0].entry, deliveries[2].entry}
    assert len(q.pending()) == 2


def test_cancels_are_told(q: Queue) -> None:
    deliveries = q.start("a", "b", "c")
    assert q.cancel("c")[0].requested
    assert q.renew("a", *deliveries) == ([], [2])
    assert q.renew("a", deliveries[2]) == ([], [0])


def test_a_cancelled_one_that_was_lost_is_lost_only(q: Queue) -> None:
    delivery = q.start_one()
    q.cancel("k")
    q.claim("b", "default", delivery.entry)
    assert q.renew("a", delivery) == ([0], [])


def test_all_priorities_at_once(q: Queue) -> None:
    for priority in ("high", "default", "low"):
        q.send(priority, priority=priority)
    deliveries = q.fetch().deliveries
    q.age(*deliveries)
    q.succeed("a", deliveries[1])
    assert q.renew("a", *deliveries) == ([1], [])
    assert all(p.idle < 60_000 for priority in ("high", "low") for p in q.pending(priority).values())


def test_a_full_batch(q: Queue) -> None:
    assert RENEW_BATCH <= BATCH_TASKS
    q.send(*[f"k{i}" for i in range(RENEW_BATCH)])
    deliveries = q.fetch(budget=RENEW_BATCH).deliveries
    assert len(deliveries) == RENEW_BATCH
    q.age(deliveries[0], deliveries[-1])
    q.cancel("k499")
    assert q.renew("a", *deliveries) == ([], [499])
    assert all(p.idle < 60_000 for p in q.pending().values())


def test_nothing(q: Queue) -> None:
    assert q.renew("a") == ([], [])


@pytest.mark.parametrize("loss", ["flush", "destroy", "type"])
def test_all_is_lost_with_the_group(q: Queue, loss: str) -> None:
    deliveries = q.start("a", "b")
    q.send("l", priority="low")
    (other,) = q.fetch().deliveries
    if loss == "flush":
        q.raw.flushall()
    elif loss == "destroy":
        q.raw.xgroup_destroy(q.stream(), keys.GROUP)
    else:
        q.raw.set(q.stream(), "x")
    assert q.renew("a", *deliveries, other) == ([0, 1] if loss != "flush" else [0, 1, 2], [])
    q.raw.delete(q.stream(), q.record_key("a"), q.record_key("b"))


def test_a_record_of_another_type_is_renewed_with_its_neighbours(q: Queue) -> None:
    deliveries = q.start("a", "bad")
    q.age(*deliveries)
    q.raw.delete(q.record_key("bad"))
    q.break_record("bad")
    assert q.renew("a", *deliveries) == ([], [])
    assert all(p.idle < 60_000 for p in q.pending().values())
    q.raw.delete(q.record_key("bad"))


def test_leases_are_renewed_although_memory_is_full(q: Queue) -> None:
    delivery = q.start_one()
    q.age(delivery)
    with q.out_of_memory():
        assert q.renew("a", delivery) == ([], [])
    assert q.pending()[delivery.entry].idle < 60_000
