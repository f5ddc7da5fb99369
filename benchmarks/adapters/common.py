"""What adapters, clients and workers share. Standard library only: it runs in every peer's environment.

The benchmark says in the environment what this run is:

    BENCH_URL      the Redis server
    BENCH_CONFIG   JSON: the worker's settings, as {"concurrency": 32}
    BENCH_RESULTS  "on": store results also where the peer's default is not to
    BENCH_FOLDER   where task bodies leave their time stamps
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]
Args = tuple[Any, ...]

URL = os.environ.get("BENCH_URL") or "redis://127.0.0.1:6379/0"
CONFIG: Config = json.loads(os.environ.get("BENCH_CONFIG", "{}"))
STORE_RESULTS = os.environ.get("BENCH_RESULTS") == "on"

#: Callers at the same time: coroutines; threads of a client that has no coroutines (more were slower: the GIL).
COROUTINES, THREADS = 64, 4
#: What the task `blob` is given, and what `big` returns.
ARGUMENT, RESULT = "x" * 100, "x" * 1000


@dataclass(kw_only=True)
class About:
    """What the report says of a peer, and how its workers are set up.

    `worker` are the arguments of the environment's Python; ``{bin}`` is the environment's folder of programs,
    ``{number}`` the worker's number, and any key of its config may be named. Empty: the adapter has a `run_worker`.
    """

    #: Distributions whose versions are noted; the peer's own first.
    packages: tuple[str, ...]
    guarantee: str
    #: Whether and how long results are kept by default.
    results: str
    #: How `many` sends.
    bulk: str
    notes: str = ""
    #: Worker settings for no-op tasks. The first was the fastest; ``--sweep`` tries them all.
    configs: tuple[Config, ...]
    #: The same for tasks that are plain functions.
    sync_configs: tuple[Config, ...] = ()
    #: The name of the no-op task that is a plain function; "": it takes none.
    sync_task: str = ""
    #: For tasks that wait: as near to 256 slots as it can; None: it runs one task at a time.
    sleep: Config | None
    #: As its documentation starts a worker.
    usual: Config
    #: Where it differs for the sake of latency; None: `usual`.
    latency: Config | None = None
    #: Share of the scenario's tasks that it is given, so that a run of a slow or a fast one lasts some seconds.
    scale: float = 1.0
    worker: tuple[str, ...] = ()
    #: Its client and its worker run on uvloop.
    uvloop: bool = False


class AsyncClient:
    """A producer with coroutines."""

    async def open(self) -> None:
        """Connect."""

    async def close(self) -> None:
        """Disconnect."""

    async def one(self, task: str, args: Args) -> Any:
        """Send one call; what `result` needs."""
        raise NotImplementedError

    async def result(self, handle: Any) -> Any:
        """Wait for the task's end, in the quickest way that there is."""
        raise NotImplementedError

    async def concurrent(self, task: str, calls: Sequence[Args]) -> None:
        """Send all, one by one, from `COROUTINES` at the same time."""
        waiting = iter(calls)

        async def feed() -> None:
            for args in waiting:
                await self.one(task, args)

        await asyncio.gather(*[feed() for _ in range(COROUTINES)])

    async def many(self, task: str, calls: Sequence[Args]) -> None:
        """Send all in the fastest way; without a bulk call: `concurrent`."""
        await self.concurrent(task, calls)


class SyncClient:
    """A producer without coroutines."""

    def open(self) -> None:
        """Connect."""

    def close(self) -> None:
        """Disconnect."""

    def one(self, task: str, args: Args) -> Any:
        """See `AsyncClient.one`."""
        raise NotImplementedError

    def result(self, handle: Any) -> Any:
        """See `AsyncClient.result`."""
        raise NotImplementedError

    def concurrent(self, task: str, calls: Sequence[Args]) -> None:
        """Send all, one by one, from `THREADS` at the same time."""

        def feed(part: Sequence[Args]) -> None:
            for args in part:
                self.one(task, args)

        with ThreadPoolExecutor(THREADS) as executor:
            list(executor.map(feed, [calls[i::THREADS] for i in range(THREADS)]))

    def many(self, task: str, calls: Sequence[Args]) -> None:
        """See `AsyncClient.many`."""
        self.concurrent(task, calls)


# Bodies of tasks. One appending write of a few bytes takes about 1 us, and is safe between threads, forks and workers.


def _append_to(name: str) -> int:
    folder = os.environ.get("BENCH_FOLDER")
    if not folder:
        return -1
    return os.open(os.path.join(folder, name), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


_hits, _starts = _append_to("hits"), _append_to("starts")
_one_number, _two_numbers = struct.Struct("<Q").pack, struct.Struct("<QQ").pack


def hit() -> None:
    """Body of the no-op tasks: notes the time, without any traffic to Redis."""
    os.write(_hits, _one_number(time.monotonic_ns()))


def started(sent: int) -> int:
    """Body of the task `lat`: notes when it was sent (`time.monotonic_ns`; 0: do not count it) and when it began."""
    os.write(_starts, _two_numbers(sent, time.monotonic_ns()))
    return 1
