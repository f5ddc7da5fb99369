"""Asking for tasks: their records, their ends, their cancellation. Sync and async."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress

from penstock.errors import ConfigurationError, ResultTimeout, TaskNotFound
from penstock.settings import Settings, check_name
from penstock.streams import keys, produce
from penstock.streams.calls import Call
from penstock.streams.clients import Clients
from penstock.streams.listener import LOOK_AGAIN, Listener
from penstock.streams.produce import Cancellation
from penstock.streams.record import Record, told_record


class Results:
    """Reads records by public id. `TaskNotFound` if there is none."""

    def __init__(self, clients: Clients, listener: Listener, settings: Settings) -> None:
        self._clients = clients
        self._listener = listener
        self._settings = settings

    def record(self, id: str) -> Record:
        """The record as it is now."""
        return _found(id, self._clients.sync.run(self._read(id), self._settings.retry_for))

    async def arecord(self, id: str) -> Record:
        """The record as it is now."""
        return _found(id, await self._clients.of_loop.run(self._read(id), self._settings.retry_for))

    def wait(self, id: str, timeout: float | None) -> Record:
        """The record once the task has ended. `ResultTimeout` after `timeout` seconds (None: never)."""
        if not self._listener.is_up:  # what has ended already needs none
            record = self.record(id)
            if record.state.finished:
                return record
        bell, deadline = _ThreadBell(), _deadline(timeout)
        with self._listener.waiting(id, bell.ring):
            while True:
                # Leaves word who waits, and looks: an end after this is told, one before it is seen.
                read = self._read(id, self._listener.name)
                record = _found(id, self._clients.sync.run(read, self._settings.retry_for))
                if record.state.finished:
                    return record
                told = told_record(id, bell.wait(_patience(id, timeout, deadline)))
                if told is not None and told.is_whole and told.may_follow(record):
                    return told

    async def await_(self, id: str, timeout: float | None) -> Record:
        """As `wait`."""
        if not self._listener.is_up:
            record = await self.arecord(id)
            if record.state.finished:
                return record
        bell, deadline = _LoopBell(), _deadline(timeout)
        with self._listener.waiting(id, bell.ring):
            while True:
                read = self._read(id, self._listener.name)
                record = _found(id, await self._clients.of_loop.run(read, self._settings.retry_for))
                if record.state.finished:
                    return record
                told = told_record(id, await bell.wait(_patience(id, timeout, deadline)))
                if told is not None and told.is_whole and told.may_follow(record):
                    return told

    def cancel(self, id: str) -> Cancellation:
        """Cancel a task, wherever it is."""
        return self._known(id, self._clients.sync.run(self._cancel(id), self._settings.retry_for))

    async def acancel(self, id: str) -> Cancellation:
        """Cancel a task, wherever it is."""
        return self._known(id, await self._clients.of_loop.run(self._cancel(id), self._settings.retry_for))

    def _known(self, id: str, answers: list[Cancellation]) -> Cancellation:
        answer = answers[0]
        if answer.missing:
            raise TaskNotFound(f"no task {id!r}: it was never sent, or its record has expired")
        if answer.error:  # else it would look like a task that had ended already
            raise self._clients.item_error(answer.error)
        return answer

    def _read(self, id: str, listener: str = "") -> Call[Record | None]:
        queue, key = split_id(id)
        return produce.read_record(keys.base(self._settings.namespace, queue), id, key, listener)

    def _cancel(self, id: str) -> Call[list[Cancellation]]:
        queue, key = split_id(id)
        return produce.cancel(keys.base(self._settings.namespace, queue), (key,), self._settings.record_ttl)


class _ThreadBell:
    """Wakes a thread that waits, with what it is told."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._told = b""

    def ring(self, told: bytes) -> None:
        self._told = told
        self._event.set()

    def wait(self, seconds: float) -> bytes:
        """What it was told; nothing if that was nothing, or the time is over."""
        self._event.wait(seconds)
        self._event.clear()
        told, self._told = self._told, b""
        return told


class _LoopBell:
    """The same for a coroutine; rung from another thread, too."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._event = asyncio.Event()
        self._told = b""

    def ring(self, told: bytes) -> None:
        self._told = told
        with suppress(RuntimeError):  # the loop is closed by now
            self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> bytes:
        """As `_ThreadBell.wait`."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            pass
        self._event.clear()
        told, self._told = self._told, b""
        return told


def split_id(id: str) -> tuple[str, str]:
    """Queue and key of a public id, which may contain colons after the first one."""
    queue, _, key = str(id).partition(":")
    if not key:
        raise ConfigurationError(f"a task id is 'queue:key', not {id!r}")
    check_name("the queue of a task id", queue)
    return queue, key


def _found(id: str, record: Record | None) -> Record:
    if record is None:
        raise TaskNotFound(f"no task {id!r}: it was never sent, or its record has expired")
    return record


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _patience(id: str, timeout: float | None, deadline: float | None) -> float:
    """Seconds to wait before looking again."""
    if deadline is None:
        return LOOK_AGAIN
    left = deadline - time.monotonic()
    if left <= 0:
        raise ResultTimeout(f"{id!r} has not finished within {timeout:g} s")
    return min(LOOK_AGAIN, left)
