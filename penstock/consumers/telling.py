"""Counts what became of an attempt, and turns it into an event for observers."""

from __future__ import annotations

from penstock.consumers.attempt import Attempt
from penstock.consumers.outcome import Cancelled, Failed, Outcome, Released, Retrying, Snoozed, Succeeded, Unknown
from penstock.consumers.tally import Tally
from penstock.events import Cancelled as CancelledEvent
from penstock.events import Event, Late, Observers, Retried, TaskEvent
from penstock.events import Failed as FailedEvent
from penstock.events import Released as ReleasedEvent
from penstock.events import Snoozed as SnoozedEvent
from penstock.events import Succeeded as SucceededEvent
from penstock.events import Unknown as UnknownEvent
from penstock.streams.settle import Settled


class Teller:
    """Tells observers how attempts were settled, after Redis has answered."""

    def __init__(self, observers: Observers, tally: Tally) -> None:
        self._observers = observers
        self._tally = tally

    def settled(self, attempt: Attempt, outcome: Outcome, answer: Settled) -> None:
        """Called by the settler for each attempt."""
        self._tally.settled(attempt, outcome, answer)
        if self._observers:
            self._observers.emit(event_of(attempt, outcome, answer))


def event_of(attempt: Attempt, outcome: Outcome, answer: Settled) -> Event:
    """The event for one settled attempt."""
    d = attempt.delivery
    task = {"id": d.id, "name": attempt.name, "queue": d.queue, "priority": d.priority}
    if answer is Settled.LATE:
        return Late(**task)
    if isinstance(outcome, Unknown):
        return UnknownEvent(**task, error=outcome.error)
    return _ended(attempt, CancelledEvent if answer is Settled.CANCELLED else None, outcome, task)


def _ended(attempt: Attempt, forced: type[CancelledEvent] | None, outcome: Outcome, task: dict[str, str]) -> TaskEvent:
    ran = max(0.0, attempt.ended - attempt.started) if attempt.ended else 0.0
    about = {**task, "attempt": attempt.delivery.retries + 1, "ran": ran}
    if forced is not None:
        return forced(**about)  # type: ignore[arg-type]
    match outcome:
        case Succeeded():
            return SucceededEvent(**about)  # type: ignore[arg-type]
        case Retrying(delay, failure):
            return Retried(**about, delay=delay, error=f"{failure.type}: {failure.message}")  # type: ignore[arg-type]
        case Snoozed(delay):
            return SnoozedEvent(**about, delay=delay)  # type: ignore[arg-type]
        case Failed(failure):
            error = f"{failure.type}: {failure.message}"
            return FailedEvent(**about, reason=failure.reason, error=error)  # type: ignore[arg-type]
        case Cancelled():
            return CancelledEvent(**about)  # type: ignore[arg-type]
        case _:
            assert isinstance(outcome, Released)
            return ReleasedEvent(**about)  # type: ignore[arg-type]
