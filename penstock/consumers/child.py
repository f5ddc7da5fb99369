"""What runs in the process of a slot: one attempt after the other, until the worker ends it.

Frames both ways: four bytes of length, most significant first, then msgpack. The worker sends a
`Job`; the child answers with an empty frame when the task's code begins, and with the `Outcome`
when it has ended. An empty frame from the worker ends the child.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import ctypes
import importlib
import inspect
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from queue import SimpleQueue
from typing import Any

import msgspec

from penstock.consumers.outcome import Failed, Outcome, Succeeded, Unknown, decide, describe, encode_outcome, ending_of
from penstock.errors import InvalidTask, SoftTimeout
from penstock.streams.message import RetrySpec
from penstock.tasks.context import Context, running
from penstock.tasks.retry import RetryPolicy
from penstock.tasks.task import AnyTask, Task

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One attempt, as a child process needs to know it."""

    #: Where the task is found: an importable module and the qualified name of the task in it.
    module: str
    qualname: str
    #: The task's registered name.
    name: str
    #: msgpack map of the arguments.
    args: bytes
    id: str
    queue: str
    priority: str
    attempt: int
    deliveries: int
    meta: dict[str, Any] | None = None
    worker: str = ""
    #: Seconds after which SoftTimeout is raised in the task's code.
    soft: float | None = None
    #: This call's own policy; `on` and `never` stay those of the task.
    retry: RetrySpec | None = None
    #: False: the result is not kept, so it is not encoded either.
    keep_result: bool = True
    headers: dict[str, str] | None = None


encode_job = msgspec.msgpack.Encoder().encode
_decode_job = msgspec.msgpack.Decoder(Job).decode


def frame(body: bytes) -> bytes:
    """`body` with its length in front."""
    return len(body).to_bytes(4, "big") + body


def main(conn: socket.socket, parent: int, initializer: tuple[str, str] | None) -> None:
    """Run jobs from `conn` until an empty frame; `parent` is the worker's process id."""
    _die_with(parent)
    # The worker decides when this process ends. A handler and not SIG_IGN, which programs that
    # the task starts would inherit: exec resets handlers, but keeps what is ignored.
    signal.signal(signal.SIGINT, _ignore)
    signal.signal(signal.SIGTERM, _ignore)
    conn.setblocking(True)  # socket.setdefaulttimeout() of the worker has made it non-blocking
    jobs: SimpleQueue[Job | None] = SimpleQueue()
    threading.Thread(target=_read, args=(conn, jobs), name="penstock-jobs", daemon=True).start()
    with conn:
        if initializer is not None:
            _find(*initializer)()
        while (job := jobs.get()) is not None:
            outcome = attempt(job, lambda: conn.sendall(frame(b"")))
            _flush()  # what the task printed: a pipe or file is block-buffered, and a kill loses the buffer
            conn.sendall(frame(encode_outcome(outcome)))
            del job, outcome


def attempt(job: Job, begin: Callable[[], None]) -> Outcome:
    """Run `job` and say how it ended; calls `begin` just before the task's code begins."""
    try:
        task = _find_task(job)
        own = task.config.retry
        policy = own if job.retry is None else RetryPolicy.from_spec(job.retry, own)
    except BaseException as error:  # an import runs users' code, which may raise SystemExit
        return Failed(describe(error))
    try:
        args, kwargs = task.codec.decode_args(job.args)
    except Exception as error:
        return Unknown(describe(error).message)
    context = Context(
        id=job.id,
        name=job.name,
        queue=job.queue,
        priority=job.priority,
        attempt=job.attempt,
        deliveries=job.deliveries,
        meta=job.meta or {},
        worker=job.worker,
    )
    begin()
    call = partial(task.fn, *([context] if task.config.bind else ()), *args, **kwargs)
    variables, endings = contextvars.copy_context(), None
    if task.middlewares:
        endings = task.middlewares.begin(context, job.headers, variables)
    raised: BaseException | None = None
    outcome: Outcome
    try:
        value = variables.run(_call_as, context, call, job.soft)
        outcome = Succeeded(task.codec.encode_result(value) if job.keep_result else None)
    except BaseException as error:
        raised = error
        outcome = decide(error, policy, job.attempt)
    if endings is not None:
        endings.tell(ending_of(outcome), raised)
    return outcome


