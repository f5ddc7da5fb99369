"""What is measured. Each scenario takes one peer at a time, in a run of its own on a new server."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

from benchmarks.errors import BenchError
from benchmarks.session import Config, Peer, Session
from benchmarks.spread import quantile

Figures = dict[str, float]

#: The name of redis-py without a framework among the peers.
BARE = "redis-py"
_START_WITHIN = 30.0
#: Most seconds of a run while the best settings are looked for.
_SWEEP_LIMIT = 14.0


@dataclass(frozen=True)
class Extent:
    """How much is done in each run."""

    #: A smoke test: the figures mean nothing.
    quick: bool = False
    #: Most seconds of one drain; then the rate so far counts.
    limit: float = 30.0
    #: Results are stored also where the peer's default is not to.
    store_results: bool = False
    #: The run is one of many that look for the best settings.
    sweep: bool = False

    def of(self, n: float) -> int:
        """How many in place of `n`."""
        return max(50, round(n / 50 if self.quick else n))

    def seconds(self, full: float) -> float:
        """How long in place of `full` seconds."""
        return min(full, 0.5) if self.quick else full


@dataclass(frozen=True)
class Scenario(ABC):
    """One table column, or several."""

    name: str
    title: str
    #: A first guess, for the time left.
    seconds: float
    #: Figures that hardly differ between runs are not taken as often as the user may ask.
    most_runs: int = 1000

    def configs(self, peer: Peer) -> list[Config]:
        """Worker settings to choose from, the best known first. None at all: the peer has no part in this."""
        return [peer.about["usual"]]

    @abstractmethod
    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        """One run. Raises `BenchError`."""


@dataclass(frozen=True)
class Drain(Scenario):
    """Queued tasks, and how fast workers run them: from the first one's time stamp to the last one's."""

    task: str = "noop"
    tasks: int = 20_000
    workers: int = 1

    def configs(self, peer: Peer) -> list[Config]:
        if peer.name == BARE:
            return [{}] if self.name == "drain" else []
        if self.task == "noop_sync":
            return list(peer.about["sync_configs"])
        if self.task == "sleep10":
            return [peer.about["sleep"]] if peer.about["sleep"] is not None else []
        return list(peer.about["configs"])

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        if peer.name == BARE:
            with Session(peer) as session:
                return session.bare("limit", extent.of(100_000))
        n = extent.of(self.tasks * peer.about["scale"])
        task = peer.about["sync_task"] if self.task == "noop_sync" else self.task
        with Session(peer, config, extent.store_results) as session:
            session.client("fill", task=task, n=n)
            began = time.monotonic_ns()
            for _ in range(self.workers):
                session.start_worker()
            if not session.wait_for(1, _START_WITHIN):
                raise BenchError(f"{peer.name}: no task ran within {_START_WITHIN:.0f} s. {session.log()}")
            before = _Costs(session)
            session.wait_for(n, min(extent.limit, _SWEEP_LIMIT) if extent.sweep else extent.limit)
            costs = before.until(_Costs(session))
            times = session.hit_times()
        first, last = min(times), max(times)
        return {
            "rate": (len(times) - 1) / ((last - first) / 1e9),
            "tasks": n,
            "done": len(times) / n,
            "startup_s": (first - began) / 1e9,
            **costs,
        }


class _Costs:
    """What workers and server have used at one moment."""

    def __init__(self, session: Session) -> None:
        self.time, self.hits = time.monotonic(), session.hits()
        self.worker, self.redis = session.workers_cpu(), session.server.cpu_seconds()

    def until(self, end: _Costs) -> Figures:
        """Microseconds of CPU for each task, and how busy the server was; nothing after too few tasks."""
        tasks, took = end.hits - self.hits, end.time - self.time
        if tasks < 100 or took <= 0:
            return {}
        redis = end.redis - self.redis
        found = {"redis_cpu_us": redis / tasks * 1e6, "redis_busy": redis / took}
        if self.worker is not None and end.worker is not None:
            worker = end.worker - self.worker
            found |= {"worker_cpu_us": worker / tasks * 1e6, "worker_busy": worker / took}
        return found


@dataclass(frozen=True)
class Enqueue(Scenario):
    """Calls/s of one producer process. penstock takes turns with redis-py, which adds entries of the same size."""

    action: str = "one"
    kind: str = ""
    calls: int = 10_000

    def configs(self, peer: Peer) -> list[Config]:
        return [{}] if peer.name != BARE and (not self.kind or self.kind in peer.clients) else []

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        n = extent.of(self.calls)
        with Session(peer, config, extent.store_results) as session:
            if peer.name == "penstock" and self.action in ("one", "many"):
                return session.bare("bulk" if self.action == "many" else self.kind, n)
            return session.client(self.action, n=n, kind=self.kind)


@dataclass(frozen=True)
class Latency(Scenario):
    """One task each 20 ms: from just before the call to the first line of the task, and to the result in the client."""

    def configs(self, peer: Peer) -> list[Config]:
        return [peer.about["latency"] or peer.about["usual"]] if peer.name != BARE else []

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        n = extent.of(200)
        with Session(peer, config, store_results=True) as session:
            session.start_worker()
            late = session.client("latency", n=n)["late"]
            starts = [(begun - sent) / 1e6 for sent, begun in session.start_times()]
            trips = [took * 1e3 for took in session.client("roundtrip", n=n)["seconds"]]
        return {
            "start_p50": quantile(starts, 0.5),
            "start_p99": quantile(starts, 0.99),
            "trip_p50": quantile(trips, 0.5),
            "trip_p99": quantile(trips, 0.99),
            "late": late,
        }


@dataclass(frozen=True)
class Memory(Scenario):
    """Bytes on the server for each task: queued, and finished, without arguments, with 100 B, and with 1 kB results."""

    def configs(self, peer: Peer) -> list[Config]:
        return [peer.about["configs"][0]] if peer.name != BARE else []

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        found: Figures = {}
        for task, label in (("noop", "plain"), ("blob", "100_b"), ("big", "result")):
            store = extent.store_results or task == "big"
            queued, finished = self._of(task, peer, config, extent, store)
            found |= {f"queued_{label}": queued, f"finished_{label}": finished}
        return found

    def _of(self, task: str, peer: Peer, config: Config, extent: Extent, store_results: bool) -> tuple[float, float]:
        n, first = extent.of(5_000 * peer.about["scale"]), 50
        with Session(peer, config, store_results) as session:

            def fill(count: int) -> int:
                session.client("fill", task=task, n=count)
                return session.server.memory()

            def drain(until: int) -> int:
                session.start_worker()
                if not session.wait_for(until, _START_WITHIN + extent.limit):
                    raise BenchError(f"{peer.name}: {n} tasks `{task}` do not come to their end. {session.log()}")
                time.sleep(extent.seconds(1))  # until the last ones are settled
                session.stop_workers()
                return session.server.memory()

            fill(first)
            base = drain(first)  # what is there once, as scripts and queues, is there by now
            queued, finished = fill(n), drain(first + n)
        return (queued - base) / n, (finished - base) / n


@dataclass(frozen=True)
class Idle(Scenario):
    """A worker that has nothing to do: commands/s on the server, those inside scripts too, and its CPU."""

    def configs(self, peer: Peer) -> list[Config]:
        return [peer.about["usual"]] if peer.name != BARE else []

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        with Session(peer, config) as session:
            session.client("fill", task="noop", n=1)
            session.start_worker()
            if not session.wait_for(1, _START_WITHIN):
                raise BenchError(f"{peer.name}: no task ran within {_START_WITHIN:.0f} s. {session.log()}")
            time.sleep(extent.seconds(5))
            session.server.reset_counters()
            cpu, start = session.workers_cpu(), time.monotonic()
            time.sleep(extent.seconds(10))
            took, cpu_after = time.monotonic() - start, session.workers_cpu()
            found = {"commands": session.server.commands() / took}
            session.check_workers()
        if cpu is not None and cpu_after is not None:
            found["cpu_percent"] = (cpu_after - cpu) / took * 100
        return found


SCENARIOS: tuple[Scenario, ...] = (
    Drain("drain", "no-op tasks, one worker process", 8),
    Drain("drain-2", "no-op tasks, two worker processes", 8, tasks=40_000, workers=2),
    Drain("drain-sync", "no-op plain functions, one worker process", 9, task="noop_sync"),
    Drain("drain-sleep", "tasks that sleep 10 ms, 256 slots, one worker process", 7, task="sleep10", tasks=10_000),
    Enqueue("enqueue-async", "calls one by one, async", 4, kind="async"),
    Enqueue("enqueue-sync", "calls one by one, sync", 4, kind="sync"),
    Enqueue("enqueue-64", "calls from 64 coroutines (4 threads) at the same time", 4, action="concurrent"),
    Enqueue("enqueue-bulk", "20,000 calls in bulk", 5, action="many", calls=20_000),
    Latency("latency", "50 tasks/s", 13),
    Memory("memory", "bytes on the server", 22, most_runs=3),
    Idle("idle", "a worker without work", 17, most_runs=3),
)
