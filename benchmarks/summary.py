"""A report as a short table: `python -m benchmarks.summary benchmarks/results/peers.json`. The README shows it."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.report import table
from benchmarks.scenarios.scenario import BARE

#: The report that is in the repository.
LATEST = Path(__file__).parent / "results" / "peers.json"

#: Head, scenarios of which the faster counts, figures (of the first, or joined by a slash), digits.
_COLUMNS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], int], ...] = (
    ("no-op tasks/s", ("drain",), ("rate",), 0),
    ("two processes", ("drain-2",), ("rate",), 0),
    ("plain functions", ("drain-sync",), ("rate",), 0),
    ("calls/s, one by one", ("enqueue-async", "enqueue-sync"), ("rate",), 0),
    ("64 at a time", ("enqueue-64",), ("rate",), 0),
    ("in bulk", ("enqueue-bulk",), ("rate",), 0),
    ("call to start, ms, p50 / p99", ("latency",), ("start_p50", "start_p99"), 2),
    ("to result, p50", ("latency",), ("trip_p50",), 2),
    ("bytes queued / finished", ("memory",), ("queued_plain", "finished_plain"), 0),
)


def summary(report: Mapping[str, Any]) -> str:
    """One line for each peer, and where and when it was measured."""
    rows = [
        [_name(name, about), *_promises(about), *(_cell(report, name, *rest) for _, *rest in _COLUMNS)]
        for name, about in report["peers"].items()
        if name != BARE
    ]
    heads = ["", "delivery", "keeps results", *(column[0] for column in _COLUMNS)]
    machine = report["machine"]
    where = (
        f"{machine['processor']}, {machine['memory']}, Python {machine['python']}, {machine['server'].split(',')[0]}"
    )
    return f"{table(heads, rows)}\n\nMedians; {machine['date'][:10]}, {where}."


def _promises(about: Mapping[str, Any]) -> list[str]:
    """Of its defaults: when a task counts as done, and whether its result is kept."""
    return [re.split("[:;,(]", about[key])[0].strip() for key in ("guarantee", "results")]


def _name(name: str, about: Mapping[str, Any]) -> str:
    version = next(iter(about["versions"].values()))
    return f"**{name}** {version}" if name == "penstock" else f"{name} {version}"


def _cell(
    report: Mapping[str, Any], peer: str, scenarios: tuple[str, ...], figures: tuple[str, ...], digits: int
) -> str:
    found = [report["scenarios"].get(scenario, {}).get(peer) for scenario in scenarios]
    medians = [each["median"] for each in found if each and figures[0] in each["median"]]
    if not medians:
        return "–"
    best = max(medians, key=lambda median: median[figures[0]]) if len(scenarios) > 1 else medians[0]
    return " / ".join(f"{max(0.0, best[figure]):,.{digits}f}" for figure in figures)


def read(path: Path = LATEST) -> dict[str, Any]:
    """A report's JSON."""
    report: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return report


if __name__ == "__main__":
    print(summary(read(Path(sys.argv[1]) if len(sys.argv) > 1 else LATEST)))
