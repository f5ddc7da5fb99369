"""The results as Markdown tables, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.aims import aims
from benchmarks.measuring import Measured, Results, label
from benchmarks.scenarios import BARE, SCENARIOS
from benchmarks.session import Peer
from benchmarks.spread import Spread


@dataclass(frozen=True)
class Column:
    """A figure of a scenario; it is multiplied by `scale`."""

    head: str
    scenario: str
    figure: str = "rate"
    digits: int = 0
    scale: float = 1.0


SECTIONS: dict[str, tuple[Column, ...]] = {
    "Tasks run, per second": (
        Column("no-op, one process", "drain"),
        Column("no-op, two processes", "drain-2"),
        Column("no-op, plain functions", "drain-sync"),
        Column("10 ms sleeps", "drain-sleep"),
    ),
    "What they cost": (
        Column("worker CPU, µs a no-op task", "drain", "worker_cpu_us"),
        Column("Redis CPU, µs a no-op task", "drain", "redis_cpu_us"),
        Column("cores that the workers use", "drain", "worker_busy", 2),
        Column("Redis busy, %", "drain", "redis_busy", 0, 100),
        Column("Redis busy with two processes, %", "drain-2", "redis_busy", 0, 100),
        Column("start-up of a worker, s", "drain", "startup_s", 2),
    ),
    "Calls sent, per second": (
        Column("one by one, async", "enqueue-async"),
        Column("one by one, sync", "enqueue-sync"),
        Column("64 at a time", "enqueue-64"),
        Column("20,000 in bulk", "enqueue-bulk"),
    ),
    "Latency at 50 tasks/s, ms": (
        Column("call to start, p50", "latency", "start_p50", 2),
        Column("p99", "latency", "start_p99", 2),
        Column("call to result, p50", "latency", "trip_p50", 2),
        Column("p99", "latency", "trip_p99", 2),
    ),
    "Memory on the server, bytes a task": (
        Column("queued", "memory", "queued_plain"),
        Column("finished", "memory", "finished_plain"),
        Column("queued, 100 B of arguments", "memory", "queued_100_b"),
        Column("finished, 100 B of arguments", "memory", "finished_100_b"),
        Column("finished, result of 1 kB", "memory", "finished_result"),
    ),
    "A worker without work": (
        Column("commands/s", "idle", "commands", 1),
        Column("CPU, %", "idle", "cpu_percent", 2),
    ),
}
#: Sent in turns with penstock's calls.
_BARE_HEADS = {column.scenario for column in SECTIONS["Calls sent, per second"]}


def markdown(results: Results, peers: Sequence[Peer], machine: Mapping[str, str], *, quick: bool = False) -> str:
    """The whole report; a quick run says nothing of aims."""
    parts = ["# Benchmark"]
    if quick:
        parts.append("**A smoke test: the figures mean nothing.**")
    if not results.complete:
        parts.append("**Interrupted: what there is so far.**")
    parts.append("\n".join(f"- {name}: {value}" for name, value in machine.items()))
    parts.append(
        "Each figure is the median of its runs, with the lowest and the highest one. All take turns (A B A B …), each "
        "run on a new server. *: the run was ended by its time limit."
    )
    parts.append(_about(peers))
    for title, columns in SECTIONS.items():
        if table := _section(results, peers, columns):
            parts += [f"## {title}", table]
    if lines := [] if quick else aims(results, peers):
        rows = [[line.what, line.text, line.aim, "yes" if line.reached else "**no**"] for line in lines]
        parts += ["## What penstock is to reach", _table(["", "measured", "aim", "reached"], rows)]
    parts += ["## Settings of the workers", _settings(results, peers)]
    if results.failures:
        parts += ["## Left out", "\n".join("- " + " ".join(failure.split()) for failure in results.failures)]
    return "\n\n".join(parts) + "\n"


def as_json(results: Results, peers: Sequence[Peer], machine: Mapping[str, str]) -> dict[str, Any]:
    """Everything, each run with all its figures."""
    return {
        "machine": dict(machine),
        "complete": results.complete,
        "peers": {peer.name: peer.about for peer in peers},
        "scenarios": {
            scenario: {
                name: {**asdict(measured), "median": _medians(measured)}
                for name, measured in found.items()
                if measured.runs
            }
            for scenario, found in results.found.items()
        },
        "aims": [asdict(aim) for aim in aims(results, peers)],
        "failures": results.failures,
    }


def _medians(measured: Measured) -> dict[str, float]:
    return {figure: Spread.of(measured.values(figure)).median for figure in measured.runs[0]}


def _about(peers: Sequence[Peer]) -> str:
    rows = []
    for peer in peers:
        versions = ", ".join(f"{name} {version}" for name, version in peer.about["versions"].items())
        rows.append([peer.name, versions, *(peer.about[key] for key in ("guarantee", "results", "bulk", "notes"))])
    return _table(["", "versions", "guarantee", "keeps results", "bulk", "how it is set up"], rows)


def _section(results: Results, peers: Sequence[Peer], columns: Sequence[Column]) -> str:
    columns = [column for column in columns if column.scenario in results.found]
    rows = []
    for peer in peers:
        cells = [_cell(results, peer.name, column) for column in columns]
        if any(cell != "–" for cell in cells):
            rows.append([peer.name, *cells])
    return _table(["", *(column.head for column in columns)], rows) if rows else ""


def _cell(results: Results, peer: str, column: Column) -> str:
    figure = column.figure
    if peer == BARE and column.scenario in _BARE_HEADS:
        peer, figure = "penstock", "bare"
    measured = results.get(column.scenario, peer)
    values = [value * column.scale for value in measured.values(figure)] if measured else []
    if not measured or not values:
        return "–"
    spread = Spread.of(values)
    low, median, high = (f"{value:,.{column.digits}f}" for value in (spread.low, spread.median, spread.high))
    cut = "*" if figure == "rate" and min(measured.values("done"), default=1.0) < 1 else ""
    return f"{median}{cut}" + (f" ({low}–{high})" if len(values) > 1 else "")


def _settings(results: Results, peers: Sequence[Peer]) -> str:
    names = [s.name for s in SCENARIOS if s.name in results.found and not s.name.startswith("enqueue")]
    rows = []
    for peer in peers:
        if peer.name != BARE:
            found = [results.get(name, peer.name) for name in names]
            rows.append([peer.name, *(label(measured.config) if measured else "–" for measured in found)])
    return _table(["", *names], rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
