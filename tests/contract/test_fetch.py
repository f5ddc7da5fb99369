"""fetch: as many as there are slots, each priority its share; what must not start ends here."""

from __future__ import annotations

import msgspec
import pytest

from penstock.errors import WrongKeyType
from penstock.streams import keys
from penstock.streams.produce import Envelope
from penstock.streams.record import State, moment
from penstock.streams.settle import Settled
from tests.contract.helpers import MESSAGE, NAME, TTL, Queue, close_to, keys_of


def priorities(q: Queue, budget: int, *quotas: tuple[str, int]) -> str:
    """First letters of what one fetch brings."""
    return "".join(d.priority[0] for d in q.fetch(budget=budget, quotas=quotas).deliveries)


@pytest.fixture
def ten_each(q: Queue) -> Queue:
    for priority in ("low", "default", "high"):
        q.send(*[f"{priority}{i}" for i in range(10)], priority=priority)
    return q


def test_no_more_than_the_budget(q: Queue) -> None:
    q.send("a", "b", "c")
    assert keys_of(q.fetch(budget=2)) == ["a", "b"]
    assert len(q.pending()) == 2
    assert keys_of(q.fetch(budget=2)) == ["c"]
    assert q.fetch(budget=2).read == 0


def test_no_more_bytes_than_a_reply_should_have(q: Queue) -> None:
    large = [Envelope(f"k{i}", NAME, "default", bytes(1 << 20)) for i in range(12)]
    for envelope in large:
        assert q.enqueue(envelope)[0].created
    q.send("high", priority="high")
    replies = [keys_of(q.fetch(budget=20)) for _ in range(4)]
    assert [key for keys in replies for key in keys] == ["high", *(f"k{i}" for i in range(12))]
    assert max(map(len, replies)) < 12 and q.fetch().read == 0


def test_each_priority_gets_its_share(ten_each: Queue) -> None:
    assert priorities(ten_each, 10, ("high", 6), ("default", 3), ("low", 1)) == "hhhhhhdddl"


def test_the_rest_goes_in_the_given_order(ten_each: Queue) -> None:
    assert priorities(ten_each, 6, ("low", 1), ("default", 1), ("high", 1)) == "ldhlll"
    assert priorities(ten_each, 3, ("high", 0), ("default", 0), ("low", 0)) == "hhh"


def test_an_unused_share_goes_to_the_others(q: Queue) -> None:
    q.send(*[f"l{i}" for i in range(10)], priority="low")
    q.send("h", priority="high")
    assert priorities(q, 8, ("high", 6), ("default", 3), ("low", 1)) == "hlllllll"


def test_one_slot_goes_to_who_is_first(ten_each: Queue) -> None:
    assert priorities(ten_each, 1, ("low", 1), ("high", 0), ("default", 0)) == "l"


def test_the_start_is_in_the_record(q: Queue) -> None:
    q.send("k")
    before = q.now()
    batch = q.fetch("worker-1")
    (delivery,) = batch.deliveries
    assert (batch.read, batch.problem) == (1, "")
    assert (delivery.key, delivery.raw_key, delivery.message, delivery.priority) == ("k", b"k", MESSAGE, "default")
    assert (delivery.retries, delivery.deliveries) == (0, 1)
    assert before <= delivery.now <= q.now() and delivery.ready_at <= delivery.now
    record = q.record("k")
    assert (record["s"], record["w"], record["e"]) == ("r", "worker-1", delivery.entry)
    info = q.read("k").info()  # type: ignore[union-attr]
    assert (info.state, info.worker, info.attempt, info.deliveries) == (State.RUNNING, "worker-1", 1, 1)
    assert info.started_at == moment(delivery.now)
    assert q.ttl(q.record_key("k")) == -1


def test_the_group_is_made_at_the_beginning(q: Queue) -> None:
    q.send("before the group")
    assert keys_of(q.fetch()) == ["before the group"]


@pytest.mark.parametrize("loss", ["flush", "destroy", "delete"])
def test_the_group_is_made_again(q: Queue, loss: str) -> None:
    q.fetch()
    if loss == "flush":
        q.raw.flushall()
    elif loss == "destroy":
        q.raw.xgroup_destroy(q.stream(), keys.GROUP)
    else:
        q.raw.delete(q.stream())
    q.send("k")
    assert keys_of(q.fetch()) == ["k"]


def test_a_second_worker_gets_other_entries(q: Queue) -> None:
    q.send("a", "b")
    assert keys_of(q.fetch("a", budget=1)) == ["a"]
    assert keys_of(q.fetch("b", budget=9)) == ["b"]
    assert {p.consumer for p in q.pending().values()} == {"a", "b"}


def test_expired_ones_end_and_are_counted_as_read(q: Queue) -> None:
    q.send("old", expires="1")
    q.send("later", expires="+60000")
    batch = q.fetch()
    assert (keys_of(batch), batch.read, batch.problem) == (["later"], 2, "")
    assert q.read("old").state is State.EXPIRED  # type: ignore[union-attr]
    assert close_to(q.ttl(q.record_key("old")), TTL)
    assert q.queued() == ["later"] and len(q.pending()) == 1
    assert q.counters() == {"expired": 1}


def test_what_has_begun_does_not_expire(q: Queue) -> None:
    delivery = q.start_one()
    q.raw.hset(q.record_key("k"), "x", 1)
    assert q.crash(delivery, "b").deliveries == 2


def test_cancelled_ones_end_and_are_counted_as_read(q: Queue) -> None:
    q.send("a", "b")
    q.raw.hset(q.record_key("a"), "c", 1)
    batch = q.fetch()
    assert (keys_of(batch), batch.read) == (["b"], 2)
    assert q.read("a").state is State.CANCELLED  # type: ignore[union-attr]
    assert q.queued() == ["b"] and q.counters() == {"cancelled": 1}
    assert close_to(q.ttl(q.record_key("a")), TTL)


