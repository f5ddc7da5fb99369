"""Slots: how full a worker says that it is."""

from __future__ import annotations

from penstock.consumers.slots import Slots


def slots() -> Slots:
    kinds = {"mail": frozenset({"async"}), "images": frozenset({"thread", "process"}), "any": frozenset[str]()}
    return Slots({"async": 10, "thread": 4, "process": 2}, kinds, unsettled=1000)


def test_nothing_runs() -> None:
    assert slots().occupancy() == (16, 0)
    assert slots().occupancy("mail") == (10, 0)


def test_a_queue_is_as_full_as_the_fullest_kind_of_its_tasks() -> None:
    made = slots()
    for kind, count in (("async", 9), ("thread", 1), ("process", 1)):
        assert all(made.take(kind) for _ in range(count))
    assert made.occupancy() == (16, 11)
    assert made.occupancy("mail") == (10, 9)
    assert made.occupancy("images") == (2, 1)  # half, where of the threads a quarter is taken
    assert made.occupancy("any") == (10, 9)


def test_of_two_that_are_as_full_the_larger_one_tells_more() -> None:
    made = slots()
    assert all(made.take(kind) for kind in ("thread", "thread", "process"))
    assert made.occupancy("images") == (4, 2)


def test_what_has_ended_is_free_and_a_result_that_waits_takes_no_slot() -> None:
    made = slots()
    made.take("async")
    made.unsettled(1)
    made.give("async")
    assert made.occupancy() == (16, 0)


def test_a_kind_that_a_call_has_sent_counts_from_then_on() -> None:
    made = slots()
    made.take("process")
    made.take("process")
    assert made.occupancy("mail") == (10, 0)
    made.learn("mail", "process")
    assert made.occupancy("mail") == (2, 2)
