"""Tasks of the worker processes, and of slots that are processes: children import them from here."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from penstock import Context, RetryPolicy, Snooze, SoftTimeout, TaskSet

tasks = TaskSet()


@tasks.task
async def add(a: int, b: int) -> int:
    return a + b


@tasks.task(bind=True)
async def note(ctx: Context, path: str, seconds: float = 0.0) -> str:
    """Writes a line when it starts and one when it is done."""
    _log(path, f"start {ctx.id}")
    await asyncio.sleep(seconds)
    _log(path, f"done {ctx.id}")
    return ctx.worker


@tasks.task
async def die_if(path: str) -> str:
    """Dies while `path` exists."""
    _die_if(path)
    return "alive"


@tasks.task(run="process")
def square(n: int) -> int:
    return n * n


@tasks.task(run="process")
def pid_of_child() -> int:
    return os.getpid()


@tasks.task(run="process", bind=True)
def who(ctx: Context) -> list[str | int]:
    return [ctx.id, ctx.attempt, ctx.queue]


@tasks.task(run="process")
def busy(path: str, seconds: float) -> None:
    """Works for `seconds`; `path` is written at the start, and when it was told to stop."""
    Path(path).write_text("started")
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
    except SoftTimeout:
        Path(path).write_text("soft")
        raise


@tasks.task(run="process", soft_timeout=0.3, timeout=60)
def busy_soft(path: str) -> str:
    try:
        busy(path, 60)
    except SoftTimeout:
        return "cleaned up"
    return "?"


@tasks.task(run="process")
def die_in_child() -> None:
    os._exit(7)


@tasks.task(run="process")
def raise_in_child(kind: str) -> None:
    raise {"value": ValueError, "exit": SystemExit, "interrupt": KeyboardInterrupt, "base": BaseException}[kind](kind)


@tasks.task(run="process", retry=RetryPolicy(max_retries=2, delay=0.01, jitter=0))
def fail_twice(path: str) -> int:
    runs = len(Path(path).read_text()) if Path(path).exists() else 0
    Path(path).write_text("x" * (runs + 1))
    if runs < 2:
        raise ValueError(runs)
    return runs


@tasks.task(run="process")
def snooze_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).write_text("x")
        raise Snooze(0.01)
    return "awake"


@tasks.task(run="process")
def unencodable() -> object:
    return object()


def _log(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line} {os.getpid()}\n")


def _die_if(path: str) -> None:
    if Path(path).exists():
        os._exit(3)
