"""bury: an end without success. A failed task becomes a dead letter, kept for redrive and bounded."""

from __future__ import annotations

import msgspec
import pytest

from penstock.streams import keys, produce
from penstock.streams.record import State
from penstock.streams.settle import Settled
from tests.contract.helpers import DEAD_TTL, FAILURE, MESSAGE, NAME, TTL, Queue, close_to

DONE, LATE = Settled.DONE, Settled.LATE


def test_a_failed_task_becomes_a_dead_letter(q: Queue) -> None:
    delivery = q.start_one()
    before = q.now()
    assert q.bury("a", delivery) == [DONE]
    record = q.read("k")
    assert record is not None and record.state is State.FAILED and record.failure is not None
    assert (record.failure.type, record.failure.message) == ("ValueError", "no")
    info = record.info()
    assert (info.name, info.error, info.worker, info.attempt) == (NAME, "ValueError: no", "a", 1)
    assert q.is_empty() and q.dead() == ["k"] and q.counters() == {"failed": 1}
    (letter,) = q.run(produce.dead_letters(q.base, 10))
    assert letter.key == "k" and before <= letter.died_at.timestamp() * 1000 <= q.now()
    assert q.run(produce.dead_message(q.base, "k")) == MESSAGE
    assert q.raw.get(keys.result(q.base, "k")) == FAILURE
    for key in (q.record_key("k"), keys.parked_message(q.base, "k"), keys.result(q.base, "k")):
        assert close_to(q.ttl(key), DEAD_TTL)


def test_a_cancelled_task_is_none(q: Queue) -> None:
    delivery = q.start_one()
    assert q.bury("a", delivery, failure=None) == [DONE]
    record = q.read("k")
    assert record is not None and record.state is State.CANCELLED and record.failure is None
    assert q.is_empty() and q.dead() == [] and q.counters() == {"cancelled": 1}
    assert close_to(q.ttl(q.record_key("k")), TTL)
    assert not q.raw.exists(keys.parked_message(q.base, "k"), keys.result(q.base, "k"))


@pytest.mark.parametrize("failure", [FAILURE, None])
def test_who_waits_is_told(q: Queue, failure: bytes | None) -> None:
    delivery = q.start_one()
    q.read("k", "me")
    with q.listening(keys.listener_channel(q.namespace, "me")) as heard:
        q.bury("a", delivery, failure=failure)
        q.bury("a", delivery, failure=failure)
        assert heard.take() == ["q:k"]


@pytest.mark.parametrize("failure", [FAILURE, None])
def test_a_resend_is_answered_as_the_first_send(q: Queue, failure: bytes | None) -> None:
    delivery = q.start_one()
    assert q.bury("a", delivery, failure=failure) == [DONE]  # the reply is lost
    before = q.state()
    assert q.bury("a", delivery, failure=failure) == [DONE]
    assert q.state() == before and sum(q.counters().values()) == 1


@pytest.mark.parametrize("failure", [FAILURE, None])
def test_what_is_not_ours_is_not_ended(q: Queue, failure: bytes | None) -> None:
    slow, done = q.start("slow", "done")
    heir = q.crash(slow, "b")
    q.succeed("a", done)
    before = q.state()
    assert q.bury("a", slow, done, failure=failure) == [LATE, LATE]
    assert q.state() == before
    assert q.bury("b", heir, failure=failure) == [DONE]
    assert q.bury("a", slow, failure=failure) == [LATE]


def test_it_is_late_once_the_group_is_gone(q: Queue) -> None:
    delivery = q.start_one()
    q.raw.xgroup_destroy(q.stream(), keys.GROUP)
    before = q.state()
    assert q.bury("a", delivery) == [LATE]
    assert q.state() == before


def test_out_of_memory_it_stays_pending_and_unchanged(q: Queue) -> None:
    delivery = q.start_one()
    before = q.state()
    with q.out_of_memory():
        (answer,) = q.bury("a", delivery)
    assert "OOM" in str(answer)
    assert q.state() == before
    assert q.bury("a", delivery) == [DONE]


def test_a_record_of_another_type_stays_pending_and_its_neighbours_end(q: Queue) -> None:
    deliveries = q.start("a", "bad", "c")
    q.raw.delete(q.record_key("bad"))
    q.break_record("bad")
    answers = q.bury("a", *deliveries)
    assert (answers[0], answers[2]) == (DONE, DONE) and "WRONGTYPE" in str(answers[1])
    assert list(q.pending()) == [deliveries[1].entry] and q.dead() == ["a", "c"]
    q.raw.delete(q.record_key("bad"))


