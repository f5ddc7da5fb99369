"""How an attempt ended, as a value, and the pure function that decides it from an exception."""

from __future__ import annotations

import asyncio
import importlib
import os
import random as _random
import traceback
from collections.abc import Callable
from typing import TypeAlias

import msgspec

from penstock.errors import (
    HardTimeout,
    PenstockError,
    Reject,
    Retry,
    Snooze,
    SoftTimeout,
    TaskControl,
    TaskStopped,
    UnencodableResult,
)
from penstock.streams.message import Failure
from penstock.tasks.middleware import Ending
from penstock.tasks.retry import RetryPolicy

#: Bytes of UTF-8 kept of an exception's text and of its traceback. Both travel through Redis.
MESSAGE_MAX = 10_000
TRACEBACK_MAX = 20_000
#: Frames formatted at most; more would not fit into `TRACEBACK_MAX` and a deep recursion has 1000.
FRAMES_MAX = 300


class Succeeded(msgspec.Struct, frozen=True, tag=True):
    """The function returned; `value` is its encoded result, None if results are not kept."""

    value: bytes | None = None


class Retrying(msgspec.Struct, frozen=True, tag=True):
    """It failed and runs again in `delay` seconds, spending an attempt."""

    delay: float
    failure: Failure


class Snoozed(msgspec.Struct, frozen=True, tag=True):
    """It asked to run again in `delay` seconds, spending no attempt."""

    delay: float


class Failed(msgspec.Struct, frozen=True, tag=True):
    """It failed for good; `failure.reason` says why."""

    failure: Failure


class Cancelled(msgspec.Struct, frozen=True, tag=True):
    """Somebody cancelled the task."""


class Released(msgspec.Struct, frozen=True, tag=True):
    """The worker hands it back, because it shuts down or read too much; nothing is spent."""


class Unknown(msgspec.Struct, frozen=True, tag=True):
    """This worker has no such task, or its arguments do not fit; perhaps another worker's code does."""

    error: str


Outcome: TypeAlias = Succeeded | Retrying | Snoozed | Failed | Cancelled | Released | Unknown

encode_outcome = msgspec.msgpack.Encoder().encode
decode_outcome: Callable[[bytes], Outcome] = msgspec.msgpack.Decoder(Outcome).decode


def decide(
    error: BaseException,
    policy: RetryPolicy | None,
    attempt: int,
    random: Callable[[], float] = _random.random,
) -> Outcome:
    """The outcome of an attempt that ended with `error`.

    Args:
        error: what the task's code raised, or the worker on its behalf (`HardTimeout`).
            SystemExit and KeyboardInterrupt are failures of the task, never of the worker.
        policy: the task's retry policy; None: only an explicit `Retry` runs it again.
        attempt: number of this attempt, from 1.
        random: source of numbers in [0, 1) for the jitter.
    """
    error = _single(error)
    if isinstance(error, Snooze):
        return Snoozed(error.delay)
    if isinstance(error, Reject):
        return Failed(describe(error, "rejected"))
    if isinstance(error, UnencodableResult):
        return Failed(describe(error, "unencodable_result"))  # it would be unencodable again
    if isinstance(error, Retry):
        policy = policy or RetryPolicy()
        if policy.max_retries is not None and attempt > policy.max_retries:
            return Failed(describe(error))
        delay = policy.wait(attempt, random) if error.delay is None else error.delay
        return Retrying(delay, describe(error))
    failure = describe(error, "timeout" if isinstance(error, SoftTimeout | HardTimeout) else "error")
    if policy is not None and policy.wants(error, attempt):
        return Retrying(policy.wait(attempt, random), failure)
    return Failed(failure)


def ending_of(outcome: Outcome | None) -> Ending:
    """What middlewares are told of an attempt that ended so."""
    match outcome:
        case Succeeded():
            return "succeeded"
        case Retrying():
            return "retried"
        case Snoozed():
            return "snoozed"
        case Failed() | Unknown():
            return "failed"
        case _:
            return "stopped"


def describe(error: BaseException, reason: str = "error") -> Failure:
    """`error` as text: qualified type, message and the user's part of the traceback. Never raises."""
    return Failure(
        type=_text(_name(type(error)), MESSAGE_MAX),
        message=_message(error),
        traceback=_traceback(error),
        reason=reason,
    )


def _single(error: BaseException) -> BaseException:
    """What a task group has wrapped, if it is one thing that means something to us; else `error`."""
    inner = error
    while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
        inner = inner.exceptions[0]
    return inner if isinstance(inner, TaskControl | TaskStopped) else error


def _name(kind: type) -> str:
    try:
        return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    except BaseException:  # a metaclass of the user's
        return "?"


def _message(error: BaseException) -> str:
    try:
        return _text(str(error), MESSAGE_MAX)
    except BaseException as broken:  # users' __str__ may raise anything, SystemExit included
        return f"<str() of the exception raised {_name(type(broken))}>"


def _traceback(error: BaseException) -> str:
    try:
        # A negative limit keeps the innermost frames.
        trace = traceback.TracebackException.from_exception(error, limit=-FRAMES_MAX)
        _strip(trace, isinstance(error, PenstockError))
        # Each part is cut by itself: of a long message the end would push out the frames.
        text = "".join(_text(part, MESSAGE_MAX).removesuffix("\n") + "\n" for part in trace.format())
    except BaseException:  # formatting calls __str__, __notes__ and, from 3.12, __dir__ of users' objects
        return ""
    return _text(text, -TRACEBACK_MAX)


def _strip(trace: traceback.TracebackException, empty: bool = False) -> None:
    """Remove the frames by which the worker reached the user's code, in the whole chain.

    A trace of such frames alone is kept (it shows a bug in penstock) unless `empty` allows it:
    for a HardTimeout that the worker itself raised they say nothing.
    """
    todo: list[traceback.TracebackException | None] = [trace]
    while todo:
        if (part := todo.pop()) is None:
            continue
        own = 0
        while own < len(part.stack) and part.stack[own].filename.startswith(_OWN):
            own += 1
        if own < len(part.stack) or empty:
            del part.stack[:own]
        empty = False
        todo += [part.__cause__, part.__context__, *(part.exceptions or ())]


def _text(text: str, limit: int) -> str:
    """At most `limit` bytes of UTF-8 from the start of `text`, or from its end if negative."""
    text = text[:limit] if limit >= 0 else text[limit - 1 :]  # no copy of 100 MB; one more tells that it was cut
    data = text.encode(errors="backslashreplace")  # lone surrogates cannot travel as msgpack
    if limit < 0 and len(data) > -limit:
        return "...\n" + data[limit:].decode(errors="ignore")
    return data[: abs(limit)].decode(errors="ignore")


def _folder(file: str) -> str:
    return os.path.dirname(os.path.abspath(file)) + os.sep


#: Where the code between a worker and the user's function lives. Only leading frames are compared,
#: so a call from the user's code back into penstock stays visible.
_OWN = (
    _folder(_folder(__file__).rstrip(os.sep)),
    _folder(asyncio.__file__),
    _folder(importlib.__file__),
    "<frozen importlib",
)
