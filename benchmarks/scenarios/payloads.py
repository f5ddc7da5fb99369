"""What the size of arguments and results costs."""

from __future__ import annotations

import time
from dataclasses import dataclass

from benchmarks.errors import BenchError
from benchmarks.scenarios.scenario import Extent, Figures, OursAlone
from benchmarks.session import Config, Peer, Session
from penstock.streams import keys

#: penstock takes messages up to 1 MiB; some bytes of one are the task's name and its options.
_LARGEST = 1024 * 1024 - 1024
_DONE_WITHIN = 60.0
_STREAM = keys.stream(keys.base("penstock", "default"), "default")


@dataclass(frozen=True)
class Payload:
    """One row: its bytes, and how many calls take a second or two, one by one and in bulk."""

    label: str
    size: int
    one: int
    bulk: int
    #: It is what the task returns, not what it is given.
    is_result: bool = False

    @property
    def key(self) -> str:
        """What the names of its figures begin with."""
        return f"{'result' if self.is_result else 'argument'}_{self.size}"


PAYLOADS = (
    Payload("argument of 100 B", 100, 10_000, 50_000),
    Payload("argument of 1 kB", 1_000, 10_000, 40_000),
    Payload("argument of 10 kB", 10_000, 5_000, 15_000),
    Payload("argument of 100 kB", 100_000, 1_500, 1_500),
    Payload("argument of 1 MiB", _LARGEST, 150, 150),
    Payload("result of 1 kB", 1_000, 0, 40_000, is_result=True),
    Payload("result of 1 MiB", _LARGEST, 0, 300, is_result=True),
)
#: Between these two a copy too many shows; below, what each task costs whatever its size hides it.
_LARGE, _LARGER = PAYLOADS[3], PAYLOADS[4]


@dataclass(frozen=True)
class Payloads(OursAlone):
    """Calls one by one and in bulk, and their drain by one worker: per second, for each size.

    One worker takes all of them. It is up before, and its process is stopped while the queue is filled: so a drain can
    be timed from the moment that it goes on until the last task is settled, with its result on the server.
    """

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        found: Figures = {}
        with Session(peer, config) as session:
            session.client("fill", task="noop", n=1)
            session.start_worker()
            session.wait_for_first()
            for payload in PAYLOADS:
                session.pause_workers()
                sent = _send(session, payload, extent)
                sent["drain"] = _drain(session, int(sent.pop("n")))
                found |= {f"{payload.key}_{name}": rate for name, rate in sent.items()}
        return {**found, "growth": _growth(found)}


def _send(session: Session, payload: Payload, extent: Extent) -> Figures:
    bulk = extent.of(payload.bulk)
    if payload.is_result:
        return session.alone("answers", size=payload.size, n=bulk)
    return session.alone("payload", size=payload.size, one=extent.of(payload.one), bulk=bulk)


def _growth(found: Figures) -> float:
    """Time per byte at 1 MiB against 100 kB, of what grows most; a quadratic step would make it 10."""

    def bytes_per_second(payload: Payload, name: str) -> float:
        return found[f"{payload.key}_{name}"] * payload.size

    return max(bytes_per_second(_LARGE, name) / bytes_per_second(_LARGER, name) for name in ("one", "bulk", "drain"))


def _drain(session: Session, n: int) -> float:
    """Tasks/s of the worker, which goes on now."""
    start, before = time.monotonic(), session.hits()
    session.resume_workers()
    while session.server.stream_length(_STREAM):
        if time.monotonic() > start + _DONE_WITHIN:
            break
        session.check_workers()
        time.sleep(0.005)
    took, ran = time.monotonic() - start, session.hits() - before
    if ran != n:
        raise BenchError(f"{session.peer.name}: {ran} of {n} tasks have run. {session.log()}")
    return n / took
