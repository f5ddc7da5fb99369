"""Every exception of penstock, in one tree.

PenstockError
├── ConfigurationError (ValueError)      a setting, an option or a URL makes no sense
│   └── InvalidTask                      a function cannot be registered as a task
├── SyncInAsync (RuntimeError)           a blocking call where it would block or deadlock
├── SendError                            nothing was enqueued
│   ├── InvalidArguments (TypeError)     the arguments do not fit the task's signature
│   ├── PayloadTooLarge (ValueError)     the message is larger than ``max_payload``
│   ├── QueueFull                        the queue holds ``max_length`` tasks
│   ├── IdTaken (ValueError)             another task has this id
│   └── NotDurable                       it may have been enqueued, but not as safely as was asked
├── BrokerError                          the server answered with an error, or not at all
│   ├── BrokerUnavailable (ConnectionError)
│   ├── AuthenticationFailed
│   ├── PermissionDenied                 NOPERM: the ACL user lacks a right
│   ├── ServerReadOnly                   READONLY: a replica, or a demoted primary
│   ├── ServerOutOfMemory                OOM: ``maxmemory`` is reached
│   ├── ServerTooOld                     older than Redis 6.2
│   └── WrongKeyType                     WRONGTYPE: something else uses one of our keys
├── ResultError                          asking for a task's result did not give one
│   ├── TaskNotFound (LookupError)       never sent, or its record has expired
│   ├── TaskFailed                       it raised; carries the remote type, message, traceback
│   ├── TaskCancelled
│   ├── TaskExpired
│   ├── ResultNotKept                    it succeeded, but no result is stored (any more)
│   └── ResultTimeout (TimeoutError)     not finished within ``timeout`` seconds
├── UnencodableResult (TypeError)        a task's return value cannot be stored as its result
└── TaskStopped                          raised *inside* a running task to stop it
    ├── SoftTimeout                      ``soft_timeout`` is over: clean up and return
    └── HardTimeout                      ``timeout`` is over

TaskControl                              raised *by* a task to choose its own ending
├── Retry      run again after a delay, spending an attempt
├── Snooze     run again after a delay, spending none
└── Reject     to the dead letters, at once
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta


class PenstockError(Exception):
    """Base of all errors that penstock raises."""


class ConfigurationError(PenstockError, ValueError):
    """A setting, an option or a URL makes no sense."""


class InvalidTask(ConfigurationError):
    """A function cannot be registered as a task; the message says why and what to change."""


class SyncInAsync(PenstockError, RuntimeError):
    """A blocking call was made where it would block the event loop or deadlock a worker."""


class SendError(PenstockError):
    """Nothing was enqueued (`NotDurable`: perhaps not); of a bulk, what `sent` names was."""

    #: Ids of the calls of the same bulk that were enqueued.
    sent: Sequence[str] = ()


class InvalidArguments(SendError, TypeError):
    """The arguments do not fit the task's signature; the message names the parameter."""


class PayloadTooLarge(SendError, ValueError):
    """The encoded message is larger than ``max_payload`` bytes."""


class QueueFull(SendError):
    """The queue's streams already hold ``max_length`` tasks."""


class IdTaken(SendError, ValueError):
    """A task of another name was sent under this id, and its record still lives."""


