"""heartbeat: who lives, for how long that is believed, and which queues are served."""

from __future__ import annotations

from penstock.streams import consume, inspect, keys, produce
from tests.contract.helpers import Queue


def beat(q: Queue, name: str, about: bytes = b"x", ttl: float = 20.0, queues: tuple[str, ...] = ("q",)) -> list[str]:
    return q.run(consume.heartbeat(q.namespace, name, about, ttl, queues))


def alive(q: Queue) -> list[str]:
    reply = q.raw.zrange(keys.workers(q.namespace), 0, -1)
    return [name.decode() for name in reply]  # type: ignore[union-attr]


def test_what_a_worker_says_is_kept_for_a_while(q: Queue) -> None:
    before = q.now()
    assert beat(q, "w1", b"\x81\xff", queues=("a", "b")) == []
    assert q.raw.get(keys.worker(q.namespace, "w1")) == b"\x81\xff"
    assert 590 < q.ttl(keys.worker(q.namespace, "w1")) <= 600  # longer than it lives: that it died must be seen
    assert before <= q.raw.zscore(keys.workers(q.namespace), "w1") <= q.now()  # type: ignore[operator]
    assert q.run(produce.queue_names(q.namespace)) == ["a", "b"]


def test_a_worker_without_queues(q: Queue) -> None:
    beat(q, "w1", queues=())
    assert alive(q) == ["w1"] and q.run(produce.queue_names(q.namespace)) == []


def test_the_last_word_counts(q: Queue) -> None:
    beat(q, "w1", b"1")
    first = q.raw.zscore(keys.workers(q.namespace), "w1")
    beat(q, "w1", b"2")
    assert q.raw.get(keys.worker(q.namespace, "w1")) == b"2"
    assert q.raw.zscore(keys.workers(q.namespace), "w1") >= first  # type: ignore[operator]
    assert alive(q) == ["w1"]


def test_those_that_were_not_heard_of_are_forgotten_and_named_once(q: Queue) -> None:
    for name in ("old-1", "old-2", "young"):
        beat(q, name)
    q.raw.zadd(keys.workers(q.namespace), {"old-1": q.now() - 20_001, "old-2": 1, "young": q.now() - 10_000})
    assert sorted(beat(q, "w1")) == ["old-1", "old-2"]
    assert alive(q) == ["young", "w1"]
    assert beat(q, "w1") == []


def test_an_orderly_end(q: Queue) -> None:
    beat(q, "w1")
    beat(q, "w2")
    assert [q.run(call) for call in consume.forget_worker(q.namespace, "w1")] == [1, 0, 1]
    assert alive(q) == ["w2"] and not q.raw.exists(keys.worker(q.namespace, "w1"))
    assert [q.run(call) for call in consume.forget_worker(q.namespace, "w1")] == [0, 0, 0]


def test_out_of_memory_a_worker_still_says_that_it_lives(q: Queue) -> None:
    """Else its probe would have it killed: the one that gives memory back, by ending tasks."""
    beat(q, "w1", b"1")
    q.raw.zadd(keys.workers(q.namespace), {"w1": q.now() - 15_000, "silent": 1})
    with q.out_of_memory():
        assert beat(q, "w1", b"2") == ["silent"]
        assert beat(q, "w2", queues=("new",)) == []
    assert alive(q) == ["w1", "w2"]
    assert q.raw.get(keys.worker(q.namespace, "w1")) == b"2"
    assert "new" in q.run(produce.queue_names(q.namespace))
    assert not q.raw.exists(keys.workers(q.namespace) + ":")  # what is acknowledged there is nothing


def test_workers_can_be_asked_for_by_what_their_names_begin_with(q: Queue) -> None:
    """By a probe, which asks for those of its own host and must not pay for a thousand others."""
    for name in ("host-1:7:a", "host-1:8:b", "host-10:7:c", "other:7:d", "hos%-1:7:e"):
        beat(q, name, name.encode())
    assert [each.consumer for each in q.run(inspect.workers(q.namespace, "host-1:"))] == ["host-1:7:a", "host-1:8:b"]
    assert [each.about for each in q.run(inspect.workers(q.namespace, "host-10"))] == [b"host-10:7:c"]
    assert [each.consumer for each in q.run(inspect.workers(q.namespace, "hos%"))] == ["hos%-1:7:e"]  # no pattern
    assert q.run(inspect.workers(q.namespace, "nobody")) == []


def test_those_that_are_gone_can_be_asked_for_too(q: Queue) -> None:
    """By a probe that lets a worker be silent for longer than others believe that it lives."""
    beat(q, "h:1")
    q.raw.zadd(keys.workers(q.namespace), {"h:1": q.now() - 30_000})
    assert beat(q, "h:2") == ["h:1"]
    assert [each.consumer for each in q.run(inspect.workers(q.namespace, "h:"))] == ["h:2"]
    living, gone = q.run(inspect.workers(q.namespace, "h:", gone=True))
    assert (living.consumer, gone.consumer) == ("h:2", "h:1") and 30 <= gone.ago < 60
    q.raw.zadd(keys.gone(q.namespace), {"h:2": 1})  # an older version has left it there
    assert [each.consumer for each in q.run(inspect.workers(q.namespace, "h:2", gone=True))] == ["h:2"]


def test_names_that_somebody_else_has_written_do_not_stop_it(q: Queue) -> None:
    foreign = {b"\xff": 1.0, b"\x1b[31m": 2.0, **{b"w%d" % i: 3.0 for i in range(10_000)}}
    q.raw.zadd(keys.workers(q.namespace), foreign)
    gone = beat(q, "w1")
    assert gone[:2] == ["\ufffd", "\x1b[31m"]
    while gone:
        gone = beat(q, "w1")
    assert alive(q) == ["w1"]


def test_what_is_no_queue_is_none(q: Queue) -> None:
    beat(q, "w1", queues=("a",))
    q.raw.sadd(keys.queues(q.namespace), b"\xff", "a b", "x" * 101, "{a}", "")
    assert q.run(produce.queue_names(q.namespace)) == ["a"]


def test_all_workers_are_told_however_many_there_are(q: Queue) -> None:
    """They are asked for in pages of a thousand."""
    names = [f"w{i:04d}" for i in range(2_100)]
    q.raw.zadd(keys.workers(q.namespace), {name: 1000.0 + i for i, name in enumerate(names)})
    for name in (names[0], names[999], names[1000], names[-1]):
        q.raw.set(keys.worker(q.namespace, name), name, ex=60)
    heard = q.run(inspect.workers(q.namespace))
    assert [each.consumer for each in heard] == names
    assert {each.consumer: each.about for each in heard if each.about} == {
        name: name.encode() for name in (names[0], names[999], names[1000], names[-1])
    }
    q.raw.delete(keys.workers(q.namespace))
    assert q.run(inspect.workers(q.namespace)) == []
