"""Tasks of the supervised worker processes; only these import it."""

from __future__ import annotations

import asyncio
import os
import signal
import time

from penstock import App
from tests.apps.chores import note

app = App("jobs", result_ttl=60)


@app.task
async def spin(folder: str, name: str, seconds: float) -> int:
    """Computes on the event loop, which does not turn meanwhile."""
    note(folder, "begin", name)
    end, turns = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        turns += 1
    note(folder, "end", name)
    return turns


@app.task(max_deliveries=3)
async def poison(folder: str, name: str, payload: dict[str, int]) -> None:
    """Its process dies, as by the kernel's OOM killer, once all tasks beside it have begun."""
    note(folder, "begin", name)
    await asyncio.sleep(0.1)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
async def hold(folder: str, name: str) -> str:
    """Runs until there is a file of its name."""
    note(folder, "begin", name)
    while not os.path.exists(f"{folder}/{name}"):  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.02)
    note(folder, "end", name)
    return name


@app.task
async def add(a: int, b: int) -> int:
    return a + b
