"""A call whose reply was lost is sent again: it changes nothing more, and gets the answer that was lost."""

from __future__ import annotations

import pytest

from penstock.streams import produce
from penstock.streams.produce import Cancellation
from tests.contract.helpers import TTL, Queue

ENDED, REQUESTED, NEITHER = Cancellation(ended=True), Cancellation(requested=True), Cancellation()


@pytest.mark.parametrize("due", ["", "+60000"], ids=["queued", "scheduled"])
def test_a_cancel_of_what_waits(q: Queue, due: str) -> None:
    q.send("k", due=due)
    call = produce.cancel(q.base, ["k"], TTL)
    assert q.run(call) == [ENDED]
    assert q.run(call) == [ENDED]
    assert q.cancel("k") == [NEITHER]  # another call: it had ended already
    assert q.counters() == {"cancelled": 1}


def test_a_cancel_of_what_runs_and_has_ended_since(q: Queue) -> None:
    delivery = q.start_one()
    call = produce.cancel(q.base, ["k"], TTL)
    assert q.run(call) == [REQUESTED]
    q.bury("a", delivery, failure=None)
    assert q.run(call) == [ENDED]
    assert q.cancel("k") == [NEITHER]


def test_a_cancel_that_came_too_late_stays_so(q: Queue) -> None:
    delivery = q.start_one()
    call = produce.cancel(q.base, ["k"], TTL)
    assert q.run(call) == [REQUESTED]
    q.succeed("a", delivery)
    assert q.run(call) == [NEITHER]


def test_a_redrive(q: Queue) -> None:
    q.bury("a", q.start_one())
    call = produce.redrive(q.base, ["k"])
    assert q.run(call) == (1, [])
    assert q.run(call) == (1, [])
    assert q.queued() == ["k"]
    assert q.run(produce.redrive(q.base, ["k"])) == (0, ["k"])


def test_a_redrive_of_what_has_died_again_since(q: Queue) -> None:
    q.bury("a", q.start_one())
    call = produce.redrive(q.base, ["k"])
    assert q.run(call) == (1, [])
    q.bury("a", *q.fetch().deliveries)
    assert q.run(call) == (1, [])
    assert q.dead() == ["k"] and q.queued() == []
    assert q.run(produce.redrive(q.base, ["k"])) == (1, [])


def test_an_enqueue(q: Queue) -> None:
    call = produce.enqueue(q.base, [produce.Envelope("k", "task", "default", b"m")], 1)
    assert [answer.created for answer in q.run(call)] == [True]
    again = q.run(call)
    assert again[0].exists and q.queued() == ["k"]
