"""The verbs of a worker up to the start of an attempt: fetch, admit, orphans, renew, reclaim, promote."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.settings import PRIORITIES
from penstock.streams import keys
from penstock.streams.calls import Arg, Call, command, failed, ms
from penstock.streams.scripts import load

_FETCH, _ADMIT, _ORPHANS, _RENEW = load("fetch"), load("admit"), load("orphans"), load("renew")
_RECLAIM, _PROMOTE, _RETIRE, _HEARTBEAT = load("reclaim"), load("promote"), load("retire"), load("heartbeat")
_CLOCK, _ARRIVED = load("clock"), load("arrived")

_PRIORITY_NAMES = {priority.encode(): priority for priority in PRIORITIES}
#: Entries per XCLAIM: one call must not hold the server for long, and Lua's unpack has a limit.
RENEW_BATCH = 500


class Delivery(msgspec.Struct, eq=False, gc=False):
    """An entry that was handed to this consumer and may start; all that consumers see of a stream."""

    base: str
    queue: str
    #: Server time of the start, ms.
    now: int
    priority: str
    entry: str
    #: ``""``: the entry is no message of ours; `message` then holds its raw fields.
    key: str
    #: As it is in the stream: somebody else may have written what is no UTF-8.
    raw_key: bytes
    message: bytes
    retries: int
    deliveries: int
    #: Server time since which the task is on its way, ms: sent, or due if it was scheduled.
    since: int
    #: What tells it from all others of a worker: entries of two streams may have the same id.
    place: tuple[str, str, str]

    @property
    def id(self) -> str:
        """The task's public id."""
        return f"{self.queue}:{self.key}"

    @property
    def ready_at(self) -> int:
        """When the entry was added, ms: the time part of its id."""
        return int(self.entry.partition("-")[0])

    def __repr__(self) -> str:
        return f"Delivery({self.id} {self.priority} {self.entry})"


class Batch(msgspec.Struct, frozen=True):
    """Deliveries of one queue; `read` also counts those that ended before a start."""

    read: int
    deliveries: list[Delivery]
    #: An entry that could not be admitted, and why; "" if there is none.
    problem: str
    #: The queue is paused: nothing was read.
    paused: bool = False
    #: Server time of the call, ms.
    now: int = 0


class Reclaimed(msgspec.Struct, frozen=True):
    """One step of a sweep; `cursor` is ``"0-0"`` at its end, `held` counts suspects left for later. `late`: it came to
    the server after `Sweep.latest`, so nothing was done."""

    batch: Batch
    cursor: str
    held: int
    late: bool = False


def fetch(
    base: str, queue: str, consumer: str, budget: int, quotas: Iterable[tuple[str, int]], ttl: float
) -> Call[Batch]:
    """Read and start up to `budget` entries; `quotas` is (priority, share) in the order of preference."""
    args: list[Arg] = [consumer, budget, ms(ttl)]
    for priority, quota in quotas:
        args += (priority, quota)
    return Call(_FETCH, keys.routed(base), args, lambda r: _batch(base, queue, r))


def admit(base: str, queue: str, consumer: str, entries: Iterable[tuple[str, str]], ttl: float) -> Call[Batch]:
    """Start entries (priority, entry) that a blocking read brought."""
    args: list[Arg] = [consumer, ms(ttl)]
    for priority, entry in entries:
        args += (priority, entry)
    return Call(_ADMIT, keys.routed(base), args, lambda r: _batch(base, queue, r))


def arrived(queues: Mapping[str, str], consumer: str, since: int, age: float, ttl: float) -> Call[tuple[str, Batch]]:
    """Start what a blocking read on all `queues` (base: queue) has brought, which was sent just before in the same
    request: base and deliveries. Some may be known, and what the read has brought may be missing. `since` is the
    server's time (ms) from which on entries may be new, `age` for how long (s) it may have had them: less than a lease.
    """

    def read(r: list[object]) -> tuple[str, Batch]:
        if not r:
            return "", _NOTHING
        base = r[4].decode()  # type: ignore[attr-defined]
        return base, _batch(base, queues[base], r)

    _, beside = keys.routed(next(iter(queues)))
    return Call(_ARRIVED, (*queues, beside), (consumer, ms(ttl), since, ms(age)), read)


def orphans(
    base: str, queue: str, consumer: str, priority: str, running: Sequence[str], limit: int, ttl: float
) -> Call[Batch]:
    """Up to `limit` entries that `consumer` owns and that are not `running` in it."""
    args: list[Arg] = [consumer, ms(ttl), priority, limit, *running]
    return Call(_ORPHANS, keys.routed(base), args, lambda r: _batch(base, queue, r))


class Sweep(msgspec.Struct, frozen=True):
    """One step of a sweep of one stream: entries idle for longer than `lease` (s), at most `limit` of them,
    of which `suspects` may have crashed two workers or more."""

    priority: str
    lease: float
    cursor: str
    limit: int
    suspects: int
    #: A step passes over all living entries if no more than these were delivered (1 to 3 ms of the server's time),
    #: else over 1000 (1.5 ms).
    scan: int = 20_000
    #: The server's time (ms, see `clock`) until which it may be carried out; 0: at any.
    latest: int = 0


