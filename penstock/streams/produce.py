"""The verbs of those who send and ask: enqueue, read, cancel, redrive, dead letters, pause."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from penstock.settings import is_name
from penstock.streams import keys
from penstock.streams.calls import Arg, Call, command, failed, ms
from penstock.streams.record import Record, moment
from penstock.streams.scripts import load
from penstock.streams.tokens import token

_ENQUEUE, _READ, _CANCEL, _REDRIVE = load("enqueue"), load("read"), load("cancel"), load("redrive")
_PAUSE = load("pause")

#: Tasks per script call: a script blocks the server while it runs (1000 take about 5 ms).
BATCH_TASKS = 500
#: Bytes of messages per script call.
BATCH_BYTES = 1 << 20


class Envelope:
    """One task to enqueue: where it goes, when, and its encoded message."""

    __slots__ = ("due", "expires", "key", "message", "name", "priority")

    def __init__(self, key: str, name: str, priority: str, message: bytes, due: str = "", expires: str = "") -> None:
        self.key = key
        self.name = name
        self.priority = priority
        self.message = message
        #: ``""`` now (or never, for `expires`), ``"+ms"`` from now, ``"ms"`` since the epoch.
        self.due = due
        self.expires = expires


class Enqueued(msgspec.Struct, frozen=True):
    """What became of one envelope. Exactly one of `created`, `exists`, `full`, `taken_by`, `error`."""

    created: bool = False
    #: The id exists already: nothing was changed.
    exists: bool = False
    full: bool = False
    #: Name of the other task that has this id.
    taken_by: str | None = None
    error: str | None = None


_CREATED, _EXISTS, _FULL = Enqueued(created=True), Enqueued(exists=True), Enqueued(full=True)


def enqueue(base: str, envelopes: Sequence[Envelope], max_length: int = 0) -> Call[list[Enqueued]]:
    """Put tasks into one queue. A repeat of this call changes nothing."""
    args: list[Arg] = [max_length]
    for e in envelopes:
        args += (e.key, e.name, e.priority, e.due, e.expires, e.message)
    return Call(_ENQUEUE, keys.routed(base), args, _read_enqueued)


def _read_enqueued(reply: list[bytes | int]) -> list[Enqueued]:
    return [_CREATED if r == 1 else _read_rare(r) for r in reply]


def _read_rare(reply: bytes | int) -> Enqueued:
    if isinstance(reply, int):
        return _EXISTS if reply == 0 else _FULL
    error = failed(reply)
    return Enqueued(taken_by=reply.decode(errors="replace")) if error is None else Enqueued(error=error)


def register_queue(namespace: str, queue: str) -> Call[int]:
    """Make a queue known to exporters and to `queue_names`."""
    return command("SADD", keys.queues(namespace), queue, read=int)


def queue_names(namespace: str) -> Call[list[str]]:
    """All queues ever sent to or served, sorted; without what somebody else has written there, and names no queue."""

    def read(reply: Iterable[bytes]) -> list[str]:
        names = (name.decode(errors="replace") for name in reply)
        return sorted(name for name in names if is_name(name))

    return command("SMEMBERS", keys.queues(namespace), read=read)


def read_record(base: str, id: str, key: str, listener: str = "") -> Call[Record | None]:
    """A task's record; while it is not finished, `listener` will be told when it is."""

    def read(reply: list[object]) -> Record | None:
        if not reply:
            return None
        fields, stored = reply
        assert isinstance(fields, list)
        return Record(id, dict(zip(fields[::2], fields[1::2], strict=True)), stored)  # type: ignore[arg-type]

    return Call(_READ, keys.routed(base), (key, listener), read)


class Cancellation(msgspec.Struct, frozen=True):
    """What a cancel did: `ended` it at once, or `requested` it from its worker, or neither: the task
    has finished, is `missing`, or there was an `error`."""

    ended: bool = False
    requested: bool = False
    missing: bool = False
    error: str | None = None


def cancel(base: str, task_keys: Sequence[str], ttl: float) -> Call[list[Cancellation]]:
    """Cancel tasks; `ttl` is how long (s) the record of one that ends now is kept."""

    def read(reply: list[bytes]) -> list[Cancellation]:
        return [Cancellation(r == b"C", r == b"R", r == b"", failed(r)) for r in reply]

    return Call(_CANCEL, keys.routed(base), (ms(ttl), _token(), *task_keys), read)


class DeadLetter(msgspec.Struct, frozen=True):
    """A failed task that is kept for redrive."""

    key: str
    died_at: datetime


def dead_letters(base: str, limit: int) -> Call[list[DeadLetter]]:
    """The newest `limit` dead letters of a queue, newest first."""

    def read(reply: list[Any]) -> list[DeadLetter]:
        # As the server gives it: member, score, member, ..; redis-py's own clients make pairs of it.
        flat = not reply or isinstance(reply[0], bytes)
        pairs = zip(reply[::2], reply[1::2], strict=True) if flat else reply
        return [DeadLetter(key.decode(errors="replace"), moment(float(died))) for key, died in pairs]

    return command("ZREVRANGE", keys.dead(base), 0, limit - 1, "WITHSCORES", read=read)


def dead_message(base: str, key: str) -> Call[bytes | None]:
    """The message of a dead letter, as it was sent."""
    return command("GET", keys.parked_message(base, key), read=lambda r: r)


def redrive(base: str, task_keys: Sequence[str] = (), limit: int = 1000) -> Call[tuple[int, list[str]]]:
    """Send dead letters again (the oldest `limit` without keys): how many, and keys that are none
    or cannot be sent."""
    args: list[Arg] = [limit, _token(), *task_keys]
    return Call(_REDRIVE, keys.routed(base), args, lambda r: (int(r[0]), [k.decode(errors="replace") for k in r[1]]))


def pause(base: str, paused: bool) -> Call[bool]:
    """Pause a queue, or resume it; False if it was so already."""
    return Call(_PAUSE, keys.routed(base), ("pause" if paused else "resume",), lambda r: r == 1)


def _token() -> str:
    """Tells a call that is sent again, since its reply was lost, from another call."""
    return token(6)
