"""Between intake and runners: attempts that have their slot and wait for somebody to run them."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress

from penstock.consumers.attempt import Attempt

#: Seconds for which tasks that never wait may keep the event loop, one after the other. Then what has ended is
#: settled, and its slots are filled again, while the rest of the batch still runs.
TURN = 0.0002


class Handover:
    """Keeps as few runners awake as there is work for.

    To wake a runner costs as much as a small task does. So a batch wakes one, which goes on with the next attempt for
    as long as none of them has to wait for something; the first that does wakes runners for all the others.
    """

    def __init__(self) -> None:
        self._attempts: deque[Attempt] = deque()
        self._idle: deque[asyncio.Future[None]] = deque()
        #: Runners that were woken and have not had their turn yet.
        self._woken = 0
        #: The last task has waited for something: the next one will as well, as likely as not.
        self._tasks_wait = False
        #: Until when (monotonic) runners may go on in this turn of the loop.
        self._until = 0.0

    def add(self, attempt: Attempt) -> None:
        """Call `start` when all that came together is added."""
        self._attempts.append(attempt)

    def start(self) -> None:
        """Have the attempts begin in the next turn of the loop."""
        if not self._woken:
            self._wake(len(self._attempts) if self._tasks_wait else 1)

    def start_others(self) -> None:
        """A runner is about to wait: what else there is must not wait for it."""
        self._tasks_wait, self._until = True, 0.0
        if self._attempts:
            self._wake(len(self._attempts) - self._woken)

    async def next(self) -> Attempt:
        """The next attempt; waits for one."""
        if self._attempts and time.monotonic() <= self._until:
            self._tasks_wait = False
            return self._attempts.popleft()
        while True:
            turn = asyncio.get_running_loop().create_future()
            self._idle.append(turn)
            self.start()
            try:
                await turn
            except asyncio.CancelledError:
                if turn.cancelled():
                    with suppress(ValueError):  # `_wake` may have thrown it away
                        self._idle.remove(turn)
                else:  # it had been woken, and others rely on that
                    self._woken -= 1
                    self.start()
                raise
            self._woken -= 1
            self._until = time.monotonic() + TURN
            if self._attempts:
                return self._attempts.popleft()

    def _wake(self, most: int) -> None:
        most = min(most, len(self._attempts))
        while most > 0 and self._idle:
            turn = self._idle.popleft()
            if not turn.done():  # one that was cancelled is there until its runner finds out
                self._woken += 1
                most -= 1
                turn.set_result(None)
