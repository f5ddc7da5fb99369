"""retire: a consumer goes when it owns nothing, and never with an entry."""

from __future__ import annotations

from typing import Any

from penstock.streams import consume, keys
from tests.contract.helpers import Queue


def consumers(q: Queue, priority: str = "default") -> set[str]:
    reply: Any = q.raw.xinfo_consumers(q.stream(priority), keys.GROUP)
    return {consumer["name"].decode() for consumer in reply}


def retire(q: Queue, *names: str, idle: float = 0.0) -> int:
    return q.run(consume.retire(q.base, idle, names))


def worked(q: Queue, *names: str) -> None:
    for name in names:
        q.succeed(name, q.start_one(f"of-{name}", consumer=name))


def test_those_that_own_nothing_go(q: Queue) -> None:
    worked(q, "a", "b")
    q.start_one("k", consumer="c")
    assert consumers(q) >= {"a", "b", "c"}
    assert retire(q) >= 2
    assert consumers(q) == {"c"}


def test_an_owner_stays_and_its_entries_too(q: Queue) -> None:
    delivery = q.start_one()
    retire(q)  # where it has read nothing
    assert retire(q, "a") == 0 and consumers(q) == {"a"}
    assert list(q.pending()) == [delivery.entry]
    q.succeed("a", delivery)
    assert retire(q, "a") == 1 and consumers(q) == set()


def test_only_those_that_were_named(q: Queue) -> None:
    worked(q, "a", "b")
    assert retire(q, "b", "unknown") >= 1
    assert consumers(q) == {"a"}


def test_only_those_that_are_idle(q: Queue) -> None:
    worked(q, "a")
    assert retire(q, idle=60.0) == 0 and consumers(q) == {"a"}


def test_in_all_streams(q: Queue) -> None:
    for priority in ("high", "low"):
        q.succeed("a", *q.start(priority, priority=priority))
    assert retire(q, "a") >= 2
    assert consumers(q, "high") == consumers(q, "low") == set()


def test_a_queue_without_streams(q: Queue) -> None:
    assert retire(q) == 0 and retire(q, "a") == 0
    assert q.state() == {}


def test_a_consumer_that_was_deleted_comes_back_with_its_next_entry(q: Queue) -> None:
    worked(q, "a")
    retire(q, "a")
    assert q.start_one("again", consumer="a").key == "again"
    assert consumers(q) == {"a"}
