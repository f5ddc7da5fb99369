"""What one number of queues and workers costs: while nothing is queued, at a trickle, and for a backlog."""

from __future__ import annotations

import random
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import redis

from benchmarks.errors import BenchError
from benchmarks.session import Session, penstock
from benchmarks.spread import quantile
from penstock import App
from penstock.streams import keys

#: Seconds that the workers have to start, for all and for each of them: two cores start three a second.
_START_WITHIN, _START_EACH = 60.0, 3.0
#: Seconds that the work may take.
_DONE_WITHIN = 300.0


@dataclass(frozen=True)
class Load:
    """How much is done at each point."""

    tasks: int = 50_000
    #: As long as the longest regular pause of a duty, that between two looks at the other workers.
    idle_seconds: float = 30.0
    #: Tasks per second of the trickle, and seconds.
    rate: float = 200.0
    trickle_seconds: float = 5.0
    #: After the last worker's first heartbeat, until all duties have looked once.
    settle_seconds: float = 6.0


#: A smoke test.
QUICK = Load(tasks=2000, idle_seconds=1.0, trickle_seconds=1.0, settle_seconds=1.0)


@dataclass(frozen=True)
class Point:
    """The figures of one number of queues and workers. Microseconds are of CPU, per task."""

    queues: int
    workers: int
    drain_rate: float
    drain_worker_us: float
    drain_redis_us: float
    trickle_worker_us: float
    trickle_redis_us: float
    trickle_p50_ms: float
    trickle_p99_ms: float
    idle_commands: float
    idle_worker_percent: float
    idle_redis_percent: float


Costs = tuple[float, float]


def measure(queues: int, workers: int, load: Load) -> Point:
    """One run on a new server. Raises `BenchError`."""
    with _Workers(queues, workers) as session:
        session.start()
        time.sleep(load.settle_seconds)
        commands, idle = _idle(session, load.idle_seconds)
        trickle, latencies = _trickle(session, load)
        drain, rate = _drain(session, load.tasks)
    sent = len(latencies)
    return Point(
        queues=queues,
        workers=workers,
        drain_rate=rate,
        drain_worker_us=drain[0] / load.tasks * 1e6,
        drain_redis_us=drain[1] / load.tasks * 1e6,
        trickle_worker_us=trickle[0] / sent * 1e6,
        trickle_redis_us=trickle[1] / sent * 1e6,
        trickle_p50_ms=quantile(latencies, 0.5),
        trickle_p99_ms=quantile(latencies, 0.99),
        idle_commands=commands,
        idle_worker_percent=idle[0] / load.idle_seconds * 100,
        idle_redis_percent=idle[1] / load.idle_seconds * 100,
    )


class _Workers(Session):
    """One supervisor with so many worker processes, and a producer in this process."""

    def __init__(self, queues: int, workers: int) -> None:
        peer = penstock()
        arguments = ("-m", "penstock", "-A", "growth_tasks:app", "worker", "--workers", "{workers}")
        peer.about = {"worker": (*arguments, "--log-level", "warning")}
        super().__init__(peer, {"queues": queues, "workers": workers})
        self._queues, self._count = queues, workers

    def start(self) -> None:
        """Start them, and wait until each has said that it lives."""
        self.app = App("growth", url=self.server.url)
        self.tasks = [self.app.task(name=f"step-{i}", queue=f"q{i}")(_step) for i in range(self._queues)]
        self.start_worker()
        names = keys.workers(self.app.settings.namespace)
        deadline = time.monotonic() + _START_WITHIN + _START_EACH * self._count
        client: Any = redis.Redis.from_url(self.server.url)
        with client:
            while client.zcard(names) < self._count:
                if time.monotonic() > deadline:
                    raise BenchError(f"only {client.zcard(names)} of {self._count} workers have started. {self.log()}")
                self.check_workers()
                time.sleep(0.2)

    def __exit__(self, *error: Any) -> None:
        with suppress(AttributeError):  # it has not been started
            self.app.close()
        super().__exit__(*error)

    def costs(self) -> Costs:
        """CPU seconds of the workers and of the server."""
        used = self.workers_cpu()
        if used is None:
            raise BenchError("there is no /proc, from which the workers' CPU time is read")
        return used, self.server.cpu_seconds()

    def since(self, before: Costs) -> Costs:
        """What was used since."""
        now = self.costs()
        return now[0] - before[0], now[1] - before[1]


def _idle(session: _Workers, seconds: float) -> tuple[float, Costs]:
    """Commands per second, and CPU."""
    session.server.reset_counters()
    before = session.costs()
    time.sleep(seconds)
    return session.server.commands() / seconds, session.since(before)


def _trickle(session: _Workers, load: Load) -> tuple[Costs, list[float]]:
    """Tasks at an even pace, each to any of the queues: CPU, and milliseconds from each call to its start."""
    # From a list made before: which queue comes next is no cost of the sender's.
    tasks = random.Random(1).choices(session.tasks, k=max(1, round(load.rate * load.trickle_seconds)))
    session.tasks[0].delay(0)  # connects
    before, begin = session.costs(), time.monotonic()
    for i, task in enumerate(tasks):
        time.sleep(max(0.0, begin + i / load.rate - time.monotonic()))
        task.delay(time.monotonic_ns())
    deadline = time.monotonic() + _DONE_WITHIN
    while len(found := session.start_times()) < len(tasks):
        if time.monotonic() > deadline:
            raise BenchError(f"{len(found)} of {len(tasks)} tasks have begun. {session.log()}")
        session.check_workers()
        time.sleep(0.05)
    return session.since(before), sorted((begun - sent) / 1e6 for sent, begun in found)


def _drain(session: _Workers, tasks: int) -> tuple[Costs, float]:
    """A backlog over all queues in turn: CPU, and tasks per second."""
    done = session.hits()
    # Stopped meanwhile, so that all of it is there when they begin, and none of the sender's costs are counted.
    session.pause_workers()
    session.app.bulk(session.tasks[i % len(session.tasks)].s(0) for i in range(tasks))
    before = session.costs()
    session.resume_workers()
    if not session.wait_for(done + tasks, _DONE_WITHIN):
        raise BenchError(f"{session.hits() - done} of {tasks} tasks have run. {session.log()}")
    time.sleep(0.1)  # the last results are stored
    costs, times = session.since(before), sorted(session.hit_times())[done:]
    return costs, (len(times) - 1) / max(1e-9, (times[-1] - times[0]) / 1e9)


async def _step(sent: int) -> None:
    """What is sent runs in the workers: `adapters/growth_tasks.py`."""
