"""How much this worker may take on: free slots of each kind, and results that Redis has not got yet."""

from __future__ import annotations

from collections.abc import Callable, Mapping

KINDS = ("async", "thread", "process")


class Slots:
    """Counts free slots. A queue's budget is that of the scarcest kind among its tasks, so that no
    entry is read that could not start."""

    def __init__(self, sizes: Mapping[str, int], queue_kinds: Mapping[str, frozenset[str]], unsettled: int) -> None:
        self._free = dict(sizes)
        self._kinds = {queue: tuple(kinds) or KINDS for queue, kinds in queue_kinds.items()}
        self._unsettled_free = unsettled
        #: Told when a budget may have grown.
        self.on_freed: Callable[[], object] = lambda: None

    def budget(self, queue: str) -> int:
        """How many entries of `queue` may be read now."""
        free = min(self._free[kind] for kind in self._kinds[queue])
        return max(0, min(free, self._unsettled_free))

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
        self.on_freed()

    def unsettled(self, change: int) -> None:
        """`change` more results (or fewer) wait to be stored. Bounded: then no more work is read."""
        self._unsettled_free -= change
        if change < 0:
            self.on_freed()
