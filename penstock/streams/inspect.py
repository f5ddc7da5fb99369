"""The verbs of those who look from outside: how much a queue holds, which workers live. They change nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from penstock.settings import PRIORITIES
from penstock.streams import keys, measures
from penstock.streams.calls import Call, command, ms
from penstock.streams.measures import Measured
from penstock.streams.scripts import load

_INSPECT, _WORKERS, _FLEET, _STUCK = load("inspect"), load("workers"), load("fleet"), load("stuck")
_SERVER = load("server")


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """One priority of a queue: entries that wait, and entries that were handed to a worker."""

    priority: str
    ready: int
    running: int
    #: Seconds that the oldest ready entry has waited; None: none is ready.
    oldest: float | None
    #: Seconds since the oldest of those that were handed out was added; None: there is none.
    oldest_running: float | None = None
    #: Handed out, and not renewed for longer than a lease: how many, up to 1000.
    overdue: int = 0
    #: Handed out more than once: how many of the 100 oldest.
    again: int = 0
    consumers: int = 0
    #: Entries that were ever added; None: the server does not count them (Redis 6.2).
    added: int | None = None


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
    #: Of those that are scheduled, how many are due.
    due: int = 0
    #: What workers have measured, since the queue began.
    measures: tuple[Measured, ...] = ()

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


#: Characters of its host's name that a worker's own name begins with.
HOST_PREFIX = 32
#: Seconds since its last heartbeat for which a worker counts as living.
LIVING = 20.0
#: Entries counted per priority.
STUCK_MOST = 1000


class Heard(msgspec.Struct, frozen=True):
    """A worker, how long ago (s) its last heartbeat was, and what it said (msgpack; empty: forgotten)."""

    consumer: str
    ago: float
    about: bytes


def queue_stats(base: str, queue: str, lease: float = 15.0) -> Call[QueueStats]:
    """What a queue holds: one round trip, O(1) however much waits there. `lease` (s): of its workers."""

    def read(packed: bytes) -> QueueStats:
        reply = _decode_stats(packed)
        parked, first, due, dead, paused, *lanes = reply.numbers
        return QueueStats(
            queue=queue,
            lanes=tuple(_lane(name, lanes[8 * i : 8 * i + 8]) for i, name in enumerate(PRIORITIES)),
            scheduled=parked,
            due_in=_seconds(first),
            due=due,
            dead=dead,
            paused=_seconds(paused),
            counters=_counters(reply),
            measures=tuple(measures.read(_measures(reply))),
        )

    return Call(_INSPECT, keys.routed(base), (ms(lease),), read)


class _Stats(msgspec.Struct, frozen=True, array_like=True):
    """The reply of ``inspect.lua``."""

    numbers: list[int]
    #: What is counted, and the index of the task's name; then the count, or the measure's numbers.
    counters: list[tuple[str, int, int]]
    measures: list[tuple[str, int, list[int]]]
    names: list[str]


#: What the script says where there is nothing.
_NONE = -(2**53)
_decode_stats = msgspec.msgpack.Decoder(_Stats).decode


def _lane(priority: str, numbers: list[int]) -> Lane:
    length, pending, ready, running, overdue, again, consumers, added = numbers
    return Lane(
        priority=priority,
        ready=max(0, length - pending),
        running=pending,
        oldest=_seconds(ready),
        oldest_running=_seconds(running),
        overdue=overdue,
        again=again,
        consumers=consumers,
        added=None if added == _NONE else added,
    )


def _seconds(ms: int) -> float | None:
    return None if ms == _NONE else ms / 1000


def _counters(reply: _Stats) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for outcome, name, count in reply.counters:
        found[outcome][reply.names[name]] = count
    return dict(found)


def _measures(reply: _Stats) -> Iterator[tuple[str, list[int]]]:
    for what, index, numbers in reply.measures:
        name = reply.names[index]
        yield f"{what}|{name}" if name else what, numbers


def workers(namespace: str, prefix: str = "", *, gone: bool = False) -> Call[list[Heard]]:
    """Workers whose names begin with `prefix`: all that have not been silent for long, by the time of their last
    heartbeat; then, with `gone`, those that have, for ten minutes."""

    def read(reply: list[object]) -> list[Heard]:
        now, *rest = reply
        assert isinstance(now, int)
        return [
            Heard(rest[i].decode(errors="replace"), (now - float(rest[i + 1])) / 1000, rest[i + 2])  # type: ignore[attr-defined,arg-type]
            for i in range(0, len(rest), 3)
        ]

    lists = (keys.workers(namespace), keys.gone(namespace)) if gone else keys.routed(keys.workers(namespace))
    return Call(_WORKERS, lists, (keys.worker(namespace, ""), prefix), read)


class Worker(msgspec.Struct, frozen=True, array_like=True):
    """A worker as the exporter shows it; see ``fleet.lua``. Times in seconds since the epoch."""

    consumer: str
    heard_ms: float
    host: str
    pid: int
    started_at: float
    slots: int
    busy: int
    rss: int
    lag: float
    blocked: float
    version: str
    python: str
    lease: float


class Served(msgspec.Struct, frozen=True, array_like=True):
    """What the living workers say of one queue together."""

    queue: str
    workers: int
    slots: int
    busy: int


class Asked(msgspec.Struct, frozen=True):
    """What a server said of itself: the time (s since the epoch), and fields of ``INFO``."""

    time: float
    info: dict[str, str]


def server(key: str, fields: Sequence[str]) -> Call[Asked]:
    """Ask the server that has `key` for these fields of ``INFO``; those that it has not are left out."""

    def read(reply: list[Any]) -> Asked:
        seconds, us, *values = reply
        found = zip(fields, (value.decode(errors="replace") for value in values), strict=True)
        return Asked(seconds + us / 1e6, {name: value for name, value in found if value})

    return Call(_SERVER, keys.routed(key), tuple(fields), read)


class Fleet(msgspec.Struct, frozen=True, array_like=True):
    """All workers: those that live, and those that are gone and not yet forgotten."""

    now_ms: float
    workers: tuple[Worker, ...]
    queues: tuple[Served, ...]

    def age(self, worker: Worker) -> float:
        """Seconds since its last heartbeat."""
        return max(0.0, self.now_ms - worker.heard_ms) / 1000


def fleet(namespace: str, living: float) -> Call[Fleet]:
    """All workers; they live while their last heartbeat is no older than `living` seconds."""
    names = (keys.workers(namespace), keys.gone(namespace))
    return Call(_FLEET, names, (keys.worker(namespace, ""), ms(living)), _decode_fleet)


_decode_fleet = msgspec.msgpack.Decoder(Fleet, strict=False).decode


def stuck(base: str, idle: float) -> Call[list[Stuck]]:
    """Delivered entries of a queue that were not renewed for `idle` seconds."""

    def read(reply: list[object]) -> list[Stuck]:
        rows = [reply[i : i + 4] for i in range(0, len(reply), 4)]
        return [Stuck(p.decode(), n, t / 1000, c.decode(errors="replace")) for p, n, t, c in rows]  # type: ignore[attr-defined,arg-type,operator]

    return Call(_STUCK, keys.routed(base), (ms(idle), STUCK_MOST), read)


def died_at(base: str, key: str) -> Call[float | None]:
    """When (seconds since the epoch) a dead letter died; None: it is none."""
    return command("ZSCORE", keys.dead(base), key, read=lambda reply: None if reply is None else float(reply) / 1000)
