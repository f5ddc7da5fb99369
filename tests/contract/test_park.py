"""park: a delivery ends and its task goes on: retried, snoozed, handed back, or unknown here."""

from __future__ import annotations

import pytest

from penstock.streams import keys, settle
from penstock.streams.record import State, moment
from penstock.streams.settle import Settled
from tests.contract.helpers import MESSAGE, TTL, Queue, close_to, keys_of
from tests.servers import wait_until

DONE, LATE, GIVEN_UP, CANCELLED = Settled.DONE, Settled.LATE, Settled.GIVEN_UP, Settled.CANCELLED


@pytest.mark.parametrize(("kind", "spent"), [("retried", 1), ("snoozed", 0), ("unknown", 0)])
def test_it_waits_until_it_is_due(q: Queue, kind: str, spent: int) -> None:
    delivery = q.start_one()
    before = q.now()
    assert q.park("a", delivery, delay=50, kind=kind) == [DONE]
    due = q.parked()["k"]
    assert before + 50_000 <= due <= q.now() + 50_001
    assert q.raw.get(keys.parked_message(q.base, "k")) == MESSAGE
    assert q.entries() == {} and q.pending() == {}
    record = q.record("k")
    assert (record["s"], record["u"], record["d"], record.get("a", "0")) == ("s", str(due), "0", str(spent))
    assert q.ttl(q.record_key("k")) == -1 and q.ttl(keys.parked_message(q.base, "k")) == -1
    info = q.read("k").info()  # type: ignore[union-attr]
    assert (info.state, info.attempt, info.error) == (State.SCHEDULED, spent, "boom" if spent else None)
    assert q.counters() == {kind: 1}
    q.make_due("k")
    assert q.promote().moved == 1
    (again,) = q.fetch("b").deliveries
    assert (again.key, again.message, again.retries, again.deliveries) == ("k", MESSAGE, spent, 1)


@pytest.mark.parametrize("kind", ["released", "retried", "snoozed"])
def test_without_a_delay_it_goes_back_at_once(q: Queue, kind: str) -> None:
    delivery = q.start("k", priority="high")[0]
    assert q.park("a", delivery, delay=0, kind=kind) == [DONE]
    ((entry, key),) = q.entries("high").items()
    assert key == "k" and entry != delivery.entry
    assert q.parked() == {} and q.pending("high") == {}
    record = q.record("k")
    assert (record["s"], record["e"], record["d"], record["p"]) == ("q", entry, "0", "high")
    (again,) = q.fetch("b").deliveries
    assert (again.deliveries, again.retries, again.priority) == (1, int(kind == "retried"), "high")


def test_the_time_of_sending_stays(q: Queue) -> None:
    q.send("k")
    sent = q.read("k").info().enqueued_at  # type: ignore[union-attr]
    for delay in (0, 50):
        q.park("a", *q.fetch().deliveries, delay=delay)
        wait_until(lambda: q.now() > sent.timestamp() * 1000 + 1)  # type: ignore[union-attr]
        assert q.read("k").info().enqueued_at == sent  # type: ignore[union-attr]
    q.make_due("k")
    q.promote()
    q.bury("a", *q.fetch().deliveries)
    assert q.read("k").info().enqueued_at == sent  # type: ignore[union-attr]


def test_attempts_add_up(q: Queue) -> None:
    q.send("k")
    for spent in range(4):
        (delivery,) = q.fetch().deliveries
        assert delivery.retries == spent
        q.park("a", delivery, delay=0)


@pytest.mark.parametrize("kind", ["retried", "snoozed", "released", "unknown"])
def test_a_resend_is_answered_as_the_first_send(q: Queue, kind: str) -> None:
    delivery = q.start_one()
    delay = 0 if kind == "released" else 50
    assert q.park("a", delivery, delay=delay, kind=kind) == [DONE]  # the reply is lost
    before = q.state()
    assert q.park("a", delivery, delay=delay, kind=kind) == [DONE]
    assert q.state() == before
    if delay:
        q.make_due("k")
        q.promote()
        before = q.state()
        assert q.park("a", delivery, delay=delay, kind=kind) == [DONE]
        assert q.state() == before


