"""A task costs no more than it did, by counters that hardly depend on time. A measured rate would: CI's machines vary.

`python -m tests.cost` prints the counts. A change that raises one on purpose raises its bound in `tests/cost.py`.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from penstock.events import Event, Sent, Succeeded
from tests.access import ACCESS
from tests.conftest import binary
from tests.cost import BOUNDS, MEASURES, Figures, of_finished, subject
from tests.servers import DEFAULT, Server


def python(*arguments: str) -> str:
    """What a process of its own prints: see `tests.cost`."""
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True, timeout=100
    ).stdout


def too_dear(name: str, found: Figures) -> list[str]:
    """The figures above their bounds, with both."""
    figures = BOUNDS[name].items()
    return [f"{figure}: {found[figure]:.3f}, at most {most:g}" for figure, most in figures if found[figure] > most]


def test_a_task_costs_no_more_than_it_did() -> None:
    if ACCESS.closed:
        pytest.skip("it is counted on an open server; asyncio's TLS is written in Python, and would be counted, too")
    binary(DEFAULT)
    measured = json.loads(python("-m", "tests.cost", "--json"))
    assert {name: too_dear(name, figures) for name, figures in measured.items()} == {name: [] for name in MEASURES}


def test_all_that_is_counted_has_a_bound() -> None:
    assert BOUNDS.keys() == MEASURES.keys()


# The checks themselves.


def test_what_is_kept_of_each_task_is_found(server: Server, namespace: str) -> None:
    kept: list[Event] = []
    with subject(server, namespace) as one:
        one.app.observe(kept.append)
        assert of_finished(one)["blocks kept"] > 1


def test_no_success_goes_uncounted_while_another_thread_sends(server: Server, namespace: str) -> None:
    def between(phase: str, info: dict[str, int]) -> None:
        os.stat(".")  # gives the GIL away, in the middle of whatever has allocated

    threshold = gc.get_threshold()
    with subject(server, namespace) as one:
        one.count_successes()
        tell = one.app._observers.emit
        task = {"id": "q:1", "name": "noop", "queue": "q", "priority": "default"}
        sent, succeeded = Sent(**task, created=True), Succeeded(**task, attempt=1, ran=0.0)
        # The list is one object more that the collector counts: so it comes at each place of an event in turn.
        sender = threading.Thread(target=lambda: [(tell(sent), []) for _ in range(3000)])
        gc.callbacks.append(between)
        gc.set_threshold(10)
        try:
            sender.start()
            for _ in range(3000):
                tell(succeeded)
            sender.join()
        finally:
            gc.set_threshold(*threshold)
            gc.callbacks.remove(between)
        assert one.succeeded == 3000


LOOP = """
from tests.cost import Counter

def nothing(): ...

def loop(times):
    with Counter() as counter:
        for _ in range(times):
            nothing()
            len(())
    return counter.calls

print(loop(20) - loop(10))
"""


def test_a_call_and_a_call_of_c_are_counted() -> None:
    assert python("-c", LOOP) == "20\n"


def test_what_is_too_dear_is_said_with_its_bound() -> None:
    dear = {figure: most * 2 for figure, most in BOUNDS["delay"].items()}
    assert len(too_dear("delay", dear)) == len(dear)
    assert too_dear("delay", BOUNDS["delay"]) == []
