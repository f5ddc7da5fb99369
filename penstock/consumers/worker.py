"""The life of one worker process: start its duties, run until told to stop, hand back what is left."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Literal

import anyio
import msgspec

from penstock.consumers.attempt import Attempt, Stop
from penstock.consumers.control import Control
from penstock.consumers.duty import every
from penstock.consumers.fetcher import Fetcher
from penstock.consumers.fitness import check_fitness
from penstock.consumers.heartbeat import Heartbeat
from penstock.consumers.intake import Intake
from penstock.consumers.invoke import Invoker
from penstock.consumers.leases import Leases
from penstock.consumers.lifeline import Lifeline
from penstock.consumers.outcome import Released
from penstock.consumers.processes import ProcessPool
from penstock.consumers.promoter import Promoter
from penstock.consumers.reclaimer import Reclaimer
from penstock.consumers.resources import available_cores
from penstock.consumers.runner import Runner
from penstock.consumers.settler import Settler
from penstock.consumers.slots import Slots
from penstock.consumers.state import WorkerState
from penstock.consumers.telling import Teller
from penstock.consumers.threads import ThreadPool
from penstock.consumers.watch import Watch
from penstock.errors import BrokerError, BrokerUnavailable
from penstock.events import Observers, WorkerStarted, WorkerStopped
from penstock.settings import Settings
from penstock.streams.client import pauses
from penstock.streams.connector import Connector
from penstock.streams.inspect import HOST_PREFIX
from penstock.tasks.task import AnyTask

log = logging.getLogger("penstock.worker")

#: Seconds that stopped code has to unwind before its task goes back regardless.
UNWIND = 3.0
#: Seconds that the last results may take to be stored when the server is away at the end.
LAST_SETTLE = 10.0


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What one worker does, beside the settings."""

    #: Queues to serve; empty: those of the registered tasks.
    queues: tuple[str, ...] = ()
    #: End by itself: "ready": when nothing is ready; "all": when nothing is parked or pending either.
    burst: Literal["", "ready", "all"] = ""
    #: Attempts after which to be replaced; 0: never.
    max_tasks: int = 0
    #: Bytes of memory after which to be replaced; 0: never.
    max_rss: int = 0


class WorkerStatus(msgspec.Struct, frozen=True):
    """How a worker is at one moment; times in seconds."""

    #: It fetches.
    ready: bool
    stopping: bool
    #: The server renews its leases, as far as it knows.
    connected: bool
    #: Deliveries in its hands; of these, outcomes that Redis has not got yet; attempts that have ended.
    in_flight: int
    unsettled: int
    done: int
    #: For how long its event loop has not answered; asked about once a second.
    loop_still: float


