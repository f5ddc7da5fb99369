"""What the duties of one worker share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from contextlib import suppress

from penstock.consumers.attempt import InFlight
from penstock.consumers.duty import QUEUE_FAULTS, Link
from penstock.consumers.slots import Slots
from penstock.consumers.tally import Tally
from penstock.errors import BrokerError
from penstock.events import EntryStuck, Observers, QueueLeftOut
from penstock.settings import Settings
from penstock.streams import consume, keys
from penstock.streams.client import AsyncClient
from penstock.streams.connector import Connector
from penstock.tasks.task import AnyTask

log = logging.getLogger("penstock.worker")

#: Seconds after which a loop that does not turn counts as blocked.
BLOCKED_AFTER = 1.0
#: Seconds for which such a queue is left out.
LEAVE_OUT = 5.0


class Pulse:
    """How late the event loop is. The lease thread asks for a beat, and the loop beats; times in seconds, monotonic."""

    def __init__(self) -> None:
        #: For how long it did not turn for more than `BLOCKED_AFTER` at a stretch, in all; from the next ask on.
        self.blocked = 0.0
        self._asked_at: float | None = None
        self._turned_at = 0.0
        self._lag = 0.0

    def ask(self) -> float:
        """A beat is asked for: what to beat with. From the lease thread."""
        now = time.monotonic()
        if self._asked_at is None:
            self._asked_at = now
        return now

    def beat(self, asked_at: float) -> None:
        """The loop turns."""
        now = time.monotonic()
        stood_still = now - max(asked_at, self._turned_at)  # while it does not turn, more than one ask for it
        self._lag = max(self._lag, now - asked_at)
        if stood_still > BLOCKED_AFTER:
            self.blocked += stood_still
        self._turned_at, self._asked_at = now, None

    @property
    def unanswered(self) -> float:
        """For how long a beat has been asked for in vain. 0: none is asked for: who does not ask learns nothing."""
        asked_at = self._asked_at
        return 0.0 if asked_at is None else time.monotonic() - asked_at

    def take_lag(self) -> float:
        """The greatest lag since this was asked last."""
        lag, self._lag = self._lag, 0.0
        return lag


class WorkerState:
    """The connections, the queues and the books of one worker. Made inside its event loop."""

    def __init__(
        self,
        connector: Connector,
        settings: Settings,
        consumer: str,
        tasks: Mapping[str, AnyTask],
        queues: tuple[str, ...],
        slots: Slots,
        observers: Observers,
    ) -> None:
        self.connector = connector
        self.client = AsyncClient(connector)
        self.settings = settings
        #: This process's name in the group; never used again.
        self.consumer = consumer
        #: By name: what this worker can run.
        self.tasks = tasks
        #: base -> queue
        self.queues = {keys.base(settings.namespace, queue): queue for queue in queues}
        self.slots = slots
        self.in_flight = InFlight()
        self.tally = Tally(self.client, consumer)
        self.pulse = Pulse()
        self.observers = observers
        self.link = Link(observers, self._takes_writes, brief=settings.lease / 3)  # renewals come every third
        #: Held while entries change hands other than by a fetch, so that a reclaim and a search for
        #: orphans cannot both deliver the same entry.
        self.taking_over = asyncio.Lock()
        #: Attempts that have ended since the start.
        self.done = 0
        #: Seconds without renewal after which an entry is taken over: the longest lease of all workers of
        #: this namespace, since theirs may differ from ours. None: not known yet.
        self.reclaim_after: float | None = None
        #: Bases of the queues that were paused when they were asked last.
        self.paused: set[str] = set()
        self._unusable: dict[str, float] = {}

    async def _takes_writes(self) -> None:
        with suppress(*QUEUE_FAULTS):  # of that queue only
            # For a moment: after a restart the pool may still hold connections that were cut.
            await self.client.run(consume.takes_writes(next(iter(self.queues))), retry_for=0.5)

    def usable(self) -> list[str]:
        """Bases of the queues that may be asked now."""
        now = time.monotonic()
        return [base for base in self.queues if self._unusable.get(base, 0.0) <= now]

    def tell_paused(self, base: str, paused: bool) -> None:
        """The server's word on a queue. A paused one is left out for a while, or until `look_again`."""
        if paused != (base in self.paused):
            log.info("queue %s is %s", self.queues[base], "paused: nothing of it starts" if paused else "resumed")
            (self.paused.add if paused else self.paused.discard)(base)
        if paused:
            self._unusable[base] = time.monotonic() + LEAVE_OUT

    def look_again(self, base: str) -> None:
        """A queue that was left out may be asked now."""
        self._unusable.pop(base, None)

    def entry_stuck(self, queue: str, error: str) -> None:
        """An entry, or a parked task, stays where it is because of `error`. Logged and told."""
        log.error("queue %s: %s; it stays where it is", queue, error)
        self.observers.emit(EntryStuck(queue=queue, error=error))

    def leave_out(self, base: str, error: BrokerError) -> None:
        """Somebody else's key or a missing right is in the way of this queue: the others must not suffer."""
        log.error("queue %s cannot be served, again in %.0f s: %s", self.queues[base], LEAVE_OUT, error)
        self.observers.emit(QueueLeftOut(queue=self.queues[base], error=str(error)))
        self._unusable[base] = time.monotonic() + LEAVE_OUT
