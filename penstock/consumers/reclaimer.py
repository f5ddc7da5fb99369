"""Takes over the work of workers that stopped renewing: XAUTOCLAIM of idle entries, swept in turn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from penstock.consumers.duty import QUEUE_FAULTS, Bell, jittered
from penstock.consumers.fetcher import Fetcher
from penstock.consumers.intake import Intake
from penstock.consumers.state import WorkerState
from penstock.errors import BrokerError
from penstock.events import Reclaimed
from penstock.settings import PRIORITIES
from penstock.streams import consume

log = logging.getLogger("penstock.worker")

T = TypeVar("T")


class _Late(Exception):
    """The server has stood still between a look and the step that followed it."""


class Reclaimer:
    """No lock and no leader: any worker may sweep, since claiming an entry is atomic."""

    def __init__(self, state: WorkerState, intake: Intake, fetcher: Fetcher) -> None:
        self._state = state
        self._intake = intake
        self._fetcher = fetcher
        #: (base, priority) -> where the sweep goes on. From 0-0 each time it would never get past
        #: the live entries at the front: XAUTOCLAIM looks at no more than 10 x COUNT.
        self._cursors: dict[tuple[str, str], str] = {}
        self._stopping = False
        #: The last look has found that there is something to sweep.
        self._found = False
        self._started = time.monotonic()
        self._lease = state.settings.lease
        #: base -> the server's time (ms) at the last look, and ours (monotonic, s) when it was sent.
        self._looked: dict[str, tuple[int, float]] = {}
        self.bell = Bell()
        state.slots.on_kept = self.bell.ring

    async def once(self) -> float | None:
        """Sweep all queues that hold anything; seconds until the next sweep."""
        state, lease = self._state, self._state.reclaim_after
        if lease is None:  # the first heartbeat tells; if it cannot be had, our own lease has to do
            if time.monotonic() - self._started < state.settings.lease:
                return 0.1
            lease = state.settings.lease
        self._lease = lease
        # Asked in any case: an outage that this duty has noticed is over when it is answered.
        busy = await self._on_time(self._busy(state.usable()))
        self._found = bool(busy)
        since = time.monotonic() - state.link.restored_at
        if state.link.is_away or since < lease:
            # A server that stood still makes every lease look old. First the living renew and settle.
            self._found = True  # and notice the next time
            return min(1.0 if state.link.is_away else lease - since, lease / 3)
        full = []
        for base in busy:
            try:
                swept = [await self._sweep(base, priority) for priority in PRIORITIES]
            except _Late:  # so would all others be
                state.link.stood_still()
                return lease / 3
            except QUEUE_FAULTS as error:
                state.leave_out(base, error)
            else:
                if not all(swept):
                    full.append(state.queues[base])
        state.slots.keep(full)
        # Nothing is there: the earliest that anything can run out is one lease from now.
        return jittered(lease) if not busy else jittered(min(1.0, lease / 3))

    async def _on_time(self, look: Coroutine[Any, Any, T]) -> T:
        """`look`, which begins each sweep. A server that stands still for so long that leases run out, which is two
        thirds of one, since they are renewed every third, keeps it waiting, even if no connection breaks."""
        tick, late = self._lease / 36, 0
        # Looks come every third of a lease while there is anything to take over, hence meet a third of that time
        # at least; after a look that has found nothing the next one may meet just the end of it.
        most = 12 if self._found else 3
        asking = asyncio.ensure_future(look)
        try:
            # Turns of our own loop, not seconds: one that a task blocks would make any server look slow.
            while not (await asyncio.wait([asking], timeout=tick))[0]:
                late += 1
        finally:
            asking.cancel()
        if late >= most:
            self._state.link.stood_still()
        return await asking

    async def _busy(self, bases: list[str]) -> set[str]:
        """Which queues hold anything. Their server is asked for its time then, see `_latest`: not by an idle worker."""
        groups = [[base] for base in bases] if self._state.connector.is_cluster else [bases]
        busy: set[str] = set()
        for group in filter(None, groups):
            try:
                found = await self._state.client.run(consume.occupied(group))
            except QUEUE_FAULTS:  # one of them cannot be read: the sweep will find out which
                found = set(group)
            if found:
                sent_at = time.monotonic()
                now = await self._state.client.run(consume.clock(group[0]))
                self._looked |= dict.fromkeys(group, (now, sent_at))
            busy |= found
        return busy

    def _latest(self, base: str) -> int:
        """The server's time (ms) until which a step that is sent now may be carried out. Our own delays do not count;
        what it loses on its way does: a server that stands still while the step waits there (after a look that it had
        answered at once) would carry it out when every lease looks old."""
        then, sent_at = self._looked[base]
        return then + round(1000 * (time.monotonic() - sent_at + self._lease / 3))

    async def stop(self) -> None:
        """Take over nothing more; returns when a step under way has been answered."""
        self._stopping = True
        async with self._state.taking_over:
            pass

    async def _sweep(self, base: str, priority: str) -> bool:
        """One pass over a stream, from where the last one stopped for want of slots; False if there were none."""
        queue = self._state.queues[base]
        while not self._stopping:
            budget = self._state.slots.takeover_budget(queue)
            if budget < 1:
                return False
            cursor = await self._step(base, queue, priority, budget)
            self._cursors[base, priority] = cursor
            if cursor == "0-0":
                break
        return True

    async def _step(self, base: str, queue: str, priority: str, budget: int) -> str:
        state = self._state
        suspects = 0 if state.in_flight.has_suspect() else 1
        cursor = self._cursors.get((base, priority), "0-0")
        async with state.taking_over:
            sweep = consume.Sweep(priority, self._lease, cursor, budget, suspects, latest=self._latest(base))
            call = consume.reclaim(base, queue, state.consumer, sweep, state.settings.record_ttl)
            try:
                with state.slots.asking(queue, budget):
                    answer = await state.client.run(call)
            except BrokerError:
                self._fetcher.recheck()  # what the lost reply brought is ours now
                raise
            if answer.late:
                raise _Late
            self._intake.accept_all(queue, answer.batch, taken_over=True)
        state.tell_paused(base, answer.batch.paused)
        if answer.batch.read:
            log.warning("took over %d entries of %s from workers that stopped renewing", answer.batch.read, queue)
            state.tally.redelivered(base, answer.batch.read)
            state.observers.emit(Reclaimed(queue=queue, count=answer.batch.read))
        return answer.cursor
