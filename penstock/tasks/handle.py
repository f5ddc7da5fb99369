"""What a producer holds of a task that it sent."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from penstock.errors import ResultNotKept, SyncInAsync, TaskCancelled, TaskExpired, TaskFailed
from penstock.settings import SyncInLoop
from penstock.streams.record import Record, State, TaskInfo
from penstock.tasks.context import current_or_none
from penstock.tasks.results import Results

#: What the task returns. A `Handle` only gives it, never takes it.
R_co = TypeVar("R_co", covariant=True)


class Handle(Generic[R_co]):
    """A task by its id. Each method has an async twin whose name begins with ``a``.

    Attributes:
        id: the public id, ``queue:key``.
        created: False if a task of this id existed, so that nothing was sent; None if this handle
            was made from an id.
    """

    __slots__ = ("_decode", "_results", "_sync_in_loop", "created", "id")

    def __init__(
        self,
        id: str,
        results: Results,
        decode: Callable[[bytes], R_co],
        sync_in_loop: SyncInLoop = "warn",
        created: bool | None = None,
    ) -> None:
        self.id = id
        self.created = created
        self._results = results
        self._decode = decode
        self._sync_in_loop = sync_in_loop

    def get(self, timeout: float | None = None, *, allow_in_task: bool = False) -> R_co:
        """Wait for the task to end and return its result.

        Args:
            timeout: seconds; None waits for ever.
            allow_in_task: needed inside a running task, where waiting for another one holds a slot
                that the other may need.

        Raises:
            TaskFailed: with the remote type, message and traceback, as text.
            TaskCancelled, TaskExpired: it never ran to its end.
            ResultTimeout: it has not ended yet.
            TaskNotFound: no such task, or its record has expired.
            ResultNotKept: it succeeded, and its result was not stored (``result_ttl=0``) or has expired.
            SyncInAsync: called inside a running event loop, which it would block, or inside a task.
        """
        self._check_may_block(allow_in_task)
        return self._value(self._results.wait(self.id, timeout))

    async def aget(self, timeout: float | None = None) -> R_co:
        """As `get`; does not block the event loop. ``await handle`` is the same without a timeout."""
        return self._value(await self._results.await_(self.id, timeout))

    def __await__(self) -> Generator[Any, Any, R_co]:
        return self.aget().__await__()

    def state(self) -> State:
        """Where the task is now. Raises `TaskNotFound`."""
        self._check_sync("state")
        return self._results.record(self.id).state

    async def astate(self) -> State:
        """As `state`."""
        return (await self._results.arecord(self.id)).state

    def done(self) -> bool:
        """True if the task has ended, in whichever way. Raises `TaskNotFound`."""
        return self.state().finished

    async def adone(self) -> bool:
        """As `done`."""
        return (await self.astate()).finished

    def info(self) -> TaskInfo:
        """State, times, attempts, worker and error. Raises `TaskNotFound`."""
        self._check_sync("info")
        return self._results.record(self.id).info()

    async def ainfo(self) -> TaskInfo:
        """As `info`."""
        return (await self._results.arecord(self.id)).info()

    def cancel(self) -> bool:
        """Cancel the task, from any process: scheduled and queued at once, running as soon as its worker
        hears of it. False if it had ended already. Raises `TaskNotFound`."""
        self._check_sync("cancel")
        answer = self._results.cancel(self.id)
        return answer.ended or answer.requested

    async def acancel(self) -> bool:
        """As `cancel`."""
        answer = await self._results.acancel(self.id)
        return answer.ended or answer.requested

    def _value(self, record: Record) -> R_co:
        match record.state:
            case State.SUCCEEDED:
                value = record.value
                if value is None:
                    raise ResultNotKept(f"{self.id!r} succeeded; its result was not stored, or has expired")
                return self._decode(value)
            case State.CANCELLED:
                raise TaskCancelled(f"{self.id!r} was cancelled")
            case State.EXPIRED:
                raise TaskExpired(f"{self.id!r} was not started before it expired")
            case _:
                failure = record.failure
                if failure is None:
                    raise TaskFailed("Unknown", "the details of this failure have expired")
                raise TaskFailed(failure.type, failure.message, failure.traceback, failure.reason)

    def _check_may_block(self, allow_in_task: bool) -> None:
        if current_or_none() is not None and not allow_in_task:
            raise SyncInAsync(
                "get() inside a task holds a slot that the other task may need, and can deadlock; "
                "if that cannot be, use get(allow_in_task=True)"
            )
        if self._sync_in_loop != "allow" and in_loop():
            raise SyncInAsync("get() would block the running event loop; use `await handle` or `await handle.aget()`")

    def _check_sync(self, name: str) -> None:
        if self._sync_in_loop != "allow" and in_loop():
            text = f"{name}() blocks the running event loop for a round trip; use `await handle.a{name}()`"
            if self._sync_in_loop == "error":
                raise SyncInAsync(text)
            warnings.warn(text, RuntimeWarning, stacklevel=3)

    def __repr__(self) -> str:
        return f"<Handle {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)


def in_loop() -> bool:
    """True if an event loop runs in this thread."""
    return asyncio._get_running_loop() is not None
