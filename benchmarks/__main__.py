"""The command line: ``python -m benchmarks``."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import NoReturn

from rich.console import Console

from benchmarks import machine, report
from benchmarks.environments import Environments, default_folder, known_peers
from benchmarks.errors import BenchError
from benchmarks.measuring import Measuring, Results, plan
from benchmarks.progress import Progress, duration
from benchmarks.scenarios import BARE, SCENARIOS, Extent, Scenario
from benchmarks.servers import find_server
from benchmarks.session import Peer, penstock

_EPILOG = """examples:
  python -m benchmarks                                  penstock alone, against redis-py (13 minutes)
  python -m benchmarks --peers all --report bench.md    everything (75 minutes)
  python -m benchmarks --peers streaq,taskiq --scenarios drain,latency --runs 3
  python -m benchmarks --quick --peers all              does everything work? (the figures mean nothing)"""


def main() -> int:
    options = _arguments()
    console = Console(stderr=True)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGHUP, _interrupt)
    try:
        return _bench(options, console)
    except BenchError as error:
        console.print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130


def _bench(options: argparse.Namespace, console: Console) -> int:
    find_server()
    if options.report and not options.report.absolute().parent.is_dir():
        raise BenchError(f"--report: there is no folder {options.report.absolute().parent}")
    about_machine = machine.describe()
    guesses = {each.name: each.seconds / (5 if options.quick else 1) for each in SCENARIOS}
    extent = Extent(options.quick, options.limit, options.store_results)
    with Progress(console, guesses) as progress:
        peers, left_out = _peers(options, progress)
        steps = list(plan(options.scenarios, peers, 1 if options.quick else options.runs, options.sweep))
        progress.say(f"{len(steps)} runs, about {duration(sum(guesses[step.scenario.name] for step in steps))}")
        measuring = Measuring(steps, extent, progress)
        measuring.results.failures += left_out
        try:
            measuring.run()
        finally:
            results = measuring.results
            if results.found:
                _write(options, results, peers, about_machine)
    return 1 if any(not results.get(each.name, "penstock") for each in options.scenarios) else 0


def _peers(options: argparse.Namespace, progress: Progress) -> tuple[list[Peer], list[str]]:
    """Those that can be measured, penstock and redis-py first; and why others cannot."""
    ours = penstock()
    ours.learn()
    bare = Peer(BARE, ours.python, {
        "versions": {name: version(name) for name in ("redis", "hiredis", "uvloop")},
        "guarantee": "none: fetch and finish scripts of 100 entries, tasks are not run",
        "results": "no", "bulk": "XADD in pipelines of 1,000", "notes": "no framework; what is possible at best",
        "clients": [],
    })  # fmt: skip
    found, left_out = [ours, bare], []
    environments = Environments(options.venvs, progress.say)
    for name in options.peers:
        try:
            peer = Peer(name, environments.python(name))
            peer.learn()
            found.append(peer)
        except BenchError as error:
            progress.say(f"{error}; it is left out")
            left_out.append(str(error))
    return found, left_out


def _write(options: argparse.Namespace, results: Results, peers: list[Peer], about_machine: dict[str, str]) -> None:
    # The figures first: they have taken an hour, and nothing that is made of them may lose them.
    encoded = json.dumps(report.as_json(results, peers, about_machine), indent=1)
    if options.report:
        options.report.with_suffix(".json").write_text(encoded + "\n", "utf-8")
    text = report.markdown(results, peers, about_machine, quick=options.quick)
    if options.report:
        options.report.write_text(text, "utf-8")
    print(encoded if options.json else text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures penstock, and its peers beside it, in turns. Markdown goes to standard output.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--peers", type=_peer_names, default=[], metavar="NAMES", help=f"all, or of: {', '.join(known_peers())}")
    names = ", ".join(scenario.name for scenario in SCENARIOS)
    add("--scenarios", type=_scenarios, default=list(SCENARIOS), metavar="NAMES", help=f"of: {names} (default: all)")
    add(
        "--runs",
        type=_at_least_one,
        default=5,
        metavar="N",
        help="runs of each; memory, idle, payloads and startup at most 3, backlog 2 (default: 5)",
    )
    add("--quick", action="store_true", help="a smoke test: few tasks, one run")
    add("--sweep", action="store_true", help="first try all known settings of each peer, and take its fastest")
    add("--store-results", action="store_true", help="peers that store no results by default store them, too")
    add("--limit", type=float, default=30.0, metavar="SECONDS", help="most seconds of one drain (default: 30)")
    add("--venvs", type=Path, default=default_folder(), metavar="DIR",
        help="the peers' environments (default: $BENCH_VENVS, else the user's cache)")  # fmt: skip
    add("--report", type=Path, metavar="FILE", help="write Markdown there, too, and JSON beside it")
    add("--json", action="store_true", help="print JSON in place of Markdown")
    return parser.parse_args()


def _peer_names(text: str) -> list[str]:
    return known_peers() if text == "all" else _chosen(text, known_peers())


def _scenarios(text: str) -> list[Scenario]:
    by_name = {scenario.name: scenario for scenario in SCENARIOS}
    return [by_name[name] for name in _chosen(text, list(by_name))]


def _chosen(text: str, known: Sequence[str]) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
    return list(dict.fromkeys(names))


def _at_least_one(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
