"""Runs the scenarios: all peers in turn (A B A B ...), so that what disturbs the machine disturbs all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.errors import BenchError
from benchmarks.progress import Progress
from benchmarks.scenarios import Extent, Figures, Scenario
from benchmarks.session import Config, Peer

#: Figures of a run that are told while the others go on.
_NOTED = 6


@dataclass
class Measured:
    """One peer in one scenario."""

    config: Config
    runs: list[Figures] = field(default_factory=list)
    #: Rate of each setting that was tried to find the best one.
    sweep: dict[str, float] = field(default_factory=dict)

    def values(self, figure: str) -> list[float]:
        """One figure of all runs that have it."""
        return [run[figure] for run in self.runs if figure in run]


@dataclass
class Results:
    """Scenario name -> peer name -> what was measured."""

    found: dict[str, dict[str, Measured]] = field(default_factory=dict)
    #: What did not work, for people.
    failures: list[str] = field(default_factory=list)
    #: False: it was interrupted.
    complete: bool = False

    def get(self, scenario: str, peer: str) -> Measured | None:
        """None unless there is a run."""
        measured = self.found.get(scenario, {}).get(peer)
        return measured if measured and measured.runs else None


@dataclass(frozen=True)
class Step:
    """One run. With `candidate` it is one of the sweep."""

    scenario: Scenario
    peer: Peer
    text: str
    candidate: Config | None = None

    @property
    def key(self) -> tuple[str, str]:
        """Steps of one key take about the same time."""
        return self.scenario.name, self.peer.name


def plan(scenarios: Sequence[Scenario], peers: Sequence[Peer], runs: int, sweep: bool) -> Iterator[Step]:
    """All steps in their order."""
    for scenario in scenarios:
        takers = [peer for peer in peers if scenario.configs(peer)]
        for peer in takers if sweep else ():
            candidates = scenario.configs(peer)
            for config in candidates if len(candidates) > 1 else ():
                yield Step(scenario, peer, f"{label(config)}", config)
        counts = {peer.name: min(runs, scenario.runs_of(peer)) for peer in takers}
        for i in range(max(counts.values(), default=0)):
            for peer in takers:
                if i < counts[peer.name]:
                    yield Step(scenario, peer, f"run {i + 1} of {counts[peer.name]}")


class Measuring:
    """Takes one step after the other; a peer that fails is left out of the rest of its scenario."""

    def __init__(self, steps: Sequence[Step], extent: Extent, progress: Progress) -> None:
        self.results = Results()
        self._steps = list(steps)
        self._extent = extent
        self._progress = progress

    def run(self) -> None:
        """All steps. `results` grow on the way, and hold what there is when this is interrupted."""
        left = self._steps
        while left:
            step, left = left[0], left[1:]
            self._progress.begin(step.key, f"{step.scenario.name}: {step.peer.name}, {step.text}", _keys(left))
            start = time.monotonic()
            try:
                note = self._take(step)
            except BenchError as error:
                note = f"failed: {error}"
                self.results.failures.append(f"{step.scenario.name}: {error}")
                if step.candidate is None:
                    left = [other for other in left if other.key != step.key]
            self._progress.done(step.key, time.monotonic() - start, note)
        self.results.complete = True

    def _take(self, step: Step) -> str:
        measured = self.results.found.setdefault(step.scenario.name, {}).setdefault(
            step.peer.name, Measured(step.scenario.configs(step.peer)[0])
        )
        if step.candidate is None:
            figures = step.scenario.measure(step.peer, measured.config, self._extent)
            measured.runs.append(figures)
            return _note(figures)
        extent = Extent(self._extent.quick, self._extent.limit, self._extent.store_results, sweep=True)
        figures = step.scenario.measure(step.peer, step.candidate, extent)
        if figures["rate"] > max(measured.sweep.values(), default=0.0):
            measured.config = step.candidate
        measured.sweep[label(step.candidate)] = figures["rate"]
        return _note(figures)


def label(config: dict[str, Any]) -> str:
    """``concurrency=10 poll_delay=0.02``."""
    return " ".join(f"{name}={value}" for name, value in config.items()) or "defaults"


def _keys(steps: Sequence[Step]) -> list[tuple[str, str]]:
    return [step.key for step in steps]


def _note(figures: Figures) -> str:
    if "rate" in figures:
        return f"{figures['rate']:,.0f}/s"
    some = ", ".join(f"{name} {value:,.2f}" for name, value in list(figures.items())[:_NOTED])
    return some + (", …" if len(figures) > _NOTED else "")
