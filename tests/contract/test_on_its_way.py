"""Since when a task is on its way to its end: a part of every delivery, whichever verb hands it out."""

from __future__ import annotations

import pytest

from penstock.streams import keys, produce
from penstock.streams.consume import Delivery
from tests.contract.helpers import Queue

#: When the tasks of these tests were due, ms: long ago.
DUE = 1_600_000_000_000


def scheduled(q: Queue, key: str = "k") -> None:
    """A task that was sent before `DUE`, and became ready then."""
    q.send(key, due="+50000")
    q.raw.hset(q.record_key(key), "u", DUE)
    q.raw.zadd(keys.parked(q.base), {key: DUE})
    assert q.promote().moved == 1


def retried(q: Queue, delivery: Delivery, consumer: str = "a", delay: float = 50.0) -> Delivery:
    """It has failed, and runs again."""
    q.park(consumer, delivery, delay=delay)
    if delay:
        q.make_due(delivery.key)
        q.promote()
    (again,) = q.fetch(consumer).deliveries
    return again


def test_sent_now_it_is_the_time_of_the_entry(q: Queue) -> None:
    """Which every delivery has anyway: 0 stands for it."""
    assert q.start_one().since == 0
    q.send("b")
    (brought,) = q.admit("a", *q.read_blocking("a")).deliveries
    assert brought.since == 0


@pytest.mark.parametrize("delay", [50.0, 0.0])
def test_a_retry_counts_from_where_it_was_sent(q: Queue, delay: float) -> None:
    first = q.start_one()
    again = retried(q, first, delay=delay)
    assert again.since == first.ready_at
    assert again.entry != first.entry
    assert retried(q, again).since == first.ready_at


def test_what_was_scheduled_counts_from_its_time(q: Queue) -> None:
    scheduled(q)
    (first,) = q.fetch().deliveries
    assert first.since == DUE
    again = retried(q, first)
    assert again.since == DUE  # and not from the time of the retry
    assert retried(q, again).since == DUE


def test_read_by_a_blocking_read(q: Queue) -> None:
    q.fetch()  # makes the groups
    scheduled(q)
    (brought,) = q.admit("a", *q.read_blocking("a")).deliveries
    assert brought.since == DUE


def test_taken_over_from_a_dead_worker(q: Queue) -> None:
    scheduled(q)
    (first,) = q.fetch().deliveries
    assert q.crash(first, "b").since == DUE


def test_found_again_by_its_own_worker(q: Queue) -> None:
    """The reply of the fetch was lost."""
    scheduled(q)
    q.fetch()
    (again,) = q.orphans("a").deliveries
    assert again.since == DUE


@pytest.mark.parametrize("time", ["-9000000000000000000", "9e300", "nan", "inf", "-1", "0", "soon"])
@pytest.mark.parametrize("field", ["t", "u", "i"])
def test_what_is_no_time_is_that_of_the_entry(q: Queue, field: str, time: str) -> None:
    """Somebody else has written it, and workers add with it."""
    q.send("k")
    q.raw.hset(q.record_key("k"), field, time)
    (first,) = q.fetch().deliveries
    assert first.since == 0
    assert q.crash(first, "b").since == 0


def test_a_dead_letter_that_is_sent_again_counts_from_then(q: Queue) -> None:
    scheduled(q)
    q.bury("a", *q.fetch().deliveries)
    q.run(produce.redrive(q.base, ["k"]))
    (first,) = q.fetch().deliveries
    assert first.since == first.ready_at > DUE
    assert retried(q, first).since == first.ready_at
