"""Calls the user's function: on the loop, in a thread or in a process, within its limits."""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from typing import Any

from anyio import CancelScope, current_time

from penstock.consumers.attempt import Attempt
from penstock.consumers.outcome import Outcome
from penstock.consumers.processes import Job, ProcessPool
from penstock.consumers.threads import ThreadPool
from penstock.errors import HardTimeout, SoftTimeout
from penstock.tasks.context import Context, set_current


class Interrupted(Exception):
    """The code was stopped because `Attempt.stop` asked for it."""


class Invoker:
    """The three ways to run a task. Raises what the code raises, `HardTimeout`, or `Interrupted`."""

    def __init__(self, threads: ThreadPool, processes: ProcessPool) -> None:
        self._threads = threads
        self._processes = processes
        #: Told when code is about to wait for something, in a thread or process or on the loop.
        self.on_wait: Callable[[], object] = lambda: None
        # Each attempt starts from here, so that no task sees what another one set.
        self._context = contextvars.copy_context()
        # `anyio.CancelScope()` finds out for each scope which event loop runs: 1.5 us, a tenth of a small task.
        self._scope = type(CancelScope())

    def on_loop(self, attempt: Attempt, context: Context, args: Any, kwargs: Any, limits: Limits) -> Awaitable[Any]:
        """Await an ``async def`` task."""
        variables = self._variables(attempt, context)
        assert attempt.task is not None
        attempt.coro = coro = variables.run(attempt.task.fn, *args, **kwargs)
        return self._guarded(attempt, limits.timeout, _within(variables, coro, limits.soft, self.on_wait))

    def in_thread(self, attempt: Attempt, context: Context, args: Any, kwargs: Any, limits: Limits) -> Awaitable[Any]:
        """Run a plain function in a thread. The pool keeps the limits itself."""
        variables = self._variables(attempt, context)
        assert attempt.task is not None
        call = partial(attempt.task.fn, *args, **kwargs)
        self.on_wait()
        run = self._threads.run(call, context=variables, soft=limits.soft, timeout=limits.timeout)
        return self._guarded(attempt, None, run)

    def in_process(self, attempt: Attempt, job: Job, limits: Limits) -> Awaitable[Outcome]:
        """Run a function in a process of its own; its outcome is decided there."""
        self.on_wait()
        return self._guarded(attempt, None, self._processes.run(job, timeout=limits.timeout))

    def _variables(self, attempt: Attempt, context: Context) -> contextvars.Context:
        """The attempt's own context variables, in which its middlewares have begun."""
        variables = self._context.copy()
        variables.run(set_current, context)
        assert attempt.task is not None and attempt.message is not None
        if attempt.task.middlewares:
            attempt.endings = attempt.task.middlewares.begin(context, attempt.message.headers, variables)
        return variables

    async def _guarded(self, attempt: Attempt, timeout: float | None, running: Any) -> Any:
        with self._scope() as scope:
            if timeout is not None:
                scope.deadline = current_time() + timeout
            attempt.interrupt = scope.cancel
            if attempt.stop is not None:
                scope.cancel()
            try:
                return await running
            finally:
                attempt.interrupt = None
        if attempt.stop is not None:
            raise Interrupted
        raise HardTimeout(f"stopped after {timeout:g} s")


class Limits:
    """Seconds; None: no limit."""

    __slots__ = ("soft", "timeout")

    def __init__(self, attempt: Attempt) -> None:
        assert attempt.task is not None and attempt.message is not None
        options, asked = attempt.task.config, attempt.message.timeout
        self.timeout = options.timeout if asked is None else asked or None
        soft = options.soft_timeout
        # A call may have asked for less than the decorator's soft limit.
        self.soft = soft if soft and (self.timeout is None or soft < self.timeout) else None


@types.coroutine
def _within(
    variables: contextvars.Context, coro: Coroutine[Any, Any, Any], soft: float | None, on_wait: Callable[[], object]
) -> Generator[Any, Any, Any]:
    """Await `coro` with context variables of its own, without the cost of an asyncio task for it.

    Runs each of its steps in `variables`. After `soft` seconds it raises `SoftTimeout` at the
    `await` where it stands: cancels what it waits for, and swaps the exception on its way in.
    """
    alarm = _Alarm(soft) if soft is not None else None
    step: Callable[[], Any] = partial(coro.send, None)
    try:
        while True:
            waited_for = variables.run(step)
            on_wait()
            try:
                step = partial(coro.send, (yield waited_for))
            except GeneratorExit:
                coro.close()
                raise
            except BaseException as error:
                step = partial(coro.throw, alarm.swap(error) if alarm is not None else error)
    except StopIteration as end:
        return end.value
    finally:
        if alarm is not None:
            alarm.stop()


class _Alarm:
    """Interrupts the asyncio task that it is made in, once."""

    def __init__(self, after: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._after = after
        self._rang = False
        self._timer = asyncio.get_running_loop().call_later(after, self._ring)

    def _ring(self) -> None:
        self._rang = True
        self._task.cancel()

    def swap(self, error: BaseException) -> BaseException:
        """`SoftTimeout` in place of the cancellation that this alarm caused; any other error as it is."""
        if not self._rang or not isinstance(error, asyncio.CancelledError):
            return error
        self._rang = False
        self._task.uncancel()
        return SoftTimeout(f"soft limit of {self._after:g} s")

    def stop(self) -> None:
        self._timer.cancel()
        if self._rang:  # rang in the very last step: take the cancellation back
            self._task.uncancel()
