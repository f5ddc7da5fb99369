"""Says that this worker lives and what it does, for those who look from outside."""

from __future__ import annotations

import logging
import os
import platform
import socket
import time
from typing import Annotated

import msgspec

from penstock.consumers.resources import memory_used
from penstock.consumers.state import WorkerState
from penstock.errors import BrokerError
from penstock.streams import consume, inspect
from penstock.streams.message import UNDECODABLE
from penstock.version import installed_version

log = logging.getLogger("penstock.worker")

#: Seconds between heartbeats.
INTERVAL = 5.0
#: Seconds after which a worker that was not heard of counts as gone.
GONE_AFTER = inspect.LIVING
#: Seconds between looks at the other workers' leases.
LEARN_INTERVAL = 30.0
#: Seconds after which a consumer that owns nothing and has no heartbeat is deleted. One that was not heard of, and
#: lives all the same, comes to no harm: its next delivery makes its consumer again.
RETIRE_AFTER = 3600.0


class WorkerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a worker says of itself; times in seconds since the epoch."""

    consumer: str
    host: str
    pid: int
    started_at: Annotated[float, msgspec.Meta(ge=0, lt=1e10)]
    queues: tuple[str, ...]
    #: Deliveries that it has in its hands.
    running: int = 0
    #: Attempts that have ended.
    done: int = 0
    lease: Annotated[float, msgspec.Meta(ge=0, lt=1e10)] = 0.0
    #: Of each of `queues`, as in `Slots.occupancy`; and in all.
    slots: tuple[int, ...] = ()
    busy: tuple[int, ...] = ()
    all_slots: int = 0
    all_busy: int = 0
    #: Resident bytes.
    rss: int = 0
    #: Greatest lag of the event loop since the last heartbeat, and for how long it was blocked in all.
    lag: float = 0.0
    blocked: float = 0.0
    version: str = ""
    python: str = ""


def read_about(about: bytes) -> WorkerInfo | None:
    """What a worker has said of itself; None: it is forgotten, of another version, or none of ours."""
    try:
        return _decode(about)
    except UNDECODABLE:
        return None


_decode = msgspec.msgpack.Decoder(WorkerInfo).decode


class Heartbeat:
    """Also deletes consumers of processes that have gone, once they own nothing."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._started_at = time.time()
        self._host = socket.gethostname()
        self._version = installed_version()
        self._learn_at = 0.0
        #: When all who live can have been heard of again. During an outage heartbeats run out.
        self._complete_at = 0.0
        self._retire_at = time.monotonic() + RETIRE_AFTER / 10

    async def once(self) -> float | None:
        """One heartbeat; a worker that others have forgotten is logged."""
        state = self._state
        about = self._about()
        call = consume.heartbeat(
            state.settings.namespace, state.consumer, msgspec.msgpack.encode(about), GONE_AFTER, about.queues
        )
        try:
            forgotten = await state.client.run(call)
        except BrokerError:
            self._complete_at = time.monotonic() + GONE_AFTER
            raise
        for gone in forgotten:
            log.warning("worker %s was not heard of for %.0f s", gone, GONE_AFTER)
        if time.monotonic() >= self._retire_at:
            self._retire_at = time.monotonic() + RETIRE_AFTER
            await self._retire_gone()
        if time.monotonic() >= self._learn_at:
            await self._learn_leases()
            self._learn_at = time.monotonic() + LEARN_INTERVAL
        return INTERVAL

    def _about(self) -> WorkerInfo:
        state = self._state
        queues = tuple(state.queues.values())
        slots, busy = zip(*map(state.slots.occupancy, queues), strict=True) if queues else ((), ())
        all_slots, all_busy = state.slots.occupancy()
        return WorkerInfo(
            consumer=state.consumer,
            host=self._host,
            pid=os.getpid(),
            started_at=self._started_at,
            queues=queues,
            running=len(state.in_flight),
            done=state.done,
            lease=state.settings.lease,
            slots=slots,
            busy=busy,
            all_slots=all_slots,
            all_busy=all_busy,
            rss=memory_used(),
            lag=round(state.pulse.take_lag(), 6),
            blocked=round(state.pulse.blocked, 3),
            version=self._version,
            python=platform.python_version(),
        )

    async def _retire_gone(self) -> None:
        """Delete the consumers of processes that have died: those have left nobody who would."""
        state = self._state
        living = [heard.consumer for heard in await state.client.run(inspect.workers(state.settings.namespace))]
        for base in state.queues:
            await state.client.run(consume.retire(base, RETIRE_AFTER, living=living))

    async def _learn_leases(self) -> None:
        """Learn how long the others may go without renewing: who has a longer lease must not be robbed."""
        state, own = self._state, self._state.settings.lease
        heard = await state.client.run(inspect.workers(state.settings.namespace))
        others = [read_about(each.about) for each in heard]
        longest = max([own, *(info.lease for info in others if info is not None)])
        if longest > own and longest != state.reclaim_after:
            log.warning("another worker's lease is %g s and ours %g s; give all workers the same", longest, own)
        if state.reclaim_after is None or longest > state.reclaim_after or time.monotonic() >= self._complete_at:
            state.reclaim_after = longest

    async def end(self) -> None:
        """This worker has nothing left: remove its consumers and its heartbeat."""
        state = self._state
        for base in state.queues:
            await state.client.run(consume.retire(base, 0.0, [state.consumer]))
        await state.client.run_all(consume.forget_worker(state.settings.namespace, state.consumer))
