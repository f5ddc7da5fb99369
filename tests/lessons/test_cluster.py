"""A Redis Cluster is served by the same code: several queues, everything that tasks can do, and recovery."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from penstock import App, RetryPolicy, TaskCancelled, TaskFailed
from penstock.events import Reclaimed, Retried, Started
from tests.conftest import CLUSTER, Running
from tests.integration.support import Seen, share
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(running_servers: Running) -> Server:
    """A primary of the cluster; its `url` is the cluster's."""
    return running_servers.get(CLUSTER)


async def test_all_that_tasks_can_do_works_on_a_cluster(app: App, seen: Seen) -> None:
    """celery/celery#2852, #9436, #9019, rq/rq#732, frappe/bench#1461: CROSSSLOT, MOVED, or "not supported": no
    Cluster, hence none of the serverless offers."""

    @app.task(retry=RetryPolicy(max_retries=1, delay=0.05, jitter=0))
    async def work(way: str, n: int) -> int:
        if way == "fail" or (way == "retry" and not seen.of(Retried)):
            raise ValueError(way)
        if way == "hang":
            await asyncio.sleep(600)  # work
        return n

    queues = ["a", "b", "c", "d", "e", "f"]
    async with app.running(queues):
        calls = [work.s("run", n).options(queue=queue) for n, queue in enumerate(queues * 10)]
        assert await asyncio.gather(*await app.abulk(calls)) == list(range(60))
        later = [await work.options(queue=queue, delay=0.2, priority="high").adelay("run", 1) for queue in queues]
        assert await asyncio.gather(*later) == [1] * 6
        assert await (await work.options(queue="a").adelay("retry", 2)).aget(30) == 2
        failing = await work.options(queue="b").adelay("fail", 3)
        with pytest.raises(TaskFailed):
            await failing.aget(30)
        hanging = await work.options(queue="c").adelay("hang", 4)
        await seen.arrive(Started, id=hanging.id)
        assert await hanging.acancel()
        with pytest.raises(TaskCancelled):
            await hanging.aget(30)
    assert sorted(app.queues()) == queues
    await app.aclose()


async def test_a_dead_workers_tasks_are_taken_over_on_a_cluster_too(
    app: App, seen: Seen, start_worker: Any, tmp_path: Any
) -> None:
    """taskiq-python/taskiq-redis#130: on Cluster nothing was ever reclaimed."""
    shared, log = share(app), tmp_path / "log"
    dying = start_worker(lease=0.6)
    handle = await shared.note.adelay(str(log), 600)
    await await_until(log.exists, 30)
    dying.kill()
    assert dying.process.returncode < 0
    async with app.running(lease=0.6):
        await seen.arrive(Started, id=handle.id)
        assert seen.of(Reclaimed) and log.read_text().count("start") == 2
        await handle.acancel()
        with pytest.raises(TaskCancelled):
            await handle.aget(30)
    await app.aclose()
