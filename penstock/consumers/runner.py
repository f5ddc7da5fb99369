"""One delivery from its start to its outcome: decode, run, decide, hand to the settler; then tell."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import time
from collections.abc import Callable
from typing import Any

from anyio import current_effective_deadline

from penstock.consumers.attempt import Attempt, Stop
from penstock.consumers.intake import Intake
from penstock.consumers.invoke import Interrupted, Invoker, Limits
from penstock.consumers.outcome import (
    Cancelled,
    Failed,
    Outcome,
    Released,
    Retrying,
    Succeeded,
    Unknown,
    decide,
    describe,
    ending_of,
)
from penstock.consumers.processes import Job
from penstock.consumers.settler import Settler
from penstock.consumers.state import WorkerState
from penstock.consumers.threads import ThreadStuck
from penstock.errors import HardTimeout, InvalidArguments, TaskControl, UnencodableResult
from penstock.events import Started
from penstock.events import ThreadStuck as ThreadStuckEvent
from penstock.tasks.context import Context, set_current
from penstock.tasks.middleware import Endings

log = logging.getLogger("penstock.task")


class Runner:
    """What each of a worker's runner coroutines does; they all share this object.

    The coroutines live as long as the worker: one started for each task would cost more than a
    small task itself.
    """

    def __init__(
        self,
        state: WorkerState,
        intake: Intake,
        settler: Settler,
        invoker: Invoker,
        on_limit: Callable[[float], object],
        on_stuck: Callable[[str], object],
    ) -> None:
        self._state = state
        self._handover = intake.handover
        self._settler = settler
        self._invoker = invoker
        #: Told when the time limit of an attempt that begins is over (monotonic).
        self._on_limit = on_limit
        #: Told why this process should be replaced.
        self._on_stuck = on_stuck

    async def run(self) -> None:
        """Run attempts one after another, for ever."""
        me = asyncio.current_task()
        assert me is not None
        while True:
            try:
                attempt = await self._handover.next()
            except asyncio.CancelledError:  # by what a task has left behind, which has ended by now
                if _worker_is_torn_down():
                    raise
            else:
                await self.once(attempt)
            if me.cancelling():
                await _take_back_cancellations(me)

    async def once(self, attempt: Attempt) -> None:
        """Run one attempt and hand its outcome over."""
        outcome: Outcome | None = Released()
        try:
            outcome = await self._outcome(attempt)
        except Exception as error:  # a bug, or a log handler of the user's: it must not end the worker
            log.exception("%s: its end could not be told from its error", attempt.delivery.id)
            outcome = Failed(describe(error))
        finally:
            try:
                # The slot first: the fetch that fills it then reaches the server before what there is to settle does.
                self._state.slots.give(attempt.kind)
            finally:
                # Also when the worker itself is being torn down: then the task goes back.
                self.end(attempt, outcome)

    def end(self, attempt: Attempt, outcome: Outcome | None) -> None:
        """Hand the outcome over, unless the worker has given the attempt up before; None: drop it."""
        if attempt.ended:
            return
        attempt.ended = time.monotonic()
        attempt.coro = None
        self._state.done += 1
        if outcome is None:
            self._state.in_flight.forget(attempt)
        else:
            self._settler.add(attempt, outcome)

    async def _outcome(self, attempt: Attempt) -> Outcome | None:
        """How it ended; None: the lease was lost, so it is no longer ours to end."""
        if attempt.is_stopped():
            return _stopped(attempt)
        context = self._context(attempt)
        outcome, error = await self._decided(attempt, context)
        if outcome is not None and not isinstance(outcome, Succeeded | Released | Cancelled):
            _log(context, outcome, attempt.endings)
        if attempt.endings is not None:
            attempt.endings.tell(ending_of(outcome), error)
        return outcome

    async def _decided(self, attempt: Attempt, context: Context) -> tuple[Outcome | None, BaseException | None]:
        """The outcome, and what the code raised."""
        try:
            return self._bounded(await self._run(attempt, context)), None
        except Interrupted as error:
            return _stopped(attempt), error
        except ThreadStuck as stuck:
            self._report_stuck(attempt, stuck)
            if attempt.is_stopped():
                return _stopped(attempt), stuck
            timeout = HardTimeout(str(stuck))
            return decide(timeout, attempt.policy(), context.attempt), timeout
        except BaseException as error:
            if isinstance(error, asyncio.CancelledError) and _worker_is_torn_down():
                raise
            if attempt.is_stopped() and not isinstance(error, TaskControl):
                return _stopped(attempt), error  # whatever the code makes of being stopped
            # A CancelledError: the code awaited something that was cancelled, or has cancelled itself.
            return decide(error, attempt.policy(), context.attempt), error

    def _bounded(self, outcome: Outcome) -> Outcome:
        """A result that is too large for the server must not hold up the settling of others."""
        most, value = self._state.settings.max_result, getattr(outcome, "value", None)
        if value is not None and len(value) > most:
            raise UnencodableResult(f"the result is {len(value):,} bytes, and max_result is {most:,}")
        return outcome

    async def _run(self, attempt: Attempt, context: Context) -> Outcome:
        task, message = attempt.task, attempt.message
        assert task is not None and message is not None
        limits = Limits(attempt)
        came, attempt.started = attempt.started, time.monotonic()
        if limits.timeout is not None and attempt.kind != "process":  # a child's limit begins when it is ready
            attempt.deadline = attempt.started + limits.timeout
            self._on_limit(attempt.deadline)
        self._state.tally.started(attempt, attempt.started - came)
        if self._state.observers:
            self._tell_started(attempt, context)
        if attempt.kind == "process":
            return await self._invoker.in_process(attempt, self._job(attempt, context, limits), limits)
        try:
            args, kwargs = task.codec.decode_args(message.args)
        except InvalidArguments as error:
            return Unknown(describe(error).message)
        if task.config.bind:
            args = (context, *args)
        invoke = self._invoker.on_loop if attempt.kind == "async" else self._invoker.in_thread
        value = await invoke(attempt, context, args, kwargs, limits)
        return Succeeded(task.codec.encode_result(value) if self._keeps_result(attempt) else None)

    def _keeps_result(self, attempt: Attempt) -> bool:
        return attempt.result_ttl(self._state.settings.result_ttl) > 0

    def _context(self, attempt: Attempt) -> Context:
        d = attempt.delivery
        message = attempt.message
        return Context(
            id=d.id,
            name=attempt.name,
            queue=d.queue,
            priority=d.priority,
            attempt=d.retries + 1,
            deliveries=d.deliveries,
            meta=(message.meta if message is not None else None) or {},
            worker=self._state.consumer,
        )

    def _job(self, attempt: Attempt, context: Context, limits: Limits) -> Job:
        task, message = attempt.task, attempt.message
        assert task is not None and message is not None
        return Job(
            module=task.module,
            qualname=task.qualname,
            name=task.name,
            args=bytes(message.args),
            id=context.id,
            queue=context.queue,
            priority=context.priority,
            attempt=context.attempt,
            deliveries=context.deliveries,
            meta=context.meta,
            worker=context.worker,
            soft=limits.soft,
            retry=message.retry,
            keep_result=self._keeps_result(attempt),
            headers=message.headers,
        )

    def _tell_started(self, attempt: Attempt, context: Context) -> None:
        d = attempt.delivery
        self._state.observers.emit(
            Started(
                id=d.id,
                name=context.name,
                queue=d.queue,
                priority=d.priority,
                attempt=context.attempt,
                waited=max(0, attempt.waited or 0) / 1e6,
            )
        )

    def _report_stuck(self, attempt: Attempt, stuck: ThreadStuck) -> None:
        d = attempt.delivery
        log.error("%s: its thread does not stop: %s; the worker will be replaced", d.id, stuck)
        self._state.observers.emit(
            ThreadStuckEvent(id=d.id, name=attempt.name, queue=d.queue, priority=d.priority, overdue=stuck.overdue)
        )
        self._on_stuck(f"a thread of {attempt.name} does not stop")


def _worker_is_torn_down() -> bool:
    """The task group of the duties was cancelled. `Task.cancelling` would also count what users' code does."""
    return current_effective_deadline() == -math.inf


