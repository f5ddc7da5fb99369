"""Stores how attempts ended. Nothing is forgotten before Redis has answered.

One settle is under way at a time; what gathers meanwhile goes with the next one, so batches are as
large as the load makes them and no timer delays a lone task.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence

from penstock.consumers.attempt import Attempt
from penstock.consumers.duty import Bell
from penstock.consumers.outcome import Cancelled, Failed, Outcome, Released, Retrying, Snoozed, Succeeded, Unknown
from penstock.consumers.state import WorkerState
from penstock.errors import BrokerError, ServerOutOfMemory
from penstock.streams import settle
from penstock.streams.calls import Call
from penstock.streams.consume import Delivery
from penstock.streams.message import Failure, encode_failure
from penstock.streams.settle import Answers, Settled

log = logging.getLogger("penstock.worker")

#: Attempts and bytes of results in one settle: a script holds the server while it runs.
BATCH_TASKS, BATCH_BYTES = 500, 1 << 20
#: Seconds before an unknown task is tried again; the script lets it grow.
UNKNOWN_DELAY = 1.0
#: Seconds between tries while the server is out of memory.
OOM_PAUSE = 1.0

Item = tuple[Attempt, Outcome]


class Settler:
    """Takes (attempt, outcome) and tells `on_settled` what became of each."""

    def __init__(self, state: WorkerState, on_settled: Callable[[Attempt, Outcome, Settled], object]) -> None:
        self._state = state
        self._on_settled = on_settled
        self._waiting: deque[Item] = deque()
        #: How many are under way.
        self._sending = 0
        #: Told when a task that had crashed workers has ended: the next such one may start.
        self.on_suspect: Callable[[], object] = lambda: None
        self._out_of_memory = False
        self._bell = Bell()

    def __len__(self) -> int:
        return len(self._waiting) + self._sending

    def add(self, attempt: Attempt, outcome: Outcome) -> None:
        """Settle `attempt` as soon as the one under way is answered."""
        self._waiting.append((attempt, outcome))
        self._state.slots.unsettled(1)
        self._bell.ring()

    @property
    def bell(self) -> Bell:
        """Rings when something waits."""
        return self._bell

    async def once(self) -> float | None:
        """Send all that waits, in batches; what was not answered goes behind what came since."""
        while self._waiting:
            again = await self._send(self._next_batch())
            if again:
                self._out_of_memory = True
                self._waiting += again
                return OOM_PAUSE
            if self._out_of_memory:
                self._out_of_memory = False
                self._state.link.up()
        return None

    def _next_batch(self) -> list[Item]:
        batch: list[Item] = []
        size = 0
        while self._waiting and len(batch) < BATCH_TASKS and size < BATCH_BYTES:
            item = self._waiting.popleft()
            batch.append(item)
            size += len(item[1].value or b"") if isinstance(item[1], Succeeded) else len(item[0].delivery.message)
        return batch

    async def _send(self, batch: Sequence[Item]) -> list[Item]:
        """One round trip for a batch; the items for which the server has no memory at the moment."""
        self._sending = len(batch)
        unanswered: list[Item] = list(batch)
        try:
            groups = self._group(batch)
            replies = await self._state.client.run_all([call for call, _ in groups])
            unanswered = []
            again: list[Item] = []
            failure: BrokerError | None = None
            for (_, items), reply in zip(groups, replies, strict=True):
                if isinstance(reply, BrokerError):
                    failure = reply
                    unanswered += items
                else:
                    again += [item for item, answer in zip(items, reply, strict=True) if self._answered(item, answer)]
            if failure is not None:
                unanswered += again
                raise failure
            return again
        finally:
            self._sending = 0
            self._waiting += unanswered

    def _group(self, batch: Sequence[Item]) -> list[tuple[Call[Answers], list[Item]]]:
        """One call for each queue and verb."""
        groups: dict[tuple[str, str], list[Item]] = {}
        for item in batch:
            groups.setdefault((item[0].delivery.base, _VERBS[type(item[1])]), []).append(item)
        return [(self._call(base, verb, items), items) for (base, verb), items in groups.items()]

    def _call(self, base: str, verb: str, items: list[Item]) -> Call[Answers]:
        s, consumer = self._state.settings, self._state.consumer
        if verb == "succeed":
            items.sort(key=_alike)  # what tasks have in common travels once, and costs the server one command for all
            return settle.succeed(base, consumer, s.resend_window, [self._success(a, o) for a, o in items])
        if verb == "park":
            parked = [(a.delivery, a.name, *_parking(a, o)) for a, o in items]
            return settle.park(base, consumer, s.record_ttl, s.unknown_ttl, parked)
        ended = [(a.delivery, a.name, encode_failure(o.failure) if isinstance(o, Failed) else None) for a, o in items]
        return settle.bury(base, consumer, s.record_ttl, (s.dead_ttl, s.dead_max), ended)

    def _success(self, attempt: Attempt, outcome: Outcome) -> tuple[Delivery, str, float, bytes]:
        assert isinstance(outcome, Succeeded)
        value = outcome.value
        ttl = 0.0 if value is None else attempt.result_ttl(self._state.settings.result_ttl)
        return attempt.delivery, attempt.name, ttl, value or b""

    def _answered(self, item: Item, answer: Settled | str) -> bool:
        """True if the item has to be sent again."""
        attempt, outcome = item
        if answer is Settled.DONE:  # as a rule
            pass
        elif isinstance(answer, str):
            if "OOM" in answer:
                self._state.link.down(ServerOutOfMemory(answer))
                return True
            # Somebody else's key is in the way. Dropped here, the entry stays pending: nothing is lost.
            self._state.entry_stuck(attempt.delivery.queue, f"{attempt.delivery.id} cannot be settled: {answer}")
            answer = Settled.LATE
        elif answer is Settled.GIVEN_UP:
            assert isinstance(outcome, Unknown)
            failure = Failure("UnknownTask", outcome.error, reason="unknown_task")
            self._waiting.append((attempt, Failed(failure)))
            return False
        self._state.in_flight.forget(attempt)
        self._state.slots.unsettled(-1)
        self._on_settled(attempt, outcome, answer)
        if attempt.is_suspect:
            self.on_suspect()
        return False


def _alike(item: Item) -> tuple[str, str]:
    return item[0].delivery.priority, item[0].name


_VERBS: dict[type, str] = {
    Succeeded: "succeed",
    Retrying: "park",
    Snoozed: "park",
    Released: "park",
    Unknown: "park",
    Failed: "bury",
    Cancelled: "bury",
}


def _parking(attempt: Attempt, outcome: Outcome) -> tuple[float, str, str]:
    """(delay in s, kind, error) for ``park.lua``."""
    match outcome:
        case Retrying(delay, failure):
            return delay, "retried", f"{failure.type}: {failure.message}"
        case Snoozed(delay):
            return delay, "snoozed", ""
        case Unknown(error):
            return UNKNOWN_DELAY, "unknown", error
        case _:
            return 0.0, "released" if attempt.kind else "unstarted", ""  # over-read: it never had a slot
