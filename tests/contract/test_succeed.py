"""succeed: the first one wins, whoever owns the entry; a resend is no second one."""

from __future__ import annotations

import pytest

from penstock.streams import keys, settle
from penstock.streams.record import NIL, State, told_record
from penstock.streams.settle import Settled
from tests.contract.helpers import FAILURE, NAME, RESULT_TTL, WINDOW, Queue, close_to
from tests.servers import wait_until

DONE, LATE = Settled.DONE, Settled.LATE
LONG = b"\xc4\x50" + b"x" * 80


def test_a_small_result_is_in_the_record(q: Queue) -> None:
    delivery = q.start_one()
    before = q.now()
    assert q.succeed("a", delivery, value=b"\x2a") == [DONE]
    record = q.read("k")
    assert record is not None
    assert (record.state, record.value, record.name) == (State.SUCCEEDED, b"\x2a", NAME)
    finished = record.info().finished_at
    assert finished is not None and before <= finished.timestamp() * 1000 <= q.now()
    assert q.is_empty()
    assert close_to(q.ttl(q.record_key("k")), RESULT_TTL)
    assert not q.raw.exists(keys.result(q.base, "k"))
    assert q.counters() == {"succeeded": 1}


@pytest.mark.parametrize(("size", "apart"), [(64, False), (65, True)])
def test_a_large_result_has_a_key_of_its_own(q: Queue, size: int, apart: bool) -> None:
    """A field over 64 B would turn the record into a large hash, for good."""
    value = b"x" * size
    assert q.succeed("a", q.start_one(), value=value) == [DONE]
    record = q.read("k")
    assert record is not None and record.value == value
    assert q.raw.exists(keys.result(q.base, "k")) == apart
    if apart:
        assert close_to(q.ttl(keys.result(q.base, "k")), RESULT_TTL)
    assert q.raw.object("encoding", q.record_key("k")) in (b"ziplist", b"listpack")


@pytest.mark.parametrize("value", [b"\x2a", LONG])
def test_the_record_stays_for_the_resend_window_at_least(q: Queue, value: bytes) -> None:
    q.succeed("a", q.start_one(), value=value, ttl=1.0)
    assert close_to(q.ttl(q.record_key("k")), WINDOW)
    if value == LONG:
        assert 0 < q.ttl(keys.result(q.base, "k")) <= 1


@pytest.mark.parametrize("value", [b"\x2a", LONG])
def test_no_result_is_stored_for_ttl_0(q: Queue, value: bytes) -> None:
    assert q.succeed("a", q.start_one(), value=value, ttl=0.0) == [DONE]
    record = q.read("k")
    assert record is not None and (record.state, record.value) == (State.SUCCEEDED, None)
    assert close_to(q.ttl(q.record_key("k")), WINDOW)


@pytest.mark.parametrize(("ttl", "value"), [(RESULT_TTL, NIL), (0.0, None)])
def test_a_task_that_returns_nothing_needs_no_field(q: Queue, ttl: float, value: bytes | None) -> None:
    """And is told from one whose result is not kept."""
    assert q.succeed("a", q.start_one(), value=NIL, ttl=ttl) == [DONE]
    record = q.read("k")
    assert record is not None and (record.state, record.value) == (State.SUCCEEDED, value)
    assert ("v" in q.record("k")) == (value is None)


def test_a_large_result_that_has_expired_is_not_taken_for_nothing(q: Queue) -> None:
    q.succeed("a", q.start_one(), value=LONG, ttl=1.0)
    q.raw.delete(keys.result(q.base, "k"))
    record = q.read("k")
    assert record is not None and (record.state, record.value) == (State.SUCCEEDED, None)


def test_answers_are_in_order_whatever_the_tasks_have_in_common(q: Queue) -> None:
    """Names, TTLs and priorities travel once for each run of tasks that share them."""
    q.send("a", "b", "c", "late", "d")
    q.send("e", priority="high")
    found = {d.key: d for d in q.fetch().deliveries}
    q.park("a", found["late"])
    items = [
        (found["a"], "one", 10.0, b"\x01"), (found["b"], "two", 10.0, b"\x02"), (found["late"], "two", 10.0, b"\x03"),
        (found["e"], "two", 10.0, b"\x04"), (found["c"], "two", 0.0, b""), (found["d"], "one", 10.0, LONG),
    ]  # fmt: skip
    assert q.run(settle.succeed(q.base, "a", WINDOW, items)) == [DONE, DONE, LATE, DONE, DONE, DONE]
    values = [q.read(key).value for key in "abecd"]  # type: ignore[union-attr]
    assert values == [b"\x01", b"\x02", b"\x04", None, LONG]
    assert q.counters() == {"succeeded|one": 2, "succeeded|two": 3, "retried": 1}
    assert q.run(settle.succeed(q.base, "a", WINDOW, [])) == []


