"""A worker of many queues: what a lone task costs, and that no queue is forgotten while another one is busy."""

from __future__ import annotations

import asyncio

import pytest
import redis

from penstock import App
from penstock.streams.consume import _FETCH
from tests.integration.support import Seen
from tests.lessons.monitor import monitored
from tests.servers import Server

pytestmark = pytest.mark.anyio

QUEUES = [f"q{i}" for i in range(20)]


async def test_a_lone_task_is_not_paid_for_by_all_queues(app: App, server: Server, raw: redis.Redis) -> None:
    """After a blocking read a worker asks the queues that have brought something, not each of them."""

    @app.task(name="work")
    async def work() -> int:
        return 1

    async with app.running(QUEUES):
        assert await (await work.options(queue=QUEUES[0]).adelay()) == 1
        with monitored(server.port, raw) as monitor:
            for queue in QUEUES:
                assert await (await work.options(queue=queue).adelay()) == 1
            fetches = [words for words in monitor.take() if words[0] == "EVALSHA" and words[1] == _FETCH.sha]
    # One when it has come, and one where a busy machine has let the knowledge of the others' emptiness grow old.
    assert 1 < len(fetches) <= 3 * len(QUEUES)


async def test_a_busy_queue_hides_no_other(app: App, seen: Seen) -> None:
    """While one queue always has work for a slot, the blocking read, which waits for all, is not reached."""
    busy, stop = 0, False

    @app.task(name="again", queue="busy")
    async def again() -> None:
        nonlocal busy
        busy += 1
        if not stop:
            await again.abulk([(), ()] if busy < 200 else [()])

    @app.task(name="quiet", queue="quiet")
    async def quiet() -> int:
        return busy

    async with app.running(concurrency=10):
        assert await (await quiet.adelay()) >= 0
        await again.abulk([()] * 20)
        before = 0
        for _ in range(10):
            now = await asyncio.wait_for(await quiet.adelay(), 20)
            assert now >= before
            before = now
        stop = True
    assert before > 0
