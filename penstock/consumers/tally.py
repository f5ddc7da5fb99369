"""Counts what a worker's tasks do, and adds it to what all workers have counted, with each heartbeat.

In memory, because a command of its own for each task would cost the server more than the task does. What a worker
has not said yet when it is killed is lost: at most what it counted since its last heartbeat. (How tasks ended is
counted by the scripts that end them: nothing of that is lost.)
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterable

from penstock.consumers.attempt import Attempt
from penstock.consumers.duty import QUEUE_FAULTS
from penstock.consumers.outcome import Failed, Outcome, Succeeded
from penstock.errors import BrokerError
from penstock.streams import measures
from penstock.streams.calls import Call
from penstock.streams.client import AsyncClient
from penstock.streams.measures import BOUNDS, Measure, field
from penstock.streams.settle import Settled

log = logging.getLogger("penstock.worker")

#: Seconds between two times that it is sent; as heartbeats.
INTERVAL = 5.0
#: In microseconds, as all times here.
_BOUNDS = [round(bound * 1e6) for bound in BOUNDS]
_FIRST = _BOUNDS[0]
_FINAL = frozenset({Succeeded, Failed})
_WAIT, _END_TO_END, _DELAY = field(Measure.WAIT), field(Measure.END_TO_END), field(Measure.SCHEDULE_DELAY)
_RUN = f"{Measure.RUN.value}|"


class Tally:
    """Of one worker. All of it runs in its event loop."""

    def __init__(self, client: AsyncClient, consumer: str) -> None:
        self._client = client
        self._consumer = consumer
        #: base -> field of the measure -> numbers (`penstock.streams.measures`), since they were last taken.
        self._sums: dict[str, dict[str, list[int]]] = {}
        #: base -> what was sent and not answered: it goes again as it is, under its number.
        self._sent: dict[str, tuple[int, dict[str, list[int]]]] = {}
        self._number = 0
        #: Bases of which it was told that they take no measures.
        self._refused: set[str] = set()
        #: Bases of which a call was sent.
        self._told: set[str] = set()

    def started(self, attempt: Attempt, held: float) -> None:
        """An attempt begins, `held` seconds after its delivery came: behind others, or a loop that was blocked."""
        d = attempt.delivery
        attempt.waited = us = (d.now - d.ready_at) * 1000 + int(held * 1e6)
        if not attempt.taken_over or d.deliveries < 2:  # else it is mostly the run of the worker that has died
            self._observe(d.base, _WAIT, us)

    def settled(self, attempt: Attempt, outcome: Outcome, answer: Settled) -> None:
        """An attempt is over, and Redis knows."""
        task, d = attempt.task, attempt.delivery
        if answer is Settled.LATE:
            return
        ran, waited = 0, attempt.waited
        if waited is None:  # it has ended before it began
            waited = (d.now - d.ready_at) * 1000
        elif task is not None:
            ran = int((attempt.ended - attempt.started) * 1e6)
            self._observe(d.base, _RUN + task.name, ran)
        if type(outcome) in _FINAL and answer is not Settled.CANCELLED:
            since = (d.ready_at - d.since) * 1000 if d.since else 0
            self._observe(d.base, _END_TO_END, since + waited + ran)
            if type(outcome) is Failed:
                name = task.name if task is not None else "?"  # only the names of tasks that there are
                self._count(d.base, field(Measure.FAILURES, f"{outcome.failure.reason}|{name}"), 1)

    def promoted(self, base: str, late: Iterable[float]) -> None:
        """Parked tasks became ready so many seconds after they were due."""
        for seconds in late:
            self._observe(base, _DELAY, round(seconds * 1e6))

    def redelivered(self, base: str, count: int) -> None:
        """Deliveries were taken over from other workers."""
        self._count(base, field(Measure.REDELIVERED), count)

    def lost(self, base: str) -> None:
        """The lease of an attempt was lost."""
        self._count(base, field(Measure.LEASES_LOST), 1)

    async def once(self) -> float | None:
        """Add what was counted to what is in Redis. What fails is kept for the next time; raises `BrokerError`."""
        for base in [base for base in self._sums if base not in self._sent]:
            self._number += 1
            self._sent[base] = self._number, self._sums.pop(base)
        bases = list(self._sent)
        self._told.update(bases)
        replies = await self._client.run_all([self._call(base) for base in bases]) if bases else []
        failure: BrokerError | None = None
        for base, reply in zip(bases, replies, strict=True):
            if not isinstance(reply, BrokerError):
                del self._sent[base]
                self._refused.discard(base)
            elif not isinstance(reply, QUEUE_FAULTS):
                failure = failure or reply
            elif base not in self._refused:  # the others must not suffer
                self._refused.add(base)
                log.error("what was measured of %s cannot be added: %s", base, reply)
        if failure is not None:
            raise failure
        return INTERVAL

    async def finish(self) -> None:
        """Add all that is left: what went without an answer, and what was counted since. Then nothing more comes."""
        await self.once()
        await self.once()
        await self._client.run_all([measures.forget(base, self._consumer) for base in self._told])

    def _call(self, base: str) -> Call[bool]:
        number, sums = self._sent[base]
        return measures.add(base, self._consumer, number, sums)

    def _observe(self, base: str, name: str, us: int) -> None:
        try:
            numbers = self._sums[base][name]
        except KeyError:
            numbers = self._sums.setdefault(base, {}).setdefault(name, [0] * (2 + len(BOUNDS)))
        if us > _FIRST:
            numbers[0] += us
            numbers[1 + bisect_left(_BOUNDS, us)] += 1
        else:  # most of them
            numbers[1] += 1
            if us > 0:  # else the server's clock was set back
                numbers[0] += us

    def _count(self, base: str, name: str, count: int) -> None:
        self._sums.setdefault(base, {}).setdefault(name, [0])[0] += count
