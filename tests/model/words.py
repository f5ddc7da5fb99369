"""What the model speaks of: entries, attempts, tasks; and the durations of every history."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from penstock.streams.record import State
from penstock.streams.settle import Settled
from tests.model.clock import TICK

#: The ids that tasks have here.
KEYS = ("a", "b", "c")
#: All in ms. A lease; the record of a task that ended early; the resend window; a result; a dead letter.
LEASE, RECORD_TTL, WINDOW, RESULT_TTL, DEAD_TTL = 2 * TICK, 4 * TICK, 3 * TICK, 5 * TICK, 6 * TICK
#: After so long (ms) a task that no worker knows is given up.
GIVE_UP = 2 * TICK
#: Dead letters that are kept; deliveries of a task after which it is buried.
MOST_DEAD, MAX_DELIVERIES = 2, 2
#: What each priority gets of a fetch, before the rest is shared out in this order.
QUOTAS = (("high", 2), ("default", 1), ("low", 1))
#: What is stored beside the record of a failed task; a result that has room in the record, and one that has not.
FAILURE, SMALL, LARGE = b"failure", 10, 100
#: An entry that is no message of ours has these fields; its dead letter keeps them so.
JUNK_FIELDS = {"x": "y"}
JUNK = msgspec.msgpack.encode(["x", "y"])


@dataclass(eq=False)
class Entry:
    """A place in a stream. `key` None: it is no message of ours."""

    key: str | None
    message: bytes
    priority: str
    #: Whose it is since it was delivered, and when it was delivered or its lease renewed last.
    owner: str | None = None
    since: int = 0


class Attempt:
    """An entry that was handed out, to be run."""

    def __init__(self, consumer: str, entry: Entry, retries: int, deliveries: int) -> None:
        self.consumer = consumer
        self.entry = entry
        self.retries = retries
        self.deliveries = deliveries
        #: How its settle was answered when it was the one that changed something.
        self.settled: Settled | None = None

    @property
    def key(self) -> str:
        return self.entry.key or ""

    @property
    def name(self) -> str:
        """The task's name: here the first word of the message."""
        return "?" if self.entry.message == JUNK else self.entry.message.split()[0].decode()

    def __repr__(self) -> str:
        return f"<{self.key} on {self.consumer}>"


@dataclass(eq=False)
class Task:
    """What is known of a task."""

    #: None: an old copy of its entry was started after the record had gone.
    name: str | None
    priority: str
    message: bytes
    state: State = State.QUEUED
    #: Its place, one of three: in a stream, parked until then, finished.
    entry: Entry | None = None
    due: int | None = None
    ended_at: int | None = None
    #: When its record goes, and its result before that; None: not by itself.
    gone_at: int | None = None
    result: bytes | None = None
    result_gone_at: int | None = None
    #: A dead letter whose message is kept.
    redrivable: bool = False
    expires: int | None = None
    retries: int = 0
    deliveries: int = 0
    worker: str | None = None
    started_at: int | None = None
    unknown_since: int | None = None
    #: The calls by which it was cancelled and redriven.
    cancel: int | None = None
    redrive: int | None = None
    #: The attempt that runs, and the one whose settle has brought the task to where it is now.
    attempt: Attempt | None = None
    settled_by: Attempt | None = None


@dataclass(frozen=True)
class Send:
    """One task to enqueue; times in ms from now."""

    key: str
    name: str
    priority: str
    message: bytes
    delay: int = 0
    expires: int | None = None
