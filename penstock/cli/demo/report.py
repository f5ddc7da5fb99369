"""What the demo found, and the proof that nothing is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from penstock import State, TaskInfo
from penstock.cli.demo.tasks import Summary

#: Modules that the report names.
TOP = 10


class Times(msgspec.Struct, frozen=True):
    """Seconds within which half of the tasks, and 99 % of them, were done with it."""

    p50: float
    p99: float


class Failure(msgspec.Struct, frozen=True):
    """A dead letter."""

    file: str
    error: str


class Kill(msgspec.Struct, frozen=True):
    """The SIGKILL, and what became of it."""

    pid: int
    worker: str
    #: Files that had ended by then.
    done_before: int
    #: Files that the worker was at.
    in_hand: list[str]
    #: Seconds until the last one of these had ended elsewhere; None: not all have.
    recovered_in: float | None
    #: Workers that appeared afterwards.
    replaced_by: list[str]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, as ``--json`` prints it. Times in seconds."""

    #: Whether all of it holds: see `problems`.
    ok: bool
    #: What is wrong; empty if every file has one record, which says how it ended, and all numbers agree.
    problems: list[str]
    python: str
    library: str
    files: int
    indexed: int
    failed: int
    #: Files that have no record, or one that says that they have not ended.
    missing: list[str]
    lines: int
    functions: int
    classes: int
    #: How many files import a module, for the most frequent ones.
    imports: list[tuple[str, int]]
    tasks_per_second: float
    #: From sending to the start of the last attempt.
    wait: Times
    #: From there to the end.
    run: Times
    retried: int
    #: Files that were started again elsewhere, because the worker that had them was killed.
    taken_over: list[str]
    failures: list[Failure]
    broken_on_purpose: str | None
    kill: Kill | None
    #: Files that each worker has done.
    workers: dict[str, int]
    seconds: float


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What was read back after the end, file by file."""

    #: The key of every file that was sent.
    sent: Sequence[str]
    #: Its record; None if there is none.
    records: Mapping[str, TaskInfo | None]
    #: Keys of the queue's dead letters, and why they are there.
    dead: Mapping[str, str]
    summary: Summary

    @property
    def ended(self) -> list[TaskInfo]:
        return [info for info in self.records.values() if info is not None and info.state.finished]

    def of_state(self, state: State) -> set[str]:
        """Keys of the files that ended so."""
        return {key for key, info in self.records.items() if info is not None and info.state is state}

    def missing(self) -> list[str]:
        """Keys of the files that have no record of an end."""
        return [key for key in self.sent if (info := self.records.get(key)) is None or not info.state.finished]

    def problems(self) -> list[str]:
        """Everything that does not agree; the proof is that this is empty."""
        indexed, failed = self.of_state(State.SUCCEEDED), self.of_state(State.FAILED)
        checks = {
            f"{len(self.missing())} files are missing": not self.missing(),
            "there are records of files that were not sent": set(self.records) == set(self.sent),
            "a file was neither indexed nor buried": len(indexed) + len(failed) == len(self.sent),
            "the dead letters are not the files that failed": set(self.dead) == failed,
            "the sums are not those of the files indexed": self.summary.files == len(indexed),
        }
        return [problem for problem, holds in checks.items() if not holds]

    def failures(self) -> list[Failure]:
        """The dead letters, by name."""
        return [Failure(key, self.dead[key]) for key in sorted(self.dead)]

    def retried(self) -> int:
        """Files that needed more than one attempt."""
        return sum(info.attempt > 1 for info in self.ended)

    def taken_over(self) -> list[str]:
        """Files whose first delivery ended with a worker's death."""
        return sorted(key for key, info in self.records.items() if info is not None and info.deliveries > 1)

    def workers(self) -> dict[str, int]:
        """How many files each worker has done."""
        return dict(Counter(info.worker or "?" for info in self.ended).most_common())

    def rate(self) -> float:
        """Tasks per second, from the first start to the last end."""
        first = min(_stamps(info.started_at for info in self.ended), default=0.0)
        last = max(_stamps(info.finished_at for info in self.ended), default=0.0)
        return len(self.ended) / (last - first) if last > first else 0.0

    def wait(self) -> Times:
        """How long they waited."""
        return times(_between(info.enqueued_at, info.started_at) for info in self.ended)

    def run(self) -> Times:
        """How long they ran."""
        return times(_between(info.started_at, info.finished_at) for info in self.ended)


def times(durations: Iterable[float]) -> Times:
    """The median and the 99th percentile; 0 of nothing."""
    ordered = sorted(durations) or [0.0]
    return Times(*(ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 99)))


def _stamps(moments: Iterable[datetime | None]) -> list[float]:
    return [moment.timestamp() for moment in moments if moment is not None]


def _between(start: datetime | None, end: datetime | None) -> float:
    return (end - start).total_seconds() if start is not None and end is not None else 0.0
