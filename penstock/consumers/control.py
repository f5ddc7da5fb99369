"""Hears what workers are told at once: cancel this task; an earlier task was parked; the queue was resumed."""

from __future__ import annotations

import logging

from penstock.consumers.attempt import Stop
from penstock.consumers.fetcher import Fetcher
from penstock.consumers.promoter import Promoter
from penstock.consumers.reclaimer import Reclaimer
from penstock.consumers.state import WorkerState
from penstock.errors import BrokerError
from penstock.streams.control import Told, listen

log = logging.getLogger("penstock.worker")

#: Seconds before listening again on a connection that was cut.
AGAIN = 0.05


class Control:
    """Listens to the control channels of a worker's queues."""

    def __init__(self, state: WorkerState, promoter: Promoter, fetcher: Fetcher, reclaimer: Reclaimer) -> None:
        self._state = state
        self._promoter = promoter
        self._fetcher = fetcher
        self._reclaimer = reclaimer

    async def once(self) -> float | None:
        """Listen until the connection breaks; raises `BrokerError` if it could not even be made."""
        heard, listening = False, listen(self._state.connector, list(self._state.queues))
        try:
            async for told in listening:
                if not heard:
                    if self._state.link.is_away:
                        await self._state.link.confirm()
                    heard = True
                    self._state.link.up()
                self._obey(told)
        except BrokerError as error:
            # Whether that was all the server's connections or this one, the next try tells.
            if not heard:
                raise
            log.debug("listening again: %s", error)
        finally:
            await listening.aclose()
        return AGAIN

    def _obey(self, told: Told) -> None:
        if told.cancel is not None:
            for attempt in self._state.in_flight.find(told.base, told.cancel):
                attempt.request_stop(Stop.CANCELLED)
        elif told.resumed:
            self._fetcher.look_again(told.base)
            self._reclaimer.bell.ring()  # what dead workers had is still there
        else:
            self._promoter.look(told.base, told.after)
