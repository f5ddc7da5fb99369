"""What a worker costs that has no work."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.scenarios.scenario import BARE, Extent, Figures, Scenario
from benchmarks.session import Config, Peer, Session


@dataclass(frozen=True)
class Idle(Scenario):
    """A worker that has nothing to do: commands/s on the server, those inside scripts too, and its CPU."""

    def configs(self, peer: Peer) -> list[Config]:
        return [peer.about["usual"]] if peer.name != BARE else []

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        with Session(peer, config) as session:
            session.client("fill", task="noop", n=1)
            session.start_worker()
            session.wait_for_first()
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
