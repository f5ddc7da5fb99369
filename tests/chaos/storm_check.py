"""What must be true after the storm, found from the records, the counters and the files of the runs."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import redis

from penstock.settings import PRIORITIES
from penstock.streams import keys
from tests.chaos.storm_faults import Faults, Struck
from tests.chaos.storm_tasks import Plan
from tests.servers import find_leaks

T = TypeVar("T")

#: Violations of one kind that are spelled out; the others are counted.
EXAMPLES = 5


class Runs:
    """How often each task was started and ended, by the lines that its runs have written."""

    def __init__(self, folder: Path, total: int) -> None:
        self.starts = array("H", bytes(2 * total))
        self.ends = array("H", bytes(2 * total))
        #: Events of the workers: how many leases were lost, and so on.
        self.events: Counter[str] = Counter()
        for path in sorted(folder.glob("*.runs")):
            with path.open() as file:
                for line in file:
                    self._read(line)

    def _read(self, line: str) -> None:
        word, what, *rest = line.split()
        if word == "!":
            self.events[what] += int(rest[0])
        else:
            (self.starts if word == "S" else self.ends)[int(what)] += 1


class Verdict(msgspec.Struct, frozen=True):
    """Figures of the end, and what is wrong."""

    ended: dict[str, int]
    runs: int
    #: Runs beyond those that retries, snoozes and endings explain.
    duplicates: int
    #: Most that may be: what was in flight at each SIGKILL and SIGSTOP.
    allowed: int
    most_runs_of_one_task: int
    events: dict[str, int]
    violations: list[str]


def check(raw: redis.Redis, namespace: str, plans: Iterable[Plan], runs: Runs, struck: Sequence[Struck]) -> Verdict:
    """All of it. The workers have ended."""
    base = keys.base(namespace, "default")
    wrong = _Violations()
    wanted: Counter[str] = Counter()
    cancelled_runs = 0
    for batch in _batched(plans, 1000):
        pipe = raw.pipeline(transaction=False)
        for plan in batch:
            pipe.hget(keys.record(base, plan.key), "s")
        for plan, state in zip(batch, pipe.execute(), strict=True):
            wanted[_OUTCOMES[plan.ends]] += 1
            cancelled_runs += plan.ends == "c" and runs.starts[plan.n] > 0
            _check_one(plan, None if state is None else state.decode(), runs, wrong)
    counted = _counters(raw, base)
    for outcome in ("succeeded", "failed", "cancelled", "expired", "unknown"):
        if counted[outcome] != wanted[outcome]:
            wrong.add("endings", f"{outcome}: {wanted[outcome]} tasks, and the scripts ended {counted[outcome]}")
    _check_keys(raw, namespace, wrong)
    explained = sum(counted[each] for each in ("succeeded", "failed", "retried", "snoozed")) + cancelled_runs
    duplicates = sum(runs.starts) - explained
    allowed = sum(each.in_flight for each in struck)
    if not 0 <= duplicates <= allowed:
        wrong.add("duplicates", f"{duplicates} runs that nothing explains, and {allowed} were in flight at the faults")
    _check_faults(struck, raw, wrong)
    return Verdict(
        ended={outcome: counted[outcome] for outcome in sorted(counted)},
        runs=sum(runs.starts),
        duplicates=duplicates,
        allowed=allowed,
        most_runs_of_one_task=max(runs.starts, default=0),
        events=dict(runs.events),
        violations=wrong.all(),
    )


_OUTCOMES = {"o": "succeeded", "f": "failed", "c": "cancelled"}


class _Violations:
    def __init__(self) -> None:
        self._found: dict[str, list[str]] = {}

    def add(self, kind: str, text: str) -> None:
        self._found.setdefault(kind, []).append(text)

    def all(self) -> list[str]:
        lines = []
        for kind, texts in self._found.items():
            lines += [f"{kind}: {text}" for text in texts[:EXAMPLES]]
            if len(texts) > EXAMPLES:
                lines.append(f"{kind}: and {len(texts) - EXAMPLES} more")
        return lines


def _check_one(plan: Plan, state: str | None, runs: Runs, wrong: _Violations) -> None:
    if state is None:
        wrong.add("lost", f"task {plan.n} ({plan.name}) has no record")
    elif state != plan.ends:
        kind = "not ended" if state in "sqr" else "ended otherwise"
        wrong.add(kind, f"task {plan.n} ({plan.name}) is {state!r}, and should be {plan.ends!r}")
    elif plan.ends == "o" and not runs.ends[plan.n]:
        wrong.add("never run", f"task {plan.n} ({plan.name}) succeeded, and its code never came to its end")
    elif plan.ends == "f" and not runs.starts[plan.n]:
        wrong.add("never run", f"task {plan.n} ({plan.name}) failed, and its code never ran")


def _counters(raw: redis.Redis, base: str) -> Counter[str]:
    found: Counter[str] = Counter()
    counters: Any = raw.hgetall(keys.counters(base))
    for field, n in counters.items():
        found[field.decode().partition("|")[0]] += int(n)
    return found


def ended(raw: redis.Redis, namespace: str) -> int:
    """How many tasks have ended, by the counters: O(1)."""
    counted = _counters(raw, keys.base(namespace, "default"))
    return counted["succeeded"] + counted["failed"] + counted["cancelled"] + counted["expired"]


def _check_keys(raw: redis.Redis, namespace: str, wrong: _Violations) -> None:
    base = keys.base(namespace, "default")
    for priority in PRIORITIES:
        stream = keys.stream(base, priority)
        pending: Any = raw.xpending(stream, keys.GROUP)
        if raw.xlen(stream) or pending["pending"]:
            wrong.add("keys", f"{priority}: {raw.xlen(stream)} entries, {pending['pending']} pending")
    if raw.zcard(keys.parked(base)):
        wrong.add("keys", f"{raw.zcard(keys.parked(base))} tasks are parked")
    for key in find_leaks(raw, namespace, keys.PERMANENT):
        wrong.add("keys", f"{key} has neither TTL nor owner")


def _check_faults(struck: Sequence[Struck], raw: redis.Redis, wrong: _Violations) -> None:
    """A storm in which nothing broke shows nothing."""
    counts, effects = summary(struck)
    for kind in Faults.KINDS:
        if not counts[kind]:
            wrong.add("fault", f"no {kind} took place")
    # A worker that held nothing was killed for nothing; a stopped one must have lost what it held.
    for kind in ("CLIENT KILL", "flood", "SIGCONT"):
        if counts[kind] and not effects[kind]:
            wrong.add("fault", f"{kind} had no effect")
    for kind in ("SIGKILL", "SIGSTOP"):
        if counts[kind] and not sum(each.in_flight for each in struck if each.kind == kind):
            wrong.add("fault", f"nothing was in flight at any {kind}")
    errors: Any = raw.info("errorstats")
    if counts["SCRIPT FLUSH"] and "errorstat_NOSCRIPT" not in errors:
        wrong.add("fault", "nobody missed a script after SCRIPT FLUSH")


def summary(struck: Iterable[Struck]) -> tuple[Counter[str], Counter[str]]:
    """How often each kind took place, and what it did in all."""
    counts: Counter[str] = Counter()
    effects: Counter[str] = Counter()
    for each in struck:
        counts[each.kind] += 1
        effects[each.kind] += each.effect
    return counts, effects


def _batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
