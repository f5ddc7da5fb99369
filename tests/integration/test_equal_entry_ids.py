"""Entries of two streams that have the same id, as when one script adds both within a millisecond."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import App
from penstock.streams import keys

pytestmark = pytest.mark.anyio


async def test_tasks_of_two_priorities_with_the_same_entry_id_all_run(app: App, raw: Any) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    both = [double.options(priority="high"), double.options(priority="low")]
    base = keys.base(app.settings.namespace, "default")
    handles = []
    for n in range(20):  # one script call each: nearly always within one millisecond
        handles += await app.abulk([task.s(n) for task in both])
    high, low = (raw.xrange(keys.stream(base, priority)) for priority in ("high", "low"))
    assert dict(high).keys() & dict(low).keys(), "no two entries have the same id: this test proves nothing"
    # Far less than the lease, after which a reclaim would find what had been forgotten.
    await app.adrain(timeout=app.settings.lease / 2)
    assert [await handle for handle in handles] == [2 * n for n in range(20) for _ in both]