@pytest.mark.parametrize(("value", "ttl"), [(b"\x01", RESULT_TTL), (LONG, RESULT_TTL), (b"", 0.0)])
def test_the_first_one_wins_whoever_owns_the_entry(q: Queue, value: bytes, ttl: float) -> None:
    slow = q.start_one(consumer="a")
    heir = q.crash(slow, "b")
    assert q.succeed("a", slow, value=value, ttl=ttl) == [DONE]
    before = q.state()
    assert q.succeed("a", slow, value=value, ttl=ttl) == [DONE]  # its first reply was lost
    assert q.succeed("b", heir, value=b"\x02") == [LATE]
    assert q.park("b", heir) == [LATE] and q.bury("b", heir) == [LATE]
    assert q.state() == before
    record = q.read("k")
    assert record is not None and (record.value, record.info().worker) == (value or None, "a")
    assert q.renew("b", heir) == ([0], [])


def test_a_resend_is_answered_as_the_first_send(q: Queue) -> None:
    deliveries = q.start("a", "b")
    assert q.succeed("a", *deliveries) == [DONE, DONE]  # the reply is lost
    before = q.state()
    assert q.succeed("a", *deliveries) == [DONE, DONE]
    assert q.state() == before and q.counters() == {"succeeded": 2}


def test_the_same_one_twice_in_a_batch(q: Queue) -> None:
    delivery = q.start_one()
    assert q.succeed("a", delivery, delivery) == [DONE, DONE]
    assert q.counters() == {"succeeded": 1}


@pytest.mark.parametrize("kind", ["retried", "released"])
def test_it_is_late_once_another_has_moved_the_task(q: Queue, kind: str) -> None:
    slow = q.start_one()
    heir = q.crash(slow, "b")
    q.park("b", heir, kind=kind, delay=0 if kind == "released" else 50)
    before = q.state()
    assert q.succeed("a", slow) == [LATE]
    assert q.state() == before


@pytest.mark.parametrize("end", ["buried", "cancelled", "succeeded"])
def test_it_is_late_once_another_has_ended_the_task(q: Queue, end: str) -> None:
    slow = q.start_one()
    heir = q.crash(slow, "b")
    if end == "succeeded":
        q.succeed("b", heir)
    else:
        q.bury("b", heir, failure=None if end == "cancelled" else FAILURE)
    before = q.state()
    assert q.succeed("a", slow) == [LATE]
    assert q.state() == before


def test_it_wins_over_a_cancel(q: Queue) -> None:
    delivery = q.start_one()
    assert q.cancel("k")[0].requested
    assert q.succeed("a", delivery) == [DONE]
    assert q.read("k").state is State.SUCCEEDED  # type: ignore[union-attr]


def test_who_waits_is_told(q: Queue) -> None:
    told, silent = q.start("told", "silent")
    q.read("told", "me-1")
    q.read("told", "me-2")
    with (
        q.listening(keys.listener_channel(q.namespace, "me-1")) as first,
        q.listening(keys.listener_channel(q.namespace, "me-2")) as second,
    ):
        q.succeed("a", told, silent)
        q.succeed("a", told, silent)
        assert first.take() == ["q:told"] and second.take() == ["q:told"]


@pytest.mark.parametrize("value", [b"\x2a", NIL, b"x" * 64, LONG])
def test_who_waits_is_told_the_record(q: Queue, value: bytes) -> None:
    """As it can be read; only what is stored beside it is not there."""
    delivery = q.start_one("a:b")
    before = q.read("a:b", "me")
    with q.listening(keys.listener_channel(q.namespace, "me")) as heard:
        q.succeed("a", delivery, value=value)
        (message,) = heard.take_whole()
    id, _, told = message.partition(b"\n")
    record, read = told_record("q:a:b", told), q.read("a:b")
    assert id == b"q:a:b" and record is not None and read is not None and before is not None
    assert record.info() == read.info() and record.may_follow(before) and record.is_whole is (value != LONG)
    assert record.value == (None if value == LONG else value) and read.value == value


