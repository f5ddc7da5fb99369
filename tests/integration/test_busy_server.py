"""Somebody else's script holds the server: everybody is told BUSY, nobody gives up, and nothing runs twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import App, BrokerUnavailable
from penstock.events import BrokerDown, BrokerUp, Late, Lost, Reclaimed, Started, Succeeded, WorkerStarted
from tests.conftest import binary
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, calls_of
from tests.servers import DEFAULT, SERVERS, Server, await_until, wait_until

pytestmark = pytest.mark.anyio

LEASE = 1.0


@pytest.fixture(params=[DEFAULT])
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(binary(request.param), tmp_path / "own-server", durable=True).start()
    yield server
    server.kill()


@contextmanager
def busy(server: Server) -> Iterator[None]:
    """A script that does not end runs on the server, until it is killed."""
    with server.client(socket_timeout=60) as running, server.client() as admin:
        admin.config_set("lua-time-limit", 20)  # ms until others are told, instead of having to wait
        ends: list[str] = []

        def run() -> None:
            try:
                running.eval("while true do end", 0)
            except redis.ResponseError as error:
                ends.append(str(error))

        endless = threading.Thread(target=run)
        endless.start()
        try:
            wait_until(lambda: is_busy(admin))
            yield
            assert is_busy(admin)
        finally:
            with suppress(redis.ResponseError):
                admin.script_kill()
            endless.join(30)
        assert ends and "killed" in ends[0].lower()


def is_busy(client: redis.Redis) -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        assert "BUSY" in str(error)
        return True
    return False


async def lasts(seconds: float) -> None:
    since = time.monotonic()
    await await_until(lambda: time.monotonic() - since > seconds, seconds + 10)


@pytest.mark.parametrize("own_server", SERVERS, indirect=True)
async def test_workers_outlast_it_and_nothing_runs_twice(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis
) -> None:
    runs: list[int] = []
    go, later = asyncio.Event(), asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        runs.append(n)
        await (later if n >= 5 else go).wait()
        return n

    async with app.running(lease=LEASE), app.running(lease=LEASE):
        handles: list[Any] = [*await work.abulk([(n,) for n in range(10)])]
        await seen.arrive(Started, 10)
        handles.append(await work.options(delay=0.3).adelay(10))
        waiting = [asyncio.create_task(handles[n].aget(timeout=60)) for n in range(3)]
        blocked = asyncio.create_task(asyncio.to_thread(handles[3].get, timeout=60))
        with busy(own_server):
            go.set()
            sending = asyncio.create_task(work.adelay(11))
            await seen.arrive(BrokerDown)
            await lasts(2 * LEASE)  # every lease has run out, were anybody able to say so
            assert not seen.of(Succeeded)
            renewals = asyncio.create_task(asyncio.to_thread(_renewed, own_server))
        handles.append(await sending)
        await renewals
        later.set()
        assert await asyncio.gather(*waiting, blocked) == [0, 1, 2, 3]
        assert await asyncio.gather(*handles) == list(range(12))
        await seen.arrive(Succeeded, 12)
        await seen.arrive(BrokerUp, len(seen.of(BrokerDown)))
    assert sorted(runs) == list(range(12))
    assert not seen.of(Lost) and not seen.of(Late) and not seen.of(Reclaimed)


def _renewed(server: Server) -> None:
    """Returns when leases have been renewed three times since the server answers again."""
    with server.client() as raw:

        def calls() -> int:
            try:
                return calls_of(raw, "xclaim")
            except redis.ResponseError:
                return -1

        first = wait_until(lambda: (n := calls()) >= 0 and n + 1, 30) - 1
        wait_until(lambda: calls() >= first + 3, 30)


async def test_a_producer_is_told_what_to_do(make_app: MakeApp, own_server: Server) -> None:
    app = make_app(retry_for=0.3)

    @app.task
    async def work() -> None: ...

    handle = await work.adelay()
    told = r"BUSY.*SCRIPT KILL or FUNCTION KILL ends it"
    with busy(own_server):
        for ask in (work.adelay, handle.astate, handle.acancel, lambda: handle.aget(timeout=0.2)):
            with pytest.raises(BrokerUnavailable, match=told):
                await ask()
        for ask_sync in (work.delay, handle.state, handle.cancel, lambda: handle.get(timeout=0.2)):
            with pytest.raises(BrokerUnavailable, match=told):
                await asyncio.to_thread(ask_sync)
    assert (await work.adelay()).created
    assert await handle.acancel()


async def test_a_worker_that_starts_meanwhile_waits(app: App, seen: Seen, own_server: Server) -> None:
    @app.task
    async def work() -> int:
        return 1

    handle = await work.adelay()

    async def run() -> int:
        async with app.running():
            return await handle.aget(timeout=30)

    with busy(own_server):
        running = asyncio.create_task(run())
        await seen.arrive(BrokerDown)
        await lasts(0.5)
        assert not seen.of(WorkerStarted) and not running.done()
    assert await running == 1
