"""The whole on a cluster: queues on all primaries, priorities, delays, results, cancel, reclaim, drain, two workers."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from redis.crc import key_slot

from penstock import App, RetryPolicy, State, TaskCancelled, TaskFailed
from penstock.streams import keys
from tests.failover.conftest import MakeApp
from tests.failover.topology import Behind
from tests.servers import Server, await_until, wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def server(shared_cluster: Behind) -> Server:
    """What `namespace` asks."""
    return shared_cluster.primaries[0]


@pytest.fixture
def queues(shared_cluster: Behind, namespace: str) -> list[str]:
    """One queue on each primary."""
    found = [shared_cluster.queue_on(i, namespace) for i in range(3)]
    assert len({key_slot(f"{namespace}:{queue}".encode()) for queue in found}) == 3
    return found


@pytest.fixture
def app(make_app: MakeApp, shared_cluster: Behind) -> App:
    return make_app(shared_cluster.url, lease=1.0)


async def test_results_come_by_push_from_every_node(app: App, queues: list[str]) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task
    def fail(n: int) -> None:
        raise ValueError(n)

    async with app.running(queues):
        for queue in queues:
            slowest = 0.0
            for n in range(5):
                begin = time.monotonic()
                assert await (await double.options(queue=queue).adelay(n)) == 2 * n
                slowest = max(slowest, time.monotonic() - begin)
            assert slowest < 0.9, "it was found by looking again after a second"
            with pytest.raises(TaskFailed, match="ValueError: 1"):
                await (await fail.options(queue=queue).adelay(1))
        got: list[int] = []
        thread = threading.Thread(target=lambda: got.append(double.options(queue=queues[1]).delay(4).get(timeout=20)))
        thread.start()
        await await_until(lambda: got == [8])
        thread.join()
        letters = await asyncio.to_thread(app.dead_letters(queues[2]).list)
        assert len(letters) == 1
    assert sorted(app.queues()) == sorted(queues)
    await app.aclose()


async def test_bulk_priorities_delays_and_retries(app: App, queues: list[str]) -> None:
    order: list[tuple[str, str]] = []

    @app.task(retry=RetryPolicy(max_retries=2, delay=0.05, jitter=0))
    async def note(queue: str, word: str) -> str:
        order.append((queue, word))
        if word == "retried" and order.count((queue, word)) < 3:
            raise ValueError(word)
        return word

    words = {"low": "low", "default": "default", "high": "high"}
    handles = []
    for queue in queues:
        for priority in ("low", "default", "high"):
            signature = note.s(queue, words[priority]).options(queue=queue, priority=priority)
            handles += await app.abulk([signature] * 3)
        handles.append(await note.options(queue=queue, delay=0.3).adelay(queue, "delayed"))
        handles.append(await note.options(queue=queue).adelay(queue, "retried"))
    assert await handles[-2].astate() is State.SCHEDULED
    begin = time.monotonic()
    async with app.running(queues, concurrency=1, strict=True):
        assert len(await asyncio.gather(*handles)) == len(handles)
    assert time.monotonic() - begin < 10
    for queue in queues:
        mine = [word for q, word in order if q == queue]
        assert mine[:3] == ["high"] * 3 and mine.count("retried") == 3 and mine.count("delayed") == 1
        assert mine.index("low") > max(i for i, word in enumerate(mine) if word == "default")
    await app.aclose()


async def test_cancel_from_another_process_of_what_runs(app: App, make_app: MakeApp, queues: list[str]) -> None:
    started: list[str] = []

    @app.task
    async def hang(queue: str) -> None:
        started.append(queue)
        await asyncio.sleep(60)

    other = make_app(str(app.connector.address.url))
    async with app.running(queues):
        handles = [await hang.options(queue=queue).adelay(queue) for queue in queues]
        await await_until(lambda: len(started) == 3)
        for handle in handles:
            assert await other.handle(handle.id).acancel()
            with pytest.raises(TaskCancelled):
                await handle.aget(timeout=10)
    parked = [await hang.options(queue=queue, delay=3600).adelay(queue) for queue in queues]
    for handle in parked:
        assert await other.handle(handle.id).acancel() and await handle.astate() is State.CANCELLED
    await other.aclose()
    await app.aclose()


async def test_two_workers_share_and_one_takes_over_from_the_dead(
    app: App, shared_cluster: Behind, namespace: str, queues: list[str]
) -> None:
    ran: list[tuple[str, int]] = []

    @app.task
    async def work(queue: str, n: int) -> None:
        ran.append((queue, n))

    for queue, node in zip(queues, shared_cluster.primaries, strict=True):
        await work.options(queue=queue).adelay(queue, -1)
        stream = keys.stream(keys.base(namespace, queue), "default")
        with node.client() as client:  # a worker that has died with it
            client.xgroup_create(stream, keys.GROUP, "0")
            assert client.xreadgroup(keys.GROUP, "dead", {stream: ">"})
    async with app.running(queues), app.running(queues):
        await app.abulk([work.s(queue, n).options(queue=queue) for n in range(100) for queue in queues])
        await await_until(lambda: len(set(ran)) >= 303, 20)
    assert sorted(ran) == sorted((queue, n) for queue in queues for n in range(-1, 100))
    await app.aclose()


def test_drain_until_nothing_is_left(app: App, queues: list[str]) -> None:
    ran: list[int] = []

    @app.task
    def work(n: int) -> None:
        ran.append(n)

    app.bulk([work.s(n).options(queue=queue, delay=0.2 * (n % 2)) for n in range(10) for queue in queues])
    app.drain(queues, timeout=20)
    assert sorted(ran) == sorted(list(range(10)) * 3)
    wait_until(lambda: len(app.queues()) == 3)
