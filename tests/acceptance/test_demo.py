"""`penstock demo`: two workers, one SIGKILL, no file missing, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import State, TaskInfo
from penstock.cli.demo.corpus import standard_library
from penstock.cli.demo.report import Kill, Ledger
from penstock.cli.demo.tasks import Summary, index
from tests.servers import wait_until

LIMIT = 150


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Any]:
    """Starts the demo, with its temporary folder inside `tmp_path`."""
    started: list[subprocess.Popen[str]] = []

    def start(*options: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "demo", "--limit", str(LIMIT), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path), "REDIS_URL": "nonsense://", "PENSTOCK_QUEUES": "none"},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def left_behind(tmp_path: Path) -> list[str]:
    return [path.name for path in tmp_path.iterdir() if path.name.startswith("penstock-demo-")]


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_one_worker_is_killed_and_no_file_is_missing(demo: Any, tmp_path: Path) -> None:
    process = demo("--json")
    out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (0, "")
    report = json.loads(out)

    assert report["problems"] == [] and report["missing"] == []
    assert LIMIT <= report["files"] <= LIMIT + 1
    assert report["indexed"] + report["failed"] == report["files"] == sum(report["workers"].values())
    assert report["lines"] > 10_000 and report["functions"] > report["classes"] > 100
    assert len(report["imports"]) == 10 and report["imports"][0][1] >= report["imports"][9][1] > 0

    kill = report["kill"]
    assert report["files"] // 2 <= kill["done_before"] < report["files"]
    assert kill["replaced_by"] not in ("", kill["worker"])
    assert set(report["taken_over"]) == set(kill["in_hand"])
    assert not kill["in_hand"] or report["recovered_in"] > 0
    assert not any(lives(int(worker.split(":")[-2])) for worker in [*report["workers"], kill["worker"]])

    assert report["failed"] == len(report["failures"]) > 0
    assert all(failure["error"].startswith("SyntaxError: ") for failure in report["failures"])
    broken = report["broken_on_purpose"]
    assert broken is None or broken in [failure["file"] for failure in report["failures"]]
    assert 0 < report["retried"] <= 20
    assert report["tasks_per_second"] > 0
    for times in (report["wait"], report["run"]):
        assert 0 <= times["p50"] <= times["p99"] < report["wall"]
    assert left_behind(tmp_path) == []


def test_what_it_prints_without_a_terminal(demo: Any) -> None:
    out, err = demo().communicate(timeout=90)
    assert err == "" and "\x1b" not in out and "\r" not in out
    assert "kill -9 " in out and "No file is missing." in out
    assert len(out.splitlines()) < 60


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_clears_everything_away(demo: Any, tmp_path: Path, number: signal.Signals) -> None:
    process = demo()
    assert process.stdout is not None and process.stderr is not None
    line = next(line for line in process.stdout if line.endswith("are ready\n"))
    pids = [int(word) for word in line.split() if word.isdecimal()]
    assert len(pids) == 2 and all(lives(pid) for pid in pids)
    process.send_signal(number)
    assert process.wait(timeout=30) == 130
    assert process.stderr.read() == "Error: stopped; server, workers and folder are gone\n"
    wait_until(lambda: not any(lives(pid) for pid in pids), 10)
    assert left_behind(tmp_path) == []


def test_the_whole_library_is_found(tmp_path: Path) -> None:
    corpus = standard_library(tmp_path)
    names = {str(path.relative_to(corpus.root)) for path in corpus.files.values() if path != corpus.broken}
    assert len(names) > 500 and {"ast.py", "asyncio/base_events.py"} <= names
    assert not any("site-packages" in name for name in names)
    assert len(standard_library(tmp_path, 50).files) in (50, 51)


def test_an_index(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import os.path, sys\nfrom os import walk\nfrom . import x\nclass A:\n  async def f(self): ...\n")
    found = index(path)
    assert (found.lines, found.functions, found.classes, found.imports) == (5, 1, 1, {"os": 2, "sys": 1})


def record(state: State) -> TaskInfo:
    return TaskInfo(
        id="files:a", name="index_file", queue="files", priority="default", state=state, attempt=1, deliveries=1,
        enqueued_at=None, due_at=None, started_at=None, finished_at=None, worker="w", error=None,
    )  # fmt: skip


KILL = Kill(worker="w", pid=1, at=0.0, done_before=1, in_hand=[], replaced_by="v")


@pytest.mark.parametrize(
    ("records", "dead", "summed_up", "problems"),
    [
        ({"a": State.SUCCEEDED, "b": State.FAILED}, {"b": "SyntaxError"}, 1, 0),
        ({"a": State.SUCCEEDED, "b": None}, {}, 1, 2),  # missing, hence neither indexed nor failed
        ({"a": State.SUCCEEDED, "b": State.RUNNING}, {}, 1, 2),
        ({"a": State.SUCCEEDED, "b": State.FAILED}, {}, 1, 1),  # no dead letter
        ({"a": State.SUCCEEDED, "b": State.SUCCEEDED}, {}, 1, 1),  # a result that was not added up
        ({"a": State.SUCCEEDED, "b": State.CANCELLED}, {}, 1, 1),
    ],
)
def test_the_proof_can_fail(
    records: dict[str, State | None], dead: dict[str, str], summed_up: int, problems: int
) -> None:
    read = {key: None if state is None else record(state) for key, state in records.items()}
    ledger = Ledger(records=read, dead=dead, summary=Summary(summed_up, 1, 1, 1, []), kill=KILL)
    report = ledger.report(library="", broken=None, wall=1.0, top=10)
    assert len(report.problems) == problems
    assert report.missing == [key for key, state in records.items() if state in (None, State.RUNNING)]
