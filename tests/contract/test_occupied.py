"""occupied: which queues hold an entry, in one command for all."""

from __future__ import annotations

import pytest

from penstock.streams import consume
from penstock.streams.connector import Connector
from tests.contract.helpers import Queue


def test_which_queues_hold_an_entry(q: Queue, connector: Connector) -> None:
    others = {name: q.sibling(name) for name in ("none", "empty", "parked", "running", "low")}
    others["empty"].succeed("a", others["empty"].start_one())
    others["parked"].send("k", due="+60000")
    others["running"].start_one()
    others["low"].send("k", priority="low")
    q.send("k")
    bases = [q.base, *[other.base for other in others.values()]]
    # One command reads one slot: on a cluster each queue is asked for itself.
    groups = [[base] for base in bases] if connector.is_cluster else [bases]
    found = set[str]().union(*[q.run(consume.occupied(group)) for group in groups])
    assert found == {q.base, others["running"].base, others["low"].base}


@pytest.mark.parametrize("priority", ["high", "default", "low"])
def test_until_the_last_one_has_ended(q: Queue, priority: str) -> None:
    occupied = consume.occupied([q.base])
    assert q.run(occupied) == set()
    first, second = q.start("a", "b", priority=priority)
    q.succeed("a", first)
    assert q.run(occupied) == {q.base}
    q.park("a", second)
    assert q.run(occupied) == set()


def test_a_queue_whose_name_looks_like_a_suffix(q: Queue) -> None:
    odd = q.sibling("s.high")
    odd.send("k")
    assert q.run(consume.occupied([odd.base])) == {odd.base}