class Worker:
    """One worker. `run` returns when it has stopped; `stop` may be called from its event loop at any time."""

    def __init__(
        self,
        connector: Connector,
        settings: Settings,
        tasks: Mapping[str, AnyTask],
        options: WorkerOptions,
        observers: Observers,
        lifeline: Lifeline | None = None,
        initializer: tuple[str, str] | None = None,
    ) -> None:
        self.name = consumer_name()
        self._connector = connector
        self._settings = settings
        self._tasks = dict(tasks)
        self._options = options
        self._observers = observers
        self._lifeline = lifeline or Lifeline(None)
        self._initializer = initializer
        self._stopping = asyncio.Event()
        self._hurry = asyncio.Event()
        self._grace: float | None = settings.grace
        self._state: WorkerState | None = None
        self._settler: Settler | None = None
        #: Set when it fetches.
        self.ready = asyncio.Event()

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that it serves."""
        registered = sorted({task.config.queue for task in self._tasks.values()})
        return self._options.queues or tuple(registered) or ("default",)

    def status(self) -> WorkerStatus:
        """How it is now. From any thread."""
        state, settler = self._state, self._settler
        ready, stopping = self.ready.is_set(), self._stopping.is_set()
        if state is None or settler is None:
            return WorkerStatus(ready, stopping, False, 0, 0, 0, 0.0)
        away, still = state.link.is_away, state.pulse.unanswered
        return WorkerStatus(ready, stopping, not away, len(state.in_flight), len(settler), state.done, still)

    def stop(self) -> None:
        """Stop fetching, let running tasks finish within the grace period, hand the rest back. Twice: now."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()

    async def run(self) -> None:
        """Work until stopped, or until a burst has ended."""
        for task in self._tasks.values():
            task.codec.check()
        sizes = slot_sizes(self._settings)
        slots = Slots(sizes, self._queue_kinds(), unsettled=max(1000, 4 * sum(sizes.values())))
        state = WorkerState(
            self._connector, self._settings, self.name, self._tasks, self.queues, slots, self._observers
        )
        threads, processes = ThreadPool(sizes["thread"]), ProcessPool(sizes["process"], initializer=self._initializer)
        try:
            await self._work(state, sum(sizes.values()), Invoker(threads, processes))
        finally:
            threads.close()
            await processes.close()
            await state.client.aclose()
        self._observers.emit(WorkerStopped(worker=self.name))
        log.info("stopped")

    async def _work(self, state: WorkerState, runners: int, invoker: Invoker) -> None:
        settler = Settler(state, Teller(self._observers, state.tally).settled)
        self._state, self._settler = state, settler
        intake = Intake(state, settler)
        invoker.on_wait = intake.handover.start_others
        fetcher = Fetcher(state, intake, looks=bool(self._options.burst))  # a burst ends when all queues are empty
        leases = Leases(state, self._lifeline.beat)
        runner = Runner(state, intake, settler, invoker, leases.limit, self._be_replaced)
        promoter = Promoter(state, fetcher.may_hold)
        reclaimer = Reclaimer(state, intake, fetcher)
        heartbeat = Heartbeat(state)
        watch = Watch(state, self._options, fetcher, settler, self.stop, self._be_replaced)
        settler.on_suspect = reclaimer.bell.ring
        link = state.link

        await self._connect(state)  # outside the group: what it raises must not come as an exception group
        try:
            async with anyio.create_task_group() as duties:
                for _ in range(runners):
                    duties.start_soon(runner.run)
                duties.start_soon(every, settler.once, link, settler.bell)
                duties.start_soon(every, heartbeat.once, link)
                duties.start_soon(every, state.tally.once, link)
                duties.start_soon(every, Control(state, promoter, fetcher, reclaimer).once, link)
                duties.start_soon(every, promoter.once, link, promoter.bell)
                duties.start_soon(every, reclaimer.once, link, reclaimer.bell)
                duties.start_soon(every, fetcher.once, link)
                duties.start_soon(every, watch.once, link)
                leases.start()
                self._tell_ready(state)

                await self._stopping.wait()
                log.info("stopping: %d tasks in flight", len(state.in_flight))
                await fetcher.stop()
                await reclaimer.stop()
                await self._finish(state, settler, runner)
                duties.cancel_scope.cancel()
        finally:  # also when all of it is cancelled: what nobody runs must not go on being renewed
            leases.end()
            with anyio.CancelScope(shield=True):
                await fetcher.aclose()

        await asyncio.to_thread(leases.stop)
        with suppress(BrokerError):
            await state.tally.finish()
        with suppress(BrokerError):
            await heartbeat.end()

    async def _connect(self, state: WorkerState) -> None:
        """Wait for a server that is not there yet; raise for one that is too old, refuses us or is not fit."""
        for pause in pauses():
            try:
                await state.client.check_server()
                await check_fitness(self._connector, list(state.queues), self._settings.strict_server)
            except BrokerUnavailable as error:
                if self._connector.address.is_default or self._stopping.is_set():
                    raise
                state.link.down(error)
                await asyncio.sleep(pause)
            else:
                state.link.up()
                return

    async def _finish(self, state: WorkerState, settler: Settler, runner: Runner) -> None:
        """Let what runs finish, for the grace period; stop and hand back the rest; settle everything."""
        await self._until(lambda: not running(state), self._grace, or_hurry=True)
        left = running(state)
        if left:
            log.warning("handing back %d tasks that have not finished", len(left))
            for attempt in left:
                attempt.request_stop(Stop.RELEASED)
            await self._until(lambda: not running(state), UNWIND)
            for attempt in running(state):  # code that cannot be stopped; its task need not wait for it
                runner.end(attempt, Released())
        await self._until(lambda: not len(settler), LAST_SETTLE)
        if len(settler):
            log.error("the server does not answer: %d outcomes are lost, their tasks will run again", len(settler))

    async def _until(self, done: Callable[[], bool], seconds: float | None, or_hurry: bool = False) -> None:
        deadline = None if seconds is None else time.monotonic() + seconds
        while not done() and not (or_hurry and self._hurry.is_set()):
            if deadline is not None and time.monotonic() >= deadline:
                return
            await asyncio.sleep(0.01)

    def _queue_kinds(self) -> dict[str, frozenset[str]]:
        kinds: dict[str, set[str]] = {queue: set() for queue in self.queues}
        for task in self._tasks.values():
            kinds.setdefault(task.config.queue, set()).add(task.kind)
        return {queue: frozenset(found) for queue, found in kinds.items()}

    def _be_replaced(self, reason: str) -> None:
        """Have the supervisor start another process, and end this one without a limit of time."""
        if self._lifeline.is_supervised and not self._stopping.is_set():
            log.info("to be replaced: %s", reason)
            self._lifeline.replace(reason)
            self._grace = None
            self.stop()

    def _tell_ready(self, state: WorkerState) -> None:
        queues = tuple(state.queues.values())
        log.info("%s serves %s at %s", self.name, ", ".join(queues), self._connector.display)
        self._observers.emit(WorkerStarted(worker=self.name, queues=queues))
        self._lifeline.ready()
        self.ready.set()


def running(state: WorkerState) -> list[Attempt]:
    """Attempts whose code has not ended."""
    return [attempt for attempt in state.in_flight.all() if not attempt.ended and attempt.kind]


def consumer_name() -> str:
    """Unique per process start, and at most 64 bytes: nobody else may ever read what it owns."""
    return f"{socket.gethostname()[:HOST_PREFIX]}:{os.getpid()}:{secrets.token_hex(4)}"


def slot_sizes(settings: Settings) -> dict[str, int]:
    """Slots of each kind."""
    cores = available_cores()
    return {
        "async": settings.concurrency,
        "thread": settings.threads or min(32, cores + 4),
        "process": settings.processes or cores,
    }
