"""The first look at a delivery: can this worker run it? If so it goes to the runners, else it is settled."""

from __future__ import annotations

from penstock.consumers.attempt import Attempt
from penstock.consumers.handover import Handover
from penstock.consumers.outcome import Failed, Outcome, Released, Unknown
from penstock.consumers.settler import Settler
from penstock.consumers.state import WorkerState
from penstock.streams.consume import Batch, Delivery
from penstock.streams.message import VERSION, Failure, Message, decode_message
from penstock.tasks.task import AnyTask


class Intake:
    """Accepts what fetch, blocking read, reclaim and orphan search deliver: all of it the same way."""

    def __init__(self, state: WorkerState, settler: Settler) -> None:
        self._state = state
        self._settler = settler
        #: To the runners.
        self.handover = Handover()

    def accept_all(self, queue: str, batch: Batch, *, taken_over: bool = False) -> None:
        """Accept each delivery of a batch; one that fails does not keep the others. `taken_over`: from others."""
        if batch.problem:
            self._state.entry_stuck(queue, f"cannot be started: {batch.problem}")
        for delivery in batch.deliveries:
            self._accept(delivery, taken_over)
        self.handover.start()

    def _accept(self, delivery: Delivery, taken_over: bool) -> None:
        """From here on the entry is in flight: its lease is renewed until it is settled."""
        if delivery in self._state.in_flight:
            return
        message, error = _decode(delivery)
        if message is None:
            self._end(Attempt(delivery), _undecodable(error))
            return
        task = self._state.tasks.get(message.name)
        if task is None or message.version > VERSION:
            self._end(Attempt(delivery, message), _unknown(message))
        else:
            attempt = Attempt(delivery, message, task, task.kind)
            attempt.taken_over = taken_over
            self._start(attempt, task)

    def _start(self, attempt: Attempt, task: AnyTask) -> None:
        most = task.config.max_deliveries or self._state.settings.max_deliveries
        deliveries = attempt.delivery.deliveries
        if deliveries > most:
            why = f"{deliveries - 1} deliveries ended in a crash or a lost lease of their worker"
            failure = Failure("WorkerCrashed", why, reason="max_deliveries")
            self._end(attempt, Failed(failure))
        elif not self._state.slots.take(attempt.kind):
            # Over-read: a blocking read brings one of each stream. Others may have room at once.
            self._state.slots.learn(attempt.delivery.queue, attempt.kind)
            self._end(attempt, Released())
        else:
            self._state.in_flight.add(attempt)
            self.handover.add(attempt)

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        attempt.kind = ""
        self._state.in_flight.add(attempt)
        self._settler.add(attempt, outcome)


def _decode(delivery: Delivery) -> tuple[Message | None, object]:
    """The message, or why there is none."""
    if not delivery.key:
        return None, "the entry is no message of penstock's"
    try:
        return decode_message(delivery.message), None
    except Exception as error:  # hostile bytes: whatever it is, they are no message
        return None, error


def _unknown(message: Message) -> Unknown:
    if message.version > VERSION:
        return Unknown(f"message version {message.version}, and this worker knows {VERSION}")
    return Unknown(f"no task of the name {message.name!r} is registered here")


def _undecodable(error: object) -> Failed:
    return Failed(Failure("DecodeError", str(error), reason="undecodable"))
