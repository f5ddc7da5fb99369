"""What a task takes on the server."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.errors import BenchError
from benchmarks.scenarios.scenario import BARE, Extent, Figures, Scenario
from benchmarks.session import START_WITHIN, Config, Peer, Session


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
                if not session.wait_for(until, START_WITHIN + extent.limit):
                    raise BenchError(f"{peer.name}: {n} tasks `{task}` do not come to their end. {session.log()}")
                time.sleep(extent.seconds(1))  # until the last ones are settled
                session.stop_workers()
                return session.server.memory()

            fill(first)
            base = drain(first)  # what is there once, as scripts and queues, is there by now
            queued, finished = fill(n), drain(first + n)
        return (queued - base) / n, (finished - base) / n
