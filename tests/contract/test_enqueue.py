"""enqueue: into the stream or parked; once for each id; one bad item does not touch the others."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.streams import keys, produce
from penstock.streams.produce import Enqueued, Envelope
from penstock.streams.record import State
from tests.contract.helpers import MESSAGE, NAME, Queue, keys_of

CREATED, EXISTS, FULL = Enqueued(created=True), Enqueued(exists=True), Enqueued(full=True)


def envelope(key: str, priority: str = "default", due: str = "", expires: str = "", name: str = NAME) -> Envelope:
    return Envelope(key, name, priority, MESSAGE, due, expires)


@pytest.mark.parametrize("priority", ["high", "default", "low"])
def test_at_once(q: Queue, priority: str) -> None:
    before = q.now()
    assert q.enqueue(envelope("k", priority)) == [CREATED]
    reply: Any = q.raw.xrange(q.stream(priority))
    ((entry, fields),) = reply
    assert fields == {b"k": b"k", b"m": MESSAGE}
    assert q.record("k") == {"n": NAME, "s": "q", "e": entry.decode()} | (
        {} if priority == "default" else {"p": priority}
    )
    info = q.read("k").info()  # type: ignore[union-attr]
    assert info.enqueued_at is not None and before <= info.enqueued_at.timestamp() * 1000 <= q.now()
    assert info.priority == priority
    assert q.ttl(q.record_key("k")) == -1
    assert set(q.state()) == {q.stream(priority), q.record_key("k")}


def test_later_from_now(q: Queue) -> None:
    before = q.now()
    assert q.enqueue(envelope("k", "low", due="+5000")) == [CREATED]
    due = q.parked()["k"]
    assert before + 5000 <= due <= q.now() + 5001
    assert q.raw.get(keys.parked_message(q.base, "k")) == MESSAGE
    record = q.record("k")
    assert (record["s"], record["u"], record["p"], record["n"]) == ("s", str(due), "low", NAME)
    assert q.run(produce.read_record(q.base, "q:k", "k")).state is State.SCHEDULED  # type: ignore[union-attr]
    assert set(q.state()) == {keys.parked(q.base), keys.parked_message(q.base, "k"), q.record_key("k")}
    assert not any(will_go for _, will_go in q.state().values())


def test_later_at_a_time(q: Queue) -> None:
    due = q.now() + 7000
    assert q.enqueue(envelope("k", due=str(due))) == [CREATED]
    assert q.parked() == {"k": due}


@pytest.mark.parametrize("due", ["+0", "1", "1000000000000"])
def test_what_is_due_already_goes_at_once(q: Queue, due: str) -> None:
    assert q.enqueue(envelope("k", due=due)) == [CREATED]
    assert q.queued() == ["k"] and q.record("k")["s"] == "q" and q.parked() == {}


def test_expiry_is_kept_as_a_time(q: Queue) -> None:
    before = q.now()
    q.enqueue(
        envelope("a", expires="+4000"), envelope("b", expires="1999999999999"), envelope("c", "low", "+9", "+4000")
    )
    assert before + 4000 <= int(q.record("a")["x"]) <= q.now() + 4001
    assert q.record("b")["x"] == "1999999999999"
    assert before + 4000 <= int(q.record("c")["x"]) <= q.now() + 4001


@pytest.mark.parametrize("due", ["", "+60000"])
def test_a_resend_changes_nothing(q: Queue, due: str) -> None:
    call = produce.enqueue(q.base, [envelope("k", due=due, expires="+9000")])
    assert q.run(call) == [CREATED]
    before = q.state()
    assert q.run(call) == [EXISTS]
    assert q.enqueue(envelope("k", "high", "+1", "+1")) == [EXISTS]
    assert q.state() == before


def test_a_resend_changes_nothing_at_any_time(q: Queue) -> None:
    delivery = q.start_one()
    for step in (lambda: None, lambda: q.park("a", delivery), lambda: q.cancel("k")):
        step()
        before = q.state()
        assert q.enqueue(envelope("k")) == [EXISTS]
        assert q.state() == before
    q.bury("a", q.start_one("dead"))
    before = q.state()
    assert q.enqueue(envelope("dead")) == [EXISTS]
    assert q.state() == before


def test_the_id_of_another_task_is_refused_by_its_name(q: Queue) -> None:
    q.send("k")
    before = q.state()
    assert q.enqueue(envelope("k", name="other")) == [Enqueued(taken_by=NAME)]
    assert q.state() == before


def test_an_id_twice_in_one_batch(q: Queue) -> None:
    assert q.enqueue(envelope("k"), envelope("k"), envelope("k", name="other")) == [
        CREATED,
        EXISTS,
        Enqueued(taken_by=NAME),
    ]
    assert q.queued() == ["k"]


def test_max_length_counts_all_streams_and_what_this_batch_adds(q: Queue) -> None:
    q.send("a", priority="high")
    q.send("b", priority="low")
    answers = q.enqueue(envelope("c"), envelope("d"), envelope("e", "high"), max_length=3)
    assert answers == [CREATED, FULL, FULL]
    assert q.record("d") == {} and q.queued() == ["c"] and q.queued("high") == ["a"]
    assert q.enqueue(envelope("a", "high"), max_length=3) == [EXISTS]


def test_max_length_neither_counts_nor_refuses_what_is_parked(q: Queue) -> None:
    q.send("a")
    assert q.enqueue(envelope("b", due="+60000"), envelope("c", due="+60000"), max_length=1) == [CREATED, CREATED]
    assert q.enqueue(envelope("d"), max_length=1) == [FULL]
    assert q.enqueue(envelope("d"), max_length=2) == [CREATED]
    q.make_due("b", "c")
    assert q.promote().moved == 2  # never refused


def test_max_length_counts_what_runs(q: Queue) -> None:
    delivery = q.start_one()
    assert q.enqueue(envelope("b"), max_length=1) == [FULL]
    q.succeed("a", delivery)
    assert q.enqueue(envelope("b"), max_length=1) == [CREATED]


def test_a_key_of_another_type_fails_alone(q: Queue) -> None:
    q.break_record("bad")
    answers = q.enqueue(envelope("a"), envelope("bad"), envelope("c"))
    assert (answers[0], answers[2]) == (CREATED, CREATED)
    assert "WRONGTYPE" in (answers[1].error or "")
    assert q.queued() == ["a", "c"]
    assert keys_of(q.fetch()) == ["a", "c"]


def test_a_stream_of_another_type_fails_alone(q: Queue) -> None:
    q.raw.set(q.stream("high"), "x", ex=1000)
    answers = q.enqueue(envelope("a"), envelope("bad", "high"), envelope("c"))
    assert (answers[0], answers[2]) == (CREATED, CREATED)
    assert "WRONGTYPE" in (answers[1].error or "")
    assert q.record("bad") == {} and q.queued() == ["a", "c"]
    q.raw.delete(q.stream("high"))


def test_only_an_earlier_head_is_published(q: Queue) -> None:
    with q.on_control() as heard:
        q.send("now")
        assert heard.take() == []
        q.send("a", due="+50000")
        [told] = heard.take()
        assert told in ("due 50000", "due 50001")  # it never begins early by a part of a millisecond
        q.send("b", due="+60000")
        assert heard.take() == []
        q.send("c", "d", due="+40000")
        assert heard.take() in (["due 40000"], ["due 40001"])
        q.enqueue(envelope("c", due="+1000"))
        assert heard.take() == []


def test_out_of_memory_leaves_no_trace(q: Queue) -> None:
    q.send("old")
    before = q.state()
    with q.out_of_memory():
        answers = q.enqueue(envelope("a"), envelope("b", due="+1000"), envelope("old"), envelope("c", expires="+9"))
    assert answers[2] == EXISTS
    assert all("OOM" in (answers[i].error or "") for i in (0, 1, 3))
    assert q.state() == before
    assert q.enqueue(envelope("a")) == [CREATED]


def test_a_full_batch_keeps_its_order(q: Queue) -> None:
    names = [f"k{i}" for i in range(produce.BATCH_TASKS)]
    assert q.enqueue(*[envelope(name) for name in names]) == [CREATED] * len(names)
    assert q.queued() == names


def test_keys_and_messages_are_taken_as_they_are(q: Queue) -> None:
    key, message = "ä b:c{}!'\"", bytes(range(256))
    assert q.enqueue(Envelope(key, NAME, "default", message)) == [CREATED]
    (delivery,) = q.fetch().deliveries
    assert (delivery.key, delivery.message, delivery.id) == (key, message, f"q:{key}")


def test_queues_are_registered(q: Queue) -> None:
    for name in ("b", "a", "b"):
        q.run(produce.register_queue(q.namespace, name))
    assert q.run(produce.queue_names(q.namespace)) == ["a", "b"]
