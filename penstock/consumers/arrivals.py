"""From the end of a blocking read to the start of what it has brought, as a rule without a round trip between them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from penstock.consumers.state import WorkerState
from penstock.settings import PRIORITIES
from penstock.streams import consume
from penstock.streams.calls import Call
from penstock.streams.consume import Batch
from penstock.streams.reader import Arrival, Reader

#: Seconds for which a reply may have been on its way and still starts what it brings. Meanwhile the task may be
#: cancelled, and nobody is there to hear of it.
FRESH = 0.1
#: Seconds after the last entry for which reads have the script with them. An idle worker's go alone: they shall cost
#: the server next to nothing.
LIVELY = 5.0
#: Most queues of a read that has it with it: it looks at all their streams once more.
MOST_QUEUES = 20


def clock() -> float:
    """Seconds that pass while this machine is suspended, too, where its system can tell (Linux)."""
    return time.clock_gettime(_CLOCK)


_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Arrivals:
    """Runs a worker's blocking reads and gives what they bring, admitted, to `take`.

    `arrived.lua` goes with a read, so that its entry is admitted before the reply is on its way. What comes
    without that is admitted by a call of its own.
    """

    def __init__(self, state: WorkerState, take: Callable[[str, Batch], object]) -> None:
        self._state = state
        self._take = take
        #: When the last entry came (`clock`).
        self._came_at = -math.inf
        #: base -> the server's time (ms) at its last fetch, and ours (`clock`) when that was sent.
        self._fetched: dict[str, tuple[int, float]] = {}

    def fetched(self, base: str, batch: Batch, sent_at: float) -> None:
        """A fetch that was sent at `sent_at` (`clock`) has brought `batch`."""
        self._fetched[base] = batch.now, sent_at
        if batch.read:
            self._came_at = sent_at

    async def read(self, reader: Reader, bases: Sequence[str]) -> AbstractSet[str]:
        """Wait for entries of these queues. Those that may hold more; none if the time was over and nothing came."""
        last = max((self._fetched[base] for base in bases if base in self._fetched), default=(0, -math.inf))
        streams = [(base, priority) for base in bases for priority in PRIORITIES]
        arrivals, started = await reader.read(streams, self._start(bases, last))
        if arrivals is None:
            return frozenset()
        self._came_at = clock()
        started_here: set[Arrival] = set()
        if started is not None and self._is_fresh(started[1], last):
            started_here = self._take_started(*started, frozenset(arrivals))
        await self._admit([arrival for arrival in arrivals if arrival not in started_here])
        return {base for base, _, _ in arrivals} or frozenset(bases)

    def _start(self, bases: Sequence[str], last: tuple[int, float]) -> Call[tuple[str, Batch]] | None:
        """What goes with the read."""
        # Nor long after the last fetch of one of these queues: from its time on entries count as new.
        if clock() > min(self._came_at, last[1]) + LIVELY or len(bases) > MOST_QUEUES:
            return None
        state = self._state
        queues = {base: state.queues[base] for base in bases}
        return consume.arrived(queues, state.consumer, last[0], state.settings.lease / 3, state.settings.record_ttl)

    def _is_fresh(self, batch: Batch, last: tuple[int, float]) -> bool:
        """False if this reply may be old: this process may have been stopped since, or its loop blocked, and others may
        have taken over. Its age is at most what has passed since the last fetch was sent, by our clock, less what
        the server's says had passed from that until it made this reply."""
        age = clock() - last[1] - (batch.now - last[0]) / 1000
        return -FRESH < age < min(FRESH, self._state.settings.lease / 3)

    def _take_started(self, base: str, batch: Batch, arrivals: AbstractSet[Arrival]) -> set[Arrival]:
        """Take those of the `arrivals` that the script has admitted. Not what else it has found: that may run here, or
        have ended while the reply was on its way."""
        new = [d for d in batch.deliveries if d.place in arrivals]
        known = len(batch.deliveries) - len(new)
        self._take(self._state.queues[base], Batch(batch.read - known, new, batch.problem))
        return {d.place for d in new}

    async def _admit(self, arrivals: Sequence[Arrival]) -> None:
        state = self._state
        entries: dict[str, list[tuple[str, str]]] = {}
        for base, priority, entry in arrivals:
            if not state.in_flight.holds((base, priority, entry)):  # else a sweep of our own was quicker
                entries.setdefault(base, []).append((priority, entry))
        for base, found in entries.items():
            queue = state.queues[base]
            call = consume.admit(base, queue, state.consumer, found, state.settings.record_ttl)
            self._take(queue, await state.client.run(call))
