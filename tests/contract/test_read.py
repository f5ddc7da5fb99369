"""read: a task's record and result in one round trip; and leaving word of who waits."""

from __future__ import annotations

import pytest

from penstock.errors import WrongKeyType
from penstock.streams import keys
from penstock.streams.record import State
from tests.contract.helpers import NAME, Queue


def test_an_unknown_task(q: Queue) -> None:
    assert q.read("k") is None and q.read("k", "me") is None
    assert q.state() == {}


def test_every_state(q: Queue) -> None:
    q.send("scheduled", due="+60000")
    q.send("queued", "running", "succeeded", "failed", "cancelled")
    q.send("expired", expires="1")
    started = {d.key: d for d in q.fetch().deliveries}
    q.park("a", started["queued"], delay=0, kind="released")
    q.succeed("a", started["succeeded"], value=b"\x05")
    q.bury("a", started["failed"])
    q.bury("a", started["cancelled"], failure=None)
    for state in State:
        record = q.read(state.value)
        assert record is not None and record.state is state and record.name == NAME
        info = record.info()
        assert (info.id, info.queue, info.priority, info.name) == (f"q:{state.value}", "q", "default", NAME)
        assert (info.finished_at is not None) == state.finished
        assert (info.due_at is not None) == (state is State.SCHEDULED)
        assert (info.error is not None) == (state is State.FAILED)
        assert record.value == (b"\x05" if state is State.SUCCEEDED else record.value)
        assert info.enqueued_at is not None


def test_who_waits_is_noted_once(q: Queue) -> None:
    q.send("k")
    q.read("k", "listen-1")
    q.read("k", "listen-1")
    q.read("k", "listen-2")
    assert q.record("k")["l"] == "listen-1 listen-2"
    q.read("k")
    assert q.record("k")["l"] == "listen-1 listen-2"


def test_the_note_stays_small(q: Queue) -> None:
    """A field over 64 B would turn the record into a large hash. Who finds no room looks again."""
    q.send("k")
    for i in range(20):
        q.read("k", f"listen-{i:x}")
    noted = q.record("k")["l"]
    assert noted.split() == [f"listen-{i:x}" for i in range(7)] and len(noted) <= 64
    assert q.raw.object("encoding", q.record_key("k")) in (b"ziplist", b"listpack")


@pytest.mark.parametrize("state", ["q", "s", "r"])
def test_only_unfinished_tasks_are_waited_for(q: Queue, state: str) -> None:
    q.send("k", due="+60000" if state == "s" else "")
    if state == "r":
        q.fetch()
    q.read("k", "me")
    assert q.record("k")["l"] == "me"
    q.succeed("a", q.start_one("done"))
    before = q.state()
    q.read("done", "me")
    assert q.state() == before


def test_reading_changes_nothing(q: Queue) -> None:
    q.start("a")
    before = q.state()
    q.read("a")
    assert q.state() == before


def test_one_can_read_and_wait_although_memory_is_full(q: Queue) -> None:
    q.succeed("a", q.start_one("done"), value=b"\x07")
    q.send("k")
    with q.out_of_memory():
        record = q.read("done", "me")
        waiting = q.read("k", "me")
    assert record is not None and record.value == b"\x07"
    assert waiting is not None and waiting.state is State.QUEUED


def test_a_record_of_another_type_is_an_error(q: Queue) -> None:
    q.break_record("k")
    with pytest.raises(WrongKeyType):
        q.read("k")


def test_a_result_that_has_expired(q: Queue) -> None:
    q.succeed("a", q.start_one(), value=b"x" * 100)
    q.raw.delete(keys.result(q.base, "k"))
    record = q.read("k")
    assert record is not None and (record.state, record.value) == (State.SUCCEEDED, None)
