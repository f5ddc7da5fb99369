"""The server goes away, stands still, forgets, or refuses: what is lost (nothing), and which error says so."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock import (
    App,
    AuthenticationFailed,
    BrokerUnavailable,
    PermissionDenied,
    ServerOutOfMemory,
    ServerReadOnly,
    ServerTooOld,
    State,
)
from penstock.events import BrokerDown, BrokerUp, Late, Lost, Started, Succeeded
from tests.conftest import binary
from tests.integration.support import Seen, calls_of, entries
from tests.proxies import proxy
from tests.servers import DEFAULT, Server, await_until, free_port, wait_until

MakeApp = Callable[..., App]
pytestmark = pytest.mark.anyio


# A producer meets an outage


def test_enqueue_retries_through_a_restart_and_sends_once(app: App, own_server: Server, namespace: str) -> None:
    @app.task
    def work(n: int) -> int:
        return n

    work.delay(0)
    own_server.stop()
    handles: list[Any] = []
    sending = threading.Thread(target=lambda: handles.extend(work.options(id=f"k{n}").delay(n) for n in range(1, 6)))
    sending.start()
    own_server.start()
    sending.join(30)
    assert [handle.created for handle in handles] == [True] * 5
    with own_server.client() as client:
        assert entries(client, namespace) == 6
    with app.running():
        assert [handle.get(timeout=20) for handle in handles] == [1, 2, 3, 4, 5]


async def test_adelay_and_bulk_retry_through_a_restart(app: App, own_server: Server, namespace: str) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    await work.adelay(0)
    await asyncio.to_thread(own_server.kill)
    sending = [asyncio.create_task(work.adelay(n)) for n in range(1, 21)]
    sending_bulk = asyncio.create_task(work.abulk([(n,) for n in range(21, 31)]))
    own_server.start()  # here: it dies with the thread that starts it
    handles = [*await asyncio.gather(*sending), *await sending_bulk]
    assert all(handle.created for handle in handles)
    with own_server.client() as client:
        assert entries(client, namespace) == 31
    async with app.running():
        assert await asyncio.gather(*handles) == list(range(1, 31))


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_lost_reply_does_not_send_twice(
    make_app: MakeApp, server: Server, raw: redis.Redis, namespace: str, kind: str
) -> None:
    """The request arrives, the connection breaks before the reply: sent again, found to be there."""
    lost: list[bytes] = []

    def keep(request: bytes) -> bool:
        if b"EVALSHA" in request and len(lost) < 3:
            lost.append(request)
            return False
        return True

    with proxy(server.port, keep_reply_to=keep) as port:
        app = make_app(url=server.url_at(port))

        @app.task
        async def work(n: int) -> int:
            return n

        direct = make_app("direct")  # the script is known, so that the first EVALSHA does the work
        await direct.task(name="w")(_nothing).adelay()
        handle = await asyncio.to_thread(work.delay, 1) if kind == "sync" else await work.adelay(1)
        assert len(lost) == 3
        assert entries(raw, namespace) == 2
        assert await handle.astate() is State.QUEUED
        await app.aclose()
        app.close()


def _nothing() -> None: ...


async def test_a_producer_gives_up_after_retry_for(make_app: MakeApp) -> None:
    app = make_app(url=f"redis://127.0.0.1:{free_port()}/0", retry_for=0.3)

    @app.task
    def work() -> None: ...

    for send in (lambda: asyncio.to_thread(work.delay), work.adelay):
        since = time.monotonic()
        with pytest.raises(BrokerUnavailable, match="no answer from redis://127") as caught:
            await send()
        assert isinstance(caught.value, ConnectionError)
        assert time.monotonic() - since < 10


def test_nothing_on_localhost_names_the_embedded_server(monkeypatch: pytest.MonkeyPatch) -> None:
    # The default port may be in use on the machine that runs this.
    monkeypatch.setattr("penstock.streams.urls.DEFAULT_URL", f"redis://localhost:{free_port()}/0", raising=False)
    app = App(retry_for=0, connect_timeout=1)
    try:
        with pytest.raises(BrokerUnavailable, match="embedded://DIR") as caught:
            app.send("x")
    finally:
        app.close()
    assert "PENSTOCK_URL" in str(caught.value)


# A worker meets an outage


async def test_a_restart_under_load_loses_nothing(app: App, seen: Seen, own_server: Server) -> None:
    @app.task
    async def work(n: int) -> int:
        await asyncio.sleep(0.001)
        return n

    handles = await work.abulk([(n,) for n in range(3000)])
    async with app.running(concurrency=50, lease=2):
        for least in (300, 1200):
            await seen.arrive(Succeeded, least, timeout=60)
            await asyncio.to_thread(own_server.stop)
            own_server.start()  # here: it dies with the thread that starts it
        await await_until(lambda: _all_done(handles[-50:]), 60)
        await seen.arrive(Succeeded, 3000, timeout=60)
        assert await asyncio.gather(*handles) == list(range(3000))
    assert len(seen.of(BrokerDown)) >= 1 and len(seen.of(BrokerUp)) == len(seen.of(BrokerDown))


async def _all_done(handles: list[Any]) -> bool:
    return all([await handle.adone() for handle in handles])


async def test_a_worker_waits_for_a_server_that_is_not_there_yet(app: App, seen: Seen, own_server: Server) -> None:
    @app.task
    async def work() -> int:
        return 1

    await asyncio.to_thread(own_server.stop)

    async def run() -> int:
        async with app.running():
            return await (await work.adelay())

    running = asyncio.create_task(run())
    await seen.arrive(BrokerDown)
    own_server.start()  # here: it dies with the thread that starts it
    assert await running == 1


async def test_work_that_runs_during_an_outage_is_settled_after_it(app: App, seen: Seen, own_server: Server) -> None:
    go = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        await go.wait()
        return n

    async with app.running(lease=15):
        handles = await work.abulk([(n,) for n in range(5)])
        await seen.arrive(Started, 5)
        await asyncio.to_thread(own_server.stop)
        go.set()
        await seen.arrive(BrokerDown)
        own_server.start()  # here: it dies with the thread that starts it
        assert await asyncio.gather(*handles) == list(range(5))
    assert len(seen.of(Started)) == 5 and not seen.of(Late)


async def test_a_pause_longer_than_the_lease_runs_nothing_twice(app: App, seen: Seen, own_server: Server) -> None:
    runs: list[int] = []
    resumed = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        runs.append(n)
        await resumed.wait()
        await asyncio.sleep(0.5)
        return n

    async with app.running(lease=0.6, command_timeout=0.5):
        handles = await work.abulk([(n,) for n in range(20)])
        await seen.arrive(Started, 20)
        own_server.pause()
        await seen.arrive(BrokerDown)
        since = time.monotonic()
        await await_until(lambda: time.monotonic() - since > 1.5)
        own_server.resume()
        await seen.arrive(BrokerUp)
        resumed.set()
        assert await asyncio.gather(*handles) == list(range(20))
    assert sorted(runs) == list(range(20))


async def test_a_pause_that_nobody_notices_runs_nothing_twice(app: App, seen: Seen, own_server: Server) -> None:
    """Longer than the lease, shorter than the command timeout: no connection breaks."""
    runs: list[int] = []
    resumed = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        runs.append(n)
        await resumed.wait()
        return n

    async with app.running(lease=0.6):
        handles = await work.abulk([(n,) for n in range(20)])
        await seen.arrive(Started, 20)
        own_server.pause()
        since = time.monotonic()
        await await_until(lambda: time.monotonic() - since > 1.5)
        own_server.resume()
        await (await work.adelay(20)).astate()
        resumed.set()
        assert await asyncio.gather(*handles) == list(range(20))
        await seen.arrive(Succeeded, 21)
    assert sorted(runs) == list(range(21))


async def test_a_stalled_server_does_not_make_workers_rob_each_other(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis
) -> None:
    """After it every lease looks old, and the one who sweeps may come before the one who renews."""
    runs: list[int] = []
    resumed = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        runs.append(n)
        await resumed.wait()
        return n

    async with app.running(lease=0.6), app.running(lease=0.6):
        handles = await work.abulk([(n,) for n in range(20)])
        await seen.arrive(Started, 20)
        for _ in range(3):
            own_server.pause()
            await await_until(partial(_is_over, time.monotonic() + 1.2))
            own_server.resume()
            await await_until(partial(_has_renewed, raw, calls_of(raw, "xclaim") + 3))
        resumed.set()
        assert await asyncio.gather(*handles) == list(range(20))
    assert sorted(runs) == list(range(20)) and not seen.of(Lost) and not seen.of(Late)


def _is_over(at: float) -> bool:
    return time.monotonic() > at


def _has_renewed(raw: redis.Redis, least: int) -> bool:
    return calls_of(raw, "xclaim") >= least


async def test_flushall_while_blocked(app: App, seen: Seen, own_server: Server, raw: redis.Redis) -> None:
    @app.task
    async def work() -> int:
        return 1

    async with app.running(lease=0.6):
        assert await (await work.adelay()) == 1
        for _ in range(3):
            await await_until(lambda: _blocked(raw))
            raw.flushall()
            assert await (await work.adelay()).aget(timeout=20) == 1


def _blocked(raw: redis.Redis) -> bool:
    return int(raw.info("clients")["blocked_clients"]) > 0


async def test_flushall_while_tasks_run(app: App, seen: Seen, own_server: Server, raw: redis.Redis) -> None:
    go = asyncio.Event()

    @app.task
    async def work() -> int:
        await go.wait()
        return 1

    async with app.running(lease=0.6):
        await work.adelay()
        await seen.arrive(Started)
        raw.flushall()
        await seen.arrive(Lost)
        go.set()
        assert await (await work.adelay()).aget(timeout=20) == 1


async def test_every_connection_is_killed_under_load(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis
) -> None:
    @app.task
    async def work(n: int) -> int:
        await asyncio.sleep(0.001)
        return n

    handles = await work.abulk([(n,) for n in range(2000)])
    async with app.running(concurrency=20, lease=2):
        for least in (100, 500, 900, 1300):
            await seen.arrive(Succeeded, least, timeout=60)
            for kind in ("normal", "pubsub"):
                raw.client_kill_filter(_type=kind, skipme=True)
        await seen.arrive(Succeeded, 2000, timeout=60)
    assert await asyncio.gather(*handles) == list(range(2000))
    assert len(seen.of(Started)) == 2000  # an entry whose delivery was lost is taken up, not run again


async def test_script_flush_under_load(app: App, seen: Seen, own_server: Server, raw: redis.Redis) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    handles = await work.abulk([(n,) for n in range(1000)])
    async with app.running(concurrency=20):
        for least in range(100, 900, 100):
            await seen.arrive(Succeeded, least)
            raw.script_flush()
        assert await asyncio.gather(*handles) == list(range(1000))
    assert len(seen.of(Started)) == 1000 and not seen.of(BrokerDown)


async def test_a_blocking_read_that_was_killed_brings_its_entry(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis
) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    async with app.running(lease=60):  # so that no reclaim helps
        for n in range(10):
            await await_until(lambda: _blocked(raw))
            handle = await work.adelay(n)
            raw.client_kill_filter(_type="normal", skipme=True)
            assert await handle.aget(timeout=30) == n


# A server that refuses


@pytest.fixture
def guarded_server(tmp_path: Path) -> Iterator[Server]:
    server = Server(binary(DEFAULT), tmp_path / "guarded", "--requirepass", "secret").start()
    yield server
    server.kill()


def guarded(server: Server, user: str = "", password: str = "secret") -> str:
    return server.url_for(f"{user}:{password}@")


async def test_a_wrong_password(guarded_server: Server) -> None:
    for url in (guarded(guarded_server, password="wrong"), guarded_server.url_for("")):
        app = App("test", url=url, sync_in_loop="allow")

        @app.task
        async def work() -> None: ...

        since = time.monotonic()
        with pytest.raises(AuthenticationFailed) as caught:
            work.delay()
        with pytest.raises(AuthenticationFailed):
            await work.adelay()
        with pytest.raises(AuthenticationFailed):
            async with app.running():
                pytest.fail("it runs")
        assert time.monotonic() - since < 10  # trying again cannot help
        assert "wrong" not in str(caught.value).replace("WRONGPASS", "")
        await app.aclose()


async def test_a_user_without_rights(guarded_server: Server) -> None:
    with guarded_server.client(password="secret") as admin:
        admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "&*", "+@read", "+@connection")
        admin.execute_command("ACL", "SETUSER", "narrow", "on", ">pw", "~{mine*", "&*", "+@all")
    for user in ("reader", "narrow"):
        app = App("test", url=guarded(guarded_server, user, "pw"), namespace="other", sync_in_loop="allow")

        @app.task
        async def work() -> None: ...

        with pytest.raises(PermissionDenied, match=r"(?i)permission|NOPERM"):
            work.delay()
        with pytest.raises(PermissionDenied):
            await work.adelay()
        await app.aclose()


async def test_a_user_with_the_rights_of_its_namespace_only(guarded_server: Server) -> None:
    with guarded_server.client(password="secret") as admin:
        admin.execute_command(
            "ACL",
            "SETUSER",
            "shop",
            "on",
            ">pw",
            "~{mine*",
            "resetchannels",
            "&{mine*",
            "+@all",
            "-@dangerous",
            "+client|unblock",
        )
    app = App("test", url=guarded(guarded_server, "shop", "pw"), namespace="mine", sync_in_loop="allow")

    @app.task
    async def work() -> int:
        return 1

    async with app.running():
        assert await (await work.adelay()).aget(timeout=20) == 1
    await app.aclose()


async def test_a_replica(tmp_path: Path, own_server: Server) -> None:
    replica = Server(binary(DEFAULT), tmp_path / "replica", "--replicaof", "127.0.0.1", str(own_server.port)).start()
    app = App("test", url=replica.url, sync_in_loop="allow", retry_for=0.2)

    @app.task
    async def work() -> None: ...

    try:
        with pytest.raises(ServerReadOnly, match="READONLY"):
            work.delay()
        with pytest.raises(ServerReadOnly):
            await work.adelay()
    finally:
        await app.aclose()
        replica.kill()


async def test_a_replica_that_becomes_the_primary(tmp_path: Path, own_server: Server) -> None:
    """A failover under the same address: the producer goes on trying, and gets through."""
    replica = Server(binary(DEFAULT), tmp_path / "replica", "--replicaof", "127.0.0.1", str(own_server.port)).start()
    app = App("test", url=replica.url, sync_in_loop="allow", retry_for=30)

    @app.task
    async def work() -> int:
        return 1

    try:
        sending = asyncio.create_task(work.adelay())
        with replica.client() as client:
            await await_until(lambda: calls_of(client, "sadd", "evalsha", "eval") or _rejected(client))
            client.execute_command("REPLICAOF", "NO", "ONE")
            handle = await sending
            async with app.running():
                assert await handle.aget(timeout=20) == 1
    finally:
        await app.aclose()
        replica.kill()


def _rejected(client: redis.Redis) -> bool:
    return "errorstat_READONLY" in client.info("errorstats")


async def test_out_of_memory(app: App, seen: Seen, own_server: Server, raw: redis.Redis) -> None:
    go = asyncio.Event()

    @app.task
    async def work(n: int) -> str:
        await go.wait()
        return "x" * n

    async with app.running():
        handles = [await work.adelay(10), await work.adelay(1000)]
        await seen.arrive(Started, 2)
        raw.config_set("maxmemory", 1)
        since = time.monotonic()
        with pytest.raises(ServerOutOfMemory, match="OOM"):
            work.delay(1)
        with pytest.raises(ServerOutOfMemory):
            await work.adelay(1)
        assert time.monotonic() - since < 10  # a producer hears of it at once
        go.set()
        # What has run is stored all the same, or kept until there is room: never lost.
        await await_until(lambda: len(seen.of(Succeeded)) >= 1 or seen.of(BrokerDown))
        raw.config_set("maxmemory", 0)
        assert await asyncio.gather(*[h.aget(timeout=30) for h in handles]) == ["x" * 10, "x" * 1000]
        assert await (await work.adelay(2)).aget(timeout=30) == "xx"
    assert len(seen.of(Started)) == 3


async def test_a_server_that_is_too_old(tmp_path: Path) -> None:
    # As before 6.2: the command is not there.
    server = Server(binary(DEFAULT), tmp_path / "old", "--rename-command", "XAUTOCLAIM", "").start()
    app = App("test", url=server.url, sync_in_loop="allow")

    @app.task
    async def work() -> None: ...

    try:
        with pytest.raises(ServerTooOld, match=r"6\.2"):
            async with app.running():
                pytest.fail("it runs")
    finally:
        await app.aclose()
        server.kill()


def test_the_worker_of_a_default_url_without_a_server_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.streams.urls.DEFAULT_URL", f"redis://localhost:{free_port()}/0", raising=False)
    app = App(connect_timeout=1)

    @app.task
    def work() -> None: ...

    with pytest.raises(BrokerUnavailable, match="embedded://DIR"), app.running():
        pytest.fail("it runs")
    app.close()
    wait_until(lambda: not [t for t in threading.enumerate() if t.name == "penstock-worker"])
