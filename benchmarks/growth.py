"""How costs grow: CPU per task, of workers and of the server, with the number of queues and of workers.

    python -m benchmarks.growth                                       1 to 1,000 queues, 1 to 100 workers
    python -m benchmarks.growth --report growth.md --plot growth.svg  --plot needs the extra `bench`
    python -m benchmarks.growth --queues 1,10 --workers 1,3 --quick   does it work? (the figures mean nothing)

Each point is a run on a new server, with real worker processes. Queues grow with one worker, workers with one queue.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from benchmarks import growth_report, machine
from benchmarks.errors import BenchError
from benchmarks.growth_point import QUICK, Load, Point, measure
from benchmarks.progress import Progress, duration
from benchmarks.servers import find_server

#: A first guess of a run's seconds, and how many more each worker takes to start.
_RUN, _EACH = 50.0, 0.5

Size = tuple[int, int]


def main() -> int:
    options = _arguments()
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        return _measure_all(options, console)
    except BenchError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130


def _measure_all(options: argparse.Namespace, console: Console) -> int:
    find_server()
    if options.plot:
        growth_report.load_pyplot()  # what is missing is told now, and not when all has been measured
    for name in ("report", "plot"):
        target = getattr(options, name)
        if target and not target.absolute().parent.is_dir():
            raise BenchError(f"--{name}: there is no folder {target.absolute().parent}")
    about = {**machine.describe(), "command": "python -m benchmarks.growth " + " ".join(sys.argv[1:])}
    load = QUICK if options.quick else Load(options.tasks)
    points: list[Point] = []
    failures: list[str] = []
    try:
        _run(_sizes(options.queues, options.workers), load, console, points, failures)
    finally:
        if points:
            _write(options, points, about, failures)
    return 1 if failures else 0


def _run(sizes: Sequence[Size], load: Load, console: Console, points: list[Point], failures: list[str]) -> None:
    keys = {size: (f"queues: {size[0]:,}, workers: {size[1]:,}", "growth") for size in sizes}
    guesses = {keys[size][0]: _RUN + _EACH * size[1] for size in sizes}
    with Progress(console, guesses) as progress:
        progress.say(f"{len(sizes)} runs, about {duration(sum(guesses.values()))}")
        for i, size in enumerate(sizes):
            progress.begin(keys[size], keys[size][0], [keys[each] for each in sizes[i + 1 :]])
            began = time.monotonic()
            try:
                point = measure(*size, load)
            except BenchError as error:
                failures.append(f"{keys[size][0]}: {error}")
                note = f"failed: {error}"
            else:
                points.append(point)
                note = f"{point.drain_worker_us:.0f} us of a worker and {point.drain_redis_us:.0f} us of the server"
            progress.done(keys[size], time.monotonic() - began, note)


def _sizes(queues: Sequence[int], workers: Sequence[int]) -> list[Size]:
    """The points to measure, each once: (1, 1) lies on both lines."""
    return list(dict.fromkeys([*[(n, 1) for n in sorted(queues)], *[(1, n) for n in sorted(workers)]]))


def _write(options: argparse.Namespace, points: list[Point], about: dict[str, str], failures: list[str]) -> None:
    if options.plot:
        growth_report.plot(points, options.plot)
    if options.report:
        options.report.write_text(growth_report.markdown(points, about, failures), "utf-8")
    if options.json:
        print(json.dumps(growth_report.as_json(points, about, failures), indent=1))
        return
    console = Console(width=None if sys.stdout.isatty() else 200)
    console.print(growth_report.table(points))
    for line in (*growth_report.verdict(points), *failures):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--queues", type=_numbers, default=[1, 10, 100, 1000], metavar="N,N", help="default: 1,10,100,1000")
    add("--workers", type=_numbers, default=[1, 10, 100], metavar="N,N", help="default: 1,10,100")
    add("--tasks", type=_number, default=50_000, metavar="N", help="tasks of each backlog (default: 50000)")
    add("--quick", action="store_true", help="a smoke test: 2,000 tasks, short waits")
    add("--json", action="store_true", help="print JSON in place of the table")
    add("--report", type=Path, metavar="FILE", help="write Markdown there, too")
    add("--plot", type=Path, metavar="FILE", help="draw there; .svg, .png or .pdf; needs matplotlib")
    return parser.parse_args()


def _numbers(text: str) -> list[int]:
    return [_number(part) for part in text.split(",") if part.strip()]


def _number(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
