"""inspect: what a queue holds; fleet: what workers say of it together."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from penstock.errors import WrongKeyType
from penstock.streams import consume, inspect, keys, produce
from penstock.streams.inspect import Lane, QueueStats, Served
from tests.contract.helpers import LEASE, NAME, Queue


def stats(q: Queue, lease: float = LEASE) -> QueueStats:
    return q.run(inspect.queue_stats(q.base, q.name, lease))


def lane(q: Queue, priority: str = "default") -> Lane:
    return next(each for each in stats(q).lanes if each.priority == priority)


def counts_entries(q: Queue) -> bool:
    """Redis 7.0 and later."""
    return "entries-added" in {str(name) for name in q.raw.xinfo_stream(q.stream())}


def test_a_queue_that_was_never_used(q: Queue) -> None:
    found = stats(q)
    assert [each.priority for each in found.lanes] == ["high", "default", "low"]
    assert (found.ready, found.running, found.scheduled, found.due, found.dead) == (0, 0, 0, 0, 0)
    assert (found.oldest, found.due_in, found.paused, found.counters, found.measures) == (None, None, None, {}, ())
    assert {(each.consumers, each.added) for each in found.lanes} == {(0, 0)}


def test_what_waits_and_what_runs(q: Queue) -> None:
    q.send("one", "two", "three")
    q.fetch(budget=1)
    found = lane(q)
    assert (found.ready, found.running, found.consumers) == (2, 1, 1)
    assert found.oldest is not None and found.oldest_running is not None
    assert 0 <= found.oldest <= found.oldest_running < 60
    assert (found.overdue, found.again) == (0, 0)
    assert found.added == (3 if counts_entries(q) else None)


def test_ready_is_exact_where_the_servers_own_lag_is_not(q: Queue) -> None:
    """XINFO's lag turns nil, or wrong, with the first entry that is deleted."""
    q.send(*(f"k{i}" for i in range(5)))
    first, second = q.fetch(budget=2).deliveries
    q.succeed("a", first)
    assert (lane(q).ready, lane(q).running) == (3, 1)
    q.cancel("k4")
    q.succeed("a", second)
    assert (lane(q).ready, lane(q).running) == (2, 0)


def test_ages_count_by_the_time_that_is_in_the_entries_id(q: Queue) -> None:
    now = q.now()
    q.raw.xadd(q.stream("low"), {"k": "old", "m": b"x"}, id=f"{now - 90_000}-0")
    assert 90 <= (lane(q, "low").oldest or 0) < 100
    q.fetch(budget=1)
    assert lane(q, "low").oldest is None and 90 <= (lane(q, "low").oldest_running or 0) < 100


def test_an_entry_from_the_future_is_not_older_than_now(q: Queue) -> None:
    """After the server's clock was set back, or by somebody else's hand."""
    q.raw.xadd(q.stream(), {"k": "young", "m": b"x"}, id=f"{2**63}-0")
    assert lane(q).oldest == 0.0


def test_leases_that_nobody_renews_and_what_was_delivered_again(q: Queue) -> None:
    one, two, _ = q.start("one", "two", "three")
    q.age(one, two)
    assert (lane(q).overdue, lane(q).again) == (2, 0)
    assert sum(each.overdue for each in stats(q, lease=LEASE + 60).lanes) == 0
    q.renew("a", two)
    q.crash(one, "b")
    assert (lane(q).overdue, lane(q).running) == (0, 3)
    q.raw.xclaim(q.stream(), keys.GROUP, "c", 0, [one.entry], retrycount=2)
    assert lane(q).again == 1


def test_scheduled_due_dead_paused(q: Queue) -> None:
    q.send("soon", "later", due="+50000")
    q.make_due("soon")
    q.bury("a", q.start_one("dead"))
    q.run(produce.pause(q.base, True))
    found = stats(q)
    assert (found.scheduled, found.due, found.dead) == (2, 1, 1)
    assert found.due_in is not None and found.due_in < -1e6
    assert found.paused is not None and 0 <= found.paused < 60
    assert found.counters == {"failed": {NAME: 1}}


@pytest.mark.parametrize("due", ["inf", "-inf", "1e300", "0.5"])
def test_times_that_are_none(q: Queue, due: str) -> None:
    q.raw.zadd(keys.parked(q.base), {"k": due})
    q.raw.set(keys.paused(q.base), b"\xff no number")
    found = stats(q)
    assert found.scheduled == 1 and found.paused is None
    q.raw.delete(keys.parked(q.base), keys.paused(q.base))


def test_a_key_of_another_type(q: Queue) -> None:
    q.raw.set(q.stream(), "x")
    with pytest.raises(WrongKeyType):
        stats(q)
    q.raw.delete(q.stream())


# Workers


def beat(q: Queue, name: str, about: dict[str, Any] | bytes) -> None:
    said = about if isinstance(about, bytes) else msgspec.msgpack.encode(about)
    q.run(consume.heartbeat(q.namespace, name, said, 20.0, ("a",)))


def fleet(q: Queue, living: float = 20.0) -> inspect.Fleet:
    return q.run(inspect.fleet(q.namespace, living))


ABOUT = {
    "host": "h", "pid": 7, "started_at": 12.5, "queues": ["a", "b"], "slots": [10, 4], "busy": [3, 4], "all_slots": 14,
    "all_busy": 7, "rss": 5_000_000_000, "lag": 0.25, "blocked": 1.5, "version": "0.1", "python": "3.12.1",
    "lease": 15.0,
}  # fmt: skip


def test_nobody(q: Queue) -> None:
    assert fleet(q).workers == () and fleet(q).queues == ()


