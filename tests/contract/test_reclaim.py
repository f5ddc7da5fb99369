"""reclaim: what nobody renews is taken over; a task that crashes its workers goes alone, and not for ever."""

from __future__ import annotations

import pytest

from penstock.streams import consume, keys
from penstock.streams.consume import Delivery, Reclaimed, Sweep
from penstock.streams.record import State
from penstock.streams.settle import Settled
from tests.contract.helpers import LEASE, TTL, Queue, close_to, keys_of


def test_only_what_is_idle_for_a_lease(q: Queue) -> None:
    dead, living = q.start("dead", "living")
    q.age(dead)
    q.age(living, seconds=LEASE / 2)
    step = q.reclaim("b")
    assert (keys_of(step.batch), step.batch.read, step.batch.problem) == (["dead"], 1, "")
    assert (step.cursor, step.held) == ("0-0", 0)
    assert (step.batch.deliveries[0].retries, step.batch.deliveries[0].deliveries) == (0, 2)
    pending = q.pending()
    assert pending[dead.entry].consumer == "b" and pending[dead.entry].idle < 10_000
    assert pending[living.entry].consumer == "a"
    assert (q.record("dead")["w"], q.record("dead")["d"]) == ("b", "2")
    assert q.reclaim("c").batch.read == 0


@pytest.mark.parametrize("ahead", [-1, 60_000])
def test_a_step_is_carried_out_until_its_last_moment_and_not_later(q: Queue, ahead: int) -> None:
    """Else one that has waited at a server that stood still would find every lease run out."""
    (dead,) = q.start("dead")
    q.age(dead)
    before = q.state()
    now = q.run(consume.clock(q.base))
    sweep = Sweep("default", LEASE, "0-0", 100, 1, latest=now + ahead)
    step = q.run(consume.reclaim(q.base, q.name, "b", sweep, TTL))
    if ahead < 0:
        assert step.late and step.batch.read == 0 and step.batch.deliveries == []
        assert q.state().keys() == before.keys() and q.pending()[dead.entry].consumer == "a"
        assert q.record("dead")["w"] == "a"
    else:
        assert not step.late and keys_of(step.batch) == ["dead"]


def test_the_servers_time(q: Queue) -> None:
    before = q.now()
    assert before <= q.run(consume.clock(q.base)) <= q.now()


def dead_behind_living(q: Queue, living: int, dead: int) -> list[str]:
    """Keys of entries that a dead worker had, behind those of a living one."""
    # Without records: a sweep never gets to see those of the living.
    add = "for i = 1, ARGV[1] do redis.call('XADD', KEYS[1], '*', 'k', 'l' .. i, 'm', '') end"
    q.raw.eval(add, 1, q.stream(), living)
    q.raw.xgroup_create(q.stream(), keys.GROUP, "0")
    q.read_blocking("living", count=living)
    gone = [f"d{i}" for i in range(dead)]
    q.send(*gone)
    for priority, entry in q.read_blocking("gone", count=dead):
        q.claim("gone", priority, entry, LEASE + 1)
    return gone


@pytest.mark.parametrize("slots", [1, 10])
def test_ten_thousand_living_entries_starve_no_dead_one(q: Queue, slots: int) -> None:
    """However few slots are free: one step for what fits into them, none for the living."""
    dead = dead_behind_living(q, 10_000, 100)
    found, cursor, steps = [], "0-0", 0
    while steps == 0 or cursor != "0-0":
        step = q.reclaim("b", cursor, slots)
        assert step.batch.read <= slots
        found += keys_of(step.batch)
        cursor, steps = step.cursor, steps + 1
    assert found == dead
    assert steps <= len(dead) / slots + 1
    assert q.reclaim("c", limit=1).cursor == "0-0"