@pytest.mark.parametrize("kind", ["retried", "snoozed", "released", "unknown"])
def test_what_is_not_ours_is_not_moved(q: Queue, kind: str) -> None:
    slow, acked = q.start("slow", "acked")
    q.crash(slow, "b")
    q.succeed("a", acked)
    before = q.state()
    assert q.park("a", slow, acked, kind=kind) == [LATE, LATE]
    assert q.state() == before


def test_who_lost_the_lease_is_late_also_after_the_heir_has_parked(q: Queue) -> None:
    slow = q.start_one()
    heir = q.crash(slow, "b")
    assert q.park("b", heir) == [DONE]
    before = q.state()
    assert q.park("a", slow) == [LATE]
    assert q.state() == before


@pytest.mark.parametrize("kind", ["retried", "snoozed", "released", "unknown"])
def test_what_was_cancelled_ends(q: Queue, kind: str) -> None:
    delivery = q.start_one()
    q.read("k", "me")
    q.cancel("k")
    with q.listening(keys.listener_channel(q.namespace, "me")) as heard:
        assert q.park("a", delivery, kind=kind) == [CANCELLED]
        assert heard.take() == ["q:k"]
    assert q.is_empty() and q.read("k").state is State.CANCELLED  # type: ignore[union-attr]
    assert close_to(q.ttl(q.record_key("k")), TTL) and q.counters() == {"cancelled": 1}
    before = q.state()
    assert q.park("a", delivery, kind=kind) == [CANCELLED]
    assert q.state() == before


# Unknown tasks


def unknown_for(q: Queue, seconds: float) -> None:
    q.raw.hset(q.record_key("k"), "g", q.now() - round(seconds * 1000))


def test_an_unknown_task_waits_longer_and_longer(q: Queue) -> None:
    delivery = q.start_one()
    delays = []
    for known_since in (0, 10, 40, 100, 900):
        unknown_for(q, known_since)
        now = q.now()
        assert q.park("a", delivery, delay=1, kind="unknown") == [DONE]
        delays.append(round((q.parked()["k"] - now) / 1000))
        q.make_due("k")
        q.promote()
        (delivery,) = q.fetch().deliveries
        assert delivery.retries == 0 and delivery.deliveries == 1
    assert delays == [1, 5, 20, 50, 60]


def test_an_unknown_task_is_given_up_and_nothing_is_changed(q: Queue) -> None:
    delivery = q.start_one()
    unknown_for(q, 1000)
    before = q.state()
    assert q.park("a", delivery, kind="unknown", give_up=1000) == [GIVEN_UP]
    assert q.park("a", delivery, kind="unknown", give_up=0) == [GIVEN_UP]
    assert q.state() == before
    assert q.bury("a", delivery) == [DONE]


def test_its_time_as_unknown_begins_with_the_first_worker(q: Queue) -> None:
    delivery = q.start_one()
    before = q.now()
    q.park("a", delivery, delay=1, kind="unknown")
    assert before <= int(q.record("k")["g"]) <= q.now()


@pytest.mark.parametrize("kind", ["retried", "snoozed", "released"])
def test_its_time_as_unknown_is_over_once_somebody_knew_it(q: Queue, kind: str) -> None:
    """Else a second rolling deploy, days later, would bury it at once."""
    delivery = q.start_one()
    unknown_for(q, 999)
    q.park("a", delivery, delay=0, kind=kind)
    (delivery,) = q.fetch().deliveries
    assert q.park("a", delivery, kind="unknown") == [DONE]
    assert q.now() - int(q.record("k")["g"]) < 60_000


def test_an_unknown_task_may_still_expire(q: Queue) -> None:
    q.send("k", expires="+60000")
    (delivery,) = q.fetch().deliveries
    q.park("a", delivery, kind="unknown")
    q.raw.hset(q.record_key("k"), "x", 1)
    q.make_due("k")
    q.promote()
    assert q.fetch().deliveries == [] and q.record("k")["s"] == "e"


# Batches, memory, waking the promoter