def test_entries_that_their_record_knows_nothing_of_are_dropped(q: Queue) -> None:
    """A failover can bring back what was finished, parked or moved."""
    done, parked = q.start("done", "parked")
    q.succeed("a", done)
    q.park("a", parked)
    q.send("twice")
    for key in ("done", "parked", "twice"):
        q.raw.xadd(q.stream(), {"k": key, "m": MESSAGE})
    before = q.record("parked")
    batch = q.fetch()
    assert (keys_of(batch), batch.read) == (["twice"], 4)
    assert q.queued() == ["twice"] and len(q.pending()) == 1
    assert q.record("parked") == before and q.record("done")["s"] == "o"


def test_the_entry_of_a_parked_task_is_dropped_when_it_comes_back(q: Queue) -> None:
    q.park("a", q.start_one())
    entry = q.raw.xadd(q.stream(), {"k": "k", "m": MESSAGE})
    q.raw.hset(q.record_key("k"), "e", entry)
    before = q.record("k")
    assert q.fetch().deliveries == [] and q.queued() == []
    assert q.record("k") == before and list(q.parked()) == ["k"]


def test_a_message_whose_record_was_lost_runs(q: Queue) -> None:
    q.send("k", priority="low")
    q.raw.delete(q.record_key("k"))
    (delivery,) = q.fetch().deliveries
    assert (delivery.key, delivery.deliveries) == ("k", 1)
    record = q.record("k")
    assert (record["s"], record["e"], record["p"]) == ("r", delivery.entry, "low")


@pytest.mark.parametrize(
    "fields",
    [
        {"x": "1"},
        {"k": "a"},
        {"m": "1", "k": "a"},
        {"k": "a", "m": "1", "z": "2"},
        {"k": "", "m": "1"},
        {"k": "x" * 201, "m": ""},
    ],
)
def test_an_entry_of_somebody_else_goes_out_without_a_key(q: Queue, fields: dict[str, str]) -> None:
    q.send("a")
    q.raw.xadd(q.stream(), fields)  # type: ignore[arg-type]
    q.send("b")
    batch = q.fetch()
    assert (keys_of(batch), batch.read, batch.problem) == (["a", "", "b"], 3, "")
    # As the dead letter shows them.
    assert msgspec.msgpack.decode(batch.deliveries[1].message) == [word for pair in fields.items() for word in pair]
    assert batch.deliveries[1].deliveries == 1
    q.bury("a", batch.deliveries[1])


@pytest.mark.parametrize(
    "key",
    [
        b"\xff\x00", b"a\nb", b"\x1b[31m", b"a\x00", b"\x7f", b"\xc3", b"\xc3\xe2\x82\xac\xa9", b"\xc0\xaf",
        b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf0\x80\x80\xaf", b"\xf4\x90\x80\x80", b"\xf5\x80\x80\x80",
        b"\xc3\xa4" * 201,
    ],
)  # fmt: skip
def test_a_key_that_no_producer_sends_makes_no_record(q: Queue, key: bytes) -> None:
    q.raw.xadd(q.stream(), {"k": key, "m": b"\xff"})
    (delivery,) = q.fetch().deliveries
    assert delivery.key == "" and key in delivery.message
    assert q.bury("a", delivery) == [Settled.DONE]
    assert q.is_empty() and not q.raw.exists(f"{q.base}:t:".encode() + key)


@pytest.mark.parametrize(
    "key", ["x" * 200, "ä" * 200, "€" * 200, "\U0001f600" * 200, "| ~!*[x]?:{}\\", "ünïcödé\u07ff\u0800\ud7ff\ue000"]
)
def test_whatever_a_producer_may_send_is_a_key(q: Queue, key: str) -> None:
    q.send(key)
    (delivery,) = q.fetch().deliveries
    assert delivery.key == key
    assert q.succeed("a", delivery) == [Settled.DONE]


def test_a_record_of_another_type_stays_pending_and_its_neighbours_go_out(q: Queue) -> None:
    q.send("a", "bad", "c")
    q.raw.delete(q.record_key("bad"))
    q.break_record("bad")
    batch = q.fetch()
    assert (keys_of(batch), batch.read) == (["a", "c"], 3)
    assert "bad" in batch.problem and "WRONGTYPE" in batch.problem
    assert [q.entries()[entry] for entry in q.pending()] == ["a", "bad", "c"]
    q.raw.delete(q.record_key("bad"))
    assert keys_of(q.orphans("a", [d.entry for d in batch.deliveries])) == ["bad"]


def test_a_stream_of_another_type_is_an_error_and_keeps_nobody_back(q: Queue) -> None:
    q.send("a", priority="high")
    q.send("b", priority="low")
    q.raw.set(q.stream("default"), "x", ex=1000)
    assert keys_of(q.fetch()) == ["a", "b"]
    with pytest.raises(WrongKeyType):
        q.fetch()
    assert q.orphans("a").read == 0
    q.raw.delete(q.stream("default"))


def test_work_starts_although_memory_is_full(q: Queue) -> None:
    q.send("a", "b")
    with q.out_of_memory():
        batch = q.fetch()
        assert (keys_of(batch), batch.problem) == (["a", "b"], "")
        assert q.succeed("a", *batch.deliveries) and q.fetch().read == 0


def test_a_name_of_a_task_is_counted_when_it_ends_here(q: Queue) -> None:
    q.send("k", expires="1")
    q.fetch()
    assert q.raw.hgetall(keys.counters(q.base)) == {f"expired|{NAME}".encode(): b"1"}
