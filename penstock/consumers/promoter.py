"""Moves parked tasks into their streams when they are due."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable

from penstock.consumers.duty import QUEUE_FAULTS, Bell, jittered
from penstock.consumers.state import LEAVE_OUT, WorkerState
from penstock.errors import ServerOutOfMemory
from penstock.events import Promoted
from penstock.streams import consume

log = logging.getLogger("penstock.worker")

#: Tasks moved by one script call.
BATCH = 200
#: Seconds after which a queue is looked at, even if nothing was heard of an earlier task.
BACKSTOP = 10.0


class Promoter:
    """Sleeps until the next task is due. By a timer of its own: BLOCK timeouts fire up to 100 ms late."""

    def __init__(self, state: WorkerState, on_moved: Callable[[str], object]) -> None:
        self._state = state
        #: Told the queue into whose streams something was moved.
        self._on_moved = on_moved
        self.bell = Bell()
        #: base -> monotonic time of the next look.
        self._look_at = dict.fromkeys(state.queues, 0.0)
        #: Bases of queues that held a parked task when they were last heard of.
        self._holds: set[str] = set()

    def look(self, base: str, after: float = 0.0) -> None:
        """A task that is due earlier than all others, in `after` seconds, was parked here (or may have been)."""
        if after > 0:
            self._holds.add(base)
        # The time is as old as this loop is late. What is far away is asked for once more shortly before, and exactly.
        lead = min(1.0, after / 10) if after > 2 else 0.0
        self._look_at[base] = min(self._look_at[base], time.monotonic() + max(0.0, after - lead))
        self.bell.ring()

    async def once(self) -> float | None:
        """Look at each queue whose time has come; seconds until the next one."""
        now = time.monotonic()
        for base in [base for base, at in self._look_at.items() if at <= now]:
            self._look_at[base] = math.inf  # a `look` from here on counts: the answer may be older than it
            try:
                pause = await self._promote(base)
            except QUEUE_FAULTS as error:
                self._state.leave_out(base, error)
                pause = LEAVE_OUT
            except BaseException:
                self._look_at[base] = 0.0
                raise
            self._look_at[base] = min(self._look_at[base], time.monotonic() + pause)
        return max(0.0, min(self._look_at.values()) - time.monotonic())

    async def _promote(self, base: str) -> float:
        # One cheap command for the usual case, that nothing is parked.
        if base not in self._holds and await self._state.client.run(consume.next_due(base)) is None:
            return jittered(BACKSTOP)
        answer = await self._state.client.run(consume.promote(base, BATCH))
        (self._holds.discard if answer.next is None else self._holds.add)(base)
        if "OOM" in answer.problem:
            raise ServerOutOfMemory(answer.problem)  # no fault of this task's
        if answer.problem:
            self._state.entry_stuck(self._state.queues[base], f"a parked task cannot be promoted: {answer.problem}")
            return 1.0
        if answer.moved:
            self._on_moved(base)
            self._state.tally.promoted(base, answer.late)
            self._state.observers.emit(Promoted(queue=self._state.queues[base], count=answer.moved))
        return jittered(BACKSTOP) if answer.next is None else min(BACKSTOP, answer.next + 0.001)
