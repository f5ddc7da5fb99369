"""orphans: what is ours and runs nowhere, because a reply was lost, is delivered once."""

from __future__ import annotations

import pytest

from penstock.streams import keys
from penstock.streams.settle import Settled
from tests.contract.helpers import MESSAGE, Queue, keys_of


def test_a_fetch_whose_reply_was_lost(q: Queue) -> None:
    q.send("a", "b")
    q.fetch()  # the reply is lost
    before = q.state()
    batch = q.orphans("a")
    assert (keys_of(batch), batch.read, batch.problem) == (["a", "b"], 2, "")
    assert [(d.message, d.retries, d.deliveries, d.priority) for d in batch.deliveries] == [
        (MESSAGE, 0, 1, "default")
    ] * 2
    assert q.state() == before
    assert q.orphans("a", [d.entry for d in batch.deliveries]).read == 0
    assert q.succeed("a", *batch.deliveries) == [Settled.DONE, Settled.DONE]


def test_the_delivery_counter_of_the_server_is_unchanged_too(q: Queue) -> None:
    q.send("a")
    q.fetch()
    q.orphans("a")
    assert [p.deliveries for p in q.pending().values()] == [1]


def test_what_was_read_and_never_admitted(q: Queue) -> None:
    q.fetch()
    q.send("a")
    q.read_blocking("w")  # the reply is lost
    batch = q.orphans("w")
    assert keys_of(batch) == ["a"] and batch.deliveries[0].deliveries == 1
    assert q.record("a")["s"] == "r" and q.record("a")["w"] == "w"


def test_what_was_read_and_must_not_start_ends(q: Queue) -> None:
    q.fetch()
    q.send("a", expires="1")
    q.read_blocking("w")
    batch = q.orphans("w")
    assert (batch.read, batch.deliveries) == (1, [])
    assert q.is_empty() and q.record("a")["s"] == "e"


def test_entries_in_flight_and_those_of_others_are_left_alone(q: Queue) -> None:
    here, there = q.start("here")[0], q.start("there", consumer="b")[0]
    assert q.orphans("a", [here.entry]).read == 0
    assert keys_of(q.orphans("b")) == ["there"] and there.entry in q.pending()


def test_no_more_than_the_limit(q: Queue) -> None:
    started = q.start(*[f"k{i}" for i in range(10)])
    running = [d.entry for d in started[:5]]
    assert keys_of(q.orphans("a", running, limit=2)) == ["k5", "k6"]
    assert q.orphans("a", running, limit=100).read == 5


def test_one_behind_hundreds_that_run_is_found(q: Queue) -> None:
    started = q.start(*[f"k{i}" for i in range(100)]) + q.start(*[f"l{i}" for i in range(100)])
    assert keys_of(q.orphans("a", [d.entry for d in started[:-1]], limit=1)) == ["l99"]


def suspects(q: Queue, count: int, heir: str) -> None:
    """Tasks that have crashed twice; `heir` owns them, and holds them back."""
    started = q.start(*[f"k{i}" for i in range(count)], consumer="x")
    for delivery in started:
        q.crash(delivery, "y")
    q.age(*started, consumer="y")
    assert q.reclaim(heir, suspects=0).held == count


def test_suspects_that_are_held_back_stay_so(q: Queue) -> None:
    suspects(q, 2, heir="a")
    before = q.state()
    assert q.orphans("a").read == 0
    assert q.state() == before


def test_suspects_that_are_held_back_hide_nobody(q: Queue) -> None:
    suspects(q, 3, heir="a")
    q.start("orphan")
    assert keys_of(q.orphans("a", limit=1)) == ["orphan"]


def test_a_suspect_that_was_started_is_an_orphan_as_any_other(q: Queue) -> None:
    suspects(q, 1, heir="b")
    (started,) = q.reclaim("a").batch.deliveries
    (found,) = q.orphans("a").deliveries
    assert (found.entry, found.deliveries) == (started.entry, 3)


def test_an_entry_that_was_deleted_leaves_the_pending_list(q: Queue) -> None:
    first, second = q.start("a", "b")
    q.raw.xdel(q.stream(), first.entry)
    assert keys_of(q.orphans("a")) == ["b"]
    assert list(q.pending()) == [second.entry]
    q.raw.delete(q.record_key("a"))


def test_a_copy_of_what_runs_here_is_dropped(q: Queue) -> None:
    """A failover can bring one back; the record points at the one that runs."""
    delivery = q.start_one()
    q.raw.xadd(q.stream(), {"k": "k", "m": MESSAGE})
    q.read_blocking("a")
    assert q.orphans("a", [delivery.entry]).deliveries == []
    assert list(q.pending()) == list(q.entries()) == [delivery.entry]


def test_a_record_of_another_type_is_a_problem_and_hides_nobody(q: Queue) -> None:
    q.start("bad", "b")
    q.raw.delete(q.record_key("bad"))
    q.break_record("bad")
    batch = q.orphans("a")
    assert keys_of(batch) == ["b"] and "WRONGTYPE" in batch.problem
    q.raw.delete(q.record_key("bad"))


def test_an_entry_of_somebody_else(q: Queue) -> None:
    q.raw.xgroup_create(q.stream(), keys.GROUP, "0", mkstream=True)
    q.raw.xadd(q.stream(), {"x": 1})
    q.fetch()
    (delivery,) = q.orphans("a").deliveries
    assert delivery.key == ""
    q.bury("a", delivery)


@pytest.mark.parametrize("loss", ["never", "destroy", "type"])
def test_there_are_none_without_a_group(q: Queue, loss: str) -> None:
    """A worker may start while the server is away: its first step is then this one."""
    if loss != "never":
        q.start("a")
    if loss == "destroy":
        q.raw.xgroup_destroy(q.stream(), keys.GROUP)
    elif loss == "type":
        q.raw.set(q.stream(), "x")
    batch = q.orphans("a")
    assert (batch.read, batch.deliveries, batch.problem) == (0, [], "")
    if loss == "type":
        q.raw.delete(q.stream(), q.record_key("a"))


def test_they_start_although_memory_is_full(q: Queue) -> None:
    q.fetch()
    q.send("a")
    q.read_blocking("a")
    with q.out_of_memory():
        batch = q.orphans("a")
    assert keys_of(batch) == ["a"] and batch.problem == ""
