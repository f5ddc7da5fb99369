"""pause: nothing of the queue starts, whichever way it comes; nothing else changes."""

from __future__ import annotations

import pytest

from penstock.streams import keys, produce
from penstock.streams.inspect import queue_stats
from tests.contract.helpers import Queue, keys_of


def pause(q: Queue) -> bool:
    return q.run(produce.pause(q.base, True))


def resume(q: Queue) -> bool:
    return q.run(produce.pause(q.base, False))


def test_it_says_whether_it_changed_anything(q: Queue) -> None:
    assert (pause(q), pause(q), resume(q), resume(q)) == (True, False, True, False)
    assert not q.raw.exists(keys.paused(q.base))


def test_a_fetch_reads_nothing_until_it_is_resumed(q: Queue) -> None:
    q.send("k")
    pause(q)
    batch = q.fetch()
    assert (batch.read, batch.deliveries, batch.paused) == (0, [], True)
    assert not q.pending(), "an entry was delivered"
    resume(q)
    batch = q.fetch()
    assert (keys_of(batch), batch.paused) == (["k"], False)


def test_what_a_blocking_read_brings_goes_back(q: Queue) -> None:
    q.fetch()  # makes the groups
    q.send("k")
    entries = q.read_blocking("w1")
    pause(q)
    batch = q.admit("w1", *entries)
    assert (batch.read, batch.deliveries, batch.problem) == (0, [], "")
    assert not q.pending() and len(q.entries()) == 1
    record = q.record("k")
    assert record["s"] == "q" and record["e"] == next(iter(q.entries())) != entries[0][1]
    assert "d" not in record, "a delivery that started nothing counts as no crash"
    sent_at = int(entries[0][1].partition("-")[0])
    assert int(record["t"]) == sent_at, "when it was sent is kept"
    resume(q)
    assert [(d.key, d.deliveries) for d in q.fetch("w2").deliveries] == [("k", 1)]


def test_what_is_put_back_can_still_be_cancelled_and_has_not_lost_its_id(q: Queue) -> None:
    q.fetch()
    q.send("k")
    entries = q.read_blocking("w1")
    pause(q)
    q.admit("w1", *entries)
    assert q.enqueue(produce.Envelope("k", "shop.tasks.send_receipt", "default", b""))[0].exists
    assert q.run(produce.cancel(q.base, ["k"], 10.0))[0].ended
    assert not q.entries()


def test_a_foreign_entry_of_a_paused_queue_is_still_handed_out_to_be_buried(q: Queue) -> None:
    q.fetch()
    q.raw.xadd(q.stream(), {"not": "ours"})
    entries = q.read_blocking("w1")
    pause(q)
    batch = q.admit("w1", *entries)
    assert (batch.read, keys_of(batch)) == (1, [""])


def test_nothing_is_taken_over_or_adopted(q: Queue) -> None:
    d = q.start_one()
    q.age(d)
    pause(q)
    before = q.state()
    assert q.reclaim("b").batch.paused and q.orphans("a").paused
    assert q.state() == before
    resume(q)
    assert keys_of(q.reclaim("b").batch) == ["k"]


@pytest.mark.parametrize("ending", ["succeed", "retry"])
def test_what_runs_ends_as_ever(q: Queue, ending: str) -> None:
    d = q.start_one()
    pause(q)
    if ending == "succeed":
        q.succeed("a", d)
        assert q.record("k")["s"] == "o"
    else:
        q.park("a", d)
        assert q.record("k")["s"] in "sq" and q.fetch().paused
    resume(q)


def test_how_long_it_is_paused_can_be_seen(q: Queue) -> None:
    assert q.run(queue_stats(q.base, "q")).paused is None
    pause(q)
    since = q.raw.get(keys.paused(q.base))
    paused = q.run(queue_stats(q.base, "q")).paused
    assert paused is not None and 0 <= paused < 60
    pause(q)
    assert q.raw.get(keys.paused(q.base)) == since
    resume(q)
