"""Joins calls that are made at the same time in one event loop into one script call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from penstock.errors import PenstockError
from penstock.settings import Settings
from penstock.streams import produce
from penstock.streams.confirmation import Confirmation
from penstock.streams.produce import Enqueued, Envelope

if TYPE_CHECKING:
    from penstock.streams.client import AsyncClient

_Waiting = tuple[Envelope, "asyncio.Future[Enqueued]"]
#: What goes together: calls for one queue that are to be as durable as one another.
Way = tuple[str, Confirmation | None]


class Outbox:
    """Belongs to one event loop. While one call for a queue is under way, the next ones gather."""

    def __init__(self, client_for: Callable[[str, Confirmation | None], AsyncClient], settings: Settings) -> None:
        self._client_for = client_for
        self._settings = settings
        self._waiting: defaultdict[Way, list[_Waiting]] = defaultdict(list)
        self._senders: dict[Way, asyncio.Task[None]] = {}

    async def send(self, base: str, envelope: Envelope, confirmation: Confirmation | None = None) -> Enqueued:
        """What became of `envelope`. Cancelling the caller does not undo the send."""
        answer: asyncio.Future[Enqueued] = asyncio.get_running_loop().create_future()
        way = base, confirmation
        self._waiting[way].append((envelope, answer))
        if way not in self._senders:
            self._senders[way] = asyncio.create_task(self._send_all(way), name="penstock-outbox")
        return await answer

    async def aclose(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._senders.values(), return_exceptions=True)

    async def _send_all(self, way: Way) -> None:
        try:
            while batch := self._take(way):
                await self._send(way, batch)
        finally:
            del self._senders[way]
            for _, answer in self._waiting.pop(way, ()):
                answer.cancel()  # the loop is shutting down

    def _take(self, way: Way) -> list[_Waiting]:
        waiting, size, count = self._waiting[way], 0, 0
        for envelope, _ in islice(waiting, produce.BATCH_TASKS):
            size += len(envelope.message)
            count += 1
            if size >= produce.BATCH_BYTES:
                break
        batch, self._waiting[way] = waiting[:count], waiting[count:]
        return batch

    async def _send(self, way: Way, batch: list[_Waiting]) -> None:
        call = produce.enqueue(way[0], [envelope for envelope, _ in batch], self._settings.max_length)
        try:
            answers = await self._client_for(*way).run(call, self._settings.retry_for)
        except PenstockError as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        except BaseException:
            for _, answer in batch:
                answer.cancel()
            raise
        for (_, answer), enqueued in zip(batch, answers, strict=True):
            if not answer.done():
                answer.set_result(enqueued)
