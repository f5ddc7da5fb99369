"""Failed tasks that are kept: look at them, send them again."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from penstock.errors import ConfigurationError, TaskNotFound, WrongKeyType
from penstock.settings import Settings
from penstock.streams import inspect, keys, produce
from penstock.streams.clients import Clients
from penstock.streams.message import UNDECODABLE, decode_message
from penstock.streams.record import Record, moment
from penstock.tasks.results import split_id


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A failed task with all that is known of its end. `args` is the message's, as plain data; None if it
    cannot be decoded."""

    id: str
    name: str
    died_at: datetime
    reason: str
    error: str
    traceback: str
    attempts: int
    worker: str | None
    args: Any
    #: The message as it was sent, msgpack.
    message: bytes


class DeadLetters:
    """The dead letters of one queue."""

    def __init__(self, clients: Clients, settings: Settings, queue: str) -> None:
        self._clients = clients
        self._retry_for = settings.retry_for
        self._queue = queue
        self._base = keys.base(settings.namespace, queue)

    def list(self, limit: int = 100) -> list[DeadLetter]:
        """The newest `limit`, newest first."""
        found = self._clients.sync.run(produce.dead_letters(self._base, limit), self._retry_for)
        letters = (self._letter(letter.key, letter.died_at) for letter in found)
        return [letter for letter in letters if letter is not None]

    def get(self, id: str) -> DeadLetter:
        """One dead letter. Raises `TaskNotFound` if there is none of this id."""
        key = self._key(id)
        died = self._clients.sync.run(inspect.died_at(self._base, key), self._retry_for)
        letter = None if died is None else self._letter(key, moment(died * 1000))
        if letter is None:
            raise TaskNotFound(f"no dead letter {id!r}")
        return letter

    def redrive(self, *ids: str, limit: int = 1000) -> int:
        """Send these again, or the oldest `limit` if no id is given; their number.

        They start anew: no attempts spent, no crashes counted. Raises `ConfigurationError` for an id
        that is no dead letter of this queue (the others are sent).
        """
        task_keys = [self._key(id) for id in ids]
        sent, unknown = self._clients.sync.run(produce.redrive(self._base, task_keys, limit), self._retry_for)
        if unknown:
            names = ", ".join(f"{self._queue}:{key}" for key in unknown)
            raise ConfigurationError(f"no dead letters (any more): {names}; {sent} others were sent")
        return sent

    def _key(self, id: str) -> str:
        queue, key = split_id(id)
        if queue != self._queue:
            raise ConfigurationError(f"{id!r} is of the queue {queue!r}, not {self._queue!r}")
        return key

    def _letter(self, key: str, died_at: datetime) -> DeadLetter | None:
        id = f"{self._queue}:{key}"
        try:
            record = self._clients.sync.run(produce.read_record(self._base, id, key), self._retry_for)
            message = self._clients.sync.run(produce.dead_message(self._base, key), self._retry_for)
            # None: its time ran out just now.
            return None if record is None or message is None else _assemble(record, message, died_at)
        except WrongKeyType as error:  # somebody else's key under this name must not hide the other dead letters
            return _unreadable(id, died_at, error)


def _assemble(record: Record, message: bytes, died_at: datetime) -> DeadLetter:
    failure, info = record.failure, record.info()
    return DeadLetter(
        id=record.id,
        name=info.name,
        died_at=died_at,
        reason=failure.reason if failure else "?",
        error=f"{failure.type}: {failure.message}" if failure else "?",
        traceback=failure.traceback if failure else "",
        attempts=info.attempt,
        worker=info.worker,
        args=_arguments(message),
        message=message,
    )


def _unreadable(id: str, died_at: datetime, error: WrongKeyType) -> DeadLetter:
    return DeadLetter(
        id=id,
        name="?",
        died_at=died_at,
        reason="?",
        error=str(error),
        traceback="",
        attempts=0,
        worker=None,
        args=None,
        message=b"",
    )


def _arguments(message: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(decode_message(message).args)
    except UNDECODABLE:
        return None


def redrive_all(clients: Clients, settings: Settings, ids: Iterable[str]) -> int:
    """Send dead letters of any queues again; their number."""
    by_queue: dict[str, list[str]] = {}
    for id in ids:
        by_queue.setdefault(split_id(id)[0], []).append(id)
    return sum(DeadLetters(clients, settings, queue).redrive(*found) for queue, found in by_queue.items())
