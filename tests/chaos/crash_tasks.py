"""The tasks of the crash points, and the worker processes that are killed."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from penstock import App, Context, Reject, RetryPolicy, Snooze, TaskSet

#: Seconds. Short, so that a run that has to wait for its end does not take long.
LEASE = 0.9


def note(folder: str, word: str, key: str) -> None:
    """One line of what user code did. Appending a short line is atomic, and survives SIGKILL."""
    fd = os.open(Path(folder, "notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, f"{word} {key}\n".encode())
    os.close(fd)


def noted(folder: str) -> list[str]:
    path = Path(folder, "notes")
    return path.read_text().splitlines() if path.exists() else []


def make_tasks(folder: str) -> TaskSet:
    """A new set (it belongs to one app); each task notes its start and its end in `folder`."""
    tasks = TaskSet()

    def begin(ctx: Context) -> str:
        key = ctx.id.partition(":")[2]
        note(folder, "start", key)
        return key

    @tasks.task(name="add", bind=True)
    async def add(ctx: Context, n: int) -> int:
        note(folder, "end", begin(ctx))
        return n + 1

    @tasks.task(name="in_thread", bind=True)
    def in_thread(ctx: Context, n: int) -> int:
        note(folder, "end", begin(ctx))
        return n + 1

    @tasks.task(name="flaky", bind=True, retry=RetryPolicy(max_retries=3, delay=0.05, jitter=0))
    async def flaky(ctx: Context, n: int) -> int:
        key = begin(ctx)
        if ctx.attempt == 1:
            raise ValueError("the first attempt")
        note(folder, "end", key)
        return n + 1

    @tasks.task(name="dozes", bind=True)
    async def dozes(ctx: Context, n: int) -> int:
        key = begin(ctx)
        if f"dozed {key}" not in noted(folder):
            note(folder, "dozed", key)
            raise Snooze(0.05)
        note(folder, "end", key)
        return n + 1

    @tasks.task(name="refuses", bind=True)
    async def refuses(ctx: Context) -> None:
        begin(ctx)
        raise Reject("no")

    @tasks.task(name="mends", bind=True)
    async def mends(ctx: Context, n: int) -> int:
        key = begin(ctx)
        if "mended all" not in noted(folder):
            raise ValueError("not yet")
        note(folder, "end", key)
        return n + 1

    @tasks.task(name="large", bind=True)
    async def large(ctx: Context) -> str:
        note(folder, "end", begin(ctx))
        return "x" * 5000

    @tasks.task(name="long", bind=True)
    async def long(ctx: Context, n: int) -> int:
        key = begin(ctx)
        await asyncio.sleep(0.7 * LEASE)
        note(folder, "end", key)
        return n + 1

    @tasks.task(name="waits", bind=True)
    async def waits(ctx: Context) -> None:
        begin(ctx)
        await asyncio.sleep(3600)

    @tasks.task(name="held", bind=True)
    async def held(ctx: Context, n: int) -> int:
        key = begin(ctx)
        while "go on" not in noted(folder):  # noqa: ASYNC110 - another process says so
            await asyncio.sleep(0.02)
        note(folder, "end", key)
        return n + 1

    return tasks


def make_app(url: str, namespace: str, folder: str, **settings: Any) -> App:
    """Client and worker of one run; `command_timeout` is short, for the replies that never come."""
    app = App("chaos", url=url, namespace=namespace, lease=LEASE, command_timeout=1.0, **settings)
    app.include(make_tasks(folder))
    return app


def run_worker(url: str, namespace: str, folder: str, grace: float) -> None:
    """A worker process: ends in order at SIGTERM, and with whoever started it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    logging.basicConfig(filename=Path(folder, "log"), format="%(asctime)s %(process)d %(name)s %(message)s", force=True)

    async def main() -> None:
        worker = make_app(url, namespace, folder, grace=grace).worker()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()

    asyncio.run(main())
