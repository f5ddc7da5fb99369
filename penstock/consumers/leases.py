"""Renews the leases of what is in flight, from a thread of its own; it is also the watchdog.

A task that blocks the event loop does not stop this thread, so it is not run twice. (A C call that
holds the GIL does stop it: then the lease runs out.) It tells which task blocks the loop, and stops
renewing what is long past its time limit.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

from penstock.consumers.attempt import Attempt, Stop
from penstock.consumers.state import BLOCKED_AFTER, WorkerState
from penstock.errors import BrokerError
from penstock.events import LoopBlocked, Lost
from penstock.streams import consume
from penstock.streams.client import SyncClient

log = logging.getLogger("penstock.worker")

#: Seconds past its time limit after which an attempt counts as wedged.
WEDGED_AFTER = 5.0


class Leases:
    """Owns the lease thread. `on_beat(deadline)` is told about once a second, with the monotonic time after
    which this process should be killed because an attempt is wedged; None: never."""

    def __init__(self, state: WorkerState, on_beat: Callable[[float | None], object]) -> None:
        self._state = state
        self._on_beat = on_beat
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._interval = state.settings.lease / 3
        self._tick = min(1.0, self._interval / 2)
        #: Longest time between two beats while the server does not answer.
        self._patience = state.settings.connect_timeout + state.settings.command_timeout + self._tick
        self._stopping = threading.Event()
        self._client = SyncClient(state.connector)
        #: A block is reported after this long, and again after twice as long.
        self._reported = BLOCKED_AFTER
        self._wedged: set[int] = set()
        self._failed = False
        #: The last word to the supervisor; both threads may give it.
        self._told: float | None = None
        self._telling = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="penstock-leases", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        """Have the thread end; waits for nothing."""
        self._stopping.set()

    def stop(self) -> None:
        """End the thread; blocks for as long as a renewal takes."""
        self.end()
        self._thread.join(timeout=self._state.settings.command_timeout)

    def limit(self, deadline: float) -> None:
        """An attempt begins that has this time limit (monotonic). Tells the supervisor at once what it does not know.

        At the next beat it may be too late: a C call that holds the GIL from here on stops this class's thread, too.
        """
        kill_at = self._latest(deadline)
        with self._telling:
            if self._told is None or kill_at < self._told:
                self._told = kill_at
                self._on_beat(kill_at)

    def _run(self) -> None:
        next_renewal = time.monotonic() + self._interval
        self._ping()
        while not self._stopping.wait(self._tick):
            try:
                self._watch_loop()
                self._beat()
                if time.monotonic() >= next_renewal:
                    # After a failure at once again: two thirds of the lease are left to get through.
                    next_renewal = time.monotonic() + (self._interval if self.once() else 0.0)
            except Exception:
                # Without this thread all that runs here would be run elsewhere, too. A bug is loud, and bounded.
                log.exception("renewing failed; it goes on in %.1f s", self._tick)
        self._client.close()

    def once(self) -> bool:
        """Renew everything in flight; False if the server did not answer."""
        now, by_base = time.monotonic(), {}  # type: tuple[float, dict[str, list[Attempt]]]
        for attempt in self._state.in_flight.all():
            if not self._is_wedged(attempt, now):
                by_base.setdefault(attempt.delivery.base, []).append(attempt)
        failure: BrokerError | None = None
        for base, attempts in by_base.items():
            try:
                for i in range(0, len(attempts), consume.RENEW_BATCH):
                    self._renew(base, attempts[i : i + consume.RENEW_BATCH])
            except BrokerError as error:  # the other queues may fare better
                failure = error
            self._beat()
        if failure is not None:
            self._on_loop(self._state.link.down, failure)
        elif self._failed:
            self._on_loop(self._state.link.up)
        self._failed = failure is not None
        return not self._failed

    def _renew(self, base: str, attempts: list[Attempt]) -> None:
        held = [(a.delivery.priority, a.delivery.entry, a.delivery.raw_key) for a in attempts]
        lost, cancelled = self._client.run(consume.renew(base, self._state.consumer, held))
        for i in lost:
            # What has ended meanwhile was settled, not lost: the loop knows.
            self._on_loop(self._lose, attempts[i])
        for i in cancelled:
            self._on_loop(attempts[i].request_stop, Stop.CANCELLED)

    def _lose(self, attempt: Attempt) -> None:
        if attempt.ended or attempt.lost or attempt.delivery not in self._state.in_flight:
            return
        attempt.lost = True  # told once: code that does not stop is asked about at each renewal
        d = attempt.delivery
        log.warning("%s: the lease was lost; the attempt is being stopped", d.id)
        self._state.tally.lost(d.base)
        self._state.observers.emit(Lost(id=d.id, name=attempt.name, queue=d.queue, priority=d.priority))
        attempt.request_stop(Stop.LOST)

    def _is_wedged(self, attempt: Attempt, now: float) -> bool:
        if attempt.ended or attempt.deadline is None or now < attempt.deadline + WEDGED_AFTER:
            return False
        if id(attempt) not in self._wedged:
            self._wedged.add(id(attempt))
            log.error("%s is past its time limit and cannot be stopped; no longer renewed", attempt.delivery.id)
        return True

    def _beat(self) -> None:
        with self._telling:  # what `limit` says meanwhile must not be taken back
            self._told = self._kill_at()
            self._on_beat(self._told)

    def _kill_at(self) -> float | None:
        now = time.monotonic()
        running = [a for a in self._state.in_flight.all() if a.deadline is not None and not a.ended]
        if [a for a in running if self._is_wedged(a, now)]:
            return now
        limits = [a.deadline for a in running if a.deadline is not None]
        return self._latest(min(limits)) if limits else None

    def _latest(self, deadline: float) -> float:
        """When to kill this process if nothing more is heard of it."""
        # This is for a thread that is stopped, too (by a C call that holds the GIL). One that waits
        # for the server is late with its next beat, and must not have its process killed for that.
        return deadline + WEDGED_AFTER + self._patience

    def _ping(self) -> None:
        self._on_loop(self._state.pulse.beat, self._state.pulse.ask())

    def _watch_loop(self) -> None:
        blocked = self._state.pulse.unanswered
        if blocked < BLOCKED_AFTER:
            self._reported = BLOCKED_AFTER
        elif blocked >= self._reported:
            self._reported = 2 * blocked
            self._report_block(blocked)
        self._ping()

    def _report_block(self, seconds: float) -> None:
        attempts = [a for a in self._state.in_flight.all() if getattr(a.coro, "cr_running", False)]
        names = tuple(f"{a.name} ({a.delivery.id})" for a in attempts)
        frame = sys._current_frames().get(self._loop_thread)
        stack = "".join(traceback.format_stack(frame)[-8:]) if frame is not None else ""
        who = ", ".join(names) or "something other than a task"
        log.warning("the event loop has been blocked for %.1f s by %s\n%s", seconds, who, stack)
        self._state.observers.emit(LoopBlocked(seconds=seconds, tasks=names, stack=stack))

    def _on_loop(self, call: Callable[..., object], *args: object) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)
