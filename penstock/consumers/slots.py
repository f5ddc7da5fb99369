"""How much this worker may take on: free slots of each kind, and results that Redis has not got yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

KINDS = ("async", "thread", "process")


class Slots:
    """Counts free slots. A queue's budget is that of the scarcest kind among its tasks, so that no
    entry is read that could not start."""

    def __init__(self, sizes: Mapping[str, int], queue_kinds: Mapping[str, frozenset[str]], unsettled: int) -> None:
        self._sizes = dict(sizes)
        self._free = dict(sizes)
        self._kinds = {queue: tuple(kinds) or KINDS for queue, kinds in queue_kinds.items()}
        self._unsettled_free = unsettled
        #: No budget is larger.
        self._most = max(sizes.values())
        #: Slots that the replies to calls under way may need.
        self._asked = dict.fromkeys(sizes, 0)
        #: Kinds of which one slot is kept for entries that are taken over.
        self._kept: frozenset[str] = frozenset()
        #: Told when a slot of such a kind is free.
        self.on_kept: Callable[[], object] = lambda: None
        #: Told when a budget may have grown.
        self.on_freed: Callable[[], object] = lambda: None

    def budget(self, queue: str) -> int:
        """How many entries of `queue` may be read now."""
        free = min(self._free[kind] - self._asked[kind] - (kind in self._kept) for kind in self._kinds[queue])
        return max(0, min(free, self._unsettled_free))

    def takeover_budget(self, queue: str) -> int:
        """How many entries of `queue` may be taken over now: also those for which a slot is kept."""
        free = min(self._free[kind] - self._asked[kind] for kind in self._kinds[queue])
        return max(0, min(free, self._unsettled_free))

    def occupancy(self, queue: str | None = None) -> tuple[int, int]:
        """Slots in all, and those that are taken; for a queue: of the kind of its tasks that is fullest, by tasks of
        any queue. Nothing more of the queue is read when all of that kind are taken."""
        taken = {kind: size - self._free[kind] for kind, size in self._sizes.items()}
        if queue is None:
            return sum(self._sizes.values()), sum(taken.values())
        fullest = max(self._kinds[queue], key=lambda kind: (taken[kind] / self._sizes[kind], self._sizes[kind]))
        return self._sizes[fullest], taken[fullest]

    @contextmanager
    def asking(self, queue: str, count: int) -> Iterator[None]:
        """While a call for up to `count` entries is under way. A fetch and a takeover must not both count on the
        same slot: an entry that finds none goes back, to the end of its stream."""
        kinds = self._kinds[queue]
        for kind in kinds:
            self._asked[kind] += count
        try:
            yield
        finally:
            for kind in kinds:
                self._asked[kind] -= count
            self.on_freed()

    def keep(self, queues: Iterable[str]) -> None:
        """Until the next call, leave the next free slot to a takeover in these queues: a fetch would always be
        first to it, and entries of a dead worker would wait until nothing else is left."""
        self._kept = frozenset(kind for queue in queues for kind in self._kinds[queue] if self._free[kind] < 1)
        self.on_freed()

    def learn(self, queue: str, kind: str) -> None:
        """A task of this kind was sent to `queue` by a call's own option: from now on the kind counts there, or
        such an entry would go round and round while there is no slot for it."""
        if kind not in self._kinds[queue]:
            self._kinds[queue] += (kind,)

    def take(self, kind: str) -> bool:
        """Take a slot; False if none is free."""
        if self._free[kind] < 1:
            return False
        self._free[kind] -= 1
        return True

    def give(self, kind: str) -> None:
        """The user's code has ended."""
        self._free[kind] += 1
        if kind in self._kept:
            self.on_kept()
        self.on_freed()

    def unsettled(self, change: int) -> None:
        """`change` more results (or fewer) wait to be stored. Bounded: then no more work is read."""
        self._unsettled_free -= change
        if change < 0 and self._unsettled_free + change < self._most:  # else it was no bound
            self.on_freed()
