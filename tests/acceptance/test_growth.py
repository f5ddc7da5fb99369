"""`python -m benchmarks.growth` and `python -m benchmarks.flame`: they run, and their sums are right."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks import flame, growth_report
from benchmarks.errors import BenchError
from benchmarks.growth_point import Point
from benchmarks.samples import OTHER, layer_of, read_shares
from tests.source import ROOT

POINT = Point(**{field.name: 1 for field in fields(Point)})


def run(module: str, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *args], capture_output=True, text=True, cwd=ROOT, timeout=100, check=False
    )


def test_growth_is_measured_with_real_workers(tmp_path: Path) -> None:
    report = tmp_path / "growth.md"
    done = run("benchmarks.growth", "--quick", "--json", "--queues", "3", "--workers", "2", "--report", str(report))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(point["queues"], point["workers"]) for point in found["points"]] == [(3, 1), (1, 2)]
    for point in found["points"]:
        assert min(point["drain_rate"], point["drain_worker_us"], point["trickle_redis_us"]) > 0
        assert 0 < point["trickle_p50_ms"] <= point["trickle_p99_ms"]
    assert "| queues | workers | drain, tasks/s |" in report.read_text("utf-8")


@pytest.mark.parametrize(
    ("module", "args", "said"),
    [
        ("benchmarks.growth", ["--report", "no/such/folder/x.md"], "there is no folder"),
        ("benchmarks.growth", ["--queues", "1,0"], "at least 1"),
        ("benchmarks.flame", ["--scenario", "none"], "invalid choice"),
    ],
)
def test_wrong_use(module: str, args: list[str], said: str) -> None:
    done = run(module, *args)
    assert (done.returncode, said in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr


def test_what_is_missing_is_told_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(BenchError, match=r"pip install .*\[bench\]"):
        growth_report.load_pyplot()
    monkeypatch.setattr("shutil.which", lambda *args, **options: None)
    with pytest.raises(BenchError, match=r"pip install .*\[bench\]"):
        flame.find_spy()


def test_what_grows_faster_than_its_size_is_found() -> None:
    few, many = replace(POINT, queues=10), replace(POINT, queues=100, trickle_worker_us=50)
    assert growth_report.verdict([POINT, few, many]) == [
        "worse than linear: trickle_worker_us from 10 to 100 queues, queues^1.70"
    ]
    dear = replace(POINT, workers=10, idle_commands=20)
    assert growth_report.verdict([POINT, dear]) == [
        "worse than linear: idle_commands from 1 to 10 workers, workers^1.30"
    ]
    in_step = replace(POINT, workers=10, idle_commands=10, drain_rate=1000)
    assert growth_report.verdict([POINT, in_step]) == ["nothing grows worse than linear"]


def test_samples_are_counted_by_the_innermost_frame() -> None:
    main, thread = 'thread (0x1): "MainThread"', 'thread (0x2): "penstock-leases"'
    raw = "\n".join(
        [
            f"{main};main (/p/penstock/cli/worker.py:1);run (/p/penstock/consumers/runner.py:2) 6",
            f"{main};run (/p/penstock/consumers/runner.py:2);noop (/p/benchmarks/adapters/peer_penstock.py:3) 2",
            f"{thread};run (/p/penstock/consumers/leases.py:4) 8",
        ]
    )
    assert read_shares(raw).by_layer == {"penstock.consumers.runner": 0.75, "the user's task": 0.25}
    assert read_shares(raw, every_thread=True).by_layer["penstock.consumers.leases"] == 0.5
    assert read_shares("").samples == 0


@pytest.mark.parametrize(
    ("frame", "layer"),
    [
        ("f (/p/penstock/streams/wire.py:1)", "penstock.streams"),
        ("f (/p/penstock/app.py:1)", "penstock, other"),
        ("f (/p/site-packages/redis/asyncio/connection.py:1)", "redis-py"),
        ("select (/p/python3.12/selectors.py:1)", "asyncio, uvloop"),
        ("run (/p/python3.12/asyncio/runners.py:1)", "asyncio, uvloop"),
        ("f (/p/python3.12/json/decoder.py:1)", OTHER),
    ],
)
def test_a_frame_has_its_layer(frame: str, layer: str) -> None:
    assert layer_of(frame) == layer
