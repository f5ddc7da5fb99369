"""Tasks for child processes: `test_processes` runs them, each child imports them from here."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from penstock.errors import Reject, Retry, Snooze, SoftTimeout
from penstock.tasks.context import Context, current
from penstock.tasks.retry import RetryPolicy
from penstock.tasks.taskset import TaskSet

tasks = TaskSet()
_initialized: list[int] = []


def initialize() -> None:
    """Called in each new child by a test's pool."""
    _initialized.append(1)
    logging.basicConfig(level=logging.INFO, format="child says %(message)s")


@tasks.task(run="process")
def double(number: int) -> int:
    return number * 2


@tasks.task(run="process")
def pid() -> int:
    return os.getpid()


@tasks.task(run="process")
def big(size: int) -> bytes:
    return bytes(size)


@tasks.task(run="process")
def length(data: bytes) -> int:
    return len(data)


@tasks.task(run="process")
async def double_async(number: int) -> int:
    await asyncio.sleep(0)
    return number * 2


@tasks.task(run="process", bind=True)
def who(ctx: Context) -> list[Any]:
    assert ctx == current()
    return [ctx.id, ctx.name, ctx.queue, ctx.priority, ctx.attempt, ctx.deliveries, ctx.meta, ctx.worker]


@tasks.task(run="process")
async def who_async() -> str:
    return current().id


@tasks.task(run="process")
def main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@tasks.task(run="process")
def initialized() -> int:
    return len(_initialized)


@tasks.task(run="process", retry=RetryPolicy(max_retries=2, delay=10, jitter=0, on=ValueError))
def fail(how: str) -> None:
    errors: dict[str, BaseException] = {
        "value": ValueError("wrong"),
        "key": KeyError("wrong"),
        "exit": SystemExit(3),
        "interrupt": KeyboardInterrupt(),
        "retry": Retry("again", delay=5),
        "snooze": Snooze(60),
        "reject": Reject("never"),
    }
    raise errors[how]


@tasks.task(run="process")
async def fail_async(path: str) -> None:
    await asyncio.sleep(0)
    Path(path).read_text()  # noqa: ASYNC240


@tasks.task(run="process")
def unencodable() -> object:
    return object()


@tasks.task(run="process")
def spin(path: str) -> None:
    """Run for ever; `path` gets the process id when it has begun."""
    _write(path, str(os.getpid()))
    while True:
        pass


@tasks.task(run="process")
def die(how: str) -> None:
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(10)


@tasks.task(run="process")
def hang_up_and_die() -> None:
    """Leave a process behind that holds the child's files open, and die."""
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(5)"], close_fds=False)
    if os.fork() == 0:
        time.sleep(5)
    os._exit(4)


@tasks.task(run="process")
def soft() -> str:
    try:
        while True:
            pass
    except SoftTimeout:
        return "cleaned up"


@tasks.task(run="process")
async def soft_async(how: str) -> str:
    try:
        if how == "busy":
            while True:
                pass
        elif how == "waits":
            await asyncio.Event().wait()
        else:
            async with asyncio.timeout(60):
                await asyncio.gather(asyncio.sleep(60), asyncio.sleep(60))
    except SoftTimeout:
        await asyncio.sleep(0)
        task = asyncio.current_task()
        return f"cleaned up, {task.cancelling() if task else None}"
    return "not reached"


@tasks.task(run="process")
def prints() -> None:
    print("printed by the task")
    print("and an error", file=sys.stderr)
    logging.getLogger("task").info("hello")


@tasks.task(run="process")
def signalled() -> str:
    """Interrupted as by Ctrl-C and a supervisor; neither is its business."""
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGTERM)
    program = "import signal; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


@tasks.task(run="process")
def has_children() -> int:
    """A task may use multiprocessing itself."""
    child = multiprocessing.get_context("spawn").Process(target=initialize)
    child.start()
    child.join()
    return child.exitcode or 0


@tasks.task(run="process")
def sleepy(seconds: float) -> str:
    time.sleep(seconds)
    return "done"


def plain() -> None:
    """Not a task."""


def _write(path: str, text: str) -> None:
    """In one step: who finds the file finds the text."""
    Path(path + ".new").write_text(text)
    os.replace(path + ".new", path)
