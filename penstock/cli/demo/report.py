"""What the demo found, and the proof that nothing is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime

import msgspec

from penstock import State, TaskInfo
from penstock.cli.demo.tasks import Summary


class Times(msgspec.Struct, frozen=True):
    """Within how many seconds half of the tasks, and 99 % of them, got something done."""

    p50: float
    p99: float


class Failure(msgspec.Struct, frozen=True):
    """A dead letter."""

    file: str
    error: str


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """The SIGKILL."""

    worker: str
    pid: int
    #: Seconds since the epoch.
    at: float
    #: Files that had ended by then.
    done_before: int
    #: Files that the worker was at.
    in_hand: list[str]
    #: The worker that was started instead.
    replaced_by: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, as ``--json`` prints it. Times in seconds."""

    #: What does not hold; empty if each file has one record, of how it ended, and all numbers agree.
    problems: list[str]
    #: Files that have no record of an end.
    missing: list[str]
    files: int
    indexed: int
    failed: int
    lines: int
    functions: int
    classes: int
    #: In how many files each module is imported, the most frequent first.
    imports: list[tuple[str, int]]
    tasks_per_second: float
    #: From sending to the start of the last attempt.
    wait: Times
    #: From that start to the end.
    run: Times
    #: Files that took more than one attempt.
    retried: int
    #: Files that the killed worker had in hand, and another one has done.
    taken_over: list[str]
    #: From the kill until the last of these was done; None: there was none.
    recovered_in: float | None
    kill: Kill | None
    failures: list[Failure]
    #: Files that each worker has done.
    workers: dict[str, int]
    library: str
    broken_on_purpose: str | None
    wall: float


class Ledger(msgspec.Struct, frozen=True, kw_only=True):
    """What was read back from the server after the end."""

    #: The record of each file that was sent; None if there is none.
    records: Mapping[str, TaskInfo | None]
    #: The error of each dead letter.
    dead: Mapping[str, str]
    summary: Summary
    kill: Kill | None

    @property
    def ended(self) -> dict[str, TaskInfo]:
        """The records of the files that have ended."""
        return {key: info for key, info in self.records.items() if info is not None and info.state.finished}

    def report(self, *, library: str, broken: str | None, wall: float, top: int) -> Report:
        """What there is to say, with the `top` most imported modules."""
        ended = self.ended
        infos = list(ended.values())
        taken_over = self._taken_over()
        return Report(
            problems=self.problems(),
            missing=sorted(self.records.keys() - ended.keys()),
            files=len(self.records),
            indexed=len(self._ended_as(State.SUCCEEDED)),
            failed=len(self._ended_as(State.FAILED)),
            lines=self.summary.lines,
            functions=self.summary.functions,
            classes=self.summary.classes,
            imports=self.summary.imports[:top],
            tasks_per_second=_rate(infos),
            wait=_times(_between(info.enqueued_at, info.started_at) for info in infos),
            run=_times(_between(info.started_at, info.finished_at) for info in infos),
            retried=sum(info.attempt > 1 for info in infos),
            taken_over=taken_over,
            recovered_in=self._recovered_in(taken_over),
            kill=self.kill,
            failures=[Failure(file, self.dead[file]) for file in sorted(self.dead)],
            workers=dict(Counter(info.worker or "?" for info in infos).most_common()),
            library=library,
            broken_on_purpose=broken,
            wall=wall,
        )

    def problems(self) -> list[str]:
        """What does not agree. The proof that no file is missing, or counted twice, is that this is empty."""
        indexed, failed, missing = self._ended_as(State.SUCCEEDED), self._ended_as(State.FAILED), self._not_ended()
        claims = {
            f"{len(missing)} files have not ended": not missing,
            "some files were neither indexed nor failed": len(indexed) + len(failed) == len(self.records),
            "the dead letters are not the files that failed": self.dead.keys() == failed,
            "the sums are not those of the files that were indexed": self.summary.files == len(indexed),
            "no worker was killed": self.kill is not None,
        }
        return [problem for problem, holds in claims.items() if not holds]

    def _not_ended(self) -> set[str]:
        return self.records.keys() - self.ended.keys()

    def _ended_as(self, state: State) -> set[str]:
        return {key for key, info in self.ended.items() if info.state is state}

    def _taken_over(self) -> list[str]:
        # A delivery that did not end in order is counted in the record.
        in_hand = self.kill.in_hand if self.kill is not None else ()
        return sorted(file for file in in_hand if file in self.ended and self.ended[file].deliveries > 1)

    def _recovered_in(self, files: Iterable[str]) -> float | None:
        ends = [_stamp(self.ended[file].finished_at) for file in files]
        return max(ends) - self.kill.at if ends and self.kill is not None else None


def _rate(infos: Iterable[TaskInfo]) -> float:
    """Tasks per second, from the first start to the last end."""
    infos = list(infos)
    if not infos:
        return 0.0
    took = max(_stamp(info.finished_at) for info in infos) - min(_stamp(info.started_at) for info in infos)
    return len(infos) / took if took > 0 else 0.0


def _times(durations: Iterable[float]) -> Times:
    ordered = sorted(durations) or [0.0]
    p50, p99 = (ordered[(len(ordered) - 1) * share // 100] for share in (50, 99))
    return Times(p50, p99)


def _between(start: datetime | None, end: datetime | None) -> float:
    return _stamp(end) - _stamp(start)


def _stamp(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0
