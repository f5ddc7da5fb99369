"""How soon a task begins, and how soon its result is there."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.scenarios.scenario import BARE, Extent, Figures, Scenario
from benchmarks.session import Config, Peer, Session
from benchmarks.spread import quantile


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
