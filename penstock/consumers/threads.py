"""Runs plain functions in threads, and stops them: a thread pool that knows time limits.

A thread is stopped by an exception that CPython raises in its bytecode
(``PyThreadState_SetAsyncExc``). It arrives at some later instruction, and not before a call into
C code returns, so two things need care:

- It must never arrive in another call than the one it was meant for. Each call has a gate, a lock
  under which its thread opens and closes it and the loop sends a stop. Who closes it takes back,
  under the same lock, what was sent and has not arrived.
- It may arrive in the pool's own code, after the user's function has returned and before the
  gate is closed. That code is `_Call.execute`, which catches it and starts again until it is through.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

import anyio

from penstock.errors import HardTimeout, SoftTimeout, TaskStopped

T = TypeVar("T")

#: Seconds a thread gets to end after a hard timeout or a cancellation, before it is given up.
STOP_GRACE = 2.0
#: Seconds between two exceptions into the same call: user code may have swallowed the one before.
REPEAT = 1.0

# Takes a class, not an instance: CPython raises it without arguments. NULL takes back a pending one.
_set_async_exc = ctypes.pythonapi.PyThreadState_SetAsyncExc
_NULL = ctypes.py_object()
_NOTHING: Any = object()


class ThreadStuck(HardTimeout):
    """A thread went on running after it was told to stop. It is given up, and lives on.

    A HardTimeout, so that whatever a policy says about those holds.

    Attributes:
        overdue: seconds since it was told.
    """

    def __init__(self, overdue: float) -> None:
        super().__init__(f"the thread did not end within {overdue:.1f} s after it was told to stop")
        self.overdue = overdue


class ThreadPool:
    """At most `size` daemon threads that run functions for one asyncio loop.

    The caller holds a slot for each call: no more than `size` of them run at the same time.

    Args:
        size: threads; each is started when it is first needed.
        name: prefix of the threads' names.
        stop_grace: seconds that a call gets to end after a hard timeout or a cancellation.
    """

    def __init__(self, size: int, *, name: str = "penstock", stop_grace: float = STOP_GRACE) -> None:
        self.size = size
        self._name = name
        self.stop_grace = stop_grace
        self._inbox: SimpleQueue[_Call[Any] | None] = SimpleQueue()
        self._done: deque[_Call[Any]] = deque()
        self._woken = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._threads = 0
        self._started = 0
        self._running = 0
        self._stuck = 0
        self._closed = False

    @property
    def stuck(self) -> int:
        """Threads that were given up and still run."""
        return self._stuck

    async def run(
        self, call: Callable[[], T], *, context: Context, soft: float | None = None, timeout: float | None = None
    ) -> T:
        """What `call` returns, run inside `context` in one of the threads.

        When the awaiting task is cancelled, TaskStopped is raised in the thread, and the
        cancellation goes on when the thread has ended.

        Args:
            call: the function.
            context: its context variables.
            soft: seconds after which SoftTimeout is raised in its code, once. Default: never.
            timeout: seconds after which HardTimeout is raised in its code, and again each second.
                Default: never.

        Raises:
            HardTimeout: it was not done within `timeout`, whatever it made of the exception.
            ThreadStuck: it did not end within the grace, after `timeout` or after the cancellation.
            BaseException: whatever `call` raised, except that a CancelledError of its own comes
                out as a RuntimeError: here it would look like the cancellation of this task.
        """
        if (loop := self._loop) is None:
            loop = self._loop = asyncio.get_running_loop()
        if self._closed:
            raise RuntimeError("the thread pool is closed")
        if self._threads <= self._running and self._threads < self.size:
            self._start_thread()
        job = _Call(call, context, loop.create_future())
        self._running += 1
        self._inbox.put(job)
        limits = None if soft is None and timeout is None else _Limits(self, job, soft, timeout)
        try:
            await job.ended
        except asyncio.CancelledError:
            if limits is not None:
                limits.lift()
            await self._stop(loop, job)
            if job.stuck is None:
                raise
        finally:
            self._running -= 1
            if limits is not None:
                limits.lift()
        return job.result(timeout)

    def close(self) -> None:
        """Let idle threads end now and busy ones after their call. Waits for nothing."""
        if not self._closed:
            self._closed = True
            for _ in range(self._threads):
                self._inbox.put(None)

    def give_up(self, job: _Call[Any], overdue: float) -> None:
        """Forget the thread that runs `job`; does nothing if it has ended just now."""
        if not job.abandon(ThreadStuck(overdue)):
            return
        if job.thread_id:
            self._stuck += 1
            self._threads -= 1
        if not job.ended.done():
            job.ended.set_result(None)
        self._nag(job)

    def _nag(self, job: _Call[Any]) -> None:
        """Go on telling a thread that was given up: one of the exceptions may get through."""
        if self._loop is not None and not self._closed and job.send(HardTimeout):
            self._loop.call_later(REPEAT, self._nag, job)

    async def _stop(self, loop: asyncio.AbstractEventLoop, job: _Call[Any]) -> None:
        """Stop `job`, whose awaiting task was cancelled, and wait until it has ended or is given up."""
        told = loop.time()
        job.ended = loop.create_future()  # the old one was cancelled with the task
        with anyio.CancelScope(shield=True):  # anyio would cancel each await below again
            while not job.finished and job.stuck is None:
                overdue = loop.time() - told
                if overdue >= self.stop_grace:
                    self.give_up(job, overdue)
                    return
                job.send(TaskStopped)
                try:
                    await asyncio.wait((job.ended,), timeout=min(REPEAT, self.stop_grace - overdue))
                except asyncio.CancelledError:
                    continue  # cancelled twice: the first one is raised when the thread has ended

    def _start_thread(self) -> None:
        self._started += 1
        threading.Thread(target=self._work, name=f"{self._name}-{self._started}", daemon=True).start()
        self._threads += 1

    def _work(self) -> None:
        """What a thread does. A stop can arrive in `execute` only: elsewhere no gate is open."""
        get, done = self._inbox.get, self._done.append
        ident = threading.get_ident()
        while (job := get()) is not None:
            job.execute(ident)
            given_up = job.stuck is not None and job.thread_id == ident
            done(job)
            del job  # an idle thread must not keep arguments and results alive
            # Only the first of a batch wakes the loop. Safe without a lock: the loop clears the
            # flag before it looks, so who finds it set has appended before the loop looks.
            if not self._woken:
                self._woken = True
                try:
                    self._loop.call_soon_threadsafe(self._collect)  # type: ignore[union-attr]
                except RuntimeError:  # the loop is closed
                    return
            if given_up:
                return

    def _collect(self) -> None:
        self._woken = False
        done = self._done
        while done:
            job = done.popleft()
            job.finished = True
            if job.stuck is not None:
                self._stuck -= job.thread_id != 0
            elif not job.ended.done():
                job.ended.set_result(None)


class _Call(Generic[T]):
    """One call: its gate, and how it ended."""

    __slots__ = (
        "_call", "_context", "_error", "_gate", "_open", "_pending", "_sent", "_value",
        "ended", "finished", "late", "stuck", "thread_id",
    )  # fmt: skip

    def __init__(self, call: Callable[[], T], context: Context, ended: asyncio.Future[None]) -> None:
        self._call = call
        self._context = context
        self._gate = threading.Lock()
        self._open = True
        self._sent = False
        self._pending: type[TaskStopped] | None = None
        self._value: T = _NOTHING
        self._error: BaseException | None = None
        self.ended = ended  # done when the loop knows that it has ended, or gives it up
        self.finished = False  # the loop knows that the thread is through with it
        self.late = False  # the hard limit was reached before it ended
        self.stuck: ThreadStuck | None = None  # set when it is given up
        self.thread_id = 0  # of the thread that runs it; 0 before one does

    # In the thread:

    def execute(self, ident: int) -> None:
        """Run the call and close its gate."""
        try:
            self._execute(ident)
        except TaskStopped:  # a second one, that hit the handling of the first
            self._execute(ident)

    def _execute(self, ident: int) -> None:
        """Called again, it goes on where a stop interrupted it."""
        while True:
            try:
                if self._enter(ident):
                    self._run()
                self._leave(ident)
                return
            except TaskStopped as stop:
                # It arrived in this class. As good as in the user's last or first instruction.
                if self._error is None and self._value is _NOTHING:
                    self._error = stop

    def _enter(self, ident: int) -> bool:
        with self._gate:
            if self.thread_id or not self._open:
                return False
            self.thread_id = ident  # from here on a stop may arrive at any instruction
        if self._pending is not None:
            raise self._pending
        return True

    def _run(self) -> None:
        try:
            self._value = self._context.run(self._call)
        except BaseException as error:
            self._error = error

    def _leave(self, ident: int) -> None:
        with self._gate:
            self._open = False
            if self._sent:
                _set_async_exc(ctypes.c_ulong(ident), _NULL)

    # In the loop:

    def send(self, stop: type[TaskStopped]) -> bool:
        """Raise `stop` in the call's code; False if it has ended."""
        with self._gate:
            if not self._open:
                return False
            if self.thread_id:
                self._sent = True
                _set_async_exc(ctypes.c_ulong(self.thread_id), ctypes.py_object(stop))
            else:
                self._pending = stop
            return True

    def abandon(self, stuck: ThreadStuck) -> bool:
        """Give it up; False if it has ended."""
        with self._gate:
            if not self._open:
                return False
            self.stuck = stuck
            self._open = self.thread_id != 0  # one that no thread has begun never begins
            return True

    def result(self, timeout: float | None) -> T:
        """What the call returned; raises what it raised, or what became of it."""
        error, self._error = self._error, None  # else a cycle: error, traceback, frame, self
        try:
            if self.stuck is not None:
                raise self.stuck
            if self.late:
                raise _hard_timeout(error, timeout)
            if isinstance(error, asyncio.CancelledError):
                raise RuntimeError("the task's code raised CancelledError") from error
            if error is not None:
                raise error
            return self._value
        finally:
            del error