def test_what_is_told_of_a_failure_is_not_all(q: Queue) -> None:
    delivery = q.start_one()
    q.read("k", "me")
    with q.listening(keys.listener_channel(q.namespace, "me")) as heard:
        q.bury("a", delivery)
        (message,) = heard.take_whole()
    record = told_record("q:k", message.partition(b"\n")[2])
    assert record is not None and record.state is State.FAILED and not record.is_whole


def test_what_was_told_of_a_task_is_no_answer_for_another_one_of_the_same_id(q: Queue) -> None:
    """Messages may come late: after the first one's record has gone, and its id was used again."""
    q.succeed("a", q.start_one())
    ended = q.read("k")
    q.raw.delete(q.record_key("k"))
    sent = q.now()
    wait_until(lambda: q.now() > sent)
    q.send("k")
    again = q.read("k")
    assert ended is not None and again is not None and not ended.may_follow(again)
    (delivery,) = q.fetch().deliveries
    q.park("a", delivery, delay=0)
    (delivery,) = q.fetch().deliveries
    q.succeed("a", delivery)
    ended = q.read("k")
    assert ended is not None and ended.may_follow(again)


def test_nobody_is_told_by_a_late_one(q: Queue) -> None:
    slow = q.start_one()
    q.park("b", q.crash(slow, "b"))
    q.read("k", "me")
    with q.listening(keys.listener_channel(q.namespace, "me")) as heard:
        assert q.succeed("a", slow) == [LATE]
        assert heard.take() == []


@pytest.mark.parametrize("value", [b"\x2a", LONG])
def test_results_are_stored_although_memory_is_full(q: Queue, value: bytes) -> None:
    late, delivery = q.start("late", "k")
    q.park("b", q.crash(late, "b"))
    with q.out_of_memory():
        assert q.succeed("a", late, delivery, value=value) == [LATE, DONE]
        record = q.read("k")
    assert record is not None and record.value == value
    assert q.is_empty() is False and q.queued() == []  # the other one is parked


def test_a_record_of_another_type_stays_pending_and_its_neighbours_settle(q: Queue) -> None:
    deliveries = q.start("a", "bad", "c")
    q.raw.delete(q.record_key("bad"))
    q.break_record("bad")
    answers = q.succeed("a", *deliveries)
    assert (answers[0], answers[2]) == (DONE, DONE)
    assert isinstance(answers[1], str) and "WRONGTYPE" in answers[1]
    assert list(q.pending()) == [deliveries[1].entry] and q.queued() == ["bad"]
    assert q.counters() == {"succeeded": 2}
    q.raw.delete(q.record_key("bad"))


def test_counters_of_another_type_hinder_nobody(q: Queue) -> None:
    delivery = q.start_one()
    q.raw.set(keys.counters(q.base), "x")
    assert q.succeed("a", delivery) == [DONE]
    assert q.is_empty() and q.read("k").state is State.SUCCEEDED  # type: ignore[union-attr]


@pytest.mark.parametrize("loss", ["flush", "destroy"])
def test_it_is_late_once_the_group_is_gone(q: Queue, loss: str) -> None:
    delivery = q.start_one()
    if loss == "flush":
        q.raw.flushall()
    else:
        q.raw.xgroup_destroy(q.stream(), keys.GROUP)
    before = q.state()
    assert q.succeed("a", delivery) == [LATE]
    assert q.state() == before


def test_all_priorities_in_one_batch(q: Queue) -> None:
    for priority in ("high", "default", "low"):
        q.send(priority, priority=priority)
    assert q.succeed("a", *q.fetch().deliveries) == [DONE] * 3
    assert q.is_empty() and q.counters() == {"succeeded": 3}


def test_a_full_batch(q: Queue) -> None:
    q.send(*[f"k{i}" for i in range(500)])
    assert q.succeed("a", *q.fetch(budget=500).deliveries) == [DONE] * 500
    assert q.is_empty() and q.counters() == {"succeeded": 500}
