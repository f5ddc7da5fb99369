"""The disk of the append-only file is full: producers hear of it, workers keep what they have and settle it later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import App, BrokerError, RetryPolicy, State, TaskFailed
from penstock.events import (
    BrokerDown,
    BrokerUp,
    EntryStuck,
    Failed,
    Late,
    Lost,
    Reclaimed,
    Retried,
    Started,
    Succeeded,
)
from tests.full_disk import DiskServer
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen
from tests.servers import DEFAULT, SERVERS, await_until

pytestmark = pytest.mark.anyio

LEASE = 1.0


@pytest.fixture(params=[DEFAULT])
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskServer]:
    server = DiskServer(request.param, tmp_path / "own-server")
    server.start()
    yield server
    server.kill()


@pytest.mark.parametrize("own_server", SERVERS, indirect=True)
async def test_nothing_is_lost_and_nothing_runs_twice(app: App, seen: Seen, own_server: DiskServer) -> None:
    runs: list[str] = []
    go, later = asyncio.Event(), asyncio.Event()

    @app.task(retry=RetryPolicy(max_retries=1, delay=0.05))
    async def work(how: str) -> str:
        runs.append(how)
        await (later if how == "long" else go).wait()
        if how == "fail" or (how == "retry" and runs.count(how) == 1):
            raise ValueError(how)
        return how * 100  # a result of its own key

    async with app.running(lease=LEASE), app.running(lease=LEASE):
        handles = {how: await work.adelay(how) for how in ("ok", "retry", "long")}
        handles["fail"] = await work.options(retry=RetryPolicy(max_retries=0)).adelay("fail")
        await seen.arrive(Started, 4)
        handles["due"] = await work.options(delay=0.3).adelay("due")
        handles["cancelled"] = await work.options(delay=600).adelay("cancelled")
        await asyncio.to_thread(own_server.fill_disk)
        go.set()
        sending = asyncio.create_task(work.adelay("new"))
        cancelling = asyncio.create_task(handles["cancelled"].acancel())
        await seen.arrive(BrokerDown)
        await lasts(2 * LEASE)  # no lease can be renewed: that is a write, too
        assert not seen.of(Succeeded) and not seen.of(Failed) and not seen.of(Retried)
        assert len(seen.of(BrokerDown)) == 2 and not seen.of(BrokerUp), "reading goes on, but that is not enough"
        assert not sending.done() and not cancelling.done()
        assert await handles["ok"].astate() is State.RUNNING  # reading goes on
        await asyncio.to_thread(own_server.empty_disk)
        handles["new"] = await sending
        assert await cancelling
        await seen.arrive(Succeeded, 4)
        later.set()
        for how in ("ok", "retry", "long", "due", "new"):
            assert await handles[how].aget(timeout=30) == how * 100
        with pytest.raises(TaskFailed, match="fail"):
            await handles["fail"].aget(timeout=30)
        await seen.arrive(BrokerUp, 2)
    assert len(seen.of(BrokerDown)) == 2
    assert sorted(runs) == sorted(["ok", "retry", "retry", "long", "fail", "due", "new"])
    assert not any(seen.of(kind) for kind in (Lost, Late, Reclaimed, EntryStuck))


async def lasts(seconds: float) -> None:
    since = time.monotonic()
    await await_until(lambda: time.monotonic() - since > seconds, seconds + 10)


async def test_a_producer_is_told_that_it_is_the_disk(make_app: MakeApp, own_server: DiskServer) -> None:
    app = make_app(retry_for=0.3)

    @app.task
    async def work() -> None: ...

    handle = await work.adelay()
    await asyncio.to_thread(own_server.fill_disk)
    told = r"MISCONF.*is the disk full\?"
    calls: list[Callable[[], Any]] = [work.adelay, lambda: work.abulk([(), ()]), handle.acancel]
    for call in calls:
        since = time.monotonic()
        with pytest.raises(BrokerError, match=told):
            await call()
        assert time.monotonic() - since >= 0.1  # it may pass, and so was tried again
    for call in (work.delay, lambda: work.bulk([(), ()]), handle.cancel):
        with pytest.raises(BrokerError, match=told):
            await asyncio.to_thread(call)
    assert await handle.astate() is State.QUEUED
    await asyncio.to_thread(own_server.empty_disk)
    assert (await work.adelay()).created
    assert await handle.acancel()


async def test_what_was_answered_survives_a_crash_on_the_full_disk(
    app: App, seen: Seen, own_server: DiskServer
) -> None:
    """What the server could not write, it has refused."""
    go = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        await go.wait()
        return n

    async with app.running(lease=LEASE):
        handles = await work.abulk([(n,) for n in range(20)])
        await seen.arrive(Started, 20)
        await asyncio.to_thread(own_server.fill_disk)
        go.set()
        sending = asyncio.create_task(work.adelay(20))
        await seen.arrive(BrokerDown)
        await asyncio.to_thread(own_server.kill)
        own_server.start()  # with space again: the limit died with the process
        assert await asyncio.gather(*handles) == list(range(20))
        assert await (await sending).aget(timeout=30) == 20
    assert len(seen.of(Succeeded)) == 21
