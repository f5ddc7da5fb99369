"""promote: what is due goes into its stream, and nothing else."""

from __future__ import annotations

from penstock.streams import consume, keys
from penstock.streams.record import State
from tests.contract.helpers import MESSAGE, Queue, keys_of
from tests.servers import wait_until


def test_only_what_is_due(q: Queue) -> None:
    q.send("later", due="+50000")
    q.send("now", due="+60000", priority="high")
    q.make_due("now")
    answer = q.promote()
    assert (answer.moved, answer.problem) == (1, "")
    assert answer.next is not None and 40 < answer.next <= 50.001  # due times are rounded up to whole ms
    assert list(q.parked()) == ["later"] and q.queued() == []
    ((entry, key),) = q.entries("high").items()
    assert key == "now" and not q.raw.exists(keys.parked_message(q.base, "now"))
    record = q.record("now")
    assert (record["s"], record["e"]) == ("q", entry)
    assert q.ttl(q.record_key("now")) == -1
    (delivery,) = q.fetch().deliveries
    assert (delivery.key, delivery.message) == ("now", MESSAGE)


def test_when_the_time_comes(q: Queue) -> None:
    q.send("k", due="+30")
    assert q.promote().moved == 0
    wait_until(lambda: q.promote().moved)
    assert q.queued() == ["k"]


def test_the_earliest_first_and_no_more_than_the_limit(q: Queue) -> None:
    for key, due in (("c", 3), ("a", 1), ("b", 2)):
        q.send(key, due="+60000")
        q.raw.zadd(keys.parked(q.base), {key: due})
    answer = q.promote(limit=2)
    assert (answer.moved, answer.next) == (2, 0.0)
    assert q.queued() == ["a", "b"]
    answer = q.promote(limit=2)
    assert (answer.moved, answer.next) == (1, None)


def test_nothing_is_parked(q: Queue) -> None:
    assert q.promote() == consume.Promoted(0, None, "")
    assert q.state() == {}


def test_a_second_promoter_finds_nothing(q: Queue) -> None:
    q.send("k", due="+60000")
    q.make_due("k")
    assert [q.promote().moved, q.promote().moved] == [1, 0]
    assert q.queued() == ["k"]


def test_a_message_that_the_server_has_lost(q: Queue) -> None:
    q.send("lost", "k", due="+60000")
    q.raw.delete(keys.parked_message(q.base, "lost"))
    q.make_due("lost", "k")
    answer = q.promote()
    assert (answer.moved, answer.next, answer.problem) == (1, None, "")
    assert q.queued() == ["k"] and q.parked() == {}
    assert q.ttl(q.record_key("lost")) > 0  # it does not stay for ever


def test_a_record_that_the_server_has_lost(q: Queue) -> None:
    q.send("k", due="+60000", priority="low")
    q.raw.delete(q.record_key("k"))
    q.make_due("k")
    assert q.promote().moved == 1
    assert keys_of(q.fetch()) == ["k"]


def test_what_was_cancelled_meanwhile_is_gone(q: Queue) -> None:
    q.send("a", "b", due="+60000")
    q.make_due("a", "b")
    assert q.cancel("a")[0].ended
    assert q.promote().moved == 1
    assert q.queued() == ["b"] and q.read("a").state is State.CANCELLED  # type: ignore[union-attr]


def test_a_record_of_another_type_stays_parked_and_its_neighbours_go(q: Queue) -> None:
    q.send("a", "bad", "c", due="+60000")
    q.raw.delete(q.record_key("bad"))
    q.break_record("bad")
    q.make_due("a", "bad", "c")
    answer = q.promote()
    assert answer.moved == 2 and "WRONGTYPE" in answer.problem
    assert list(q.parked()) == ["bad"] and q.queued() == ["a", "c"]


def test_out_of_memory_it_stays_parked(q: Queue) -> None:
    q.send("k", due="+60000")
    q.make_due("k")
    before = q.state()
    with q.out_of_memory():
        answer = q.promote()
    assert answer.moved == 0 and "OOM" in answer.problem
    assert q.state() == before
    assert q.promote().moved == 1


def test_next_due(q: Queue) -> None:
    assert q.run(consume.next_due(q.base)) is None
    q.send("b", due="+60000")
    q.send("a", due="+50000")
    assert q.run(consume.next_due(q.base)) == q.parked()["a"]
    q.cancel("a")
    assert q.run(consume.next_due(q.base)) == q.parked()["b"]