class NotDurable(SendError):
    """The server has the task, but could not say in time that it is as safe as `durability` asks.

    Unlike with other `SendError`s the task may have been enqueued, may run, and may be lost. Sending
    the same id again is safe: it changes nothing if the task is there, and asks again. Where the
    server cannot give such a promise at all, nothing was enqueued; the message says so.

    Attributes:
        ids: public ids of the calls of which this is said.
        wanted: how many had to confirm: replicas; for ``"fsync"`` 1, the append-only file.
        confirmed: how many have.
    """

    def __init__(self, message: str, wanted: int = 1, confirmed: int = 0, ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.wanted = wanted
        self.confirmed = confirmed
        self.ids = tuple(ids)

    def of(self, ids: Sequence[str]) -> NotDurable:
        """The same of these calls."""
        return NotDurable(f"{', '.join(ids[:3])}{', ..' * (len(ids) > 3)}: {self}", self.wanted, self.confirmed, ids)


class BrokerError(PenstockError):
    """The server answered with an error, or not at all."""


class BrokerUnavailable(BrokerError, ConnectionError):
    """No server could be reached within the time that was allowed."""


class AuthenticationFailed(BrokerError):
    """The server refused the user name or the password."""


class PermissionDenied(BrokerError):
    """The ACL user lacks a right on a command, a key or a channel (NOPERM)."""


class ServerReadOnly(BrokerError):
    """The server is a replica or was demoted (READONLY)."""


class ServerOutOfMemory(BrokerError):
    """``maxmemory`` is reached and the server takes no more writes (OOM)."""


class ServerTooOld(BrokerError):
    """The server is older than Redis 6.2, the first one with XAUTOCLAIM."""


class WrongKeyType(BrokerError):
    """One of our keys holds another type (WRONGTYPE): somebody else uses this namespace."""


class ResultError(PenstockError):
    """Asking for a task's result did not give one."""


class TaskNotFound(ResultError, LookupError):
    """No such task: it was never sent, or its record has expired."""


class TaskFailed(ResultError):
    """The task failed for good. Everything remote is text; nothing is ever unpickled.

    Attributes:
        type: qualified name of the remote exception, e.g. ``"ValueError"``.
        message: ``str()`` of the remote exception.
        traceback: the remote traceback as text, or ``""``.
        reason: why it ended: ``"error"``, ``"rejected"``, ``"timeout"``, ``"max_deliveries"``,
            ``"unknown_task"``, ``"undecodable"`` or ``"unencodable_result"``.
    """

    def __init__(self, type: str, message: str, traceback: str = "", reason: str = "error") -> None:
        super().__init__(type, message, traceback, reason)
        self.type = type
        self.message = message
        self.traceback = traceback
        self.reason = reason

    def __str__(self) -> str:
        head = f"{self.type}: {self.message}" if self.message else self.type
        if self.reason != "error":
            head = f"[{self.reason}] {head}"
        return f"{head}\n\nRemote traceback:\n{self.traceback}" if self.traceback else head


class TaskCancelled(ResultError):
    """The task was cancelled before it could succeed."""


class TaskExpired(ResultError):
    """The task was not started within its ``expires``."""


class ResultNotKept(ResultError):
    """The task succeeded; its result was not stored (``result_ttl=0``), or has expired."""


class ResultTimeout(ResultError, TimeoutError):
    """The task did not finish within the ``timeout`` given to ``get``."""


class UnencodableResult(PenstockError, TypeError):
    """What a task returned cannot be encoded, or is not what its return annotation says."""


class TaskStopped(PenstockError):
    """Raised inside a running task in order to stop it."""


class SoftTimeout(TaskStopped):
    """``soft_timeout`` is over. Catch it to clean up; the hard ``timeout`` still runs."""


class HardTimeout(TaskStopped):
    """``timeout`` is over."""


class TaskControl(Exception):
    """Raised by a task's own code to choose its ending. Not an error of penstock."""


class Retry(TaskControl):
    """Run this task again, spending an attempt. Without attempts left the task fails.

    Args:
        message: kept as the error of this attempt.
        delay: seconds (or a timedelta) until the next attempt; default: by the task's policy.
    """

    def __init__(self, message: str = "", *, delay: float | timedelta | None = None) -> None:
        super().__init__(message)
        self.delay = _seconds(delay)


class Snooze(TaskControl):
    """Run this task again after ``delay`` seconds (or a timedelta), spending no attempt."""

    def __init__(self, delay: float | timedelta) -> None:
        super().__init__(delay)
        self.delay: float = _seconds(delay) or 0.0


class Reject(TaskControl):
    """Put this task into the dead letters at once, whatever its retry policy says."""


def _seconds(delay: float | timedelta | None) -> float | None:
    if delay is None:
        return None
    seconds = delay.total_seconds() if isinstance(delay, timedelta) else float(delay)
    if not 0 <= seconds < 1e10:  # also refuses NaN
        raise ConfigurationError(f"delay must be between 0 and 1e10 seconds, not {delay!r}")
    return seconds