def test_an_undecodable_entry_keeps_its_bytes(q: Queue) -> None:
    q.raw.xadd(q.stream(), {"who": "me", "what": b"\xff\x00"})
    (delivery,) = q.fetch().deliveries
    assert q.bury("a", delivery) == [DONE]
    (key,) = q.dead()
    assert key == f"undecodable-{delivery.priority}-{delivery.entry}"
    kept = q.run(produce.dead_message(q.base, key))
    assert kept == delivery.message and b"\xff\x00" in kept
    assert q.read(key).state is State.FAILED and q.is_empty()  # type: ignore[union-attr]
    before = q.state()
    assert q.bury("a", delivery) == [DONE]
    assert q.state() == before


def test_an_undecodable_message_keeps_its_bytes(q: Queue) -> None:
    q.raw.xadd(q.stream(), {"k": "k", "m": b"\xc1"})
    (delivery,) = q.fetch().deliveries
    assert q.bury("a", delivery) == [DONE]
    assert q.run(produce.dead_message(q.base, "k")) == b"\xc1"


# Bounds


def bury_each(q: Queue, *task_keys: str, most: int = 1000) -> None:
    """One after another, so that their order is known."""
    for key in task_keys:
        assert q.bury("a", q.start_one(key), most=most) == [DONE]
        q.raw.zadd(keys.dead(q.base), {key: q.now() - 1000 + len(q.dead())})


def test_the_oldest_go_when_there_are_too_many(q: Queue) -> None:
    bury_each(q, "a", "b", "c", "d")
    q.bury("a", q.start_one("e"), most=2)
    assert q.dead() == ["d", "e"]
    assert q.counters() == {"failed": 5, "trimmed|": 3}
    for key in ("a", "b", "c"):
        assert not q.raw.exists(keys.parked_message(q.base, key), keys.result(q.base, key))
        record = q.read(key)
        assert record is not None and (record.state, record.failure) == (State.FAILED, None)
        assert close_to(q.ttl(q.record_key(key)), TTL)


def test_one_batch_larger_than_the_bound(q: Queue) -> None:
    assert q.bury("a", *q.start(*[f"k{i}" for i in range(5)]), most=2) == [DONE] * 5
    assert len(q.dead()) == 2 and q.counters()["trimmed|"] == 3


def test_the_expired_leave_the_index(q: Queue) -> None:
    bury_each(q, "a", "b")
    q.raw.zadd(keys.dead(q.base), {"a": q.now() - DEAD_TTL * 1000 - 1})
    q.bury("a", q.start_one("c"))
    assert q.dead() == ["b", "c"] and "trimmed|" not in q.counters()
    q.raw.delete(q.record_key("a"), keys.parked_message(q.base, "a"), keys.result(q.base, "a"))


def test_trimming_leaves_a_living_task_of_the_same_id_alone(q: Queue) -> None:
    bury_each(q, "a")
    q.raw.delete(q.record_key("a"), keys.parked_message(q.base, "a"), keys.result(q.base, "a"))  # their TTL is over
    q.send("a", due="+60000")
    bury_each(q, "b", most=1)
    assert q.dead() == ["b"]
    assert q.raw.get(keys.parked_message(q.base, "a")) == MESSAGE and q.ttl(q.record_key("a")) == -1


def test_trimming_gets_past_a_record_of_another_type(q: Queue) -> None:
    bury_each(q, "a")
    q.raw.delete(q.record_key("a"), keys.parked_message(q.base, "a"), keys.result(q.base, "a"))
    q.break_record("a")
    bury_each(q, "b", most=1)
    assert q.dead() == ["b"]


def test_the_newest_dead_letters_come_first(q: Queue) -> None:
    bury_each(q, "a", "b", "c")
    assert [letter.key for letter in q.run(produce.dead_letters(q.base, 2))] == ["c", "b"]


def test_an_ended_batch_of_both_kinds(q: Queue) -> None:
    failed, cancelled = q.start("f", "c")
    assert q.bury("a", failed) == q.bury("a", cancelled, failure=None) == [DONE]
    assert msgspec.msgpack.decode(FAILURE)["type"] == "ValueError"
    assert q.dead() == ["f"]


def test_dead_letters_of_another_type_keep_only_the_failed(q: Queue) -> None:
    failed, cancelled = q.start("failed", "cancelled")
    q.raw.set(keys.dead(q.base), "somebody else's", ex=1000)
    (error,) = q.bury("a", failed)
    assert isinstance(error, str) and "WRONGTYPE" in error
    assert q.bury("a", cancelled, failure=None) == [DONE]
    assert q.queued() == ["failed"] and len(q.pending()) == 1
    q.raw.delete(keys.dead(q.base))
    assert q.bury("a", failed) == [DONE] and q.is_empty()
