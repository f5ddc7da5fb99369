"""The verbs that end a delivery: succeed, park (retry, snooze, release), bury (fail, cancel)."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from penstock.streams import keys
from penstock.streams.calls import Arg, Call, failed, ms
from penstock.streams.consume import Delivery
from penstock.streams.scripts import load

_SUCCEED, _PARK, _BURY = load("succeed"), load("park"), load("bury")


class Settled(Enum):
    """How a settle was answered."""

    DONE = auto()
    #: The lease was lost and somebody else ended or moved the task: this outcome is dropped.
    LATE = auto()
    #: `park` only: no worker has known this task for too long; nothing was changed.
    GIVEN_UP = auto()
    #: `park` only: a cancel had been asked for, so the task ended as cancelled.
    CANCELLED = auto()


#: One answer per item: how it was settled, or the server's error text (it is still ours then).
Answers = list[Settled | str]
#: 1 now, 2 by an earlier send of the same call whose reply was lost.
_CODES = {0: Settled.LATE, 1: Settled.DONE, 2: Settled.DONE, 3: Settled.GIVEN_UP, 4: Settled.CANCELLED}


def _answers(reply: list[object]) -> Answers:
    return [_CODES[r] if isinstance(r, int) else failed(r) or "?" for r in reply]


def succeed(
    base: str, consumer: str, window: float, items: Iterable[tuple[Delivery, str, float, bytes]]
) -> Call[Answers]:
    """Store success of (delivery, task name, result TTL in s, encoded result); records live `window` s at least."""
    args: list[Arg] = [consumer, ms(window)]
    alike, count, length = None, 0, 0
    for d, name, ttl, value in items:
        if (d.priority, name, ttl) != alike:
            alike = d.priority, name, ttl
            args += (d.priority, name, ms(ttl), 0)
            length = len(args) - 1
            count = 0
        count += 1
        args[length] = count
        args += (d.entry, d.raw_key, value)
    return Call(_SUCCEED, keys.routed(base), args, _answers)


def park(
    base: str, consumer: str, ttl: float, give_up: float, items: Iterable[tuple[Delivery, str, float, str, str]]
) -> Call[Answers]:
    """Park or re-add (delivery, task name, delay in s, kind, error); kinds are in ``park.lua``."""
    args: list[Arg] = [consumer, ms(ttl), ms(give_up)]
    for d, name, delay, kind, error in items:
        args += (d.priority, d.entry, d.raw_key, name, d.message, ms(delay), kind, short(error))
    return Call(_PARK, keys.routed(base), args, _answers)


def bury(
    base: str, consumer: str, ttl: float, dead: tuple[float, int], items: Iterable[tuple[Delivery, str, bytes | None]]
) -> Call[Answers]:
    """End (delivery, task name, encoded failure or None for cancelled); `dead` is TTL (s) and most dead letters."""
    args: list[Arg] = [consumer, ms(ttl), ms(dead[0]), dead[1]]
    for d, name, failure in items:
        # An entry that is no message of ours has no key: it gets one, so that it can be looked at.
        key = d.raw_key or f"undecodable-{d.priority}-{d.entry}"
        args += (d.priority, d.entry, key, name, "c" if failure is None else "f", failure or b"", d.message)
    return Call(_BURY, keys.routed(base), args, _answers)


def short(error: str) -> bytes:
    """At most 60 bytes: a longer field would turn the record's small hash into a large one for good."""
    return error.encode(errors="replace")[:60]
