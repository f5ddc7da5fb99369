"""The single way from a call to Redis: message, envelope, enqueue. Sync, async and in bulk."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import get_args

import msgspec

from penstock.errors import IdTaken, NotDurable, PayloadTooLarge, QueueFull, SendError
from penstock.events import Observers, Sent
from penstock.settings import Durability, Settings
from penstock.streams import keys, produce
from penstock.streams.calls import Call
from penstock.streams.clients import Clients, PerLoop
from penstock.streams.confirmation import Confirmation
from penstock.streams.message import Message, encode_message
from penstock.streams.produce import Enqueued, Envelope
from penstock.streams.tokens import token
from penstock.tasks.middleware import Middlewares
from penstock.tasks.options import CallOptions, TaskOptions
from penstock.tasks.outbox import Outbox

_NO_OPTIONS = CallOptions()


class Outgoing:
    """One call that is ready to be sent."""

    __slots__ = ("confirmation", "envelope", "is_fresh", "position", "queue")

    def __init__(self, queue: str, envelope: Envelope, confirmation: Confirmation | None, is_fresh: bool) -> None:
        self.queue = queue
        self.envelope = envelope
        #: The id was made for this call: if it exists, then by an earlier send whose reply was lost.
        self.is_fresh = is_fresh
        #: Who must confirm it; None: it need not be more durable than the server's memory.
        self.confirmation = confirmation
        #: Its place among the calls of a bulk.
        self.position = 0

    @property
    def id(self) -> str:
        return f"{self.queue}:{self.envelope.key}"


class Producer:
    """Sends calls. Safe for threads, forks and any number of event loops, one after the other or at once."""

    def __init__(self, clients: Clients, settings: Settings, observers: Observers) -> None:
        self._clients = clients
        self._settings = settings
        self._observers = observers
        self.middlewares = Middlewares()
        self._outboxes = PerLoop(lambda: Outbox(clients.of_loop_for, settings), Outbox.aclose)
        self._confirmations = {level: _confirmation(level, settings) for level in get_args(Durability)}
        #: Queues known to be registered: one command for each in the life of a process.
        self._registered: set[str] = set()

    def prepare(self, name: str, args: bytes, config: TaskOptions, call: CallOptions | None) -> Outgoing:
        """The envelope of one call. Raises `PayloadTooLarge`."""
        headers = self._headers(name, config, call) if self.middlewares else None
        if call is None:
            call = _NO_OPTIONS
            message = encode_message(Message(name, msgspec.Raw(args), headers=headers))
        else:
            retry = call.retry.spec() if call.retry is not None else None
            message = encode_message(
                Message(name, msgspec.Raw(args), 1, call.timeout, call.result_ttl, retry, call.meta, headers)
            )
        if len(message) > self._settings.max_payload:
            raise PayloadTooLarge(
                f"{name}: the message is {len(message):,} bytes, and max_payload is {self._settings.max_payload:,}; "
                "send a reference to the data instead, or raise the setting"
            )
        due = _when(call.delay if call.eta is None else call.eta)
        expires = _when(config.expires if call.expires is None else call.expires or None)
        priority = call.priority or config.priority
        return Outgoing(
            call.queue or config.queue,
            Envelope(call.id or new_key(), name, priority, message, due, expires),
            self._confirmations[call.durability or self._settings.durability],
            is_fresh=call.id is None,
        )

    def _headers(self, name: str, config: TaskOptions, call: CallOptions | None) -> dict[str, str] | None:
        return self.middlewares.headers(name, (call and call.queue) or config.queue)

    def send(self, outgoing: Outgoing) -> bool:
        """Enqueue one call in one round trip: True if it is new, False if its id existed."""
        if outgoing.queue not in self._registered:
            self._clients.sync.run(self._register(outgoing.queue), self._settings.retry_for)
            self._registered.add(outgoing.queue)
        base, confirmation = self._base(outgoing.queue), outgoing.confirmation
        call = produce.enqueue(base, (outgoing.envelope,), self._settings.max_length)
        try:
            answer = self._clients.sync_for(base, confirmation).run(call, self._settings.retry_for)[0]
        except NotDurable as error:
            raise error.of([outgoing.id]) from error.__cause__
        return self._accepted(outgoing, answer)

    async def asend(self, outgoing: Outgoing) -> bool:
        """As `send`. Calls made at the same time go together."""
        if outgoing.queue not in self._registered:
            await self._clients.of_loop.run(self._register(outgoing.queue), self._settings.retry_for)
            self._registered.add(outgoing.queue)
        base = self._base(outgoing.queue)
        try:
            answer = await self._outboxes.get().send(base, outgoing.envelope, outgoing.confirmation)
        except NotDurable as error:
            raise error.of([outgoing.id]) from error.__cause__
        return self._accepted(outgoing, answer)

    def send_all(self, calls: Iterable[Outgoing]) -> list[tuple[str, bool]]:
        """(id, new?) of each call, in their order, in a round trip for each few hundred. All are tried;
        then the first error is raised, with `sent` = those that were accepted. `NotDurable` ends it at once."""
        with self.middlewares.bulk():
            return self._send_all(calls)

    def _send_all(self, calls: Iterable[Outgoing]) -> list[tuple[str, bool]]:
        sent: dict[int, tuple[str, bool]] = {}
        errors: list[Exception] = []
        for queue, batch in batches(calls):
            if queue not in self._registered:
                self._clients.sync.run(self._register(queue), self._settings.retry_for)
                self._registered.add(queue)
            client = self._clients.sync_for(self._base(queue), batch[0].confirmation)
            try:
                answers = client.run(self._enqueue(queue, batch), self._settings.retry_for)
            except NotDurable as error:
                raise _undurable(error, batch, sent) from error.__cause__
            self._collect(batch, answers, sent, errors)
        return _all_or_error(sent, errors)

    async def asend_all(self, calls: Iterable[Outgoing]) -> list[tuple[str, bool]]:
        """As `send_all`. The next batch is made while the server works on the one before, and sent after it."""
        with self.middlewares.bulk():
            return await self._asend_all(calls)

    async def _asend_all(self, calls: Iterable[Outgoing]) -> list[tuple[str, bool]]:
        sent: dict[int, tuple[str, bool]] = {}
        errors: list[Exception] = []
        under_way: asyncio.Task[None] | None = None
        try:
            for queue, batch in batches(calls):
                if under_way is not None:
                    await under_way
                under_way = asyncio.create_task(self._asend_batch(queue, batch, sent, errors))
                await asyncio.sleep(0)  # it is written in this turn of the loop
            if under_way is not None:
                await under_way
        except Exception as error:
            if under_way is not None:  # a call of the next batch cannot be made: this one is sent all the same
                (failed,) = await asyncio.gather(under_way, return_exceptions=True)
                if isinstance(failed, BaseException) and failed is not error:
                    raise failed from error
            raise
        except BaseException:
            if under_way is not None:
                under_way.cancel()
                await asyncio.gather(under_way, return_exceptions=True)
            raise
        return _all_or_error(sent, errors)

    async def _asend_batch(
        self, queue: str, batch: Sequence[Outgoing], sent: dict[int, tuple[str, bool]], errors: list[Exception]
    ) -> None:
        if queue not in self._registered:
            await self._clients.of_loop.run(self._register(queue), self._settings.retry_for)
            self._registered.add(queue)
        client = self._clients.of_loop_for(self._base(queue), batch[0].confirmation)
        try:
            answers = await client.run(self._enqueue(queue, batch), self._settings.retry_for)
        except NotDurable as error:
            raise _undurable(error, batch, sent) from error.__cause__
        self._collect(batch, answers, sent, errors)

    async def aclose(self) -> None:
        """Forget the running loop's outbox."""
        await self._outboxes.aclose()

    def _enqueue(self, queue: str, batch: Sequence[Outgoing]) -> Call[list[Enqueued]]:
        return produce.enqueue(self._base(queue), [o.envelope for o in batch], self._settings.max_length)

    def _collect(
        self,
        batch: Sequence[Outgoing],
        answers: Sequence[Enqueued],
        sent: dict[int, tuple[str, bool]],
        errors: list[Exception],
    ) -> None:
        for outgoing, answer in zip(batch, answers, strict=True):
            try:
                sent[outgoing.position] = outgoing.id, self._accepted(outgoing, answer)
            except Exception as error:
                errors.append(error)

    def _accepted(self, outgoing: Outgoing, answer: Enqueued) -> bool:
        if not answer.created and not answer.exists:
            raise self._refusal(outgoing, answer)
        created = answer.created or outgoing.is_fresh
        if self._observers:
            e = outgoing.envelope
            self._observers.emit(
                Sent(id=outgoing.id, name=e.name, queue=outgoing.queue, priority=e.priority, created=created)
            )
        return created

    def _refusal(self, outgoing: Outgoing, answer: Enqueued) -> Exception:
        if answer.full:
            return QueueFull(f"queue {outgoing.queue!r} holds max_length = {self._settings.max_length:,} tasks")
        if answer.taken_by is not None:
            return IdTaken(f"{outgoing.id!r} is the id of a task {answer.taken_by!r}, not {outgoing.envelope.name!r}")
        return self._clients.item_error(answer.error or "")

    def _register(self, queue: str) -> Call[int]:
        return produce.register_queue(self._settings.namespace, queue)

    def _base(self, queue: str) -> str:
        return keys.base(self._settings.namespace, queue)