@pytest.mark.parametrize("slots", [1, 10, 1000])
def test_a_step_is_bounded_and_the_cursor_gets_past_living_entries(q: Queue, slots: int) -> None:
    """Behind too many living entries to pass over all: one that starts at 0-0 each time never gets further."""
    dead = dead_behind_living(q, 1500, 20)

    def step(cursor: str) -> Reclaimed:
        sweep = Sweep("default", LEASE, cursor, slots, 1, scan=1519)
        return q.run(consume.reclaim(q.base, q.name, "b", sweep, TTL))

    first = step("0-0")
    assert (first.batch.read, first.cursor) == (0, list(q.entries())[1000])
    found, cursor = [], first.cursor
    while cursor != "0-0":
        answer = step(cursor)
        assert answer.batch.read <= slots
        found += keys_of(answer.batch)
        cursor = answer.cursor
    assert found == dead


def test_one_priority_at_a_time(q: Queue) -> None:
    (high,) = q.start("h", priority="high")
    q.age(high)
    assert q.reclaim("b").batch.read == 0
    assert keys_of(q.reclaim("b", priority="high").batch) == ["h"]


def test_what_was_read_and_never_admitted_is_no_crash(q: Queue) -> None:
    q.fetch()
    q.send("k")
    ((_, entry),) = q.read_blocking("a")
    q.claim("a", "default", entry, LEASE + 1)
    (delivery,) = q.reclaim("b").batch.deliveries
    assert delivery.deliveries == 1


def test_cancelled_ones_end(q: Queue) -> None:
    delivery = q.start_one()
    assert q.cancel("k")[0].requested
    q.age(delivery)
    step = q.reclaim("b")
    assert (step.batch.read, step.batch.deliveries) == (1, [])
    assert q.is_empty() and q.read("k").state is State.CANCELLED  # type: ignore[union-attr]
    assert close_to(q.ttl(q.record_key("k")), TTL) and q.counters() == {"cancelled": 1}


# One's own


def test_what_runs_here_is_not_started_again(q: Queue) -> None:
    """XAUTOCLAIM gives back one's own, too. It comes uncounted, for the worker to find in its table."""
    delivery = q.start_one()
    q.age(delivery)
    before = q.record("k")
    step = q.reclaim("a")
    assert (step.batch.read, step.held) == (0, 0)
    assert [(d.entry, d.deliveries, d.retries) for d in step.batch.deliveries] == [(delivery.entry, 1, 0)]
    assert q.record("k") == before
    assert q.pending()[delivery.entry].deliveries == 1


def test_what_a_lost_reply_brought_is_found_one_lease_later(q: Queue) -> None:
    """A fetch may reach the server after the search for orphans: its entries must not wait for ever."""
    q.park("a", q.start_one(), delay=0)
    (lost,) = q.fetch().deliveries
    q.age(lost)
    (found,) = q.reclaim("a").batch.deliveries
    assert (found.entry, found.message, found.retries, found.deliveries) == (lost.entry, lost.message, 1, 1)
    assert q.succeed("a", found) == [Settled.DONE]


# Suspects


def crashed_twice(q: Queue, *task_keys: str) -> list[Delivery]:
    """Tasks of which two workers have died, the last one ("b") just now."""
    q.start(*task_keys)
    started = [q.crash(d, "b") for d in q.orphans("a").deliveries]
    q.age(*started, consumer="b")
    return started


def test_one_suspect_at_a_time(q: Queue) -> None:
    crashed_twice(q, "a", "b", "c")
    step = q.reclaim("w1")
    assert (keys_of(step.batch), step.batch.read, step.held) == (["a"], 1, 2)
    assert step.batch.deliveries[0].deliveries == 3
    assert q.record("b")["d"] == "2" and q.record("b")["w"] == "b"


def test_a_worker_that_runs_a_suspect_takes_no_other(q: Queue) -> None:
    crashed_twice(q, "a", "b")
    step = q.reclaim("w1", suspects=0)
    assert (step.batch.read, step.batch.deliveries, step.held) == (0, [], 2)


def test_suspects_that_are_held_back_are_free_for_others_at_once(q: Queue) -> None:
    crashed_twice(q, "a", "b", "c")
    assert keys_of(q.reclaim("w1").batch) == ["a"]
    assert keys_of(q.reclaim("w2").batch) == ["b"]
    assert keys_of(q.reclaim("w3").batch) == ["c"]
    assert q.reclaim("w4").held == 0


