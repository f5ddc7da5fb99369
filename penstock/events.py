"""What happens to tasks and workers, one struct per fact, and the fan-out to observers.

Consumers and producers only *tell*; logs, metrics and tests listen. An observer is any callable
that takes an event. It must be quick and is called in the thread or loop where the fact arose.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

log = logging.getLogger("penstock")


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all events. Durations in seconds."""


class TaskEvent(Event, frozen=True, kw_only=True):
    """Something happened to one task."""

    id: str
    name: str
    queue: str
    priority: str


class Sent(TaskEvent, frozen=True, kw_only=True):
    """A producer's enqueue was accepted; `created` is False if the id existed already."""

    created: bool


class Started(TaskEvent, frozen=True, kw_only=True):
    """An attempt begins; `waited` is the time since it became ready (last enqueued or promoted)."""

    attempt: int
    waited: float


class AttemptEvent(TaskEvent, frozen=True, kw_only=True):
    """An attempt is over; `ran` is how long the user's code took."""

    attempt: int
    ran: float


class Succeeded(AttemptEvent, frozen=True, kw_only=True):
    """The result is stored."""


class Retried(AttemptEvent, frozen=True, kw_only=True):
    """Parked for another attempt in `delay` seconds."""

    delay: float
    error: str


class Snoozed(AttemptEvent, frozen=True, kw_only=True):
    """Parked at the task's own wish; no attempt was spent."""

    delay: float


class Failed(AttemptEvent, frozen=True, kw_only=True):
    """In the dead letters. `reason` as in `TaskFailed.reason`."""

    reason: str
    error: str


class Cancelled(AttemptEvent, frozen=True, kw_only=True):
    """Cancelled while running."""


class Released(AttemptEvent, frozen=True, kw_only=True):
    """Handed back unfinished, at a warm shutdown."""


class Unknown(TaskEvent, frozen=True, kw_only=True):
    """This worker cannot run it (name unknown, or arguments do not fit): parked for one that can."""

    error: str


class Late(TaskEvent, frozen=True, kw_only=True):
    """An attempt ended after its lease had been lost; its outcome was dropped."""


class Lost(TaskEvent, frozen=True, kw_only=True):
    """The lease was lost while the task ran; the attempt is being stopped."""


class Dropped(Event, frozen=True, kw_only=True):
    """`count` deliveries of `queue` were ended before start: cancelled, expired or stale."""

    queue: str
    count: int


class QueueLeftOut(Event, frozen=True, kw_only=True):
    """A queue cannot be served for now: a key of it holds another type, or a right is missing. Nothing is lost."""

    queue: str
    error: str


class EntryStuck(Event, frozen=True, kw_only=True):
    """An entry of `queue` can be neither started nor settled, and stays pending: see `error`."""

    queue: str
    error: str


class Reclaimed(Event, frozen=True, kw_only=True):
    """`count` deliveries of `queue` were taken over from workers that stopped renewing."""

    queue: str
    count: int


class Promoted(Event, frozen=True, kw_only=True):
    """`count` parked tasks of `queue` became ready."""

    queue: str
    count: int


class LoopBlocked(Event, frozen=True, kw_only=True):
    """The event loop has not turned for `seconds`; `tasks` names what runs on it, `stack` shows where."""

    seconds: float
    tasks: tuple[str, ...]
    stack: str


class ThreadStuck(TaskEvent, frozen=True, kw_only=True):
    """A thread ignored its timeout; the task is settled, the thread goes on until its call returns."""

    overdue: float


class BrokerDown(Event, frozen=True, kw_only=True):
    """The server does not answer; work that is running goes on and is settled when it is back."""

    error: str


class BrokerUp(Event, frozen=True, kw_only=True):
    """The server answers again after `seconds`."""

    seconds: float


class WorkerStarted(Event, frozen=True, kw_only=True):
    """A worker process is ready to fetch."""

    worker: str
    queues: tuple[str, ...]


class WorkerStopped(Event, frozen=True, kw_only=True):
    """A worker process has settled or handed back all it had."""

    worker: str


Observer = Callable[[Event], object]


class Observers:
    """Fans an event out; one observer's failure is logged and reaches neither the others nor the caller."""

    def __init__(self) -> None:
        self._observers: list[Observer] = []

    def __bool__(self) -> bool:
        return bool(self._observers)

    def add(self, observer: Observer) -> Observer:
        self._observers.append(observer)
        return observer

    def remove(self, observer: Observer) -> None:
        self._observers.remove(observer)

    def emit(self, event: Event) -> None:
        for observer in tuple(self._observers):
            try:
                observer(event)
            except Exception:
                log.exception("observer %r failed on %s", observer, type(event).__name__)
