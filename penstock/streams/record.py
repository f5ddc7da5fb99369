"""A task's record: its states, and how its hash is read."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from penstock.errors import WrongKeyType
from penstock.streams.message import UNDECODABLE, Failure, decode_failure


class State(StrEnum):
    """Where a task is. `scheduled` also covers waiting for a retry, or for a worker that knows it."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def finished(self) -> bool:
        """True if the task has ended and will not run again by itself."""
        return self in _FINISHED


_FINISHED = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED, State.EXPIRED})

#: A result of a task that returns nothing, as msgpack: records leave it out.
NIL = b"\xc0"

#: One letter each in the record: there may be millions of them.
STATES = {
    b"s": State.SCHEDULED,
    b"q": State.QUEUED,
    b"r": State.RUNNING,
    b"o": State.SUCCEEDED,
    b"f": State.FAILED,
    b"c": State.CANCELLED,
    b"e": State.EXPIRED,
}


class TaskInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a task. All times are the server's, in UTC; None where it does not apply."""

    id: str
    name: str
    queue: str
    priority: str
    state: State
    #: The attempt that runs or ran last, counted from 1; 0 before the first.
    attempt: int
    #: Deliveries that were started and have not ended in order: 1 while it runs, more after crashes.
    deliveries: int
    enqueued_at: datetime | None
    #: When a scheduled task becomes ready.
    due_at: datetime | None
    #: Start of the attempt that runs or ran last.
    started_at: datetime | None
    finished_at: datetime | None
    worker: str | None
    #: ``Type: message`` of the last attempt that failed.
    error: str | None


class Record:
    """A record as read from Redis, with the result or failure that is stored beside it.

    Somebody else may have written its fields: what is no number or no time is left out, what is no text is
    shown as far as it is one. Without a state of ours it is no record: `state` raises `WrongKeyType`.
    """

    __slots__ = ("_fields", "_stored", "id")

    def __init__(self, id: str, fields: dict[bytes, bytes], stored: bytes | None) -> None:
        self.id = id
        self._fields = fields
        self._stored = stored

    @property
    def state(self) -> State:
        letter = self._fields.get(b"s", b"q")
        if letter not in STATES:
            raise WrongKeyType(f"the record of {self.id!r} is none of penstock's: its state is {letter[:20]!r}")
        return STATES[letter]

    @property
    def name(self) -> str:
        return self._text(b"n") or "?"

    @property
    def value(self) -> bytes | None:
        """The encoded result; None if none was stored, or its TTL is over."""
        return self._fields.get(b"v", NIL) or self._stored

    @property
    def is_whole(self) -> bool:
        """True if a task has ended and all of its end stands in the record: the result, too, or there is none."""
        return self.state.finished and self.state is not State.FAILED and self._fields.get(b"v", NIL) != b""

    def may_follow(self, other: Record) -> bool:
        """True if this may be what became of `other`: its id was not used again in between, for a new task."""
        return self._sent_at() == other._sent_at()

    def _sent_at(self) -> bytes:
        # Left out while the record's entry is the first one: its id begins with the time.
        return self._fields.get(b"t") or self._fields.get(b"e", b"").partition(b"-")[0]

    @property
    def failure(self) -> Failure | None:
        """Why the task failed; None if it did not."""
        if self.state is not State.FAILED or self._stored is None:
            return None
        try:
            return decode_failure(self._stored)
        except UNDECODABLE:
            return Failure("Unknown", "the details of this failure cannot be decoded")

    def info(self) -> TaskInfo:
        state, number, failure = self.state, self._number, self.failure
        begun = b"b" in self._fields and (state is State.RUNNING or state.finished)
        return TaskInfo(
            id=self.id,
            name=self.name,
            queue=self.id.partition(":")[0],
            priority=self._text(b"p") or "default",
            state=state,
            attempt=number(b"a") + begun,
            deliveries=number(b"d") if b"d" in self._fields else int(b"b" in self._fields),
            enqueued_at=_at(self._sent_at()),
            due_at=self._time(b"u") if state is State.SCHEDULED else None,
            started_at=self._time(b"b"),
            finished_at=self._time(b"f"),
            worker=self._text(b"w"),
            error=f"{failure.type}: {failure.message}" if failure else self._text(b"y"),
        )

    def _number(self, field: bytes) -> int:
        return number(self._fields.get(field)) or 0

    def _time(self, field: bytes) -> datetime | None:
        found = number(self._fields.get(field))
        if found is not None and abs(found) < _EARLIEST:  # counted from the time of its entry
            entry = number(self._fields.get(b"e", b"").partition(b"-")[0])
            found = None if entry is None else entry + found
        return None if found is None else moment(found)

    def _text(self, field: bytes) -> str | None:
        value = self._fields.get(field)
        return value.decode(errors="replace") if value else None


def told_record(id: str, told: bytes) -> Record | None:
    """The record as the script that ended a task has sent it to those who wait (``_finish.lua``): each text after its
    length in 4 bytes. It has nothing that is stored beside the record. None: there is none, or it is none of ours."""
    texts, at = [], 0
    while at < len(told):
        end = at + 4 + int.from_bytes(told[at : at + 4], "big")
        texts.append(told[at + 4 : end])
        at = end
    fields = dict(zip(texts[::2], texts[1::2], strict=False))
    return Record(id, fields, None) if at == len(told) and fields.get(b"s") in STATES else None


def number(text: bytes | None) -> int | None:
    """A whole number as scripts write it; None if it is none."""
    return int(text) if text and _NUMBER.fullmatch(text) else None


def moment(milliseconds: float) -> datetime:
    """A time of the server's. One that no calendar has becomes the first or last that has a local time everywhere."""
    return datetime.fromtimestamp(min(max(_FIRST, milliseconds), _LAST) / 1000, UTC)


def _at(text: bytes | None) -> datetime | None:
    found = number(text)
    return None if found is None else moment(found)


#: A smaller number is no time (1973) but one from the entry's own on: see ``from_entry`` in the scripts' prelude.
_EARLIEST = 10**11
_NUMBER = re.compile(rb"-?[0-9]{1,20}")
_FIRST, _LAST = 0.0, 253_402_214_400_000.0  # 9999-12-31
