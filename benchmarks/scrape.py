"""What a scrape costs: the server's time, bytes from it, and the exporter's own time, for many queues and workers;
and how long `penstock check` takes.

    python -m benchmarks.scrape [--queues 100] [--workers 100] [--tasks 1 5] [--runs 21] [--report FILE]

Each queue has tasks that wait, run, are scheduled and dead, a consumer of each worker, counters, and all measures of
its task names; each worker serves all queues. A scrape is what a Prometheus server gets: read from Redis, made into
text. More than one task name is measured for the largest numbers of queues and workers only.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import redis
from rich.console import Console
from rich.table import Table

from benchmarks.machine import describe
from benchmarks.servers import RedisServer
from penstock.metrics import Exporter
from penstock.settings import Settings
from penstock.streams import consume, keys, measures, produce, settle
from penstock.streams.client import SyncClient
from penstock.streams.connector import Connector
from penstock.streams.measures import BOUNDS, Measure, field
from penstock.streams.message import Failure, Message, encode_failure, encode_message
from penstock.streams.produce import Envelope
from penstock.streams.urls import resolve_url

NAMESPACE, TASK = "scrape", "shop.tasks.send_receipt"
#: Tasks of each queue: that run, and that wait.
RUNNING, READY = 10, 10
COLUMNS = (
    "queues",
    "workers",
    "task names of each queue",
    "read, ms",
    "p90, ms",
    "server CPU, ms",
    "from the server, KiB",
    "text, ms",
    "text, KiB",
)


def fill(server: RedisServer, queues: int, workers: int, tasks: int = 1) -> None:
    """A namespace in the middle of its work."""
    client = SyncClient(Connector(resolve_url(server.url, {}), Settings()))
    raw = redis.Redis.from_url(server.url)
    names = [f"queue-{i:03d}" for i in range(queues)]
    for name in names:
        _fill_queue(client, raw, name, workers, [TASK, *(f"{TASK}_{i}" for i in range(1, tasks))])
    for i in range(workers):
        about = {
            "consumer": _worker(i), "host": f"host-{i:03d}", "pid": 10_000 + i, "started_at": time.time(),
            "queues": names,
            "running": 3, "lease": 15.0, "slots": [100] * queues, "busy": [3] * queues, "all_slots": 108, "all_busy": 3,
            "rss": 50_000_000, "lag": 0.001, "version": "0.1.0", "python": "3.12.1",
        }  # fmt: skip
        client.run(consume.heartbeat(NAMESPACE, _worker(i), msgspec.msgpack.encode(about), 1e6, names))
    raw.close()
    client.close()


def _fill_queue(client: SyncClient, raw: Any, name: str, workers: int, tasks: list[str]) -> None:
    base, message = keys.base(NAMESPACE, name), encode_message(Message(TASK))
    sent = [Envelope(f"k{i}", TASK, "default", message) for i in range(RUNNING + READY + 1)]
    client.run(produce.enqueue(base, [*sent, Envelope("later", TASK, "default", message, "+3600000")]))
    first, *_ = client.run(consume.fetch(base, name, _worker(0), 1 + RUNNING, [("default", 1)], 60.0)).deliveries
    failure = encode_failure(Failure("ValueError", "no"))
    client.run(settle.bury(base, _worker(0), 60.0, (600.0, 100), [(first, TASK, failure)]))
    for i in range(1, workers):
        raw.xgroup_createconsumer(keys.stream(base, "default"), keys.GROUP, _worker(i))
    histogram = [987_654_321, 90_000, 20_000, 9_000, 4_000, 400, 50, 5, *[0] * (len(BOUNDS) - 6)]
    sums: dict[str, list[int]] = {}
    for task in tasks:
        raw.hset(keys.counters(base), mapping={f"succeeded|{task}": 123_456, f"retried|{task}": 789})
        sums |= {field(Measure.RUN, task): histogram, field(Measure.FAILURES, f"error|{task}"): [1]}
    for measure in (Measure.WAIT, Measure.END_TO_END, Measure.SCHEDULE_DELAY):
        sums[field(measure)] = histogram
    client.run(measures.add(base, _worker(0), 1, sums))


def _worker(i: int) -> str:
    return f"host-{i:03d}:{10_000 + i}:0123abcd"


def measure(queues: int, workers: int, tasks: int, runs: int) -> list[str]:
    """One row of the table: medians."""
    with RedisServer() as server:
        fill(server, queues, workers, tasks)
        raw = redis.Redis.from_url(server.url)
        reads, texts, sizes = [], [], []
        with Exporter(server.url, namespace=NAMESPACE) as exporter:
            exporter.refresh()  # scripts are loaded, connections made
            cpu, out = server.cpu_seconds(), _sent(raw)
            own = _sent(raw) - out  # what asking for it sends
            for _ in range(runs):
                answer = exporter._read()  # `refresh` would share a read of the last second
                assert answer.reading is not None and not answer.error, answer.error
                reads.append(answer.took * 1000)
            used, sent = server.cpu_seconds() - cpu, _sent(raw) - out - 2 * own
            for _ in range(min(runs, 5)):
                exporter.refresh()
                since = time.perf_counter()
                sizes.append(len(exporter.render()))
                texts.append((time.perf_counter() - since) * 1000)
        raw.close()
    reads.sort()
    return [
        str(queues), str(workers), str(tasks), f"{statistics.median(reads):.1f}", f"{reads[int(len(reads) * 0.9)]:.1f}",
        f"{used / runs * 1000:.1f}", f"{sent / runs / 1024:.1f}", f"{statistics.median(texts):.0f}",
        f"{statistics.median(sizes) / 1024:.0f}",
    ]  # fmt: skip


def probe(runs: int) -> list[float]:
    """Milliseconds that `penstock check` takes as a process, with a worker to be found."""
    with RedisServer() as server:
        fill(server, 1, 1)
        command = [sys.executable, "-m", "penstock", "check", "--namespace", NAMESPACE, "--url", server.url]
        command += ["--host", "host-000", "--max-age", "1000"]
        taken = []
        for _ in range(runs):
            since = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            taken.append((time.perf_counter() - since) * 1000)
    return sorted(taken)


def _sent(raw: Any) -> int:
    return int(raw.info("stats")["total_net_output_bytes"])


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scrape", description=__doc__.partition("\n")[0])
    parser.add_argument("--queues", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 10, 100])
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 3, 5], help="task names of each queue")
    parser.add_argument("--runs", type=int, default=21)
    parser.add_argument("--report", type=Path, help="Markdown file to write")
    given = parser.parse_args()
    first, *more = given.tasks
    points = [(queues, workers, first) for queues in given.queues for workers in given.workers]
    points += [(max(given.queues), max(given.workers), tasks) for tasks in more]
    rows = [measure(*point, given.runs) for point in points]
    table = Table(*COLUMNS, title="One scrape of the exporter")
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    taken = probe(given.runs)
    check = f"`penstock check`, as a process: {statistics.median(taken):.0f} ms ({taken[0]:.0f}-{taken[-1]:.0f})"
    print(check)
    if given.report is not None:
        about = {**describe(), "command": "python -m benchmarks.scrape"}
        lines = ["# What a scrape costs", "", *(f"- {name}: {text}" for name, text in about.items()), ""]
        lines += ["| " + " | ".join(row) + " |" for row in (COLUMNS, ["---:"] * len(COLUMNS), *rows)]
        lines += ["", check]
        given.report.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
