"""Reads work when there are slots for it, and blocks on the streams when there is none."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from penstock.consumers.arrivals import Arrivals, clock
from penstock.consumers.duty import QUEUE_FAULTS, Bell
from penstock.consumers.intake import Intake
from penstock.consumers.state import LEAVE_OUT, WorkerState
from penstock.consumers.weights import Weights
from penstock.errors import BrokerError
from penstock.events import Dropped
from penstock.settings import PRIORITIES
from penstock.streams import consume
from penstock.streams.consume import Batch
from penstock.streams.reader import Reader

log = logging.getLogger("penstock.worker")

#: Seconds, for each queue, for which one that was empty is taken for empty while others keep the worker busy: about
#: what it takes to ask them all. With nothing to do a worker waits for all of its queues at once, so this delays a task
#: only where other queues have work. The least is more than from the end of one wait to the beginning of the next.
EMPTY_FOR, EMPTY_FOR_LEAST, EMPTY_FOR_MOST = 0.0005, 0.005, 0.05
#: Seconds for which a read blocks: all that an idle fetcher costs the server is one command in that time.
BLOCK = 5.0


class Fetcher:
    """Fetches from all queues of a worker."""

    def __init__(self, state: WorkerState, intake: Intake, *, looks: bool = False) -> None:
        self._state = state
        self._intake = intake
        settings = state.settings
        self._weights = {base: Weights(settings.weights, settings.strict) for base in state.queues}
        # On Cluster a read covers one slot only, hence a reader for each queue.
        bases = list(state.queues)
        groups = [[base] for base in bases] if state.connector.is_cluster else [bases]
        self._readers = [(Reader(state.connector, g[0], state.consumer, BLOCK), g) for g in groups]
        self._arrivals = Arrivals(state, self._take)
        #: Queues that a blocking read waits for at this moment.
        self._waiting_for: frozenset[str] = frozenset()
        self._unblocking: asyncio.Future[list[None]] | None = None
        self._faulted = False
        self._stopping = False
        #: Queues that were empty when they were last asked or waited for, and until when (monotonic) to rely on it: a
        #: thousand queues must not cost a thousand round trips for each task.
        self._empty: set[str] = set()
        self._empty_until = 0.0
        #: 0: it always asks all, so that `idle` is true when it says so.
        self._empty_for = 0.0 if looks else min(EMPTY_FOR_MOST, max(EMPTY_FOR_LEAST, EMPTY_FOR * len(state.queues)))
        #: True while a fetch has found nothing and nothing has come since.
        self.idle = False
        self._bell = Bell()
        self._turn = asyncio.Lock()
        state.slots.on_freed = self._on_freed

    async def once(self) -> float | None:
        """Fetch what fits; if nothing was there, wait until something comes or more slots are free."""
        async with self._turn:
            return await self._once()

    async def _once(self) -> float | None:
        if self._stopping:
            return None
        if self._faulted:
            self._faulted = False  # first: what is found out meanwhile counts
            try:
                await self._adopt_orphans()
            except BrokerError:
                self._faulted = True
                raise
            return 0.0  # it has answered, so the outage is over: now, and not when the next read ends
        usable = self._state.usable()
        bases = [base for base in usable if self._state.slots.budget(self._state.queues[base]) > 0]
        if not bases:
            self.idle = self._state.paused.issuperset(self._state.queues)
            await self._bell.wait(None if len(usable) == len(self._state.queues) else LEAVE_OUT)
            return 0.0
        try:
            if not await self._fetch_where_it_pays(bases):
                self.idle = bases == usable  # there may be work in a queue that has no free slot
                self._found_empty(bases, await self._block(frozenset(bases)))
        except BrokerError:
            self._faulted, self._empty_until = True, 0.0
            raise
        return 0.0

    async def _fetch_where_it_pays(self, bases: Sequence[str]) -> bool:
        """False if all of these queues are empty, as far as we know."""
        relies = time.monotonic() < self._empty_until
        asked = [base for base in bases if base not in self._empty] if relies else bases
        more = await self._fetch(asked) if asked else set()
        if relies:
            self._empty.update(base for base in asked if base not in more)
        else:
            self._found_empty(bases, more)
        return bool(more)

    def _found_empty(self, bases: Sequence[str], but: AbstractSet[str]) -> None:
        self._empty = {base for base in bases if base not in but}
        self._empty_until = time.monotonic() + self._empty_for

    def recheck(self) -> None:
        """Look for entries that were delivered without our knowing: another duty lost a reply."""
        self._faulted = True
        self._unblock()

    def look_again(self, base: str) -> None:
        """A queue was resumed: read from it at once."""
        self._state.look_again(base)
        self.may_hold(base)
        self._unblock()

    def may_hold(self, base: str) -> None:
        """Something has come into this queue, as far as we know."""
        self._empty.discard(base)

    async def stop(self) -> None:
        """Read nothing more; returns when what a read under way has brought is accepted."""
        self._stopping = True
        self._bell.ring()
        await asyncio.gather(*[reader.unblock() for reader, _ in self._readers])
        async with self._turn:
            pass

    async def aclose(self) -> None:
        await asyncio.gather(*[reader.aclose() for reader, _ in self._readers])

    async def _fetch(self, bases: Sequence[str]) -> set[str]:
        """The queues that may hold more. Each time another one is first, since it takes the free slots."""
        state, more, first = self._state, set[str](), random.randrange(len(bases))
        for base in (*bases[first:], *bases[:first]):
            queue = state.queues[base]
            budget = state.slots.budget(queue)
            if self._stopping:
                continue
            if budget < 1:
                more.add(base)  # a sweep asks for its slot: it may hold work, so begin again with the others
                continue
            quotas = self._weights[base].plan(budget)
            call = consume.fetch(base, queue, state.consumer, budget, quotas, state.settings.record_ttl)
            sent_at = clock()
            try:
                with state.slots.asking(queue, budget):
                    batch = await state.client.run(call)
                self._arrivals.fetched(base, batch, sent_at)
                state.tell_paused(base, batch.paused)
                # A paused queue is not to be blocked on: begin again with the others.
                if self._take(queue, batch) or batch.paused:
                    more.add(base)
            except QUEUE_FAULTS as error:
                state.leave_out(base, error)
                more.add(base)  # not to be blocked on: begin again with the others
        return more

    async def _block(self, bases: frozenset[str]) -> AbstractSet[str]:
        """The queues that may hold more; none if the time was over and nothing had come."""
        self._waiting_for = bases
        reads: list[asyncio.Future[AbstractSet[str]]] = []
        self._unblocking = None  # one that is still under way is for the read before, and ends none but that
        try:
            if self._stopping:
                return frozenset()
            if self._faulted or self._has_room_beside(bases):
                return bases  # it came while the last fetch was under way, and nobody will end this read for it
            groups = [(reader, [b for b in group if b in bases]) for reader, group in self._readers]
            reads = [asyncio.ensure_future(self._read(reader, group)) for reader, group in groups if group]
            # A read is never cancelled (see `Reader`): the first to end lets the others end, too.
            await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
            if len(reads) > 1:
                await asyncio.gather(*[reader.unblock() for reader, _ in self._readers])
            await asyncio.wait(reads)
            results = [read.result() for read in reads]  # all of them: one may have failed
            return frozenset().union(*results)
        except asyncio.CancelledError:  # the worker is torn down, and nobody is left to run what they bring
            for read in reads:
                read.cancel()
            raise
        finally:
            self._waiting_for = frozenset()

    async def _read(self, reader: Reader, group: Sequence[str]) -> AbstractSet[str]:
        """As `_block`, of one reader."""
        if self._stopping:  # since this read was planned: `stop` has seen nothing to end
            return frozenset()
        return await self._arrivals.read(reader, group)

    def _take(self, queue: str, batch: Batch) -> int:
        if batch.read:
            self.idle = False
            dropped = batch.read - len(batch.deliveries)
            if dropped:
                self._state.observers.emit(Dropped(queue=queue, count=dropped))
            self._intake.accept_all(queue, batch)
        return batch.read

    async def _adopt_orphans(self) -> None:
        """A reply was lost, and what it brought is ours with nobody running it. No read is outstanding."""
        state = self._state
        async with state.taking_over:
            running: dict[tuple[str, str], list[str]] = {}
            for attempt in state.in_flight.all():
                d = attempt.delivery
                running.setdefault((d.base, d.priority), []).append(d.entry)
            for base in state.usable():
                try:
                    await self._adopt_from(base, running)
                except QUEUE_FAULTS as error:
                    state.leave_out(base, error)

    async def _adopt_from(self, base: str, running: Mapping[tuple[str, str], list[str]]) -> None:
        state, queue = self._state, self._state.queues[base]
        for priority in PRIORITIES:
            mine, room = running.get((base, priority), []), max(1, state.slots.budget(queue))
            call = consume.orphans(base, queue, state.consumer, priority, mine, room, state.settings.record_ttl)
            found = self._take(queue, await state.client.run(call))
            if found:
                log.warning("took up %d entries of %s that a lost reply had brought", found, queue)

    def _on_freed(self) -> None:
        self._bell.ring()
        if self._waiting_for and self._has_room_beside(self._waiting_for):
            self._unblock()

    def _has_room_beside(self, bases: frozenset[str]) -> bool:
        """A queue without a free slot is not waited for; does one of these have one now?"""
        state = self._state
        if len(bases) == len(state.queues):
            return False
        return any(state.slots.budget(state.queues[base]) > 0 for base in state.usable() if base not in bases)

    def _unblock(self) -> None:
        self._bell.ring()
        if self._waiting_for and (self._unblocking is None or self._unblocking.done()):
            self._unblocking = asyncio.gather(*[reader.unblock() for reader, _ in self._readers])
