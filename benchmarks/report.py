"""The results as Markdown tables, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.aims import aims
from benchmarks.measuring import Measured, Results, label
from benchmarks.scenarios import BARE, PAYLOADS, SCENARIOS
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
        Column("cores that the workers use (sleeps)", "drain-sleep", "worker_busy", 2),
        Column("Redis busy, %", "drain", "redis_busy", 0, 100),
        Column("Redis busy with two processes, %", "drain-2", "redis_busy", 0, 100),
        Column("or waiting for a core, %", "drain-2", "redis_wants", 0, 100),
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
    "Tasks with a due time, ms after it": (
        Column("p50", "scheduled", "late_p50", 2),
        Column("p99", "scheduled", "late_p99", 2),
        Column("latest", "scheduled", "late_max", 2),
        Column("tasks that began too early", "scheduled", "early"),
        Column("tasks that ran, %", "scheduled", "done", 1, 100),
    ),
    "A million queued tasks": (
        Column("drain, tasks/s", "backlog"),
        Column("drain of 20,000, tasks/s", "backlog", "small_rate"),
        Column("ratio", "backlog", "ratio", 2),
        Column("worker's memory at most, MB", "backlog", "worker_mb", 1),
        Column("highest less lowest, MB", "backlog", "worker_spread_mb", 1),
        Column("bytes a task on the server, 20,000 queued", "backlog", "small_bytes"),
        Column("200,000", "backlog", "middle_bytes"),
        Column("1,000,000", "backlog", "large_bytes"),
    ),
    "Start-up": (
        Column("import in a producer, ms", "startup", "import_ms"),
        Column("its process, less an empty one, ms", "startup", "process_ms"),
        Column("modules", "startup", "modules"),
        Column("worker, from its start to its first task's, ms", "startup", "worker_ms"),
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
        if section := _section(results, peers, columns):
            parts += [f"## {title}", section]
    if payloads := _payloads(results):
        parts += ["## Payloads", payloads]
    if lines := [] if quick else aims(results, peers):
        said = {True: "yes", False: "**no**", None: "–"}
        rows = [[line.what, line.text, line.aim, said[line.reached]] for line in lines]
        parts += ["## What penstock is to reach", table(["", "measured", "aim", "reached"], rows)]
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
    return table(["", "versions", "guarantee", "keeps results", "bulk", "how it is set up"], rows)


def _section(results: Results, peers: Sequence[Peer], columns: Sequence[Column]) -> str:
    columns = [column for column in columns if column.scenario in results.found]
    rows = []
    for peer in peers:
        cells = [_cell(results, peer.name, column) for column in columns]
        if any(cell != "–" for cell in cells):
            rows.append([peer.name, *cells])
    return table(["", *(column.head for column in columns)], rows) if rows else ""


def _cell(results: Results, peer: str, column: Column) -> str:
    figure = column.figure
    if peer == BARE and column.scenario in _BARE_HEADS:
        peer, figure = "penstock", "bare"
    measured = results.get(column.scenario, peer)
    values = [value * column.scale for value in measured.values(figure)] if measured else []
    if not measured or not values:
        return "–"
    cut = "*" if figure == "rate" and min(measured.values("done"), default=1.0) < 1 else ""
    return _spread(values, column.digits, cut)


def _spread(values: Sequence[float], digits: int, mark: str = "") -> str:
    spread = Spread.of(values)
    low, median, high = (f"{value:,.{digits}f}" for value in (spread.low, spread.median, spread.high))
    return f"{median}{mark}" + (f" ({low}–{high})" if len(values) > 1 else "")


def _payloads(results: Results) -> str:
    """A row for each size: where µs/kB grow from one row to the next, something is worse than linear."""
    measured = results.get("payloads", "penstock")
    if not measured:
        return ""
    head = [""]
    for what in ("one by one", "in bulk", "drain"):
        head += [f"{what}, tasks/s", "MB/s", "µs/kB"]
    rows = []
    for payload in PAYLOADS:
        row = [payload.label]
        for name in ("one", "bulk", "drain"):
            rates = measured.values(f"{payload.key}_{name}")
            row += _rates(rates, payload.size) if rates else ["–"] * 3
        rows.append(row)
    return table(head, rows)


def _rates(rates: Sequence[float], size: int) -> list[str]:
    bytes_per_second = [rate * size for rate in rates]
    return [
        _spread(rates, 0),
        _spread([each / 1e6 for each in bytes_per_second], 1),
        _spread([1e9 / each for each in bytes_per_second], 2),
    ]


def _settings(results: Results, peers: Sequence[Peer]) -> str:
    names = [s.name for s in SCENARIOS if s.name in results.found and not s.name.startswith("enqueue")]
    rows = []
    for peer in peers:
        if peer.name != BARE:
            found = [results.get(name, peer.name) for name in names]
            rows.append([peer.name, *(label(measured.config) if measured else "–" for measured in found)])
    return table(["", *names], rows)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
