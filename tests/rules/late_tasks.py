"""Worker processes that are killed and stalled, and their tasks. A fork of a process that has imported everything."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from penstock import App, Context, Reject, RetryPolicy, Snooze, TaskSet
from tests.chaos.crash_tasks import note, noted
from tests.servers import wait_until

#: Seconds. Short: what a dead worker held is waited for.
LEASE = 0.6


def make_tasks(folder: str) -> TaskSet:
    """Each notes its starts and ends in `folder`; while there is a file ``stay`` those that `nap` do not end."""
    tasks = TaskSet()

    @tasks.task(name="nap", bind=True)
    async def nap(ctx: Context) -> int:
        note(folder, "start", ctx.id)
        while Path(folder, "stay").exists():  # noqa: ASYNC110, ASYNC240 - another process removes it
            await asyncio.sleep(0.01)
        note(folder, "end", ctx.id)
        return os.getpid()

    @tasks.task(name="keeps_the_gil_once", bind=True)
    def keeps_the_gil_once(ctx: Context) -> int:
        note(folder, "start", ctx.id)
        try:
            if noted(folder).count(f"start {ctx.id}") == 1:
                ctypes.PyDLL(None).sleep(2)  # work; PyDLL, unlike CDLL, does not let other threads run
        finally:  # it may be stopped as soon as they run again
            note(folder, "end", ctx.id)
        return os.getpid()

    @tasks.task(name="ends", bind=True, retry=RetryPolicy(max_retries=1, delay=0, jitter=0, never=Reject))
    async def ends(ctx: Context, how: str) -> str:
        note(folder, "start", ctx.id)
        if how == "rejects":
            raise Reject("no")
        if how == "retries" and ctx.attempt == 1:
            raise ValueError
        if how == "snoozes" and f"snoozed {ctx.id}" not in noted(folder):
            note(folder, "snoozed", ctx.id)
            raise Snooze(0.01)
        return how

    return tasks


def make_app(url: str, namespace: str, folder: str, **settings: Any) -> App:
    """An app with these tasks, for workers and clients."""
    app = App("late", url=url, namespace=namespace, lease=LEASE, sync_in_loop="allow", **settings)
    app.include(make_tasks(folder))
    return app


def run_worker(url: str, namespace: str, folder: str) -> None:
    """One worker; it ends with whoever started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG

    async def main() -> None:
        worker = make_app(url, namespace, folder).worker()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()

    asyncio.run(main())


class Process:
    """A worker in a process of its own."""

    _context = multiprocessing.get_context("forkserver")

    def __init__(self, url: str, namespace: str, folder: str) -> None:
        self._context.set_forkserver_preload(["tests.rules.late_tasks", "penstock.consumers.worker"])
        self._process: ForkServerProcess = self._context.Process(
            target=run_worker, args=(url, namespace, folder), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL, and wait; it must have lived until then."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()
        assert self._process.exitcode == -signal.SIGKILL

    def strike(self) -> None:
        """SIGKILL, from any thread; `wait` afterwards."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        wait_until(lambda: self._process.exitcode is not None, 20)
        self._process.join()

    def stop(self) -> int | None:
        """SIGTERM, and wait; the exit code."""
        if self._process.exitcode is None:
            os.kill(self.pid, signal.SIGCONT)
            self._process.terminate()
            self.wait()
        return self._process.exitcode
