"""Tasks of the supervised workers: they crash, wedge and block. Notes and events go to TEST_FOLDER."""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import time
from pathlib import Path

import msgspec

from penstock import App, Snooze
from penstock.consumers import leases
from penstock.events import Event
from penstock.settings import load_settings
from tests.apps.chores import note

# Seconds past its limit after which an attempt is wedged. Five are right for users, and long for tests.
leases.WEDGED_AFTER = float(os.environ.get("TEST_WEDGED_AFTER", "0.5"))

FOLDER = os.environ["TEST_FOLDER"]
app = App("rules", result_ttl=60)
assert load_settings({}).namespace != "penstock", "a test's namespace is missing"


@app.observe
def tell(event: Event) -> None:
    line = msgspec.json.encode({"kind": type(event).__name__, "pid": os.getpid(), **msgspec.structs.asdict(event)})
    fd = os.open(Path(FOLDER, "events"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line + b"\n")
    os.close(fd)


def runs(name: str) -> int:
    """How often the task `name` has begun, in any process."""
    return Path(FOLDER, "notes").read_text().count(f"begin {name} ")


@app.task
async def add(a: int, b: int) -> int:
    return a + b


@app.task
async def hold(name: str) -> int:
    """Runs until there is a file of its name; the process it ran in."""
    note(FOLDER, "begin", name)
    while not Path(FOLDER, name).exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.02)
    note(FOLDER, "end", name)
    return os.getpid()


@app.task
async def end_as(name: str, how: str) -> int:
    """As `hold`; then it succeeds, fails, or snoozes in its first two runs."""
    pid = await hold(name)
    if how == "fail":
        raise ValueError(name)
    if how == "snooze" and runs(name) <= 2:
        raise Snooze(0.01)
    return pid


@app.task(max_deliveries=3)
async def segfault(name: str, beside: int) -> None:
    """A real SIGSEGV, once `beside` others run in this process, or there is a file ``calm``."""
    note(FOLDER, "begin", name)
    while not Path(FOLDER, "calm").exists():  # noqa: ASYNC240 - another process makes it
        if _running_here() > beside:
            break
        await asyncio.sleep(0.02)
    ctypes.string_at(0)


def _running_here() -> int:
    lines = [line.split() for line in Path(FOLDER, "notes").read_text().splitlines()]
    here = [word for word, _, pid, _ in lines if int(pid) == os.getpid()]
    return here.count("begin") - here.count("end")


@app.task(max_deliveries=3)
async def crash_then_snooze(name: str) -> None:
    """Kills its worker, snoozes, kills its worker, snoozes, ..."""
    note(FOLDER, "begin", name)
    if runs(name) % 2:
        note(FOLDER, "crash", name)
        os._exit(3)
    note(FOLDER, "snooze", name)
    raise Snooze(0.01)


@app.task(timeout=0.3, max_deliveries=2)
async def spin(name: str) -> None:
    note(FOLDER, "begin", name)
    while True:
        pass


@app.task
async def block(name: str, seconds: float) -> int:
    """Blocks the event loop."""
    note(FOLDER, "begin", name)
    time.sleep(seconds)  # noqa: ASYNC251 - the fault; work
    return os.getpid()


@app.task(timeout=0.3)
def sleep_in_c(name: str, seconds: float) -> None:
    """One C call in a thread: no exception reaches it before it returns."""
    note(FOLDER, "begin", name)
    time.sleep(seconds)  # work
    note(FOLDER, "end", name)


@app.task(timeout=0.3, max_deliveries=1)
def sleep_with_the_gil(name: str) -> None:
    """One C call that never lets another thread run: neither the event loop nor the lease thread."""
    note(FOLDER, "begin", name)
    ctypes.PyDLL(None).sleep(600)  # work


@app.task(timeout=0.3, max_deliveries=1)
async def backtrack(name: str) -> None:
    """The same, by a regular expression that takes 2**40 steps."""
    note(FOLDER, "begin", name)
    re.match(r"(a+)+$", "a" * 40 + "b")


@app.task
async def pid() -> int:
    return os.getpid()


@app.task
def hold_in_thread(name: str) -> int:
    """As `hold`."""
    note(FOLDER, "begin", name)
    while not Path(FOLDER, name).exists():
        time.sleep(0.02)
    note(FOLDER, "end", name)
    return os.getpid()


@app.task(max_deliveries=3)
async def hold_until_calm(name: str) -> int:
    """As `hold`, until there is a file ``calm``."""
    note(FOLDER, "begin", name)
    while not Path(FOLDER, "calm").exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.02)
    note(FOLDER, "end", name)
    return os.getpid()
