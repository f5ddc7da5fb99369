"""Hears what workers are told at once: cancel this task; an earlier task was parked."""

from __future__ import annotations

from penstock.consumers.attempt import Stop
from penstock.consumers.promoter import Promoter
from penstock.consumers.state import WorkerState
from penstock.streams.control import listen


class Control:
    """Listens to the control channels of a worker's queues."""

    def __init__(self, state: WorkerState, promoter: Promoter) -> None:
        self._state = state
        self._promoter = promoter

    async def once(self) -> float | None:
        """Listen until the connection breaks, which raises `BrokerError`."""
        state = self._state
        async for told in listen(state.connector, list(state.queues)):
            state.link.up()
            if told.cancel is None:
                self._promoter.look(told.base)
            else:
                for attempt in state.in_flight.find(told.base, told.cancel):
                    attempt.request_stop(Stop.CANCELLED)
        return 0.0
