"""The report of a storm: JSON with everything, Markdown to read."""

from __future__ import annotations

import msgspec

from tests.chaos.storm_check import Verdict, summary
from tests.chaos.storm_faults import Struck


class Report(msgspec.Struct, frozen=True):
    """One storm."""

    seed: int
    tasks: int
    server: str
    python: str
    cores: int
    workers: int
    lease: float
    #: Seconds: of the faults, and until all had ended.
    stormed: float
    took: float
    #: Most bytes that the server had in use.
    memory: int
    faults: list[Struck]
    verdict: Verdict

    @property
    def passed(self) -> bool:
        return not self.verdict.violations

    def json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    def markdown(self) -> str:
        v = self.verdict
        lines = [
            f"# Kill storm: {'passed' if self.passed else 'FAILED'}",
            "",
            f"{self.tasks:,} tasks, seed {self.seed}; {self.server}; {self.workers} worker processes, Python "
            f"{self.python}, {self.cores} cores; lease {self.lease:g} s; up to "
            f"{self.memory / 1e6:.0f} MB in the server. Faults for {self.stormed:.0f} s; all had "
            f"ended after {self.took:.0f} s.",
            "",
            "| fault | times | in flight | effect |",
            "|---|---:|---:|---|",
        ]
        counts, effects = summary(self.faults)
        for kind in sorted(counts):
            held = sum(each.in_flight for each in self.faults if each.kind == kind)
            effect = f"{effects[kind]:,} {_EFFECTS[kind]}" if kind in _EFFECTS else ""
            lines.append(f"| {kind} | {counts[kind]} | {held or ''} | {effect} |")
        lines += ["", "| outcome | count |", "|---|---:|"]
        lines += [f"| {outcome} | {count:,} |" for outcome, count in v.ended.items()]
        lines += [f"| event {name} | {count:,} |" for name, count in sorted(v.events.items())]
        lines += [
            "",
            f"{v.runs:,} runs; {v.duplicates:,} that neither an ending nor a retry or snooze explains, and at most "
            f"{v.allowed:,} could be: so many deliveries were in flight when their worker was killed or stopped. "
            f"The task that ran most often did so {v.most_runs_of_one_task} times.",
            "",
            "## Violations",
            "",
            *(
                [f"- {each}" for each in v.violations]
                or ["None: nothing was lost, everything ended once, no key is left."]
            ),
            "",
        ]
        return "\n".join(lines)


_EFFECTS = {
    "SIGCONT": "deliveries taken over meanwhile",
    "CLIENT KILL": "connections cut",
    "flood": "connections refused",
}