def test_suspects_keep_nobody_else_back(q: Queue) -> None:
    crashed_twice(q, "a", "b")
    q.age(*q.start("innocent"))
    assert keys_of(q.reclaim("w1", suspects=0).batch) == ["innocent"]


# Crashes add up


def test_crashes_add_up(q: Queue) -> None:
    delivery = q.start_one()
    for count, heir in enumerate("bcd", 2):
        delivery = q.crash(delivery, heir)
        assert delivery.deliveries == count
    assert q.read("k").info().deliveries == 4  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["snoozed", "retried", "released", "unknown"])
def test_crashes_add_up_across_entries(q: Queue, kind: str) -> None:
    """Crash, hand back, crash, hand back: what ended in order does not count, what crashed does."""
    delivery = q.start_one()
    for crashes in (1, 2):
        consumer, heir = f"w{crashes}", f"h{crashes}"
        if crashes > 1:
            (delivery,) = q.fetch(consumer).deliveries
        assert delivery.deliveries == crashes
        delivery = q.crash(delivery, heir)
        assert delivery.deliveries == crashes + 1
        assert q.park(heir, delivery, kind=kind, delay=0 if kind == "released" else 5) == [Settled.DONE]
        if kind != "released":
            q.make_due("k")
            assert q.promote().moved == 1
    (delivery,) = q.fetch("w3").deliveries
    assert delivery.deliveries == 3
    assert delivery.retries == (2 if kind == "retried" else 0)


def test_handing_back_counts_no_crash(q: Queue) -> None:
    q.start_one()
    for _ in range(3):
        (delivery,) = q.orphans("a").deliveries
        assert delivery.deliveries == 1
        q.park("a", delivery, delay=0, kind="released")
        q.fetch()


# What is in the way


def test_an_entry_that_was_deleted_leaves_the_pending_list(q: Queue) -> None:
    """On 6.2 it would come back in each sweep, for ever."""
    ghost, delivery = q.start("ghost", "k")
    q.age(ghost, delivery)
    q.raw.xdel(q.stream(), ghost.entry)
    assert keys_of(q.reclaim("b").batch) == ["k"]
    assert list(q.pending()) == [delivery.entry]
    q.raw.delete(q.record_key("ghost"))


def test_a_record_of_another_type_stays_pending_and_its_neighbours_are_taken(q: Queue) -> None:
    bad, good = q.start("bad", "good")
    q.age(bad, good)
    q.raw.delete(q.record_key("bad"))
    q.break_record("bad")
    step = q.reclaim("b")
    assert keys_of(step.batch) == ["good"] and "WRONGTYPE" in step.batch.problem
    assert bad.entry in q.pending()
    q.raw.delete(q.record_key("bad"))


def test_an_entry_of_somebody_else(q: Queue) -> None:
    q.raw.xadd(q.stream(), {"x": 1})
    (delivery,) = q.fetch().deliveries
    q.age(delivery)
    (found,) = q.reclaim("b").batch.deliveries
    assert found.key == ""
    q.bury("b", found)
    assert q.is_empty()


@pytest.mark.parametrize("loss", ["never", "destroy", "type"])
def test_there_is_nothing_without_a_group(q: Queue, loss: str) -> None:
    if loss == "destroy":
        q.start_one()
        q.raw.xgroup_destroy(q.stream(), keys.GROUP)
    elif loss == "type":
        q.raw.set(q.stream(), "x")
    step = q.reclaim("b", cursor="5-5")
    assert (step.batch.read, step.batch.deliveries, step.cursor, step.held) == (0, [], "0-0", 0)
    if loss == "type":
        q.raw.delete(q.stream())


def test_work_is_taken_over_although_memory_is_full(q: Queue) -> None:
    delivery = q.start_one()
    q.age(delivery)
    with q.out_of_memory():
        step = q.reclaim("b")
    assert (keys_of(step.batch), step.batch.problem) == (["k"], "")
