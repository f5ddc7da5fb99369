"""What a dead worker had in hand does not wait until the living have nothing else to do."""

from __future__ import annotations

import asyncio

import pytest
import redis

from penstock import App

pytestmark = pytest.mark.anyio

BACKLOG = 150


async def test_a_dead_workers_tasks_do_not_wait_for_the_backlog(app: App, raw: redis.Redis, namespace: str) -> None:
    """All slots are always taken: each that gets free is wanted by a fetch, too."""
    order: list[int] = []

    @app.task
    async def work(number: int) -> None:
        order.append(number)
        await asyncio.sleep(0.05)

    stream = f"{{{namespace}:default}}:s:default"
    orphans = [await work.adelay(-1), await work.adelay(-2)]
    raw.xgroup_create(stream, "w", "0")
    assert raw.xreadgroup("w", "a-dead-worker", {stream: ">"})
    backlog = await app.abulk(work.s(number) for number in range(BACKLOG))
    async with app.running(concurrency=2, lease=0.6):
        for orphan in orphans:
            await orphan
        done = len(order)
        await asyncio.gather(*backlog)
    assert done < BACKLOG * 2 / 3
    assert sorted(order) == [-2, -1, *range(BACKLOG)]
