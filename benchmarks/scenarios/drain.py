"""How fast queued tasks are run, and what they cost."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.scenarios.scenario import BARE, Extent, Figures, Scenario
from benchmarks.session import Config, Peer, Session

#: Most seconds of a run while the best settings are looked for.
_SWEEP_LIMIT = 14.0


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
            session.wait_for_first()
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
        self.waited = session.server.waited_seconds()

    def until(self, end: _Costs) -> Figures:
        """Microseconds of CPU for each task, and how busy the server was; nothing after too few tasks."""
        tasks, took = end.hits - self.hits, end.time - self.time
        if tasks < 100 or took <= 0:
            return {}
        redis = end.redis - self.redis
        found = {"redis_cpu_us": redis / tasks * 1e6, "redis_busy": redis / took}
        found["redis_wants"] = found["redis_busy"] + (end.waited - self.waited) / took
        if self.worker is not None and end.worker is not None:
            worker = end.worker - self.worker
            found |= {"worker_cpu_us": worker / tasks * 1e6, "worker_busy": worker / took}
        return found
