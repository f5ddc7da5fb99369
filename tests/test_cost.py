"""A task costs no more than it did, by counters that hardly depend on time. A measured rate would: CI's machines vary.

`python -m tests.cost` prints the counts. A change that raises one on purpose raises its bound in `tests/cost.py`.
"""

from __future__ import annotations

import pytest

from penstock.events import Event
from tests.access import ACCESS
from tests.cost import BOUNDS, MEASURES, Counter, Figures, of_finished, subject
from tests.servers import Server


def too_dear(name: str, found: Figures) -> list[str]:
    """The figures above their bounds, with both."""
    figures = BOUNDS[name].items()
    return [f"{figure}: {found[figure]:.3f}, at most {most:g}" for figure, most in figures if found[figure] > most]


@pytest.mark.parametrize("name", MEASURES)
def test_a_task_costs_no_more_than_it_did(name: str, server: Server, namespace: str) -> None:
    if ACCESS.tls:
        pytest.skip("asyncio's TLS is written in Python, and counted, too")
    with subject(server, namespace) as one:
        assert too_dear(name, MEASURES[name](one)) == []


def test_all_that_is_counted_has_a_bound() -> None:
    assert BOUNDS.keys() == MEASURES.keys()


# The checks themselves.


def test_what_is_kept_of_each_task_is_found(server: Server, namespace: str) -> None:
    kept: list[Event] = []
    with subject(server, namespace) as one:
        one.app.observe(kept.append)
        assert of_finished(one)["blocks kept"] > 1


def test_a_call_and_a_call_of_c_are_counted() -> None:
    def nothing() -> None: ...

    def loop(times: int) -> int:
        with Counter() as counter:
            for _ in range(times):
                nothing()
                len(())
        return counter.calls

    assert loop(20) - loop(10) == 20


def test_what_is_too_dear_is_said_with_its_bound() -> None:
    dear = {figure: most * 2 for figure, most in BOUNDS["delay"].items()}
    assert len(too_dear("delay", dear)) == len(dear)
    assert too_dear("delay", BOUNDS["delay"]) == []
