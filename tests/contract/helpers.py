"""A queue on a real server, seen from both sides: the verbs, and the keys that they leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import redis

from penstock.settings import PRIORITIES
from penstock.streams import consume, keys, produce, settle
from penstock.streams.calls import Call
from penstock.streams.client import SyncClient
from penstock.streams.consume import Batch, Delivery, Reclaimed, Sweep
from penstock.streams.message import Failure, Message, encode_failure, encode_message
from penstock.streams.produce import Enqueued, Envelope
from penstock.streams.record import Record
from penstock.streams.settle import Answers

T = TypeVar("T")

#: Seconds: of a record that ends early, of a result, of the resend window, of dead letters, of an unknown task.
TTL, RESULT_TTL, WINDOW, DEAD_TTL, GIVE_UP = 100.0, 300.0, 60.0, 500.0, 1000.0
LEASE = 60.0
NAME = "shop.tasks.send_receipt"
MESSAGE = encode_message(Message(NAME))
FAILURE = encode_failure(Failure("ValueError", "no"))
QUOTAS = (("high", 6), ("default", 3), ("low", 1))


class Pending(NamedTuple):
    """One line of XPENDING."""

    consumer: str
    idle: int
    deliveries: int


class Queue:
    """The verbs with their usual arguments, and the keys behind them. Two workers are two names."""

    def __init__(self, raw: redis.Redis, client: SyncClient, namespace: str, name: str = "q") -> None:
        self.raw = raw
        self.client = client
        self.namespace = namespace
        self.name = name
        self.base = keys.base(namespace, name)

    def run(self, call: Call[T]) -> T:
        return self.client.run(call)

    def sibling(self, name: str) -> Queue:
        """Another queue of this namespace; on a cluster `raw` may be another node than its own."""
        return Queue(self.raw, self.client, self.namespace, name)

    # Verbs

    def enqueue(self, *envelopes: Envelope, max_length: int = 0) -> list[Enqueued]:
        return self.run(produce.enqueue(self.base, envelopes, max_length))

    def send(self, *task_keys: str, priority: str = "default", due: str = "", expires: str = "") -> None:
        envelopes = [Envelope(key, NAME, priority, MESSAGE, due, expires) for key in task_keys]
        for i in range(0, len(envelopes), produce.BATCH_TASKS):
            assert all(answer.created for answer in self.enqueue(*envelopes[i : i + produce.BATCH_TASKS]))

    def fetch(self, consumer: str = "a", budget: int = 100, quotas: Sequence[tuple[str, int]] = QUOTAS) -> Batch:
        return self.run(consume.fetch(self.base, self.name, consumer, budget, quotas, TTL))

    def start(self, *task_keys: str, consumer: str = "a", priority: str = "default") -> list[Delivery]:
        """Send tasks and start them."""
        self.send(*task_keys, priority=priority)
        found = {delivery.key: delivery for delivery in self.fetch(consumer).deliveries}
        return [found[key] for key in task_keys]

    def start_one(self, key: str = "k", consumer: str = "a") -> Delivery:
        return self.start(key, consumer=consumer)[0]

    def read_blocking(self, consumer: str, priority: str = "default", count: int = 1) -> list[tuple[str, str]]:
        """What a blocking read brings: (priority, entry), delivered and not admitted."""
        stream = self.stream(priority)
        reply: Any = self.raw.xreadgroup(keys.GROUP, consumer, {stream: ">"}, count=count)
        return [(priority, entry.decode()) for _, entries in reply for entry, _ in entries]

    def admit(self, consumer: str, *entries: tuple[str, str]) -> Batch:
        return self.run(consume.admit(self.base, self.name, consumer, entries, TTL))

    def arrived(self, consumer: str, since: int = 0) -> Batch:
        """What the script that goes with a blocking read has found after it."""
        base, batch = self.run(consume.arrived({self.base: self.name}, consumer, since, LEASE / 3, TTL))
        assert base == (self.base if batch.now else "")
        return batch

    def orphans(self, consumer: str, running: Sequence[str] = (), limit: int = 100, priority: str = "default") -> Batch:
        return self.run(consume.orphans(self.base, self.name, consumer, priority, running, limit, TTL))

    def reclaim(
        self, consumer: str, cursor: str = "0-0", limit: int = 100, suspects: int = 1, priority: str = "default"
    ) -> Reclaimed:
        sweep = Sweep(priority, LEASE, cursor, limit, suspects)
        return self.run(consume.reclaim(self.base, self.name, consumer, sweep, TTL))

    def renew(self, consumer: str, *held: Delivery) -> tuple[list[int], list[int]]:
        return self.run(consume.renew(self.base, consumer, [(d.priority, d.entry, d.raw_key) for d in held]))

    def succeed(self, consumer: str, *deliveries: Delivery, value: bytes = b"\x01", ttl: float = RESULT_TTL) -> Answers:
        items = [(d, NAME, ttl, value) for d in deliveries]
        return self.run(settle.succeed(self.base, consumer, WINDOW, items))

    def park(
        self, consumer: str, *deliveries: Delivery, delay: float = 50.0, kind: str = "retried", give_up: float = GIVE_UP
    ) -> Answers:
        items = [(d, NAME, delay, kind, "boom" if kind == "retried" else "") for d in deliveries]
        return self.run(settle.park(self.base, consumer, TTL, give_up, items))

    def bury(self, consumer: str, *deliveries: Delivery, failure: bytes | None = FAILURE, most: int = 1000) -> Answers:
        items = [(d, NAME, failure) for d in deliveries]
        return self.run(settle.bury(self.base, consumer, TTL, (DEAD_TTL, most), items))

    def cancel(self, *task_keys: str) -> list[produce.Cancellation]:
        return self.run(produce.cancel(self.base, task_keys, TTL))

    def promote(self, limit: int = 100) -> consume.Promoted:
        return self.run(consume.promote(self.base, limit))

    def read(self, key: str, listener: str = "") -> Record | None:
        return self.run(produce.read_record(self.base, f"{self.name}:{key}", key, listener))

    # Faults

    def age(self, *deliveries: Delivery, consumer: str = "a", seconds: float = LEASE + 1) -> None:
        """As if the lease had not been renewed for so long."""
        for d in deliveries:
            self.claim(consumer, d.priority, d.entry, seconds)

    def claim(self, consumer: str, priority: str, entry: str, idle: float = 0.0) -> None:
        self.raw.xclaim(self.stream(priority), keys.GROUP, consumer, 0, [entry], idle=round(idle * 1000), justid=True)

    def crash(self, delivery: Delivery, heir: str) -> Delivery:
        """The consumer of `delivery` dies, and `heir` takes over."""
        pending = self.pending(delivery.priority)[delivery.entry]
        self.age(delivery, consumer=pending.consumer)
        (found,) = self.reclaim(heir, priority=delivery.priority).batch.deliveries
        assert found.entry == delivery.entry
        return found

    def make_due(self, *task_keys: str) -> None:
        """As if the time had come for parked tasks."""
        assert self.raw.zadd(keys.parked(self.base), dict.fromkeys(task_keys, 1), xx=True, ch=True) == len(task_keys)

    def break_record(self, key: str) -> None:
        """Somebody else's key in the place of a record."""
        self.raw.set(self.record_key(key), "x", ex=1000)

    # Keys

    def stream(self, priority: str = "default") -> str:
        return keys.stream(self.base, priority)

    def record_key(self, key: str) -> str:
        return keys.record(self.base, key)

    def record(self, key: str) -> dict[str, str]:
        """The record's fields (see lua/); {} if there is none."""
        fields: Any = self.raw.hgetall(self.record_key(key))
        return {name.decode(): value.decode() for name, value in fields.items()}

    def entries(self, priority: str = "default") -> dict[str, str]:
        """Entry -> key of the task."""
        found: Any = self.raw.xrange(self.stream(priority))
        return {entry.decode(): fields.get(b"k", b"").decode() for entry, fields in found}

    def queued(self, priority: str = "default") -> list[str]:
        return list(self.entries(priority).values())

    def pending(self, priority: str = "default") -> dict[str, Pending]:
        """What was delivered and not acknowledged, by entry."""
        try:
            reply: Any = self.raw.xpending_range(self.stream(priority), keys.GROUP, "-", "+", 1000)
        except redis.ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            return {}
        return {
            p["message_id"].decode(): Pending(p["consumer"].decode(), p["time_since_delivered"], p["times_delivered"])
            for p in reply
        }

    def parked(self) -> dict[str, int]:
        """Key -> due time in ms."""
        reply: Any = self.raw.zrange(keys.parked(self.base), 0, -1, withscores=True)
        return {key.decode(): int(due) for key, due in reply}

    def dead(self) -> list[str]:
        """Keys of dead letters, oldest first."""
        reply: Any = self.raw.zrange(keys.dead(self.base), 0, -1)
        return [key.decode() for key in reply]

    def counters(self) -> dict[str, int]:
        """Outcome -> count, of the task `NAME`; others with their whole name."""
        reply: Any = self.raw.hgetall(keys.counters(self.base))
        return {name.decode().removesuffix(f"|{NAME}"): int(n) for name, n in reply.items()}

    def ttl(self, key: str) -> float:
        """Seconds; -1 for ever, -2 no key."""
        left: Any = self.raw.pttl(key)
        return float(left / 1000 if left > 0 else left)

    def now(self) -> int:
        """The server's time in ms."""
        now: Any = self.raw.time()
        return int(now[0] * 1000 + now[1] // 1000)

    def state(self) -> dict[str, tuple[bytes, bool]]:
        """Every key of the queue: its serialized value, and whether it will go away."""
        names = sorted(name.decode() for name in self.raw.scan_iter(match=f"{self.base}*", count=1000))
        return {name: (self.raw.dump(name), self.raw.ttl(name) != -1) for name in names}  # type: ignore[misc]

    def is_empty(self) -> bool:
        """Nothing is in a stream, delivered or parked."""
        return not self.parked() and not any(self.entries(p) or self.pending(p) for p in PRIORITIES)

    @contextmanager
    def out_of_memory(self) -> Iterator[None]:
        """maxmemory is reached."""
        self.raw.config_set("maxmemory-policy", "noeviction")
        self.raw.config_set("maxmemory", 1)
        try:
            yield
        finally:
            self.raw.config_set("maxmemory", 0)

    @contextmanager
    def listening(self, channel: str) -> Iterator[Heard]:
        """What is published on `channel` meanwhile."""
        with self.raw.pubsub() as pubsub:
            pubsub.subscribe(channel)
            assert pubsub.get_message(timeout=5) is not None
            yield Heard(self.raw, pubsub, channel)

    def on_control(self) -> Any:
        return self.listening(keys.control_channel(self.base))


class Heard:
    """Messages of one channel."""

    def __init__(self, raw: redis.Redis, pubsub: Any, channel: str) -> None:
        self._raw = raw
        self._pubsub = pubsub
        self._channel = channel

    def take(self) -> list[str]:
        """All that was published until now: a marker of our own ends them. Without what comes after a first line."""
        return [message.partition(b"\n")[0].decode() for message in self.take_whole()]

    def take_whole(self) -> list[bytes]:
        """All of it."""
        self._raw.publish(self._channel, "marker")
        messages: list[bytes] = []
        while (message := self._pubsub.get_message(timeout=5)) is not None:
            if message["data"] == b"marker":
                return messages
            messages.append(message["data"])
        raise AssertionError("the marker did not come")


def close_to(seconds: float, expected: float) -> bool:
    """A TTL that was set a moment ago."""
    return expected - 10 < seconds <= expected


def keys_of(batch: Batch) -> list[str]:
    return [delivery.key for delivery in batch.deliveries]
