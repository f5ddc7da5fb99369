"""Priorities: weighted, so that low never starves, or strict."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from penstock import App, ConfigurationError
from penstock.events import Started
from tests.integration.support import Seen

pytestmark = pytest.mark.anyio


async def _order(app: App, seen: Seen, counts: dict[str, int], concurrency: int = 1, **settings: Any) -> list[str]:
    @app.task
    async def work() -> None:
        await asyncio.sleep(0)

    for priority, count in counts.items():
        await work.options(priority=priority).abulk([()] * count)  # type: ignore[arg-type]
    async with app.running(concurrency=concurrency, **settings):
        await seen.arrive(Started, sum(counts.values()))
    return [event.priority for event in seen.of(Started)]


async def test_other_weights(app: App, seen: Seen) -> None:
    settings: dict[str, Any] = {"weight_high": 1, "weight_default": 1, "weight_low": 2}
    order = await _order(app, seen, {"low": 100, "default": 100, "high": 100}, **settings)
    shares = Counter(order[:80])
    assert abs(shares["low"] - 40) <= 4 and abs(shares["high"] - 20) <= 4


async def test_unused_shares_go_to_the_others(app: App, seen: Seen) -> None:
    order = await _order(app, seen, {"low": 50, "high": 5})
    assert order[:12].count("high") == 5 and len(order) == 55


async def test_a_high_one_overtakes_a_backlog(app: App, seen: Seen) -> None:
    @app.task
    async def work() -> None:
        await asyncio.sleep(0.002)

    await work.options(priority="low").abulk([()] * 300)
    async with app.running(concurrency=1):
        await seen.arrive(Started, 5)
        handle = await work.options(priority="high").adelay()
        await handle
        done = len(seen.of(Started))
        await seen.arrive(Started, 301)
    assert done < 280


def test_the_names_are_checked_at_the_call(app: App) -> None:
    @app.task
    def work() -> None: ...

    with pytest.raises(ConfigurationError, match="did you mean 'high'"):
        work.options(priority="hihg")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="high, default, low"):
        app.task(priority=5)  # type: ignore[call-overload]
