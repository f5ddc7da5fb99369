"""What a running task can know of itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """The current attempt: the first parameter of a task with ``bind=True``, or `current()`."""

    #: The public id, ``queue:key``.
    id: str
    name: str
    queue: str
    priority: str
    #: Counted from 1; a retry adds one, a snooze or a crash of the worker does not.
    attempt: int
    #: 1 unless workers died while they ran this task.
    deliveries: int
    #: What the caller gave as ``meta``.
    meta: dict[str, Any]
    #: Name of the worker process.
    worker: str


_current: ContextVar[Context | None] = ContextVar("penstock_current", default=None)


def current() -> Context:
    """The context of the task that runs here, in whichever thread or coroutine. LookupError outside one."""
    context = _current.get()
    if context is None:
        raise LookupError("no task is running here")
    return context


def current_or_none() -> Context | None:
    """As `current`, but None outside a task."""
    return _current.get()


@contextmanager
def running(context: Context) -> Iterator[None]:
    """Make `context` the current one."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


#: For the hot path: no generator, and no reset in a copied context that is thrown away.
set_current = _current.set