async def _take_back_cancellations(me: asyncio.Task[Any]) -> None:
    """A runner outlives its attempts: what one of them has cancelled, itself, must not hit the next."""
    while me.cancelling():
        me.uncancel()
    try:
        # Before CPython 3.13 `uncancel` leaves a cancellation that was not delivered yet to the next await.
        await asyncio.sleep(0)
    except asyncio.CancelledError:
        if _worker_is_torn_down():
            raise


def _stopped(attempt: Attempt) -> Outcome | None:
    match attempt.stop:
        case Stop.CANCELLED:
            return Cancelled()
        case Stop.LOST:
            return None
        case _:
            return Released()


def _log(context: Context, outcome: Outcome, endings: Endings | None) -> None:
    """One line in the task's own context, so that it carries id, name, attempt, worker and trace."""
    variables = contextvars.copy_context() if endings is None else endings.variables.copy()
    variables.run(set_current, context)
    match outcome:
        case Retrying(delay, failure):
            text = "attempt failed, again in %.2f s: %s: %s"
            variables.run(log.warning, text, delay, failure.type, failure.message)
        case Failed(failure):
            text = "failed (%s): %s: %s\n%s"
            variables.run(log.error, text, failure.reason, failure.type, failure.message, failure.traceback.rstrip())
        case Unknown(error):
            variables.run(log.warning, "handed back: %s", error)
        case _:
            variables.run(log.debug, "%s", outcome)
