"""What every scenario is: it measures one peer in one run on a new server."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from benchmarks.session import Config, Peer

Figures = dict[str, float]

#: The name of redis-py without a framework among the peers.
BARE = "redis-py"
#: Ours.
OURS = "penstock"


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
    peers_most_runs: int = 1000

    def configs(self, peer: Peer) -> list[Config]:
        """Worker settings to choose from, the best known first. None at all: the peer has no part in this."""
        return [peer.about["usual"]]

    def runs_of(self, peer: Peer) -> int:
        """As many as make sense."""
        return self.most_runs if peer.name in (OURS, BARE) else min(self.most_runs, self.peers_most_runs)

    @abstractmethod
    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        """One run. Raises `BenchError`."""


@dataclass(frozen=True)
class OursAlone(Scenario):
    """What only penstock is asked: whether it keeps what it promises, not who is faster."""

    def configs(self, peer: Peer) -> list[Config]:
        return [peer.about["usual"]] if peer.name == "penstock" else []
