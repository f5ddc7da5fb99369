"""How punctual tasks with a due time are."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.errors import BenchError
from benchmarks.scenarios.scenario import Extent, Figures, OursAlone
from benchmarks.session import Config, Peer, Session
from benchmarks.spread import quantile

#: Seconds over which the due times are spread, and those of the dense ones.
_OVER, _DENSE_OVER = 10.0, 1.0
#: Seconds from the first call to the first due time: all is sent by then.
_LEAD, _QUICK_LEAD = 3.0, 1.0


@dataclass(frozen=True)
class Scheduled(OursAlone):
    """Tasks sent with a delay: from the due time to the first line of the task.

    Due is the moment just before the call, by this machine's clock, plus the delay. The server begins to count when
    the call arrives, which is later: a task that starts before its due time here has started too early in any case.
    After those whose lateness counts, some are due at twenty times the pace. They count among the early ones only: a
    step that is meant for one task could take others with it that are due within the same millisecond.
    """

    tasks: int = 1000
    dense: int = 2000

    def measure(self, peer: Peer, config: Config, extent: Extent) -> Figures:
        n, dense = extent.of(self.tasks), extent.of(self.dense)
        over, dense_over = extent.seconds(_OVER), extent.seconds(_DENSE_OVER)
        lead = _QUICK_LEAD if extent.quick else _LEAD
        with Session(peer, config) as session:
            session.start_worker()
            sent = session.alone("scheduled", n=n, over=over, lead=lead, dense=dense, dense_over=dense_over)
            if (took := sent["seconds"]) > lead:
                raise BenchError(f"{peer.name}: sending took {took:.1f} s, and the first task was due after {lead} s")
            most = lead + over + dense_over + extent.limit
            session.wait_for(n + dense, most, lambda: len(session.start_times()))
            starts = session.start_times()
        late = [(begun - due) / 1e6 for due, begun in starts]
        even = [(begun - due) / 1e6 for due, begun in starts if due < sent["dense_from"]]
        return {
            "late_p50": quantile(even, 0.5),
            "late_p99": quantile(even, 0.99),
            "late_max": quantile(even, 1.0),
            "early": sum(each < 0 for each in late),
            "earliest": min(late, default=0.0),
            "done": len({due for due, _ in starts}) / (n + dense),
        }
