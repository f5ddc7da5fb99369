"""Keeps the number of task names that are reported bounded: the others are reported together, and visibly."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from penstock.streams.inspect import QueueStats
from penstock.streams.measures import Measure, Measured

#: What the names beyond the limit are called together.
OTHER = "other"


class Names:
    """Which task names of each queue are reported by name.

    A name that is reported stays so, and one that is not stays in `OTHER`, as long as this process lives: a series
    must not move from one to the other, since its counts would be added twice or look like a reset.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[str, set[str]] = {}

    def of(self, stats: QueueStats) -> Shown:
        """The names of one queue; the busiest come first, if they are all new."""
        kept = self._kept.setdefault(stats.queue, set())
        seen = _counts(stats)
        room = self._most - len(kept)
        if room > 0:
            new = sorted(seen.keys() - kept, key=lambda name: (-seen[name], name))
            kept.update(new[:room])
        return Shown(frozenset(kept), len(seen.keys() - kept))


class Shown:
    """The names of one queue in one scrape."""

    def __init__(self, kept: frozenset[str], folded: int) -> None:
        self._kept = kept
        #: How many names are reported as `OTHER`.
        self.folded = folded

    def name(self, task: str) -> str:
        """What `task` is reported as."""
        return task if task in self._kept else OTHER

    def sums(self, counts: Mapping[str, int], *, all_names: bool = False) -> dict[str, int]:
        """Counts by reported name; with `all_names` a 0 for those that have none. A rate needs a value before the first
        failure: of a series that begins with it there is none to be seen."""
        found = dict.fromkeys(sorted(self._kept), 0) if all_names else {}
        for task, count in counts.items():
            name = self.name(task)
            found[name] = found.get(name, 0) + count
        return found

    def added(self, measures: Iterable[Measured]) -> dict[str, tuple[int, ...]]:
        """The numbers of histograms by reported name."""
        found: dict[str, tuple[int, ...]] = {}
        for each in measures:
            name = self.name(each.what)
            before = found.get(name)
            numbers = each.numbers
            found[name] = numbers if before is None else tuple(a + b for a, b in zip(before, numbers, strict=True))
        return found

    def reasons(self, measures: Iterable[Measured]) -> dict[tuple[str, str], int]:
        """Counts of failures by reason and reported name."""
        found: dict[tuple[str, str], int] = {}
        for each in measures:
            reason, _, task = each.what.partition("|")
            key = reason, self.name(task)
            found[key] = found.get(key, 0) + each.count
        return found


def _counts(stats: QueueStats) -> dict[str, int]:
    """How often each task name occurs in what is reported."""
    found: dict[str, int] = {}
    for outcome, counts in stats.counters.items():
        if outcome != "trimmed":
            for task, count in counts.items():
                found[task] = found.get(task, 0) + count
    for each in stats.measures:
        if each.measure is Measure.RUN:
            found.setdefault(each.what, 0)
        elif each.measure is Measure.FAILURES:
            found.setdefault(each.what.partition("|")[2], 0)
    return found
