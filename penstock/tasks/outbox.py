"""Joins calls that are made at the same time in one event loop into one script call."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import islice

from penstock.errors import PenstockError
from penstock.settings import Settings
from penstock.streams import produce
from penstock.streams.client import AsyncClient
from penstock.streams.produce import Enqueued, Envelope

_Waiting = tuple[Envelope, "asyncio.Future[Enqueued]"]


class Outbox:
    """Belongs to one event loop. While one call for a queue is under way, the next ones gather."""

    def __init__(self, client: AsyncClient, settings: Settings) -> None:
        self._client = client
        self._settings = settings
        self._waiting: defaultdict[str, list[_Waiting]] = defaultdict(list)
        self._senders: dict[str, asyncio.Task[None]] = {}

    async def send(self, base: str, envelope: Envelope) -> Enqueued:
        """What became of `envelope`. Cancelling the caller does not undo the send."""
        answer: asyncio.Future[Enqueued] = asyncio.get_running_loop().create_future()
        self._waiting[base].append((envelope, answer))
        if base not in self._senders:
            self._senders[base] = asyncio.create_task(self._send_all(base), name="penstock-outbox")
        return await answer

    async def aclose(self) -> None:
        """Wait for what is under way."""
        await asyncio.gather(*self._senders.values(), return_exceptions=True)

    async def _send_all(self, base: str) -> None:
        try:
            while batch := self._take(base):
                await self._send(base, batch)
        finally:
            del self._senders[base]
            for _, answer in self._waiting.pop(base, ()):
                answer.cancel()  # the loop is shutting down

    def _take(self, base: str) -> list[_Waiting]:
        waiting, size, count = self._waiting[base], 0, 0
        for envelope, _ in islice(waiting, produce.BATCH_TASKS):
            size += len(envelope.message)
            count += 1
            if size >= produce.BATCH_BYTES:
                break
        batch, self._waiting[base] = waiting[:count], waiting[count:]
        return batch

    async def _send(self, base: str, batch: list[_Waiting]) -> None:
        call = produce.enqueue(base, [envelope for envelope, _ in batch], self._settings.max_length)
        try:
            answers = await self._client.run(call, self._settings.retry_for)
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
