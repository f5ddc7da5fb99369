"""What a task costs in Redis, and that nothing of it stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from penstock.streams import produce, settle
from penstock.streams.message import Message, encode_message
from penstock.streams.produce import BATCH_TASKS, Envelope
from tests.contract.helpers import FAILURE, Queue
from tests.servers import Server, wait_until

TASKS = 10_000
#: As in a small shop: no arguments, a result of one byte.
NAME = "shop.tasks.send_receipt"
MESSAGE = encode_message(Message(NAME))
CONSUMER = "worker-1:12345:0a1b2c3d"
#: The longest: the name of a host is cut at 32 characters.
LONG_CONSUMER = f"{'h' * 32}:4194304:0a1b2c3d"
#: Bytes: the aims. `MORE`: what older servers need above that (two more pointers per key, larger blocks).
QUEUED, FINISHED = 330, 260
MORE = {"redis-6.2": 50, "path": 50}


def used(q: Queue) -> int:
    """Bytes, without what the scripts have left in Lua (Redis 8 counts it) and the buffers of clients and replicas."""
    q.raw.script_flush("SYNC")
    info: Any = q.raw.info("memory")
    # 7.0 and later have one buffer for backlog and replicas; it is in `mem_total_replication_buffers`.
    replication = info.get("mem_total_replication_buffers", info["mem_replication_backlog"])
    return int(info["used_memory"]) - int(info["mem_clients_normal"]) - int(replication)


def send(q: Queue, prefix: str, count: int) -> None:
    for i in range(0, count, BATCH_TASKS):
        names = [f"{prefix}{n:015d}" for n in range(i, min(i + BATCH_TASKS, count))]  # 16 characters, as `new_key`
        answers = q.enqueue(*[Envelope(name, NAME, "default", MESSAGE) for name in names])
        assert all(answer.created for answer in answers)


def finish(q: Queue, count: int, ttl: float = 3600.0, window: float = 60.0) -> None:
    for i in range(0, count, BATCH_TASKS):
        batch = q.fetch(CONSUMER, budget=min(BATCH_TASKS, count - i))
        items = [(d, NAME, ttl, b"\x2a") for d in batch.deliveries]
        assert q.run(settle.succeed(q.base, CONSUMER, window, items)) == [settle.Settled.DONE] * len(items)
    assert q.is_empty()


def records(q: Queue) -> float:
    """MEMORY USAGE of a record: without its line in the table of expiries, and the tables themselves."""
    sample = [q.raw.memory_usage(q.record_key(f"k{n:015d}"), samples=0) for n in range(0, TASKS, 100)]
    return sum(sample) / len(sample)  # type: ignore[arg-type]


def test_bytes_per_task(q: Queue, any_server: Server, record_property: Callable[[str, object], None]) -> None:
    send(q, "w", 100)
    finish(q, 100)  # group, consumer and tables are there now
    before = used(q)
    send(q, "k", TASKS)
    queued = (used(q) - before) / TASKS
    finish(q, TASKS)
    finished, record = (used(q) - before) / TASKS, records(q)
    name = any_server.directory.name
    for what, value in (("queued", queued), ("finished", finished), ("record", record)):
        record_property(f"bytes_{what}", round(value))
    print(f"MEMORY {name}: {queued:.0f} B queued, {finished:.0f} B finished, of which the record's key {record:.0f} B")
    assert queued <= QUEUED
    assert record <= FINISHED
    assert finished <= FINISHED + MORE.get(name, 0)


def test_records_are_small_hashes_through_their_whole_life(q: Queue) -> None:
    """The longest that we put into them ourselves: 64 B fields, all of them at once."""

    def check() -> None:
        assert q.raw.object("encoding", q.record_key("k")) in (b"ziplist", b"listpack")

    q.enqueue(Envelope("k", "n" * 64, "default", MESSAGE, "", "+600000"))
    for i in range(10):
        q.read("k", f"listen-{i}")
    check()
    (delivery,) = q.fetch(LONG_CONSUMER).deliveries
    for kind in ("unknown", "snoozed", "retried"):
        q.run(settle.park(q.base, LONG_CONSUMER, 1, 1000, [(delivery, NAME, 0.0, kind, "e" * 200)]))
        (delivery,) = q.fetch(LONG_CONSUMER).deliveries
        check()
    q.cancel("k")
    q.run(settle.succeed(q.base, LONG_CONSUMER, 60, [(delivery, NAME, 60, b"x" * 64)]))
    check()


def test_nothing_of_a_finished_task_stays(q: Queue) -> None:
    """Each end once, with tiny TTLs: afterwards the queue has the keys that it had before."""
    send(q, "w", 1)
    finish(q, 1, 0.001, 0.001)
    q.bury("a", q.start_one("first"), failure=None)
    wait_until(lambda: not [key for key in q.state() if ":t:" in key and "first" not in key])
    q.raw.delete(q.record_key("first"))
    before = set(q.state())
    send(q, "o", 50)
    finish(q, 50, 0.05, 0.05)
    large, none, failed, cancelled, retried = q.start("large", "none", "failed", "cancelled", "retried")
    q.park("a", retried, delay=0)
    (retried,) = q.fetch().deliveries
    items = [(large, NAME, 0.05, b"x" * 200), (none, NAME, 0.0, b""), (retried, NAME, 0.05, b"x")]
    q.run(settle.succeed(q.base, "a", 0.05, items))
    q.run(settle.bury(q.base, "a", 0.05, (0.05, 10), [(failed, NAME, FAILURE), (cancelled, NAME, None)]))
    q.send("scheduled", due="+60000")
    q.run(produce.cancel(q.base, ["scheduled"], 0.05))
    assert set(q.state()) > before
    wait_until(lambda: not [key for key in q.state() if ":t:" in key or ":r:" in key or ":p:" in key])
    q.run(settle.bury(q.base, "a", 0.05, (0.05, 10), []))  # the index of dead letters is swept by the next burial
    assert set(q.state()) == before
    assert q.is_empty() and q.dead() == []
