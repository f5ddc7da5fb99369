"""What workers measure of their tasks: kept in one hash for each queue, added up over all workers there ever were.

A worker counts in its memory and adds what it has counted with its heartbeat. A number that it cannot know to have
arrived is sent again, and by the call's own number added once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from penstock.streams import keys
from penstock.streams.calls import Arg, Call, command, ms
from penstock.streams.scripts import load

_MEASURE = load("measure")

#: Upper bounds of the histograms' buckets, s; one more is for what is greater.
BOUNDS = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0,
)  # fmt: skip
#: No sum of microseconds is greater: 64 bits have to hold it, whatever clocks said.
MOST = 2**62
#: Seconds for which a worker's last call is known. One that is sent again later than that may count twice.
KNOWN_FOR = 3600.0


class Measure(StrEnum):
    """The measures; the value is what its field is called, before ``|`` and what it is of."""

    #: Histograms: of a queue; `RUN` of each task.
    WAIT = "w"
    RUN = "r"
    END_TO_END = "e"
    SCHEDULE_DELAY = "d"
    #: Counts: of a queue; `FAILURES` of each reason and task (``reason|task``).
    REDELIVERED = "t"
    LEASES_LOST = "l"
    FAILURES = "f"


#: Those with a histogram: the sum in microseconds, then how many there are in each bucket. The others: how many.
HISTOGRAMS = frozenset({Measure.WAIT, Measure.RUN, Measure.END_TO_END, Measure.SCHEDULE_DELAY})


class Measured(msgspec.Struct, frozen=True):
    """One measure of a queue: of `what` (task, ``reason|task`` or ``""``)."""

    measure: Measure
    what: str
    numbers: tuple[int, ...]

    @property
    def count(self) -> int:
        return sum(self.numbers[1:]) if self.measure in HISTOGRAMS else self.numbers[0]

    @property
    def seconds(self) -> float:
        """A histogram's sum."""
        return self.numbers[0] / 1e6

    @property
    def buckets(self) -> tuple[int, ...]:
        """How many there are in each bucket of a histogram, the last one without a bound."""
        return self.numbers[1:]


def field(measure: Measure, what: str = "") -> str:
    """What a measure's field in the hash is called."""
    return f"{measure.value}|{what}" if what else measure.value


def add(base: str, consumer: str, number: int, sums: Mapping[str, Sequence[int]]) -> Call[bool]:
    """Add what a worker has measured, by field; `number` is greater than that of its last call. False: it was added
    before, by an earlier send of this call."""
    args: list[Arg] = [consumer, number, ms(KNOWN_FOR)]
    for name, numbers in sums.items():
        args += (name, msgspec.msgpack.encode([min(each, MOST) for each in trimmed(numbers)]))
    return Call(_MEASURE, keys.routed(base), args, lambda reply: reply == 1)


def forget(base: str, consumer: str) -> Call[int]:
    """Remove what is known of a worker's last call, at its orderly end."""
    return command("DEL", keys.measured(base, consumer), read=int)


def read(found: Iterable[tuple[str, Sequence[int]]]) -> Iterator[Measured]:
    """The measures of a queue from (field, numbers); what is none is left out."""
    for name, numbers in found:
        measure, _, what = name.partition("|")
        if measure in _LENGTHS and 0 < len(numbers) <= _LENGTHS[measure] and min(numbers) >= 0:
            missing = _LENGTHS[measure] - len(numbers)  # zeros at the end are not kept
            yield Measured(Measure(measure), what, (*numbers, *(0,) * missing))


def trimmed(numbers: Sequence[int]) -> Sequence[int]:
    """Without the zeros at the end: most of a histogram's buckets are empty."""
    end = len(numbers)
    while end > 1 and not numbers[end - 1]:
        end -= 1
    return numbers[:end]


_LENGTHS: Mapping[str, int] = {each.value: 2 + len(BOUNDS) if each in HISTOGRAMS else 1 for each in Measure}
