"""Whether a long queue costs more, a task, than a short one."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from benchmarks.errors import BenchError
from benchmarks.scenarios.scenario import Extent, Figures, OursAlone
from benchmarks.session import Config, Peer, Session

#: Calls of one producer process: it keeps a handle of each.
_FILL = 100_000
#: What is on the server once, as scripts and the queue itself, is there when so many tasks are.
_FIRST = 50
#: Share of the tasks after which the worker has all that it needs; seconds between two looks at its memory.
_SETTLED, _LOOK = 0.05, 0.2
#: A worker that runs fewer tasks/s than this is not waited for.
_LEAST_RATE = 5_000.0
#: Drains of the short queue before the long one, and as many after it.
_REPEATS = 3


@dataclass(frozen=True)
class Backlog(OursAlone):
    """No-op tasks: a million queued, against 20,000. Rates, the worker's memory meanwhile, bytes on the server.

    The short queue is drained before and after the long one, each time on a new server, and the median counts. `limit`
    cuts nothing here: half a million of a million tasks would say nothing.
    """

    small: int = 20_000
    middle: int = 200_000
    large: int = 1_000_000

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        repeats = 1 if extent.quick else _REPEATS
        small = [self._short(peer, config, extent) for _ in range(repeats)]
        found = self._long(peer, config, extent)
        small += [self._short(peer, config, extent) for _ in range(0 if extent.quick else repeats)]
        rate = statistics.median(small)
        return {**found, "small_rate": rate, "ratio": found["rate"] / rate}

    def _short(self, peer: Peer, config: Config, extent: Extent) -> float:
        n = extent.of(self.small)
        with Session(peer, config) as session:
            session.client("fill", task="noop", n=n)
            _drain(session, n)
            return _rate(session)

    def _long(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        small, middle, n = extent.of(self.small), extent.of(self.middle), extent.of(self.large)
        with Session(peer, config) as session:
            _fill(session, 0, _FIRST)
            base, queued, each = session.server.memory(), _FIRST, []
            for count in (small, middle, n):
                _fill(session, queued, count)
                queued = count
                each.append((session.server.memory() - base) / (count - _FIRST))
            memory = _drain(session, n)
            found = {"rate": _rate(session)}
        if memory:
            found |= {"worker_mb": max(memory) / 1e6, "worker_spread_mb": (max(memory) - min(memory)) / 1e6}
        names = ("small_bytes", "middle_bytes", "large_bytes")
        return {**found, **dict(zip(names, each, strict=True)), "bytes_ratio": each[-1] / each[0]}


def _fill(session: Session, queued: int, until: int) -> None:
    for begin in range(queued, until, _FILL):
        session.client("fill", task="noop", n=min(_FILL, until - begin))


def _drain(session: Session, n: int) -> list[int]:
    """Bytes that the worker holds, again and again, from when a few of `n` tasks have run until all have."""
    session.start_worker()
    session.wait_for_first(round(n * _SETTLED))
    deadline, memory = time.monotonic() + 30 + n / _LEAST_RATE, []
    while True:
        if (held := session.workers_memory()) is not None:
            memory.append(held)
        if session.wait_for(n, _LOOK):
            return memory
        if time.monotonic() > deadline:
            raise BenchError(f"{session.peer.name}: {session.hits():,} of {n:,} tasks have run. {session.log()}")


def _rate(session: Session) -> float:
    times = session.hit_times()
    return (len(times) - 1) / ((max(times) - min(times)) / 1e9)