def _call_as(context: Context, call: Callable[[], Any], soft: float | None) -> Any:
    with running(context):
        return _call(call, soft)


def _find_task(job: Job) -> AnyTask:
    found = _find(job.module, job.qualname)
    if not isinstance(found, Task):
        raise InvalidTask(
            f"{job.module}.{job.qualname} is not a task but {type(found).__name__!r}: a task that runs in a process "
            "must be found under its function's own name, as a decorator leaves it"
        )
    return found


def _find(module: str, qualname: str) -> Any:
    found: Any = importlib.import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


def _call(call: Callable[[], Any], soft: float | None) -> Any:
    with _SoftLimit(soft) as limit:
        value = call()
        if not inspect.iscoroutine(value):
            return value
        limit.steps = _Steps(value)
        return asyncio.run(limit.steps.run())


class _SoftLimit:
    """Raises SoftTimeout in the main thread after `seconds`, once; never after its block is left."""

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self.steps: _Steps | None = None
        self._armed = False
        self._before: Any = None

    def __enter__(self) -> _SoftLimit:
        if self.seconds is not None:
            self._before = signal.signal(signal.SIGALRM, self._alarm)
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, *_: object) -> None:
        if self.seconds is not None:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL if self._before is None else self._before)

    def _alarm(self, *_: object) -> None:
        if not self._armed:
            return
        self._armed = False
        if self.steps is not None and not self.steps.inside:
            self.steps.interrupt(_soft_timeout(self.seconds))  # raised here it would break the event loop
        else:
            raise _soft_timeout(self.seconds)


class _Steps:
    """Awaits a coroutine so that an exception can be raised in it while it waits for something."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._coroutine = coroutine
        self._error: BaseException | None = None
        self._task: asyncio.Task[Any] | None = None
        #: Its own code, and not the event loop's, is running.
        self.inside = False

    async def run(self) -> Any:
        self._task = asyncio.current_task()
        return await self

    def interrupt(self, error: BaseException) -> None:
        """Raise `error` where the coroutine waits. For signal handlers."""
        self._error = error
        if self._task is not None:
            # A handler that returns does not end a select() that waits; this does. RuntimeError:
            # the loop is closed, the coroutine has ended.
            with contextlib.suppress(RuntimeError):
                self._task.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._task is not None and self._error is not None:
            self._task.cancel()

    def __await__(self) -> Generator[Any, Any, Any]:
        step = partial(self._coroutine.send, None)
        if self._error is not None:
            step = partial(self._coroutine.throw, self._take())
        while True:
            self.inside = True
            try:
                waits_for = step()
            except StopIteration as stop:
                return stop.value
            finally:
                self.inside = False
            try:
                step = partial(self._coroutine.send, (yield waits_for))
            except asyncio.CancelledError as error:
                if self._error is not None and self._task is not None:
                    self._task.uncancel()
                    step = partial(self._coroutine.throw, self._take())
                else:
                    step = partial(self._coroutine.throw, error)
            except BaseException as error:
                step = partial(self._coroutine.throw, error)

    def _take(self) -> BaseException:
        error, self._error = self._error, None
        assert error is not None
        return error


def _soft_timeout(seconds: float | None) -> SoftTimeout:
    return SoftTimeout(f"not done within {seconds:g} s")


def _die_with(parent: int) -> None:
    """Make the kernel kill this process when the worker dies; elsewhere `_read` notices."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was told
        os._exit(1)


def _read(conn: socket.socket, jobs: SimpleQueue[Job | None]) -> None:
    """Pass on the worker's frames; the end of the stream without an empty frame is its death."""
    try:
        with conn.makefile("rb") as stream:
            while size := int.from_bytes(_exactly(stream.read(4), 4), "big"):
                jobs.put(_decode_job(_exactly(stream.read(size), size)))
    except BaseException:
        os._exit(1)
    jobs.put(None)


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise EOFError
    return data


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # None, closed, or a user's object
            stream.flush()


def _ignore(*_: object) -> None:
    """Handle a signal by doing nothing."""