def new_key() -> str:
    """A new task key: 96 random bits in 16 characters."""
    return token(12)


def batches(calls: Iterable[Outgoing]) -> Iterator[tuple[str, list[Outgoing]]]:
    """Batches of one queue and one durability each, bounded in number and bytes."""
    open_batches: dict[tuple[str, Confirmation | None], tuple[list[Outgoing], int]] = {}
    for position, outgoing in enumerate(calls):
        outgoing.position = position
        way = outgoing.queue, outgoing.confirmation
        batch, size = open_batches.get(way, ([], 0))
        batch.append(outgoing)
        size += len(outgoing.envelope.message)
        open_batches[way] = batch, size
        if len(batch) >= produce.BATCH_TASKS or size >= produce.BATCH_BYTES:
            del open_batches[way]
            yield outgoing.queue, batch
    for (queue, _), (batch, _) in open_batches.items():
        yield queue, batch


def _confirmation(durability: Durability, settings: Settings) -> Confirmation | None:
    return None if durability == "memory" else Confirmation.by(durability, settings)


def _undurable(error: NotDurable, batch: Sequence[Outgoing], sent: dict[int, tuple[str, bool]]) -> NotDurable:
    error = error.of([outgoing.id for outgoing in batch])
    error.sent = [sent[position][0] for position in sorted(sent)]
    return error


def _all_or_error(sent: dict[int, tuple[str, bool]], errors: list[Exception]) -> list[tuple[str, bool]]:
    in_order = [sent[position] for position in sorted(sent)]
    if errors:
        error = errors[0]
        if isinstance(error, SendError):
            error.sent = [id for id, _ in in_order]
        error.add_note(f"{len(sent)} calls of this bulk were enqueued, {len(errors)} were not")
        raise error
    return in_order


def _when(value: float | datetime | None) -> str:
    """A due or expiry time for ``enqueue.lua``; not early by a part of a millisecond."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return str(math.ceil(value.timestamp() * 1000))
    return f"+{math.ceil(value * 1000)}"
