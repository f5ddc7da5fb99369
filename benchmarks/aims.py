"""What penstock is to reach, and what it reached: ratios within one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks.measuring import Results
from benchmarks.scenarios import BARE
from benchmarks.scenarios.scenario import OURS
from benchmarks.session import Peer

#: 256 slots that sleep 10 ms each.
_IDEAL_SLEEP = 256 / 0.01


@dataclass(frozen=True)
class Aim:
    """One line: what, the aim, and the value that was reached."""

    what: str
    aim: str
    value: float
    text: str
    #: None: there is no aim, the line is there to be read beside another.
    reached: bool | None


def aims(results: Results, peers: Sequence[Peer]) -> list[Aim]:
    """All that can be said of what was measured."""
    found = [*_drains(results, peers), *_enqueues(results, peers), *_absolutes(results), *_promises(results)]
    return [aim for aim in found if aim is not None]


def _drains(results: Results, peers: Sequence[Peer]) -> Iterator[Aim | None]:
    rivals = [peer.name for peer in peers if peer.name not in (OURS, BARE)]
    safe = [peer.name for peer in peers if peer.name in rivals and peer.about["guarantee"].startswith("at least once")]
    if "streaq" in rivals:
        yield _times(results, "drain", ["streaq"], "no-op tasks, one process, against streaq", 15)
    yield _times(results, "drain", safe, "no-op tasks, against the fastest at-least-once peer", 5)
    yield _times(results, "drain", rivals, "no-op tasks, against the fastest peer of any kind", 3)
    bare = "no-op tasks, of redis-py's bare fetch and finish"
    yield _share(_ratios(results, "drain", BARE, "single"), f"{bare}, one request at a time", 0.4)
    yield _share(_ratios(results, "drain", BARE, "double"), f"{bare}, two at a time", None)
    one, two = _values(results, "drain", "rate"), _values(results, "drain-2", "rate")
    if one and two:
        wants = _values(results, "drain-2", "redis_wants")
        said = f"; Redis runs, or waits for a core, {statistics.median(wants):.0%} of the time" if wants else ""
        yield _factor(statistics.median(two) / statistics.median(one), "two processes against one", 1.3, said)
    yield _times(results, "drain-sync", rivals, "no-op plain functions, against the fastest peer", 3)
    ideal = [rate / _IDEAL_SLEEP for rate in _values(results, "drain-sleep", "rate")]
    yield _share(ideal, "10 ms sleeps in 256 slots, of the ideal 25,600/s", 0.85)


def _enqueues(results: Results, peers: Sequence[Peer]) -> Iterator[Aim | None]:
    rivals = [peer.name for peer in peers if peer.name not in (OURS, BARE)]
    for kind, call in (("async", "await adelay()"), ("sync", "delay()")):
        ratios = _values(results, f"enqueue-{kind}", "ratio")
        what = f"{call}, time against redis-py's XADD"
        yield _at_most(ratios, what, 1.5, lambda value: f"{value:.2f}×", "≤ 1.5×")
    yield _times(results, "enqueue-64", rivals, "64 concurrent calls, against the fastest peer", 5)
    yield _times(results, "enqueue-bulk", rivals, "bulk, against the fastest peer", 5)
    shares = [1 / ratio for ratio in _values(results, "enqueue-bulk", "ratio")]
    yield _share(shares, "bulk, of redis-py's pipelined XADD", 0.6)


def _absolutes(results: Results) -> Iterator[Aim | None]:
    lines = (
        ("latency", "start_p50", "50 tasks/s: call to start, p50", 1, "ms"),
        ("latency", "start_p99", "50 tasks/s: call to start, p99", 5, "ms"),
        ("latency", "trip_p50", "50 tasks/s: call to result, p50", 2, "ms"),
        ("memory", "queued_plain", "queued no-op task with its record", 330, "B"),
        ("memory", "finished_plain", "finished no-op task with its record", 260, "B"),
        ("idle", "commands", "idle worker of one queue, commands/s", 2.2, ""),
        ("idle", "cpu_percent", "idle worker, CPU", 0.5, "%"),
        ("scheduled", "late_p99", "tasks with a due time: due to start, p99", 20, "ms"),
        ("backlog", "worker_spread_mb", "a million queued: worker's memory, highest less lowest", 10, "MB"),
        ("backlog", "bytes_ratio", "a million queued: bytes a task, against 20,000", 1.1, "×"),
        ("payloads", "growth", "time per byte at 1 MiB against 100 kB, what grows most", 2, "×"),
        ("startup", "import_ms", "import in a producer", 150, "ms"),
    )
    for scenario, figure, what, most, unit in lines:
        digits = 0 if unit == "B" else 2

        def show(value: float, digits: int = digits, unit: str = unit) -> str:
            return f"{value:,.{digits}f} {unit}".strip()

        yield _at_most(_values(results, scenario, figure), what, most, show, f"≤ {most} {unit}".strip())


def _promises(results: Results) -> Iterator[Aim | None]:
    """What must hold in each run, and what is to be no less."""
    if early := _values(results, "scheduled", "early"):
        yield _at_most([max(early)], "tasks that began before they were due", 0, lambda value: f"{value:.0f}", "0")
    if done := _values(results, "scheduled", "done"):
        yield _share([min(done)], "tasks with a due time that ran", 1)
    yield _share(_values(results, "backlog", "ratio"), "a million queued: no-op tasks/s, of those of 20,000", 0.9)


def _times(results: Results, scenario: str, rivals: Sequence[str], what: str, least: float) -> Aim | None:
    rates = {name: _values(results, scenario, "rate", name) for name in rivals}
    medians = {name: statistics.median(values) for name, values in rates.items() if values}
    if not medians:
        return None
    best = max(medians, key=lambda name: medians[name])
    ratios = _ratios(results, scenario, best)
    return _factor(statistics.median(ratios), what, least, f" ({best})" if len(rivals) > 1 else "") if ratios else None


def _ratios(results: Results, scenario: str, rival: str, figure: str = "rate") -> list[float]:
    """Our rate to that figure of theirs, round by round: both met the same noise."""
    ours, theirs = _values(results, scenario, "rate"), _values(results, scenario, figure, rival)
    return [a / b for a, b in zip(ours, theirs, strict=False)]


def _values(results: Results, scenario: str, figure: str, peer: str = OURS) -> list[float]:
    measured = results.get(scenario, peer)
    return measured.values(figure) if measured else []


def _factor(value: float, what: str, least: float, said: str = "") -> Aim:
    return Aim(what, f"≥ {least:g}×", value, f"{value:.1f}×{said}", value >= least)


def _share(values: Sequence[float], what: str, least: float | None) -> Aim | None:
    if not values:
        return None
    value = statistics.median(values)
    if least is None:
        return Aim(what, "–", value, f"{value:.0%}", None)
    return Aim(what, f"≥ {least:.0%}", value, f"{value:.0%}", value >= least)


def _at_most(values: Sequence[float], what: str, most: float, show: Callable[[float], str], aim: str) -> Aim | None:
    if not values:
        return None
    value = statistics.median(values)
    return Aim(what, aim, value, show(value), value <= most)
