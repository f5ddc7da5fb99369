"""Notices that a worker has done its share: the end of a burst, ``--max-tasks``, ``--max-rss``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from penstock.consumers.fetcher import Fetcher
from penstock.consumers.resources import memory_used
from penstock.consumers.settler import Settler
from penstock.consumers.state import WorkerState
from penstock.streams import consume

#: Seconds between looks.
BURST_INTERVAL, RECYCLE_INTERVAL = 0.05, 1.0


class _Options(Protocol):
    @property
    def burst(self) -> str: ...
    @property
    def max_tasks(self) -> int: ...
    @property
    def max_rss(self) -> int: ...


class Watch:
    """Calls `stop` at the end of a burst, and `be_replaced` when this process has become too old or too big."""

    def __init__(
        self,
        state: WorkerState,
        options: _Options,
        fetcher: Fetcher,
        settler: Settler,
        stop: Callable[[], object],
        be_replaced: Callable[[str], object],
    ) -> None:
        self._state = state
        self._options = options
        self._fetcher = fetcher
        self._settler = settler
        self._stop = stop
        self._be_replaced = be_replaced

    async def once(self) -> float | None:
        """Look once; seconds until the next look, None if there is nothing to look for."""
        options = self._options
        if options.burst:
            if await self._burst_is_over():
                self._stop()
            return BURST_INTERVAL
        if options.max_tasks and self._state.done >= options.max_tasks:
            self._be_replaced(f"it has run {self._state.done} tasks")
        if options.max_rss and (used := memory_used()) >= options.max_rss:
            self._be_replaced(f"it uses {used / 1e6:.0f} MB")
        return RECYCLE_INTERVAL if options.max_tasks or options.max_rss else None

    async def _burst_is_over(self) -> bool:
        state = self._state
        if not self._fetcher.idle or len(state.in_flight) or len(self._settler):
            return False
        for base in state.queues.keys() - state.paused:
            answer = await state.client.run(consume.promote(base, 100))
            state.tally.promoted(base, answer.late)
            if answer.moved or (answer.next is not None and self._options.burst == "all"):
                return False
            if self._options.burst == "all":
                busy = await state.client.run(consume.occupied([base]))
                if busy:
                    return False
        return self._fetcher.idle  # something may have come while we asked
