"""How a budget of free slots is shared between the priorities."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.settings import PRIORITIES


class Weights:
    """Quotas by weight, over many fetches exact: what does not divide evenly is carried over.

    With one free slot at a time the carried credit makes it a rotation: 6 high, 3 default, 1 low.
    A priority that had nothing to read does not save up credit: it could starve the others later.
    """

    def __init__(self, weights: Sequence[int], strict: bool = False) -> None:
        total = sum(weights)
        self._shares = [weight / total for weight in weights]
        self._credit = [0.0] * len(weights)
        self._strict = strict

    def plan(self, budget: int) -> list[tuple[str, int]]:
        """(priority, quota) in the order in which to read; the quotas add up to `budget`, or to 0 if strict."""
        if self._strict:
            return [(priority, 0) for priority in PRIORITIES]
        due = [credit + share * budget for credit, share in zip(self._credit, self._shares, strict=True)]
        quotas = [max(0, int(d)) for d in due]
        # What is left goes to those who are owed most; equal claims to the higher priority.
        for i in sorted(range(len(due)), key=lambda i: quotas[i] - due[i])[: budget - sum(quotas)]:
            quotas[i] += 1
        self._credit = [d - q for d, q in zip(due, quotas, strict=True)]
        return list(zip(PRIORITIES, quotas, strict=True))
