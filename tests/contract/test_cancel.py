"""cancel: what waits ends at once, what runs is flagged and its worker told; what has ended stays."""

from __future__ import annotations

import pytest

from penstock.streams import keys
from penstock.streams.produce import Cancellation
from penstock.streams.record import State
from tests.contract.helpers import TTL, Queue, close_to

ENDED, REQUESTED, MISSING = Cancellation(ended=True), Cancellation(requested=True), Cancellation(missing=True)


def ended(q: Queue, key: str = "k") -> bool:
    record = q.read(key)
    assert record is not None and record.state is State.CANCELLED
    assert close_to(q.ttl(q.record_key(key)), TTL)
    return record.info().finished_at is not None


def test_a_scheduled_task_ends(q: Queue) -> None:
    q.send("k", due="+60000")
    assert q.cancel("k") == [ENDED]
    assert ended(q) and q.parked() == {} and not q.raw.exists(keys.parked_message(q.base, "k"))
    assert q.counters() == {"cancelled": 1}


def test_a_task_that_waits_for_a_retry_ends(q: Queue) -> None:
    q.park("a", q.start_one())
    assert q.cancel("k") == [ENDED]
    assert ended(q) and q.is_empty()


@pytest.mark.parametrize("group", [True, False])
def test_a_queued_task_ends(q: Queue, group: bool) -> None:
    if group:
        q.fetch()
    q.send("k", "other", priority="low")
    assert q.cancel("k") == [ENDED]
    assert ended(q) and q.queued("low") == ["other"] and q.counters() == {"cancelled": 1}
    assert [d.key for d in q.fetch().deliveries] == ["other"]


def test_a_delivered_task_is_flagged_and_its_worker_told(q: Queue) -> None:
    q.fetch()
    q.send("k")
    entries = q.read_blocking("a")
    with q.on_control() as heard:
        assert q.cancel("k") == [REQUESTED]
        assert heard.take() == ["cancel k"]
    assert q.record("k")["s"] == "q" and q.queued() == ["k"]  # a deleted one would leave a ghost
    assert q.admit("a", *entries).deliveries == [] and ended(q)


def test_a_running_task_is_flagged_and_its_worker_told(q: Queue) -> None:
    delivery = q.start_one()
    with q.on_control() as heard:
        assert q.cancel("k") == [REQUESTED]
        assert heard.take() == ["cancel k"]
        assert q.cancel("k") == [REQUESTED]
    assert q.record("k")["s"] == "r" and q.ttl(q.record_key("k")) == -1
    assert q.renew("a", delivery) == ([], [0])
    assert q.bury("a", delivery, failure=None) and ended(q)


@pytest.mark.parametrize("end", ["succeeded", "failed", "cancelled", "expired"])
def test_a_finished_task_stays_as_it_is(q: Queue, end: str) -> None:
    if end == "expired":
        q.send("k", expires="1")
        q.fetch()
    else:
        delivery = q.start_one()
        _ = q.succeed("a", delivery) if end == "succeeded" else q.bury("a", delivery)
        if end == "cancelled":
            q.raw.hset(q.record_key("k"), "s", "c")
    before = q.state()
    assert q.cancel("k") == [Cancellation()]
    assert q.state() == before


def test_an_unknown_task(q: Queue) -> None:
    assert q.cancel("k") == [MISSING]
    assert q.state() == {}


def test_many_at_once(q: Queue) -> None:
    q.start("running")
    q.send("queued")
    q.send("scheduled", due="+60000")
    q.break_record("bad")
    answers = q.cancel("running", "bad", "queued", "none", "scheduled")
    assert [answers[i] for i in (0, 2, 3, 4)] == [REQUESTED, ENDED, MISSING, ENDED]
    assert "WRONGTYPE" in (answers[1].error or "")


def test_who_waits_is_told(q: Queue) -> None:
    q.send("k")
    q.read("k", "me")
    with q.listening(keys.listener_channel(q.namespace, "me")) as heard:
        q.cancel("k")
        assert heard.take() == ["q:k"]


def test_a_cancelled_id_is_known(q: Queue) -> None:
    q.send("k")
    q.cancel("k")
    assert q.cancel("k") == [Cancellation()]


def test_what_waits_ends_although_memory_is_full(q: Queue) -> None:
    q.send("a", "b")
    q.send("c", due="+60000")
    with q.out_of_memory():
        assert q.cancel("a", "b", "c") == [ENDED] * 3
    assert q.is_empty()
