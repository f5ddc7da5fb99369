"""Faults of a server under a running worker: killed while it writes, slow to load, rights that are taken away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import App, PermissionDenied
from penstock.events import BrokerDown, BrokerUp, EntryStuck, Late, Lost, Started, Succeeded
from tests.conftest import binary
from tests.integration.support import Seen
from tests.servers import DEFAULT, Server, await_until, wait_until

pytestmark = pytest.mark.anyio


# Killed under load, and slow to load what it had written


@contextmanager
def starting(server: Server) -> Iterator[None]:
    """Start it while the event loop runs on: in a thread that stays, since a server dies with its starter."""
    over, started = threading.Event(), threading.Event()

    def run() -> None:
        server.start()
        started.set()
        over.wait()

    starter = threading.Thread(target=run)
    starter.start()
    try:
        yield
        assert wait_until(started.is_set, 60)
        assert server.running
    finally:
        server.kill()
        over.set()
        starter.join(30)


async def test_killed_under_load_and_slow_to_load(app: App, seen: Seen, own_server: Server, raw: redis.Redis) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    # By default (everysec) a write is put off while a sync is under way, by up to 2 s on a slow disk; what
    # was answered meanwhile is lost with the process.
    raw.config_set("appendfsync", "no")
    handles = await work.abulk([(n,) for n in range(3000)])
    async with app.running(concurrency=20, lease=2):
        await seen.arrive(Succeeded, 500, timeout=60)
        await asyncio.to_thread(own_server.kill)
        assert not own_server.running
        # In µs for each command of the append-only file: about two seconds, in which it answers LOADING.
        own_server.options += ("--key-load-delay", "300")
        with starting(own_server):
            more: list[Any] = [asyncio.create_task(work.adelay(n)) for n in range(3000, 3010)]
            assert await asyncio.gather(*handles) == list(range(3000))
            assert await asyncio.gather(*[await sent for sent in more]) == list(range(3000, 3010))
            with own_server.client() as client:
                stats: Any = client.info("errorstats")
            assert stats["errorstat_LOADING"]["count"] >= 1
            assert seen.of(BrokerDown)
            await seen.arrive(BrokerUp, len(seen.of(BrokerDown)))


# Rights that are taken away


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Server]:
    server = Server(binary(DEFAULT), tmp_path / "guarded").start()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">pw", "~*", "&*", "+@all")
    yield server
    server.kill()


@pytest.mark.parametrize("rules", ["-@all", "-xack"])
async def test_a_result_is_kept_until_the_right_to_store_it_is_back(guarded: Server, rules: str) -> None:
    app = App("test", url=guarded.url_for("shop:pw@"), sync_in_loop="allow")
    seen, go = Seen(app), asyncio.Event()
    runs: list[int] = []

    @app.task
    async def work(n: int) -> int:
        runs.append(n)
        await go.wait()
        if n == 1:
            raise ValueError("fails")
        return n

    async with app.running(lease=60):
        handles = [await work.adelay(n) for n in range(3)]
        await seen.arrive(Started, 3)
        with guarded.client() as admin:
            admin.execute_command("ACL", "SETUSER", "shop", rules)
            denied = denials(admin)
            go.set()
            await await_until(lambda: denials(admin) >= denied + 2)
            assert not seen.of(Succeeded)
            if rules == "-@all":
                with pytest.raises(PermissionDenied):
                    await work.adelay(3)
            admin.execute_command("ACL", "SETUSER", "shop", "+@all")
        assert [await handles[n].aget(timeout=30) for n in (0, 2)] == [0, 2]
        await await_until(handles[1].adone, 30)
    assert runs == [0, 1, 2]
    assert not any(seen.of(kind) for kind in (EntryStuck, Late, Lost))
    await app.aclose()


def denials(admin: redis.Redis) -> int:
    """How often somebody was refused a command."""
    stats: Any = admin.info("stats")
    return int(stats["acl_access_denied_cmd"])
