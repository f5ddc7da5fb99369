"""redrive: dead letters are sent again, as new."""

from __future__ import annotations

import pytest

from penstock.errors import ServerOutOfMemory
from penstock.streams import keys, produce
from penstock.streams.record import State
from penstock.streams.settle import Settled
from tests.contract.helpers import MESSAGE, NAME, Queue, keys_of


def redrive(q: Queue, *task_keys: str, limit: int = 1000) -> tuple[int, list[str]]:
    return q.run(produce.redrive(q.base, task_keys, limit))


def bury(q: Queue, *task_keys: str) -> None:
    for i, delivery in enumerate(q.start(*task_keys)):
        q.bury("a", delivery)
        q.raw.zadd(keys.dead(q.base), {delivery.key: q.now() - 100 + i})


def test_it_begins_anew(q: Queue) -> None:
    q.send("k", priority="high", expires="+60000")
    (delivery,) = q.fetch().deliveries
    sent_at = delivery.ready_at
    q.park("a", delivery, delay=0)
    (delivery,) = q.fetch().deliveries
    delivery = q.crash(delivery, "b")
    q.cancel("k")
    q.bury("b", delivery)
    assert redrive(q, "k") == (1, [])
    ((entry, _),) = q.entries("high").items()
    record = q.record("k")
    assert int(record.pop("t")) == sent_at
    assert record.pop("j")  # by which a resent call is known
    assert entry.startswith(record.pop("i") + "-")  # since when it is on its way once more
    assert record == {"n": NAME, "s": "q", "p": "high", "e": entry}
    assert q.ttl(q.record_key("k")) == -1 and q.dead() == []
    assert not q.raw.exists(keys.parked_message(q.base, "k"), keys.result(q.base, "k"))
    assert q.read("k").state is State.QUEUED  # type: ignore[union-attr]
    (again,) = q.fetch().deliveries
    assert (again.message, again.retries, again.deliveries, again.priority) == (MESSAGE, 0, 1, "high")
    assert q.succeed("a", again) == [Settled.DONE]


def test_the_oldest_without_keys(q: Queue) -> None:
    bury(q, "a", "b", "c")
    assert redrive(q, limit=2) == (2, [])
    assert q.queued() == ["a", "b"] and q.dead() == ["c"]
    assert redrive(q) == (1, []) and redrive(q) == (0, [])


def test_keys_that_are_no_dead_letters(q: Queue) -> None:
    bury(q, "a")
    q.send("queued")
    q.send("parked", due="+60000")
    before = q.record("parked")
    assert redrive(q, "parked", "none", "a", "queued") == (1, ["parked", "none", "queued"])
    assert q.queued() == ["queued", "a"] and q.record("parked") == before


def test_twice(q: Queue) -> None:
    bury(q, "a")
    assert redrive(q, "a") == (1, [])
    assert redrive(q, "a") == (0, ["a"])
    assert q.queued() == ["a"]


def test_an_index_entry_of_a_task_that_lives_again(q: Queue) -> None:
    """Its TTL had run out before its id was sent anew."""
    bury(q, "a")
    q.raw.delete(q.record_key("a"), keys.parked_message(q.base, "a"), keys.result(q.base, "a"))
    q.send("a", due="+60000")
    assert redrive(q) == (0, [])
    assert list(q.parked()) == ["a"] and q.queued() == [] and q.dead() == []
    assert q.raw.get(keys.parked_message(q.base, "a")) == MESSAGE


def test_one_that_has_expired(q: Queue) -> None:
    bury(q, "a", "b")
    q.raw.delete(q.record_key("a"), keys.parked_message(q.base, "a"), keys.result(q.base, "a"))
    assert redrive(q, "a", "b") == (1, ["a"])
    assert q.dead() == []


def test_a_record_of_another_type_keeps_nobody_back(q: Queue) -> None:
    bury(q, "a", "bad", "c")
    q.raw.delete(q.record_key("bad"))
    q.break_record("bad")
    assert redrive(q) == (2, ["bad"])
    assert q.queued() == ["a", "c"]


def test_out_of_memory_they_stay_dead(q: Queue) -> None:
    bury(q, "a", "b")
    before = q.state()
    with q.out_of_memory(), pytest.raises(ServerOutOfMemory):
        redrive(q)
    assert q.state() == before


def test_an_undecodable_one_goes_round_once(q: Queue) -> None:
    q.raw.xadd(q.stream(), {"x": 1})
    q.bury("a", q.fetch().deliveries[0])
    assert redrive(q) == (1, [])
    batch = q.fetch()
    assert keys_of(batch)[0].startswith("undecodable-")
    q.bury("a", *batch.deliveries)
    assert len(q.dead()) == 1 and q.is_empty()
