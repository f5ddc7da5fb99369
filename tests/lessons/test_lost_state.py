"""The server forgets (FLUSHALL, a lost group), or remembers an older state (failover): workers go on, and what has
ended does not run again."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
import redis

from penstock import App, TaskNotFound
from penstock.events import Dropped, Late, Started, Succeeded
from penstock.streams import keys
from tests.integration.support import Seen, entries, pending
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio


def refusals(raw: redis.Redis) -> int:
    """How often the server has said NOGROUP."""
    stats: Any = raw.info("errorstats")
    return int(stats.get("errorstat_NOGROUP", {"count": 0})["count"])


def last_delivered(raw: redis.Redis, stream: str) -> str:
    """Where the group goes on to read."""
    groups: Any = raw.xinfo_groups(stream)
    return str(groups[0]["last-delivered-id"].decode())


async def test_a_flushed_server_does_not_leave_workers_in_a_loop_of_errors(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis
) -> None:
    """comet-ml/opik PR #5525, eggai-tech/EggAI PR #204: the group was gone with the data, and the worker asked for it
    again and again: NOGROUP, until somebody restarted it."""

    @app.task
    async def work(n: int) -> int:
        return n

    async with app.running(lease=0.6):
        lost = await work.adelay(0)
        assert await lost == 0
        for n in range(1, 4):
            raw.flushall()
            handles = [await work.adelay(n), await work.options(delay=0.1).adelay(n)]
            assert await asyncio.gather(*[handle.aget(timeout=20) for handle in handles]) == [n, n]
        with pytest.raises(TaskNotFound):
            await lost.astate()
    assert len(seen.of(Started)) == 7
    assert refusals(raw) < 100


async def test_a_lost_group_is_made_again_at_the_beginning(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    """comet-ml/opik PR #5525, redis/redis#7105: the group was made again at its end, and what had waited was skipped;
    or at its beginning, and all that had ever been done was done again."""
    gate = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        await gate.wait()
        return n

    stream = keys.stream(keys.base(namespace, "default"), "default")
    async with app.running(lease=0.6, concurrency=2):
        gate.set()
        done = await work.abulk([(n,) for n in range(10)])
        assert await asyncio.gather(*done) == list(range(10))
        gate.clear()
        waiting = await work.abulk([(n,) for n in range(10, 20)])
        await seen.arrive(Started, 12)
        assert raw.xgroup_destroy(stream, "w") == 1
        gate.set()
        assert await asyncio.gather(*[handle.aget(timeout=20) for handle in waiting]) == list(range(10, 20))
    starts = Counter(event.id for event in seen.of(Started))
    assert [starts[handle.id] for handle in done] == [1] * 10
    assert all(starts[handle.id] >= 1 for handle in waiting)
    assert len(seen.of(Succeeded)) == 20 and entries(raw, namespace) == 0


async def test_a_group_that_was_set_back_runs_no_finished_task_again(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    """comet-ml/opik PR #5525, redis/redis#7105, #5433: a failover brought back a stream and a `last-delivered-id` of
    before, and all that had been done since was done again."""

    @app.task
    async def work(n: int) -> int:
        return n

    stream = keys.stream(keys.base(namespace, "default"), "default")
    handles = await work.abulk([(n,) for n in range(20)])
    raw.xgroup_create(stream, "w", "0")
    before: Any = raw.dump(stream)
    async with app.running(lease=0.6):
        assert await asyncio.gather(*handles) == list(range(20))
        await await_until(lambda: entries(raw, namespace) == 0)
        raw.restore(stream, 0, before, replace=True)
        assert entries(raw, namespace) == 20
        await await_until(lambda: entries(raw, namespace) == 0, 20)
        assert await (await work.adelay(20)) == 20
    assert len(seen.of(Started)) == len(seen.of(Succeeded)) == 21
    assert sum(event.count for event in seen.of(Dropped)) == 20
    assert not pending(raw, namespace)
    assert await asyncio.gather(*handles) == list(range(20))


async def test_a_task_that_runs_is_not_started_beside_itself_when_its_group_is_set_back(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    """redis/redis#7105, #5433: replicas had the pending entries, and not the `last-delivered-id`: after the failover
    they were read as new ones by those who ran them."""
    gate = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        await gate.wait()
        return n

    stream = keys.stream(keys.base(namespace, "default"), "default")
    async with app.running(lease=0.6, concurrency=10):
        handles = await work.abulk([(n,) for n in range(5)])
        await seen.arrive(Started, 5)
        raw.xgroup_setid(stream, "w", "0")
        assert last_delivered(raw, stream) == "0-0"
        marker = await work.adelay(5)
        await seen.arrive(Started, id=marker.id)
        # A stream is read in order: on the way to this one the five were delivered again.
        newest: Any = raw.xrevrange(stream, count=1)
        assert last_delivered(raw, stream) == newest[0][0].decode() and len(pending(raw, namespace)) == 6
        gate.set()
        assert await asyncio.gather(*handles, marker) == [0, 1, 2, 3, 4, 5]
        await await_until(lambda: entries(raw, namespace) == 0)
    assert len(seen.of(Started)) == len(seen.of(Succeeded)) == 6 and not seen.of(Late)
