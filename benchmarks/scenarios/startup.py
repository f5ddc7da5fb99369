"""How long a program waits for penstock before it can do anything."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

from benchmarks.scenarios.scenario import Extent, Figures, OursAlone
from benchmarks.session import Config, Peer, Session

_REPEATS, _QUICK_REPEATS = 10, 2


@dataclass(frozen=True)
class Startup(OursAlone):
    """A producer's import, in a new interpreter each time, and a worker from its start to its first task's; medians."""

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        repeats = _QUICK_REPEATS if extent.quick else _REPEATS
        with Session(peer, config) as session:
            session.keep_bytecode()
            found = _imports(session, repeats)
            _worker(session)  # the first one compiles what has changed
            workers = [_worker(session) for _ in range(1 if extent.quick else repeats)]
        return {**found, "worker_ms": statistics.median(workers)}


def _imports(session: Session, repeats: int) -> Figures:
    session.python("importing.py")
    imports, whole, nothing = [], [], []
    for _ in range(repeats):
        start = time.perf_counter()
        imports.append(session.python("importing.py"))
        middle = time.perf_counter()
        session.python("-c", "print(0)")
        nothing.append((time.perf_counter() - middle) * 1e3)
        whole.append((middle - start) * 1e3)
    return {
        "import_ms": statistics.median(each["ms"] for each in imports),
        "process_ms": statistics.median(whole) - statistics.median(nothing),
        "modules": statistics.median(each["modules"] for each in imports),
    }


def _worker(session: Session) -> float:
    """Milliseconds; one task is queued before."""
    session.client("fill", task="noop", n=1)
    expected, began = session.hits() + 1, time.monotonic_ns()
    session.start_worker()
    session.wait_for_first(expected)
    took = (max(session.hit_times()) - began) / 1e6
    session.stop_workers()
    return took
