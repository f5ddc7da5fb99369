"""The tasks of the storm. Each run of a task leaves a line in its process's own file."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from penstock import Context, Reject, RetryPolicy, Snooze, TaskSet
from penstock.events import BrokerDown, Event, Late, Lost, Reclaimed

#: Seconds. A worker that is stopped for longer than this loses what it holds.
LEASE = 2.0
#: Variable with the folder of the files.
FOLDER = "STORM_FOLDER"

#: What workers and producer agree on. Records are what is checked at the end, and it is the storm that
#: kills workers, not a task.
SETTINGS: dict[str, Any] = {
    "lease": LEASE,
    "result_ttl": 0,
    "resend_window": 86400,
    "dead_max": 10_000_000,
    "max_deliveries": 1000,
    "retry_for": 120,
}

tasks = TaskSet()
_files: dict[int, int] = {}


def _write(line: str) -> None:
    """Append a line to this process's file: what is written survives SIGKILL."""
    pid = os.getpid()
    if pid not in _files:  # also in a child that was forked
        path = Path(os.environ[FOLDER], f"{pid}-{time.monotonic_ns()}.runs")
        _files[pid] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(_files[pid], line.encode())


def start(n: int) -> None:
    _write(f"S {n}\n")


def end(n: int) -> None:
    _write(f"E {n}\n")


def notice(event: Event) -> None:
    """An observer that counts what workers go through."""
    if isinstance(event, Late | Lost | Reclaimed | BrokerDown):
        _write(f"! {type(event).__name__} {getattr(event, 'count', 1)}\n")


@tasks.task(name="quick")
async def quick(n: int, seconds: float) -> None:
    start(n)
    await asyncio.sleep(seconds)
    end(n)


@tasks.task(name="threaded")
def threaded(n: int, seconds: float) -> None:
    start(n)
    time.sleep(seconds)
    end(n)


@tasks.task(name="in_process", run="process")
def in_process(n: int) -> None:
    start(n)
    sum(range(1000))
    end(n)


@tasks.task(name="flaky", bind=True, retry=RetryPolicy(max_retries=5, delay=0.2, jitter=0.5))
async def flaky(ctx: Context, n: int, failures: int) -> None:
    start(n)
    if ctx.attempt <= failures:
        raise ValueError(f"attempt {ctx.attempt}")
    end(n)


@tasks.task(name="dozes")
async def dozes(n: int, until: float) -> None:
    start(n)
    if (left := until - time.time()) > 0:
        raise Snooze(left + 0.01)
    end(n)


@tasks.task(name="refuses")
def refuses(n: int) -> None:
    start(n)
    raise Reject("no")


@tasks.task(name="doomed")
async def doomed(n: int) -> None:
    start(n)
    await asyncio.sleep(3600)  # until it is cancelled


class Plan(msgspec.Struct, frozen=True):
    """What task number `n` is, and how it must end (the letter of its record)."""

    n: int
    name: str
    args: tuple[float, ...]
    priority: str
    delay: float
    ends: str

    @property
    def key(self) -> str:
        return str(self.n)


#: Name -> share of all tasks. `lasting` is a `quick` that lasts long enough to be met by a fault.
SHARES = {
    "quick": 62, "lasting": 8, "threaded": 12, "in_process": 3, "flaky": 6, "dozes": 4, "refuses": 2, "doomed": 3,
}  # fmt: skip
_ENDS = {"refuses": "f", "doomed": "c"}


def plan(seed: int, n: int) -> Plan:
    """The same for the same seed, so that nothing need be remembered of a million tasks."""
    chance = random.Random(f"{seed}/{n}")
    name = chance.choices(list(SHARES), list(SHARES.values()))[0]
    args: tuple[float, ...] = ()
    match name:
        case "quick" | "threaded":
            args = (round(chance.uniform(0, 0.01), 4),)
        case "lasting":
            name, args = "quick", (round(chance.uniform(0.3, 1.5), 3),)
        case "flaky":
            args = (chance.randint(1, 3),)
        case "dozes":
            args = (round(time.time() + chance.uniform(0.2, 2.0), 3),)
    delay = round(chance.uniform(0.1, 3.0), 3) if chance.random() < 0.1 else 0.0
    priority = chance.choices(("high", "default", "low"), (1, 3, 1))[0]
    return Plan(n, name, args, priority, delay, _ENDS.get(name, "o"))


def plans(seed: int, total: int) -> Iterator[Plan]:
    """All of them."""
    return (plan(seed, n) for n in range(total))
