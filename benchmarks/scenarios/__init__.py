"""What is measured. Each scenario takes one peer at a time, in a run of its own on a new server."""

from __future__ import annotations

from benchmarks.scenarios.backlog import Backlog
from benchmarks.scenarios.drain import Drain
from benchmarks.scenarios.enqueue import Enqueue
from benchmarks.scenarios.idle import Idle
from benchmarks.scenarios.latency import Latency
from benchmarks.scenarios.memory import Memory
from benchmarks.scenarios.payloads import PAYLOADS, Payloads
from benchmarks.scenarios.scenario import BARE, Extent, Figures, Scenario
from benchmarks.scenarios.scheduled import Scheduled
from benchmarks.scenarios.startup import Startup

__all__ = ["BARE", "PAYLOADS", "SCENARIOS", "Drain", "Extent", "Figures", "Scenario"]

#: All peers take the same number of runs where penstock is held against the fastest of them.
SCENARIOS: tuple[Scenario, ...] = (
    Drain("drain", "no-op tasks, one worker process", 8),
    Drain("drain-2", "no-op tasks, two worker processes", 8, peers_most_runs=2, tasks=40_000, workers=2),
    Drain("drain-sync", "no-op plain functions, one worker process", 9, task="noop_sync"),
    Drain(
        "drain-sleep",
        "tasks that sleep 10 ms, 256 slots, one worker process",
        7,
        peers_most_runs=2,
        task="sleep10",
        tasks=10_000,
    ),
    Enqueue("enqueue-async", "calls one by one, async", 4, peers_most_runs=2, kind="async"),
    Enqueue("enqueue-sync", "calls one by one, sync", 4, peers_most_runs=2, kind="sync"),
    Enqueue("enqueue-64", "calls from 64 coroutines (4 threads) at the same time", 4, action="concurrent"),
    Enqueue("enqueue-bulk", "20,000 calls in bulk", 5, action="many", calls=20_000),
    Latency("latency", "50 tasks/s", 13, peers_most_runs=1),
    Memory("memory", "bytes on the server", 22, peers_most_runs=1),
    Idle("idle", "a worker without work", 17, peers_most_runs=1),
    Scheduled("scheduled", "tasks with a due time", 18),
    Backlog("backlog", "a million queued tasks", 65, most_runs=2),
    Payloads("payloads", "arguments and results of 100 B to 1 MiB", 20, most_runs=3),
    Startup("startup", "import in a producer, start of a worker", 12),
)
