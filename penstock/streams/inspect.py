"""The verbs of those who look from outside: how much a queue holds, which workers live. They change nothing."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from penstock.streams import keys
from penstock.streams.calls import Call, command, ms
from penstock.streams.record import number
from penstock.streams.scripts import load

_INSPECT, _WORKERS, _STUCK = load("inspect"), load("workers"), load("stuck")


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One priority of a queue: entries that wait, and entries that were handed to a worker."""

    priority: str
    ready: int
    running: int
    #: Seconds that the oldest ready entry has waited; None: none is ready.
    oldest: float | None


class QueueStats(msgspec.Struct, frozen=True, kw_only=True):
    """What a queue holds at one moment."""

    queue: str
    #: By priority, in the order of `PRIORITIES`.
    lanes: tuple[Lane, ...]
    #: Waiting for their time, or for a retry.
    scheduled: int
    #: Seconds until the first scheduled task is due (negative: overdue); None: nothing is scheduled.
    due_in: float | None
    dead: int
    #: Seconds since the queue was paused; None: it is not.
    paused: float | None
    #: outcome -> task name -> how many, since the queue began.
    counters: dict[str, dict[str, int]]

    @property
    def ready(self) -> int:
        return sum(lane.ready for lane in self.lanes)

    @property
    def running(self) -> int:
        return sum(lane.running for lane in self.lanes)

    @property
    def oldest(self) -> float | None:
        """Seconds that the oldest ready task has waited; None: none is ready."""
        return max((lane.oldest for lane in self.lanes if lane.oldest is not None), default=None)

    def total(self, outcome: str) -> int:
        """How many deliveries of all tasks ended so."""
        return sum(self.counters.get(outcome, {}).values())


class Stuck(msgspec.Struct, frozen=True):
    """Entries of one priority that nobody renews: how many (at most `STUCK_MOST` are counted), the longest
    time (s) without renewal, and the consumer of that one."""

    priority: str
    count: int
    idle: float
    consumer: str


#: Entries counted per priority.
STUCK_MOST = 1000


class Heard(msgspec.Struct, frozen=True):
    """A worker, how long ago (s) its last heartbeat was, and what it said (msgpack; empty: forgotten)."""

    consumer: str
    ago: float
    about: bytes


def queue_stats(base: str, queue: str) -> Call[QueueStats]:
    """What a queue holds: one round trip, O(1) however much that is."""

    def read(reply: list[object]) -> QueueStats:
        now, parked, due, dead, counters, paused, *lanes = reply
        assert isinstance(now, int) and isinstance(parked, int) and isinstance(dead, int)
        return QueueStats(
            queue=queue,
            lanes=tuple(_lane(now, lanes[i : i + 4]) for i in range(0, len(lanes), 4)),
            scheduled=parked,
            due_in=(float(due) - now) / 1000 if due else None,  # type: ignore[arg-type]
            dead=dead,
            paused=(now - (number(paused) or now)) / 1000 if paused else None,  # type: ignore[arg-type]
            counters=_counters(counters),  # type: ignore[arg-type]
        )

    return Call(_INSPECT, keys.routed(base), (), read)


def _lane(now: int, fields: list[object]) -> Lane:
    priority, length, pending, oldest = fields
    assert isinstance(priority, bytes) and isinstance(oldest, bytes)
    assert isinstance(length, int) and isinstance(pending, int)
    age = (now - int(oldest.partition(b"-")[0])) / 1000 if oldest else None
    return Lane(priority=priority.decode(), ready=max(0, length - pending), running=pending, oldest=age)


def _counters(flat: list[bytes]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for field, value in zip(flat[::2], flat[1::2], strict=True):
        outcome, _, task = field.decode(errors="replace").partition("|")
        if (count := number(value)) is not None:
            found[outcome][task] = count
    return dict(found)


def workers(namespace: str) -> Call[list[Heard]]:
    """All workers that have not been silent for long, by the time of their last heartbeat."""

    def read(reply: list[object]) -> list[Heard]:
        now, *rest = reply
        assert isinstance(now, int)
        return [
            Heard(rest[i].decode(errors="replace"), (now - float(rest[i + 1])) / 1000, rest[i + 2])  # type: ignore[attr-defined,arg-type]
            for i in range(0, len(rest), 3)
        ]

    return Call(_WORKERS, keys.routed(keys.workers(namespace)), (keys.worker(namespace, ""),), read)


def stuck(base: str, idle: float) -> Call[list[Stuck]]:
    """Delivered entries of a queue that were not renewed for `idle` seconds."""

    def read(reply: list[object]) -> list[Stuck]:
        rows = [reply[i : i + 4] for i in range(0, len(reply), 4)]
        return [Stuck(p.decode(), n, t / 1000, c.decode(errors="replace")) for p, n, t, c in rows]  # type: ignore[attr-defined,arg-type,operator]

    return Call(_STUCK, keys.routed(base), (ms(idle), STUCK_MOST), read)


def died_at(base: str, key: str) -> Call[float | None]:
    """When (seconds since the epoch) a dead letter died; None: it is none."""
    return command("ZSCORE", keys.dead(base), key, read=lambda reply: None if reply is None else float(reply) / 1000)
