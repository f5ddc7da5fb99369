"""How fast calls are sent."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.scenarios.scenario import BARE, Extent, Figures, Scenario
from benchmarks.session import Config, Peer, Session


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