@pytest.mark.parametrize("delay", [50, 0])
def test_out_of_memory_it_stays_pending_and_unchanged(q: Queue, delay: float) -> None:
    delivery = q.start_one()
    before = q.state()
    with q.out_of_memory():
        (answer,) = q.park("a", delivery, delay=delay)
    assert isinstance(answer, str) and "OOM" in answer
    assert q.state() == before
    assert q.park("a", delivery, delay=delay) == [DONE]


@pytest.mark.parametrize("kind", ["unknown", "retried"])
def test_out_of_memory_spares_no_batch(q: Queue, kind: str) -> None:
    late, delivery = q.start("late", "k")
    q.crash(late, "b")
    with q.out_of_memory():
        answers = q.park("a", late, delivery, kind=kind)
    assert answers[0] is LATE and "OOM" in str(answers[1])
    assert q.record("k")["s"] == "r" and delivery.entry in q.pending()


@pytest.mark.parametrize("delay", [0, 50])
def test_the_start_of_the_last_attempt_is_kept(q: Queue, delay: float) -> None:
    """It is counted from the entry's time, and the task gets another entry."""
    delivery = q.start_one()
    q.park("a", delivery, delay=delay)
    if delay:
        q.make_due("k")
        assert q.promote().moved == 1
    info = q.read("k").info()  # type: ignore[union-attr]
    assert (info.state, info.started_at, info.deliveries) == (State.QUEUED, moment(delivery.now), 0)
    (again,) = q.fetch().deliveries
    info = q.read("k").info()  # type: ignore[union-attr]
    assert (info.started_at, info.attempt, info.deliveries) == (moment(again.now), 2, 1)


def test_only_an_earlier_head_is_published(q: Queue) -> None:
    first, second, third, fourth = q.start("a", "b", "c", "d")
    with q.on_control() as heard:
        q.park("a", first, delay=50)
        assert heard.take() in (["due 50000"], ["due 50001"])
        q.park("a", second, delay=60)
        assert heard.take() == []
        q.park("a", third, delay=5)
        assert heard.take() in (["due 5000"], ["due 5001"])
        q.park("a", fourth, delay=0)
        assert heard.take() == []


def test_a_record_of_another_type_stays_pending_and_its_neighbours_are_parked(q: Queue) -> None:
    deliveries = q.start("a", "bad", "c")
    q.raw.delete(q.record_key("bad"))
    q.break_record("bad")
    answers = q.park("a", *deliveries)
    assert (answers[0], answers[2]) == (DONE, DONE) and "WRONGTYPE" in str(answers[1])
    assert list(q.pending()) == [deliveries[1].entry] and list(q.parked()) == ["a", "c"]
    q.raw.delete(q.record_key("bad"))


def test_it_is_late_once_the_group_is_gone(q: Queue) -> None:
    deliveries = q.start("a", "b")
    q.raw.xgroup_destroy(q.stream(), keys.GROUP)
    before = q.state()
    assert q.park("a", *deliveries) == [LATE, LATE]
    assert q.state() == before
    assert keys_of(q.fetch()) == ["a", "b"]


def test_a_long_error_is_cut(q: Queue) -> None:
    """A longer field would turn the record's small hash into a large one for good."""
    delivery = q.start_one()
    items = [(delivery, "n", 50.0, "retried", "ValueError: " + "ä" * 100)]
    q.run(settle.park(q.base, "a", TTL, 1000, items))
    record = q.read("k")
    assert record is not None and (record.info().error or "").startswith("ValueError: ää")
    assert q.raw.object("encoding", q.record_key("k")) in (b"ziplist", b"listpack")


@pytest.mark.parametrize(("kind", "expires"), [("unstarted", True), ("released", False)])
def test_what_goes_back_before_its_code_began_may_still_expire(q: Queue, kind: str, expires: bool) -> None:
    q.send("k", expires="+100000")
    (delivery,) = q.fetch("a").deliveries
    assert q.park("a", delivery, delay=0, kind=kind) == [DONE]
    assert q.counters() == {"released": 1}
    q.raw.hset(q.record_key("k"), "x", 1)  # the time has come
    assert len(q.fetch("b").deliveries) == (0 if expires else 1)
    record = q.read("k")
    assert record is not None and record.state is (State.EXPIRED if expires else State.RUNNING)