def test_what_workers_say(q: Queue) -> None:
    beat(q, "w1", ABOUT)
    beat(q, "w2", {**ABOUT, "queues": ["b"], "slots": [6], "busy": [1]})
    found = fleet(q)
    one = next(worker for worker in found.workers if worker.consumer == "w1")
    assert (one.host, one.pid, one.started_at, one.slots, one.busy) == ("h", 7, 12.5, 14, 7)
    assert (one.rss, one.lag, one.blocked, one.version, one.python) == (5_000_000_000, 0.25, 1.5, "0.1", "3.12.1")
    assert one.lease == 15.0 and 0 <= found.age(one) < 10
    assert sorted(found.queues, key=lambda each: each.queue) == [Served("a", 1, 10, 3), Served("b", 2, 10, 5)]


def test_who_is_silent_is_told_and_does_not_count(q: Queue) -> None:
    beat(q, "w1", ABOUT)
    q.raw.zadd(keys.workers(q.namespace), {"w1": q.now() - 25_000})
    assert [round(fleet(q).age(worker)) for worker in fleet(q).workers] == [25] and fleet(q).queues == ()
    beat(q, "w2", {**ABOUT, "queues": []})  # moves it to those that are gone
    assert {worker.consumer: worker.slots for worker in fleet(q).workers} == {"w1": 14, "w2": 14}
    q.raw.zadd(keys.gone(q.namespace), {"w1": q.now() - 600_001})
    beat(q, "w3", ABOUT)  # who starts also forgets who died long ago
    assert [worker.consumer for worker in fleet(q).workers] == ["w2", "w3"]


def test_whose_own_key_has_run_out_is_forgotten(q: Queue) -> None:
    beat(q, "w1", ABOUT)
    q.raw.delete(keys.worker(q.namespace, "w1"))
    assert fleet(q).workers == () and fleet(q).queues == ()


def test_all_workers_are_told_however_many_there_are(q: Queue) -> None:
    """Those that were heard of last, above all."""
    said = msgspec.msgpack.encode(ABOUT)
    names = [f"w{i:04d}" for i in range(1_500)]
    now = q.now()
    with q.raw.pipeline(transaction=False) as pipe:
        pipe.zadd(keys.workers(q.namespace), {name: now - 1_500 + i for i, name in enumerate(names)})
        for name in names:
            pipe.set(keys.worker(q.namespace, name), said, ex=60)
        pipe.execute()
    found = fleet(q)
    assert [worker.consumer for worker in found.workers] == names
    assert Served("a", 1_500, 15_000, 4_500) in found.queues
    q.raw.delete(keys.workers(q.namespace))


def test_a_worker_that_is_in_both_lists_lives_and_is_told_once(q: Queue) -> None:
    """One of a version that does not know of those that are gone."""
    beat(q, "w1", ABOUT)
    q.raw.zadd(keys.gone(q.namespace), {"w1": q.now() - 25_000})
    found = fleet(q)
    assert [worker.consumer for worker in found.workers] == ["w1"] and found.age(found.workers[0]) < 20
    assert found.queues[0] == Served("a", 1, 10, 3)


def test_a_worker_that_is_heard_of_again_is_not_gone(q: Queue) -> None:
    beat(q, "w1", ABOUT)
    q.raw.zadd(keys.workers(q.namespace), {"w1": q.now() - 25_000})
    beat(q, "w2", ABOUT)
    assert q.raw.zrange(keys.gone(q.namespace), 0, -1) == [b"w1"]
    beat(q, "w1", ABOUT)
    assert q.raw.zrange(keys.gone(q.namespace), 0, -1) == [] and len(fleet(q).workers) == 2


@pytest.mark.parametrize(
    "about",
    [
        b"", b"\xff", b"\x81\xa1", msgspec.msgpack.encode([1, 2]), msgspec.msgpack.encode({"host": [1], "pid": {}}),
        msgspec.msgpack.encode({"pid": 1.5, "rss": float("nan"), "lag": float("inf"), "queues": 3, "all_slots": "x"}),
        msgspec.msgpack.encode({"queues": [b"\xff\x00", 4, ["x"]], "slots": ["a"], "busy": {"a": 1}}),
        msgspec.msgpack.encode({"host": "é" * 999}),
    ],
)  # fmt: skip
def test_what_somebody_else_has_written_blinds_nobody(q: Queue, about: bytes) -> None:
    beat(q, "w1", ABOUT)
    beat(q, "w2", about)
    q.raw.zadd(keys.workers(q.namespace), {b"\xff\x1b": q.now()})
    q.raw.set(keys.worker(q.namespace, "").encode() + b"\xff\x1b", b"", ex=60)
    found = fleet(q)
    assert sorted(worker.consumer for worker in found.workers) == ["??", "w1", "w2"]
    assert Served("a", 1, 10, 3) in found.queues
    assert all(worker.host.isascii() and len(worker.host) <= 400 for worker in found.workers)


def test_a_reply_is_small(q: Queue) -> None:
    """A hundred workers that serve a hundred queues: each queue is named once."""
    queues = [f"queue-{i:03d}" for i in range(100)]
    for i in range(100):
        beat(q, f"host-{i:02d}:1234:0123abcd", {**ABOUT, "queues": queues, "slots": [10] * 100, "busy": [1] * 100})
    call = inspect.fleet(q.namespace, 20.0)
    assert call.script is not None
    reply: Any = q.raw.eval(call.script.text, len(call.keys), *call.keys, *map(str, call.args))
    assert len(reply) < 14_000
    assert [each.slots for each in call.read(reply).queues] == [1000] * 100
