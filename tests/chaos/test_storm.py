"""The storm's checks can fail: each kind of violation is made by hand, and found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from penstock import App
from penstock.streams import keys
from tests.chaos import storm
from tests.chaos.storm_check import Runs, Verdict, check
from tests.chaos.storm_faults import Faults, Struck
from tests.chaos.storm_tasks import Plan

TOTAL = 6
PLANS = [Plan(n, "quick", (), "default", 0.0, "o") for n in range(TOTAL)]
#: One of each kind, which held something.
STRUCK = [Struck(kind, 1.0, in_flight=1, effect=1) for kind in (*Faults.KINDS, "SIGCONT")]

Break = Callable[[redis.Redis, str, Path], object]


@pytest.fixture
def calm(own_server: object, raw: redis.Redis, url: str, namespace: str, tmp_path: Path) -> Path:
    """Six tasks that have run as they should; the folder of their lines."""
    folder = tmp_path / "runs"
    folder.mkdir()
    app = App("storm", url=url, namespace=namespace)

    @app.task(name="quick")
    async def quick(n: int) -> None:
        with (folder / "1.runs").open("a") as file:
            file.write(f"S {n}\nE {n}\n")

    raw.script_flush()
    for each in PLANS:
        quick.options(id=each.key).delay(each.n)
    app.drain(timeout=20)
    app.close()
    return folder


def verdict(raw: redis.Redis, namespace: str, folder: Path, struck: list[Struck] = STRUCK) -> Verdict:
    return check(raw, namespace, PLANS, Runs(folder, TOTAL), struck)


def test_all_is_well(calm: Path, raw: redis.Redis, namespace: str) -> None:
    found = verdict(raw, namespace, calm)
    assert found.violations == [] and found.runs == TOTAL and found.duplicates == 0


def _base(namespace: str) -> str:
    return keys.base(namespace, "default")


def _append(folder: Path, line: str, times: int = 1) -> None:
    with (folder / "2.runs").open("a") as file:
        file.write(line * times)


@pytest.mark.leaks
@pytest.mark.parametrize(
    ("damage", "violation"),
    [
        (lambda raw, ns, _: raw.delete(keys.record(_base(ns), "3")), "lost: task 3"),
        (lambda raw, ns, _: raw.hset(keys.record(_base(ns), "3"), "s", "r"), "not ended: task 3"),
        (lambda raw, ns, _: raw.hset(keys.record(_base(ns), "3"), "s", "f"), "ended otherwise: task 3"),
        (lambda raw, ns, _: raw.persist(keys.record(_base(ns), "3")), "neither TTL nor owner"),
        (lambda raw, ns, _: raw.xadd(keys.stream(_base(ns), "low"), {"k": "x", "m": "y"}), "low: 1 entries"),
        (lambda raw, ns, _: raw.zadd(keys.parked(_base(ns)), {"x": 1}), "1 tasks are parked"),
        (lambda raw, ns, _: raw.hincrby(keys.counters(_base(ns)), "succeeded|quick", 1), "the scripts ended 7"),
        (lambda _, __, folder: _append(folder, "S 3\n", 20), "duplicates: 20 runs"),
        (lambda _, __, folder: (folder / "1.runs").write_text("S 1\nE 1\n"), "never run: task 0"),
    ],
)
def test_a_violation_is_found(calm: Path, raw: redis.Redis, namespace: str, damage: Break, violation: str) -> None:
    damage(raw, namespace, calm)
    assert [line for line in verdict(raw, namespace, calm).violations if violation in line]


@pytest.mark.parametrize("kind", [*Faults.KINDS])
def test_a_kind_of_fault_that_did_not_take_place_is_told(
    calm: Path, raw: redis.Redis, namespace: str, kind: str
) -> None:
    struck = [each for each in STRUCK if each.kind != kind]
    assert f"fault: no {kind} took place" in verdict(raw, namespace, calm, struck).violations


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_storm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--tasks", "3000", "--seconds", "25", "--seed", "7"]
    code = storm.main([*arguments, "--json", str(tmp_path / "s.json"), "--report", str(tmp_path / "s.md")])
    report = json.loads((tmp_path / "s.json").read_text())
    assert code == 0, report["verdict"]["violations"]
    assert report["seed"] == 7 and report["tasks"] == 3000
    assert (tmp_path / "s.md").read_text() in capsys.readouterr().out
