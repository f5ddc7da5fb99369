"""What a worker has in its hands: attempts, from delivery until Redis has answered their settle."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable
from types import CoroutineType
from typing import Any

from penstock.streams.consume import Delivery
from penstock.streams.message import Message
from penstock.tasks.middleware import Endings
from penstock.tasks.retry import RetryPolicy
from penstock.tasks.task import AnyTask


class Stop(enum.Enum):
    """Why an attempt is being stopped from outside."""

    CANCELLED = enum.auto()
    #: The lease was lost: somebody else may be running the task by now.
    LOST = enum.auto()
    #: The worker shuts down and hands the task back.
    RELEASED = enum.auto()


class Attempt:
    """One run of one delivery. `message` and `task` are None if they could not be found out."""

    __slots__ = (
        "coro", "deadline", "delivery", "ended", "endings", "interrupt", "kind", "lost", "message", "started", "stop",
        "taken_over", "task", "waited",
    )  # fmt: skip

    def __init__(
        self, delivery: Delivery, message: Message | None = None, task: AnyTask | None = None, kind: str = ""
    ) -> None:
        self.delivery = delivery
        self.message = message
        self.task = task
        #: Which slot it takes: "async", "thread", "process", or "" for none.
        self.kind = kind
        #: Monotonic times, s.
        self.started = time.monotonic()
        self.ended = 0.0
        #: What middlewares want to be told; None: there are none.
        self.endings: Endings | None = None
        #: Microseconds from ready to start; None: it has not started.
        self.waited: int | None = None
        #: It was another worker's, which had stopped renewing it.
        self.taken_over = False
        #: That its lease is lost was told.
        self.lost = False
        #: When its time limit is over, monotonic; None: no limit.
        self.deadline: float | None = None
        self.stop: Stop | None = None
        #: The coroutine of an async task, while it runs.
        self.coro: CoroutineType[Any, Any, Any] | None = None
        #: Stops the user's code; set while it runs.
        self.interrupt: Callable[[], object] | None = None

    @property
    def name(self) -> str:
        return self.message.name if self.message is not None else "?"

    def result_ttl(self, default: float) -> float:
        """Seconds for which the result is kept (0: not at all): by the call, else the task, else `default`."""
        if self.message is not None and self.message.result_ttl is not None:
            return self.message.result_ttl
        if self.task is not None and self.task.config.result_ttl is not None:
            return self.task.config.result_ttl
        return default

    def policy(self) -> RetryPolicy | None:
        """The retry policy: the call's numbers, with the task's own filters; None: an error is final."""
        own = self.task.config.retry if self.task is not None else None
        if self.message is None or self.message.retry is None:
            return own
        return RetryPolicy.from_spec(self.message.retry, own)

    def is_stopped(self) -> bool:
        """Somebody has asked for it to stop."""
        return self.stop is not None

    @property
    def is_suspect(self) -> bool:
        """It has crashed two workers or more, this one perhaps next."""
        return self.delivery.deliveries > 2

    def request_stop(self, why: Stop) -> None:
        """Stop the user's code, if it still runs. The first reason counts. Call from the event loop."""
        if self.stop is None:
            self.stop = why
            if self.interrupt is not None:
                self.interrupt()


class InFlight:
    """All attempts of this worker by (base, priority, entry): entries of two streams may have the same id, as when one
    script adds both. Changed in the event loop only; read by the lease thread."""

    def __init__(self) -> None:
        self._attempts: dict[tuple[str, str, str], Attempt] = {}

    def __len__(self) -> int:
        return len(self._attempts)

    def __contains__(self, delivery: Delivery) -> bool:
        return self.holds(delivery.place)

    def holds(self, place: tuple[str, str, str]) -> bool:
        """True if the entry with this (base, priority, id) is in flight."""
        return place in self._attempts

    def add(self, attempt: Attempt) -> None:
        self._attempts[attempt.delivery.place] = attempt

    def forget(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt.delivery.place, None)

    def all(self) -> list[Attempt]:
        # list(dict.values()) is one step under the GIL, hence safe from another thread.
        return list(self._attempts.values())

    def find(self, base: str, key: str) -> list[Attempt]:
        """The attempts of one task: one, or two while a lost one is being stopped."""
        return [a for a in self._attempts.values() if a.delivery.key == key and a.delivery.base == base]

    def has_suspect(self) -> bool:
        return any(a.is_suspect for a in self._attempts.values())
