"""measure: what workers count is added up, and nothing is added twice."""

from __future__ import annotations

import pytest
from msgspec.msgpack import encode

from penstock.errors import ServerOutOfMemory, WrongKeyType
from penstock.streams import inspect, keys, measures
from penstock.streams.measures import BOUNDS, Measure, Measured, field
from tests.contract.helpers import Queue

HISTOGRAM = [1_500_000, *range(1 + len(BOUNDS))]


def add(q: Queue, number: int, consumer: str = "a", **sums: list[int]) -> bool:
    return q.run(measures.add(q.base, consumer, number, sums))


def kept(q: Queue) -> dict[str, tuple[int, ...]]:
    found = q.run(inspect.queue_stats(q.base, q.name)).measures
    return {field(each.measure, each.what): each.numbers for each in found}


def test_numbers_are_added_one_by_one(q: Queue) -> None:
    assert add(q, 1, w=HISTOGRAM, t=[2])
    assert add(q, 2, w=HISTOGRAM, l=[1])
    assert kept(q) == {"w": tuple(2 * n for n in HISTOGRAM), "t": (2,), "l": (1,)}


def test_workers_add_to_the_same(q: Queue) -> None:
    assert add(q, 7, "a", t=[2]) and add(q, 1, "b", t=[40])
    assert kept(q) == {"t": (42,)}


def test_what_is_sent_again_is_added_once(q: Queue) -> None:
    """Its reply was lost."""
    assert [add(q, 1, t=[5]), add(q, 1, t=[5]), add(q, 2, t=[1]), add(q, 1, t=[5]), add(q, 2, t=[1])] == [
        True, False, True, False, False,
    ]  # fmt: skip
    assert kept(q) == {"t": (6,)}
    assert 3000 < q.ttl(keys.measured(q.base, "a")) <= measures.KNOWN_FOR


def test_large_numbers_stay_exact(q: Queue) -> None:
    add(q, 1, t=[2**52])
    add(q, 2, t=[1])
    assert kept(q) == {"t": (2**52 + 1,)}


def test_out_of_memory_nothing_is_added_and_it_may_be_sent_again(q: Queue) -> None:
    add(q, 1, t=[1])
    with q.out_of_memory(), pytest.raises(ServerOutOfMemory):
        add(q, 2, t=[1])
    assert kept(q) == {"t": (1,)}
    assert add(q, 2, t=[1]) and kept(q) == {"t": (2,)}


def test_somebody_elses_key_is_an_error_and_counts_nothing(q: Queue) -> None:
    q.raw.set(keys.measures(q.base), "x", ex=100)
    with pytest.raises(WrongKeyType):
        add(q, 1, t=[1])
    q.raw.delete(keys.measures(q.base))
    assert add(q, 1, t=[1]) and kept(q) == {"t": (1,)}


@pytest.mark.parametrize("broken", [b"", b"\xff\xff", b"\xa3abc", b"\x91"])
def test_what_is_no_measure_begins_anew(q: Queue, broken: bytes) -> None:
    q.raw.hset(
        keys.measures(q.base),
        mapping={"t": broken, "unknown": b"\x91\x01", b"\xff": b"\x91\x01", "w": encode([1] * 30)},
    )
    assert kept(q) == {}
    assert add(q, 1, t=[3]) and kept(q) == {"t": (3,)}


def test_what_a_measure_says() -> None:
    histogram = Measured(Measure.WAIT, "", tuple(HISTOGRAM))
    assert (histogram.seconds, histogram.count, histogram.buckets) == (1.5, sum(HISTOGRAM[1:]), tuple(HISTOGRAM[1:]))
    assert Measured(Measure.LEASES_LOST, "", (3,)).count == 3
    assert field(Measure.RUN, "shop.a|b") == "r|shop.a|b" and field(Measure.WAIT) == "w"
