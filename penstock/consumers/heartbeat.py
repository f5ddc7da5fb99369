"""Says that this worker lives and what it does, for those who look from outside."""

from __future__ import annotations

import logging
import os
import socket
import time
from contextlib import suppress

import msgspec

from penstock.consumers.state import WorkerState
from penstock.streams import consume, inspect

log = logging.getLogger("penstock.worker")

#: Seconds between heartbeats.
INTERVAL = 5.0
#: Seconds after which a worker that was not heard of counts as gone.
GONE_AFTER = 4 * INTERVAL
#: Seconds between looks at the other workers' leases.
LEARN_INTERVAL = 30.0
#: Seconds after which a consumer that owns nothing is deleted. Deleting a live one does no harm: its
#: next delivery makes it again.
RETIRE_AFTER = 3600.0


class WorkerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker says of itself; times in seconds since the epoch."""

    consumer: str
    host: str
    pid: int
    started_at: float
    queues: tuple[str, ...]
    running: int = 0
    done: int = 0
    lease: float = 0.0


class Heartbeat:
    """Also deletes consumers of processes that have gone, once they own nothing."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._started_at = time.time()
        self._host = socket.gethostname()
        self._learn_at = 0.0
        self._retire_at = time.monotonic() + RETIRE_AFTER / 10

    async def once(self) -> float | None:
        """One heartbeat; a worker that others have forgotten is logged."""
        state = self._state
        about = WorkerInfo(
            consumer=state.consumer,
            host=self._host,
            pid=os.getpid(),
            started_at=self._started_at,
            queues=tuple(state.queues.values()),
            running=len(state.in_flight),
            done=state.done,
            lease=state.settings.lease,
        )
        call = consume.heartbeat(
            state.settings.namespace, state.consumer, msgspec.msgpack.encode(about), GONE_AFTER, about.queues
        )
        for gone in await state.client.run(call):
            log.warning("worker %s was not heard of for %.0f s", gone, GONE_AFTER)
        if time.monotonic() >= self._retire_at:
            self._retire_at = time.monotonic() + RETIRE_AFTER
            for base in state.queues:
                await state.client.run(consume.retire(base, RETIRE_AFTER))
        if time.monotonic() >= self._learn_at:
            await self._learn_leases()
            self._learn_at = time.monotonic() + LEARN_INTERVAL
        return INTERVAL

    async def _learn_leases(self) -> None:
        """Learn how long the others may go without renewing: who has a longer lease must not be robbed."""
        state, own = self._state, self._state.settings.lease
        leases = [own]
        for heard in await state.client.run(inspect.workers(state.settings.namespace)):
            with suppress(msgspec.DecodeError):
                leases.append(msgspec.msgpack.decode(heard.about, type=WorkerInfo).lease)
        longest = max(leases)
        if longest > own and longest != state.reclaim_after:
            log.warning("another worker's lease is %g s and ours %g s; give all workers the same", longest, own)
        state.reclaim_after = longest

    async def end(self) -> None:
        """This worker has nothing left: remove its consumers and its heartbeat."""
        state = self._state
        for base in state.queues:
            await state.client.run(consume.retire(base, 0.0, [state.consumer]))
        await state.client.run_all(consume.forget_worker(state.settings.namespace, state.consumer))
