"""What is made of the points: a table, Markdown, JSON and a plot; and whether anything grows faster than its size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.errors import BenchError
from benchmarks.growth_point import Point

#: Figure of a point -> title of its column.
COLUMNS: dict[str, str] = {
    "drain_rate": "drain, tasks/s",
    "drain_worker_us": "worker, us/task",
    "drain_redis_us": "server, us/task",
    "trickle_worker_us": "trickle: worker, us/task",
    "trickle_redis_us": "server, us/task",
    "trickle_p50_ms": "start p50, ms",
    "trickle_p99_ms": "start p99, ms",
    "idle_commands": "idle: commands/s",
    "idle_worker_percent": "worker, % of a core",
    "idle_redis_percent": "server, %",
}
#: What must not grow faster than the number of queues, or of workers.
COSTS = tuple(name for name in COLUMNS if name != "drain_rate")
#: Steeper than linear by no more than this is noise.
_TOLERANCE = 0.1
#: Less is not told from nothing: CPU time comes in hundredths of a second.
_LEAST = {"idle_worker_percent": 0.5, "idle_redis_percent": 0.5}
_SERIES = {"drain_worker_us": "drain: worker", "drain_redis_us": "drain: server",
           "trickle_worker_us": "trickle: worker", "trickle_redis_us": "trickle: server"}  # fmt: skip
_NO_MATPLOTLIB = "--plot needs matplotlib; install it with: pip install -c constraints.txt '.[bench]'"


def table(points: Sequence[Point]) -> Table:
    """For a terminal."""
    found = Table("queues", "workers", *COLUMNS.values(), title="CPU per task, by queues and by workers")
    for point in points:
        found.add_row(*_cells(point))
    return found


def markdown(points: Sequence[Point], about: dict[str, str], failures: Sequence[str]) -> str:
    """The report of `--report`."""
    heads = ["queues", "workers", *COLUMNS.values()]
    rows = [heads, ["---"] * len(heads), *map(_cells, points)]
    lines = ["# How costs grow", "", *[f"- {name}: {text}" for name, text in about.items()], ""]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    lines += ["", *[f"- {text}" for text in (*verdict(points), *failures)]]
    return "\n".join(lines) + "\n"


def as_json(points: Sequence[Point], about: dict[str, str], failures: Sequence[str]) -> dict[str, Any]:
    """The same as data."""
    return {
        "machine": about,
        "points": [asdict(point) for point in points],
        "verdict": verdict(points),
        "failures": list(failures),
    }


def by_queues(points: Sequence[Point]) -> list[Point]:
    """The points with one worker, by their number of queues."""
    return sorted((p for p in points if p.workers == 1), key=lambda p: p.queues)


def by_workers(points: Sequence[Point]) -> list[Point]:
    """The points with one queue, by their number of workers."""
    return sorted((p for p in points if p.queues == 1), key=lambda p: p.workers)


def verdict(points: Sequence[Point]) -> list[str]:
    """Steps on which a cost grows faster than the queues, or the workers; one line if there are none."""
    found = []
    for name, line in (("queues", by_queues(points)), ("workers", by_workers(points))):
        for before, after in pairwise(line):
            for cost in COSTS:
                power = _power(before, after, name, cost)
                if power > 1 + _TOLERANCE:
                    sizes = f"{getattr(before, name):,} to {getattr(after, name):,} {name}"
                    found.append(f"worse than linear: {cost} from {sizes}, {name}^{power:.2f}")
    return found or ["nothing grows worse than linear"]


def _power(before: Point, after: Point, size: str, cost: str) -> float:
    """Of the size, by which the cost has grown; 0: it has not, or cannot be told."""
    first, last = max(getattr(before, cost), _LEAST.get(cost, 0.0)), getattr(after, cost)
    if not (first > 0 and last > first):
        return 0.0
    return math.log(last / first) / math.log(getattr(after, size) / getattr(before, size))


def plot(points: Sequence[Point], target: Path) -> None:
    """Two panels with logarithmic axes: CPU per task against queues and against workers. Raises `BenchError`."""
    pyplot = load_pyplot()
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4.5), sharey=True, layout="constrained")
    _panel(panels[0], by_queues(points), "queues, one worker", lambda p: p.queues)
    _panel(panels[1], by_workers(points), "workers, one queue", lambda p: p.workers)
    panels[0].set_ylabel("CPU per task, us")
    panels[1].legend(loc="best", fontsize="small")
    figure.suptitle("CPU per task")
    figure.savefig(target)
    pyplot.close(figure)


def load_pyplot() -> Any:
    """matplotlib, for files only. Raises `BenchError` if it is not installed."""
    try:
        import_module("matplotlib").use("Agg")
        return import_module("matplotlib.pyplot")
    except ImportError as error:
        raise BenchError(_NO_MATPLOTLIB) from error


def _panel(axes: Any, points: Sequence[Point], label: str, size: Callable[[Point], int]) -> None:
    axes.set(xscale="log", yscale="log", xlabel=label)
    axes.grid(visible=True, which="major", alpha=0.3)
    sizes = [size(point) for point in points]
    for name, title in _SERIES.items():
        (line,) = axes.plot(sizes, [getattr(point, name) for point in points], marker="o", label=title)
        if points:
            first = getattr(points[0], name)
            linear = [first * each / sizes[0] for each in sizes]
            axes.plot(sizes, linear, linestyle="--", linewidth=0.8, alpha=0.5, color=line.get_color())
    axes.plot([], [], "k--", linewidth=0.8, label="linear growth")


def _cells(point: Point) -> list[str]:
    figures = [getattr(point, name) for name in COLUMNS]
    return [f"{point.queues:,}", f"{point.workers:,}", *[f"{x:,.0f}" if x >= 100 else f"{x:.2f}" for x in figures]]
