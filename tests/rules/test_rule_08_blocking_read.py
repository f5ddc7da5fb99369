"""Rule 8. The blocking read (COUNT 1; one for all queues, per slot on Cluster) is never cancelled: it is ended by
`CLIENT UNBLOCK`; after any reader fault own entries that nobody runs are picked up at once (XPENDING + XRANGE; never by
reading id 0, which bumps counters), with no read outstanding.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from penstock import App, State
from penstock.events import Reclaimed, Started
from penstock.settings import PRIORITIES
from penstock.streams import consume
from penstock.streams.calls import Call
from penstock.streams.reader import Reader
from tests.chaos.proxy import Act, Fault, Proxy
from tests.conftest import CLUSTER, Running
from tests.contract.helpers import Queue
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, calls_of
from tests.rules.support import Monitor, blocked
from tests.servers import Server, await_until, wait_until

pytestmark = pytest.mark.anyio

#: Its name in INFO commandstats. MONITOR does not show it.
UNBLOCK = "client|unblock"


def _two_queues(app: App) -> list[Any]:
    @app.task(queue="a")
    async def one() -> int:
        return 1

    @app.task(queue="b")
    async def two() -> int:
        return 2

    return [one, two]


async def test_one_with_count_1_waits_for_all_queues(app: App, q: Queue, raw: redis.Redis) -> None:
    tasks = _two_queues(app)
    with Monitor(raw) as monitor:
        async with app.running():
            for task, value in zip(tasks, (1, 2), strict=True):
                await await_until(lambda: blocked(raw))
                assert len(blocked(raw)) == 1
                assert await (await task.adelay()).aget(20) == value
        reads = [ran.args for ran in monitor.ran("XREADGROUP") if not ran.in_script]
    streams = {q.sibling(name).stream(priority) for name in "ab" for priority in PRIORITIES}
    assert len(reads) >= 2
    for args in reads:
        assert args[args.index("COUNT") + 1] == "1" and int(args[args.index("BLOCK") + 1]) > 0
        names = args[args.index("STREAMS") + 1 :]
        assert set(names[:6]) == streams and names[6:] == [">"] * 6


async def test_on_cluster_there_is_one_for_each_slot(running_servers: Running, namespace: str) -> None:
    nodes = running_servers.cluster()
    app = App("test", url=running_servers.get(CLUSTER).url, namespace=namespace)
    tasks = _two_queues(app)
    with ExitStack() as stack:
        clients = [stack.enter_context(node.client()) for node in nodes]
        async with app.running():
            for task, value in zip(tasks, (1, 2), strict=True):
                await await_until(lambda: sum(len(blocked(client)) for client in clients) == 2)
                assert await (await task.adelay()).aget(20) == value
    await app.aclose()


async def test_it_is_never_cancelled(
    app: App, seen: Seen, q: Queue, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry comes while the worker is being stopped, and before the server hears of it: it is the read's, and not
    lost with it."""
    unblock = Reader.unblock
    came: list[Any] = []

    async def too_late(reader: Reader) -> None:
        if worker._stopping.is_set() and not came:
            # Both without a turn of the loop: the reply is there, and nobody has read it.
            came.append(work.delay())
            wait_until(lambda: not blocked(raw))
        await unblock(reader)

    monkeypatch.setattr(Reader, "unblock", too_late)

    @app.task
    async def work() -> int:
        return 1

    with Monitor(raw) as monitor:
        async with app.running() as worker:
            await await_until(lambda: blocked(raw))
        first = [ran for ran in monitor.ran("XREADGROUP") if not ran.in_script]
    assert len(first) == 1 and len(came) == 1
    assert await came[0].astate() in (State.SUCCEEDED, State.QUEUED) and not q.pending()


async def test_it_is_ended_by_client_unblock_and_its_connection_stays(app: App, seen: Seen, raw: redis.Redis) -> None:
    """A slot that becomes free in another queue ends the read that does not wait for it."""
    go = asyncio.Event()

    @app.task(queue="a")
    async def slow() -> None:
        await go.wait()

    @app.task(queue="b", run="thread")
    def quick() -> int:
        return 1

    await slow.abulk([(), ()])
    async with app.running(concurrency=1):
        await seen.arrive(Started)
        [client] = await await_until(lambda: blocked(raw))
        unblocked = calls_of(raw, UNBLOCK)
        go.set()  # its slot is wanted for the other one
        await seen.arrive(Started, 2)
        await await_until(lambda: calls_of(raw, UNBLOCK) > unblocked and blocked(raw))
        assert blocked(raw) == [client]
        assert await (await quick.adelay()).aget(20) == 1


async def test_after_a_fault_own_entries_that_nobody_runs_are_picked_up_at_once(
    make_app: MakeApp, server: Server, q: Queue, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reply that brought one was lost with its connection. The lease is long: no reclaim helps."""
    proxy = Proxy(server.port, ["worker"], Fault("worker:reader XREADGROUP", 1, Act.LOSE))
    app, direct = make_app(url=proxy.url("worker")), make_app("direct")
    seen = Seen(app)
    outstanding: list[int] = []
    search = consume.orphans

    def watched(*args: Any) -> Call[consume.Batch]:
        outstanding.append(len(blocked(raw)))
        return search(*args)

    monkeypatch.setattr(consume, "orphans", watched)

    @app.task(name="work")
    async def work() -> int:
        (pending,) = q.pending().values()
        return pending.deliveries

    try:
        with Monitor(raw) as monitor:
            async with app.running(lease=600):
                await await_until(lambda: blocked(raw))
                handle = await direct.task_named("work").adelay()
                assert await direct.handle(handle.id).aget(20) == 1  # no other counter was bumped
            found = [ran for ran in monitor.ran("XPENDING", "XRANGE") if ran.in_script and q.stream() in ran.args]
            reads = [ran.args for ran in monitor.ran("XREADGROUP")]
        await app.aclose()
    finally:
        proxy.close()
    assert proxy.struck is not None and {ran.verb for ran in found} == {"XPENDING", "XRANGE"}
    assert outstanding and set(outstanding) == {0}
    ids = {arg for args in reads for arg in args[args.index("STREAMS") + 1 :] if not arg.startswith("{")}
    assert ids == {">"}
    assert len(seen.of(Started)) == 1 and not seen.of(Reclaimed)


async def test_a_fault_with_nothing_lost_runs_nothing_twice(
    app: App, seen: Seen, q: Queue, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection breaks while the worker runs what an earlier read has brought: that is not picked up again."""
    go = asyncio.Event()
    searches = 0
    search = consume.orphans

    def counted(*args: Any) -> Call[consume.Batch]:
        nonlocal searches
        searches += 1
        return search(*args)

    monkeypatch.setattr(consume, "orphans", counted)

    @app.task
    async def work(n: int) -> int:
        await go.wait()
        return n

    async with app.running(lease=600):
        handles = await work.abulk([(n,) for n in range(5)])
        await seen.arrive(Started, 5)
        [client] = await await_until(lambda: blocked(raw))
        raw.client_kill_filter(_id=client)
        await await_until(lambda: searches >= len(PRIORITIES) and blocked(raw))
        go.set()
        assert await asyncio.gather(*[handle.aget(20) for handle in handles]) == list(range(5))
    assert len(seen.of(Started)) == 5