def reclaim(base: str, queue: str, consumer: str, sweep: Sweep, ttl: float) -> Call[Reclaimed]:
    """Take over entries whose lease has run out.

    The deliveries also hold entries that `consumer` itself started and did not renew, unchanged and not
    counted in `read`: those in flight are to be ignored, the others came with a reply that was lost.
    """

    def read(r: list[object]) -> Reclaimed:
        late = 0 < sweep.latest < r[0]  # type: ignore[operator]
        return Reclaimed(_batch(base, queue, r), r[4].decode(), r[5], late)  # type: ignore[attr-defined,arg-type]

    s = sweep
    args = (consumer, ms(ttl), s.priority, ms(s.lease), s.cursor, s.limit, s.suspects, s.scan, s.latest)
    return Call(_RECLAIM, keys.routed(base), args, read)


def renew(base: str, consumer: str, held: Sequence[tuple[str, str, bytes]]) -> Call[tuple[list[int], list[int]]]:
    """Renew leases of (priority, entry, key): indices of those lost, and of those to cancel."""
    args: list[Arg] = [consumer]
    for triple in held:
        args += triple
    return Call(_RENEW, keys.routed(base), args, lambda r: (r[0], r[1]))


def takes_writes(base: str) -> Call[int]:
    """Fails while the server takes no writes, whether leases could be renewed or not; changes nothing."""
    return command("XACK", keys.stream(base, "default"), keys.GROUP, "0-0", read=int)


class Promoted(msgspec.Struct, frozen=True):
    """`next` is seconds until the next parked task is due; None: nothing is parked."""

    moved: int
    next: float | None
    problem: str
    #: For each that was moved, how long after it was due, s.
    late: tuple[float, ...] = ()


def promote(base: str, limit: int) -> Call[Promoted]:
    """Move up to `limit` parked tasks that are due into their streams."""

    def read(r: list[object]) -> Promoted:
        moved, wait, problem, late = r
        assert isinstance(wait, int)
        seconds = tuple(ms / 1000 for ms in late)  # type: ignore[attr-defined]
        return Promoted(moved, None if wait < 0 else wait / 1000, failed(problem) or "", seconds)  # type: ignore[arg-type]

    return Call(_PROMOTE, keys.routed(base), (limit,), read)


def next_due(base: str) -> Call[float | None]:
    """When (ms since the epoch) the next parked task of a queue is due; None: none is parked."""

    def read(reply: list[object]) -> float | None:
        last = reply[-1] if reply else None
        return None if last is None else float(last[1] if isinstance(last, list | tuple) else last)  # type: ignore[arg-type]

    return command("ZRANGE", keys.parked(base), 0, 0, "WITHSCORES", read=read)


def clock(base: str) -> Call[int]:
    """The time (ms) of the server that has the queue."""
    return Call(_CLOCK, keys.routed(base), (), int)


def occupied(bases: Sequence[str]) -> Call[set[str]]:
    """Which of the queues (all of one slot) hold an entry, delivered or not: one command for all.

    Finished entries are deleted, so XREAD from 0 with COUNT 1 answers for exactly those that do. It
    lets an idle worker look for work to reclaim without a script per stream.
    """
    streams = [keys.stream(base, priority) for base in bases for priority in PRIORITIES]

    def read(reply: object) -> set[str]:
        names = (reply.keys() if isinstance(reply, dict) else [r[0] for r in reply]) if reply else ()  # type: ignore[attr-defined]
        return {name.decode().rpartition(":s:")[0] for name in names}

    return command("XREAD", "COUNT", 1, "STREAMS", *streams, *["0"] * len(streams), read=read)


def retire(base: str, idle: float, consumers: Sequence[str] = (), living: Sequence[str] = ()) -> Call[int]:
    """Delete `consumers` (none: all but the `living`) that own nothing and were idle for `idle` seconds."""
    named = ("these", *consumers) if consumers else ("others", *living)
    return Call(_RETIRE, keys.routed(base), (ms(idle), *named), int)


def heartbeat(
    namespace: str, consumer: str, about: bytes, ttl: float, queues: Sequence[str], memory: float = 600.0
) -> Call[list[str]]:
    """Say that a worker lives; names of those that have not said so for `ttl` seconds: they are gone, and forgotten
    after `memory` seconds."""
    names = (keys.workers(namespace), keys.worker(namespace, consumer), keys.queues(namespace), keys.gone(namespace))
    args: list[Arg] = [consumer, about, ms(ttl), ms(memory), *queues]
    return Call(_HEARTBEAT, names, args, lambda r: [name.decode(errors="replace") for name in r])


def forget_worker(namespace: str, consumer: str) -> list[Call[int]]:
    """Remove a worker's heartbeat, at its orderly end."""
    return [
        command("ZREM", keys.workers(namespace), consumer, read=int),
        command("ZREM", keys.gone(namespace), consumer, read=int),
        command("DEL", keys.worker(namespace, consumer), read=int),
    ]


def _batch(base: str, queue: str, reply: list[object]) -> Batch:
    now, read, flat, problem = reply[:4]
    assert isinstance(now, int) and isinstance(flat, list)
    deliveries = [delivery(base, queue, now, flat[i : i + 7]) for i in range(0, len(flat), 7)]
    return Batch(max(0, read), deliveries, problem.decode(errors="replace"), read == -1, now)  # type: ignore[attr-defined,call-overload]


_NOTHING = Batch(0, [], "")


def delivery(base: str, queue: str, now: int, fields: Sequence[Any]) -> Delivery:
    """One from the seven fields that a script's reply has for it."""
    priority, entry, key, message, retries, deliveries, since = fields
    name, id = _PRIORITY_NAMES[priority], entry.decode()
    text, place = key.decode(errors="replace"), (base, name, id)
    return Delivery(base, queue, now, name, id, text, key, message, retries, deliveries, since, place)
