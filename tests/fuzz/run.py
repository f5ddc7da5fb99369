"""The fuzzer: ``python -m tests.fuzz.run --seconds 60`` runs all targets in turn, each for its share of the time.

Atheris (libFuzzer for Python) mutates inputs towards code that was not reached before. What breaks a
contract is kept in ``tests/fuzz/found/<target>-<hash>``, where `test_targets` runs it for ever after; inputs
that reached something new are kept in a folder beside, not in git, and the next run begins with them.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
FOUND = HERE / "found"
CORPUS = HERE.parents[1] / ".fuzz"
#: libFuzzer's options: an input of this size reaches all there is; more memory or time than this is a bug.
LIMITS = ("-max_len=4096", "-rss_limit_mb=1024", "-timeout=10")
#: Prints of libFuzzer that are worth a line.
_EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s*(\d+)")


def main() -> int:
    """Exit code 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="for all targets together")
    parser.add_argument("--target", action="append", help="only this one; may be repeated")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given, rest = parser.parse_known_args()
    if importlib.util.find_spec("atheris") is None:
        print("no atheris for this Python or machine: fuzzing is left out (`make test` runs the same targets)")
        return 0
    if given.one:
        _fuzz(given.one, rest)
    from tests.fuzz.targets import TARGETS

    names = given.target or list(TARGETS)
    failed = [name for name in names if not _run(name, given.seconds / len(names))]
    if failed:
        print(f"broken contracts: {', '.join(failed)}; the inputs are in {FOUND}")
    return 1 if failed else 0


def _run(name: str, seconds: float) -> bool:
    """Fuzz one target in a process of its own, and again after each find, until its time is over."""
    corpus, until, executions, found = CORPUS / name, time.monotonic() + seconds, 0, 0
    _seed(name, corpus)
    while (left := until - time.monotonic()) > 0.5 or not executions:
        command = [sys.executable, "-u", "-m", "tests.fuzz.run", "--one", name, *LIMITS]
        command += [f"-max_total_time={max(1, round(left))}", f"-artifact_prefix={FOUND}/{name}-", str(corpus)]
        done = subprocess.run(
            [*command, "-print_final_stats=1"], capture_output=True, text=True, errors="replace", check=False
        )
        said = done.stdout + done.stderr
        executions += sum(map(int, _EXECUTIONS.findall(said)))
        if done.returncode:
            found += 1
            print(_essence(done.stdout, done.stderr), flush=True)
            if found >= 20 or not executions:
                break
    print(f"{name}: {executions:,} executions in {seconds:.0f} s, {found} found", flush=True)
    return not found


def _essence(stdout: str, stderr: str) -> str:
    """The traceback, and where the input is; without libFuzzer's statistics."""
    lines = [line for line in stderr.splitlines() if "Test unit written" in line or "ERROR" in line]
    return "\n".join([stdout[-4000:].strip(), *lines])


def _seed(name: str, corpus: Path) -> None:
    from tests.fuzz.targets import TARGETS

    corpus.mkdir(parents=True, exist_ok=True)
    for i, seed in enumerate(TARGETS[name][1]):
        (corpus / f"seed{i}").write_bytes(seed)


def _fuzz(name: str, options: list[str]) -> None:
    import atheris

    with atheris.instrument_imports(include=["penstock", "tests.fuzz.feed", "tests.fuzz.targets"]):
        from tests.fuzz.targets import TARGETS

    atheris.Setup([sys.argv[0], *options], TARGETS[name][0])
    atheris.Fuzz()
    os._exit(0)


if __name__ == "__main__":
    raise SystemExit(main())