def _hard_timeout(error: BaseException | None, timeout: float | None) -> HardTimeout:
    """The HardTimeout that came out of the code, with a message; else a new one caused by `error`."""
    message = f"not done within {timeout:g} s"
    if type(error) is HardTimeout:
        error.args = (message,)
        return error
    new = HardTimeout(message)
    new.__cause__ = error
    return new


class _Limits:
    """The time limits of one call; not made for calls that have none."""

    __slots__ = ("_deadline", "_job", "_loop", "_pool", "_timers")

    def __init__(self, pool: ThreadPool, job: _Call[Any], soft: float | None, timeout: float | None) -> None:
        self._pool, self._job = pool, job
        self._loop = loop = asyncio.get_running_loop()
        self._timers: list[asyncio.TimerHandle] = []
        self._deadline = loop.time() + (timeout or 0.0)
        if soft is not None and (timeout is None or soft < timeout):
            self._timers.append(loop.call_later(soft, job.send, SoftTimeout))
        if timeout is not None:
            self._timers.append(loop.call_later(timeout, self._over))

    def lift(self) -> None:
        for timer in self._timers:
            timer.cancel()

    def _over(self) -> None:
        overdue = self._loop.time() - self._deadline
        if overdue >= self._pool.stop_grace:
            self._pool.give_up(self._job, overdue)
        elif self._job.send(HardTimeout):
            self._job.late = True
            wait = min(REPEAT, self._pool.stop_grace - overdue)
            self._timers.append(self._loop.call_later(wait, self._over))
