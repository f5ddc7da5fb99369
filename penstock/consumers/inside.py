"""A worker inside the caller's own process, for tests and notebooks: the same worker, no supervisor."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import anyio

from penstock.consumers.worker import Worker

MakeWorker = Callable[[], Worker]


class Running:
    """``async with`` runs the worker in the caller's event loop, ``with`` in a thread that has its own.

    Leaving the block stops it as SIGTERM would: running tasks get the grace period.
    """

    def __init__(self, make: MakeWorker) -> None:
        self._make = make
        self._worker: Worker | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: _WorkerThread | None = None

    async def __aenter__(self) -> Worker:
        self._worker = worker = self._make()
        self._task = asyncio.create_task(worker.run(), name="penstock-worker")
        ready = asyncio.create_task(worker.ready.wait())
        try:
            await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()  # there will be no `__aexit__`
            await _end_of(worker, self._task)
            raise
        finally:
            ready.cancel()
        if self._task.done():
            self._task.result()  # it could not start: raises why
        return worker

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._worker is not None and self._task is not None
        self._worker.stop()
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            self._worker.stop()  # who is cancelled does not wait for the grace period
        error_of_worker = await _end_of(self._worker, self._task)
        if error_of_worker is not None:
            raise error_of_worker

    def __enter__(self) -> Worker:
        self._thread = _WorkerThread(self._make)
        return self._thread.wait_ready()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._thread is not None
        self._thread.stop()


def drained(make: MakeWorker, timeout: float | None) -> None:
    """Run a burst worker in a thread until it ends by itself. TimeoutError after `timeout` seconds."""
    _WorkerThread(make).join(timeout)


async def adrained(make: MakeWorker, timeout: float | None) -> None:
    """As `drained`, in the caller's event loop."""
    worker = make()
    task = asyncio.create_task(worker.run(), name="penstock-worker")
    try:
        done, _ = await asyncio.wait({task}, timeout=timeout)
    except asyncio.CancelledError:
        worker.stop()  # and once more: who is cancelled does not wait for the grace period
        raise
    finally:
        worker.stop()
        error = await _end_of(worker, task)
    if not done:
        raise TimeoutError(f"not drained within {timeout:g} s") from error
    if error is not None:
        raise error


async def _end_of(worker: Worker, task: asyncio.Task[None]) -> BaseException | None:
    """Wait for the end of a worker that was told to stop, and what it ended with. A cancellation makes it hurry, and
    goes on after that: torn down, the worker would leave its tasks to run out of their leases."""
    cancelled: asyncio.CancelledError | None = None
    with anyio.CancelScope(shield=True):  # anyio would cancel each of the awaits again
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as once_more:
                cancelled = once_more
                worker.stop()
    error = None if task.cancelled() else task.exception()
    if cancelled is not None:
        raise cancelled
    return error


class _WorkerThread:
    def __init__(self, make: MakeWorker) -> None:
        self._make = make
        self._worker: Worker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._made = threading.Event()
        self._ready = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="penstock-worker", daemon=True)
        self._thread.start()

    def wait_ready(self) -> Worker:
        self._ready.wait()
        self._raise_error()
        assert self._worker is not None
        return self._worker

    def stop(self) -> None:
        self._end()
        self._raise_error()

    def join(self, timeout: float | None) -> None:
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._end()
            raise TimeoutError(f"not drained within {timeout:g} s") from self._error
        self._raise_error()

    def _end(self) -> None:
        self._made.wait()
        if self._loop is not None and self._worker is not None:
            with suppress(RuntimeError):  # the loop is closed: it has ended
                self._loop.call_soon_threadsafe(self._worker.stop)
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            self._error = error
        finally:
            self._made.set()
            self._ready.set()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = self._make()
        self._made.set()
        ready = asyncio.create_task(self._tell_ready(self._worker))
        try:
            await self._worker.run()
        finally:
            ready.cancel()

    async def _tell_ready(self, worker: Worker) -> None:
        await worker.ready.wait()
        self._ready.set()

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error
