"""Where a worker's time goes: samples of one worker process by py-spy, as a flame graph and by layer.

    python -m benchmarks.flame                       a drain of async no-op tasks: benchmarks/profiles/drain.svg
    python -m benchmarks.flame --scenario sync       plain functions, in threads
    python -m benchmarks.flame --scenario sleep      tasks that sleep 10 ms

It needs the extra `bench`. py-spy reads another process's memory: where it may not, it says what is missing (on Linux
it is root, or the capability SYS_PTRACE, or kernel.yama.ptrace_scope=0).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import processes
from benchmarks.errors import BenchError
from benchmarks.samples import Shares, read_shares
from benchmarks.session import Config, Peer, Session, penstock

_PROFILES = Path(__file__).parent / "profiles"
#: scenario -> task, and how many for each second of the recording: more than a worker runs in it.
_SCENARIOS = {"drain": ("noop", 60_000), "sync": ("noop_sync", 30_000), "sleep": ("sleep10", 26_000)}
#: Seconds that the worker works until py-spy has found its way about.
_BEFORE = 1.5
#: Samples per second. Not a divisor of the worker's own rhythms.
_RATE = 397
#: Seconds that a worker may take to run its first task, and beyond the recording until py-spy has written.
_START_WITHIN, _WRITE_WITHIN = 30.0, 30.0


class _Family(Session):
    """A session that tells its worker's process."""

    def worker_pid(self) -> int:
        """The process that runs tasks: the supervisor's child. Raises `BenchError`."""
        for supervisor in self._workers:
            for pid in processes.descendants(supervisor.pid):
                return pid
        raise BenchError(f"the worker has ended. {self.log()}")


def main() -> int:
    options = _arguments()
    try:
        return _profile(options)
    except BenchError as error:
        Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
        return 2
    except KeyboardInterrupt:
        return 130


def _profile(options: argparse.Namespace) -> int:
    spy = find_spy()
    target = (options.svg or _PROFILES / f"{options.scenario}.svg").absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    peer = penstock()
    peer.learn()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw"
        # py-spy cannot make a flame graph of stacks that it has written: two recordings, of two drains.
        record(spy, peer, options, "raw", raw)
        record(spy, peer, options, "flamegraph", target)
        shares = read_shares(raw.read_text("utf-8"), every_thread=options.scenario == "sync")
    if options.json:
        found = {"scenario": options.scenario, "samples": shares.samples, "shares": shares.by_layer}
        print(json.dumps(found, indent=1))
    else:
        Console().print(table(options.scenario, shares))
    Console(stderr=True).print(f"flame graph: {target}", markup=False, highlight=False, soft_wrap=True)
    return 0


def find_spy() -> str:
    """py-spy of this environment, or the one on PATH. Raises `BenchError`."""
    found = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if found is None:
        raise BenchError("py-spy is not installed; install it with: pip install -c constraints.txt '.[bench]'")
    return found


def record(spy: str, peer: Peer, options: argparse.Namespace, form: str, target: Path) -> None:
    """Sample a worker that drains a new server. Raises `BenchError`."""
    task, each_second = _SCENARIOS[options.scenario]
    tasks = round(each_second * (options.seconds + _BEFORE))
    with _Family(peer, _config(peer, options.scenario)) as session:
        session.client("fill", task=task, n=tasks)
        session.start_worker()
        if not session.wait_for(1, _START_WITHIN):
            raise BenchError(f"no task ran within {_START_WITHIN:.0f} s. {session.log()}")
        command = [spy, "record", "--pid", str(session.worker_pid()), "--format", form, "--output", str(target)]
        command += ["--nonblocking", "--threads", "--rate", str(_RATE), "--duration", str(options.seconds)]
        if form == "raw":
            command.append("--full-filenames")  # not in what is kept: they name folders of this machine
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=options.seconds + _WRITE_WITHIN)
        except subprocess.TimeoutExpired:
            raise BenchError("py-spy does not end") from None
        if done.returncode or not target.exists():
            raise BenchError(f"py-spy failed. It said: {done.stderr[-1000:].strip()}")
        if form == "flamegraph":  # the title is py-spy's own command line, which names folders of this machine
            title = f"python -m benchmarks.flame --scenario {options.scenario}"
            target.write_text(target.read_text("utf-8").replace(" ".join(command), title), "utf-8")
        if session.hits() >= tasks:
            print("the tasks ended before the recording did: it has some idle time", file=sys.stderr)


def table(scenario: str, shares: Shares) -> Table:
    """For a terminal."""
    found = Table("layer", "share", title=f"{scenario}: {shares.samples:,} samples, by the innermost frame")
    for layer, share in shares.by_layer.items():
        found.add_row(layer, f"{share:.1%}")
    return found


def _config(peer: Peer, scenario: str) -> Config:
    about = peer.about
    config: Config = {"drain": about["configs"][0], "sync": about["sync_configs"][0], "sleep": about["sleep"]}[scenario]
    return config


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.flame",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--scenario", choices=list(_SCENARIOS), default="drain", help="default: drain")
    add("--svg", type=Path, metavar="FILE", help="default: benchmarks/profiles/SCENARIO.svg")
    add("--seconds", type=int, default=8, metavar="N", help="of each of the two recordings (default: 8)")
    add("--json", action="store_true", help="print JSON in place of the table")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
