"""Servers that are away, hang, restart, refuse or fail over: bounded time, and an error that says what is wrong."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis

from penstock import errors
from penstock.streams.connector import Connector
from penstock.streams.faults import acheck_server, check_server, is_transient, translate
from penstock.streams.listener import Listener
from penstock.streams.urls import Address, resolve_url
from tests.access import ACCESS
from tests.conftest import binary
from tests.connectors import QUICK, connector, raises
from tests.proxies import proxy
from tests.servers import DEFAULT, SERVERS, Server, await_until, free_port, wait_until
from tests.topologies import cluster, sentinels


@pytest.fixture
def base() -> str:
    return f"{{t-{os.urandom(6).hex()}:q}}"


# A server that is away


@pytest.mark.anyio
@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:{}",
        "redis://no-such-host.invalid:{}",
        "unix:///no/such/{}.sock",
        "redis+sentinel://127.0.0.1:{}/tf",
        "redis+cluster://127.0.0.1:{}",
    ],
)
async def test_nothing_listens(url: str) -> None:
    away = connector(url.format(free_port()), QUICK)
    client, aclient = away.sync_client(), away.async_client()
    with raises(errors.BrokerUnavailable, away, transient=True) as text:
        client.execute_command("PING")
    assert text[0].startswith(f"no answer from {away.display}: ")
    with raises(errors.BrokerUnavailable, away, transient=True):
        await aclient.execute_command("PING")
    client.close()
    await aclient.aclose()


def test_nothing_listens_at_the_default_url() -> None:
    refused = redis.ConnectionError("Error 111 connecting to localhost:6379. Connection refused.")
    default = resolve_url(None, {})
    text = str(translate(refused, default.display, default.source))
    assert 'App(url="embedded://DIR")' in text
    assert "PENSTOCK_URL" in text
    assert "redis://localhost:6379/0" in text
    named = Address("redis://localhost:6379/0")
    assert "embedded" not in str(translate(refused, named.display, named.source))


def test_the_thread_that_waits_for_results_ends_also_while_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.streams.listener.LINGER", 0.2)
    listener = Listener(connector(f"redis://127.0.0.1:{free_port()}"), "t")
    with listener.waiting("q:k", lambda told: None):
        thread = listener._thread
        assert thread is not None and thread.is_alive()
    thread.join(10)
    assert not thread.is_alive() and listener._thread is None


@pytest.mark.anyio
async def test_a_plain_server_is_no_cluster(server: Server) -> None:
    wrong = connector(ACCESS.url("redis+cluster", server.address))
    client, aclient = wrong.sync_client(), wrong.async_client()
    with raises(errors.BrokerError, wrong, transient=False) as text:
        client.execute_command("GET", "a")
    assert "Cluster mode is not enabled" in text[0]
    with raises(errors.BrokerError, wrong, transient=False):
        await aclient.execute_command("GET", "a")
    client.close()
    await aclient.aclose()


@pytest.mark.anyio
async def test_a_server_that_hangs_is_given_up_after_the_timeout(own_server: Server) -> None:
    hanging = connector(own_server.url, QUICK)
    client, aclient, reader = hanging.sync_client(), hanging.async_client(), hanging.async_reader("{a}", 0.5)
    client.execute_command("PING")
    await aclient.execute_command("PING")
    await reader.execute_command("PING")
    own_server.pause()
    before = time.monotonic()
    with raises(errors.BrokerUnavailable, hanging, transient=True):
        client.execute_command("PING")
    with raises(errors.BrokerUnavailable, hanging, transient=True):
        await aclient.execute_command("PING")
    assert 0.6 <= time.monotonic() - before < 10
    before = time.monotonic()
    with raises(errors.BrokerUnavailable, hanging, transient=True):
        await reader.execute_command("PING")
    assert 0.8 <= time.monotonic() - before < 10
    own_server.resume()
    assert client.execute_command("PING")
    assert await aclient.execute_command("PING")
    assert await reader.execute_command("PING")
    client.close()
    await aclient.aclose()
    await reader.aclose()


@pytest.mark.anyio
async def test_a_command_whose_reply_was_lost_is_not_sent_again(server: Server, raw: redis.Redis, base: str) -> None:
    with proxy(server.port, keep_reply_to=lambda request: b"INCR" not in request) as port:
        losing = connector(server.url_at(port))
        client, aclient, reader = losing.sync_client(), losing.async_client(), losing.async_reader(base, 1.0)
        with raises(errors.BrokerUnavailable, losing, transient=True):
            client.execute_command("INCR", f"{base}:sync")
        with raises(errors.BrokerUnavailable, losing, transient=True):
            await aclient.execute_command("INCR", f"{base}:async")
        with raises(errors.BrokerUnavailable, losing, transient=True):
            await reader.execute_command("INCR", f"{base}:reader")
        client.close()
        await aclient.aclose()
        await reader.aclose()
    keys = [f"{base}:sync", f"{base}:async", f"{base}:reader"]
    assert raw.mget(keys) == [b"1", b"1", b"1"]
    raw.delete(*keys)


@pytest.mark.anyio
async def test_a_restart_needs_no_new_client(own_server: Server) -> None:
    same = connector(own_server.url)
    client, aclient, reader = same.sync_client(), same.async_client(), same.async_reader("{a}", 1.0)
    client.execute_command("SET", "a", "1")
    await aclient.execute_command("PING")
    await reader.execute_command("PING")
    own_server.kill()
    own_server.start()
    assert client.execute_command("GET", "a") == b"1"
    # asyncio sees the end of the old connections only when its loop turns: at most one failure each.
    assert await goes_on(lambda: aclient.execute_command("GET", "a")) <= 1
    assert await goes_on(lambda: reader.execute_command("GET", "a")) <= 1
    client.close()
    await aclient.aclose()
    await reader.aclose()


# What servers refuse

SET = ("SET", "{a}", "1")
SCRIPTED = ("EVAL", "return redis.call('SET', KEYS[1], 1)", 1, "{a}")


@pytest.fixture(params=list(SERVERS))
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    server = Server(binary(request.param), tmp_path / "fresh").start()
    yield server
    server.kill()


@pytest.mark.parametrize("command", [SET, SCRIPTED], ids=["plain", "scripted"])
@pytest.mark.parametrize(
    ("settings", "kind", "transient"),
    [
        ({"maxmemory": "1"}, errors.ServerOutOfMemory, False),
        ({"replicaof": "127.0.0.1 1"}, errors.ServerReadOnly, True),
        ({"min-replicas-to-write": "1"}, errors.BrokerError, True),
    ],
    ids=["oom", "readonly", "noreplicas"],
)
def test_what_a_server_refuses(
    fresh: Server, command: tuple[str, ...], settings: dict[str, str], kind: type[errors.BrokerError], transient: bool
) -> None:
    with fresh.client() as raw:
        for name, value in settings.items():
            if name == "replicaof":
                raw.execute_command("REPLICAOF", *value.split())
            else:
                raw.config_set(name, value)
    refused = connector(fresh.url)
    client = refused.sync_client()
    with raises(kind, refused, transient):
        client.execute_command(*command)
    client.close()


def test_a_key_of_another_type(any_server: Server, raw: redis.Redis, base: str) -> None:
    here = connector(any_server.url)
    client = here.sync_client()
    raw.set(f"{base}:n", "1", ex=60)
    for command in (
        ("XADD", f"{base}:n", "*", "k", "v"),
        ("EVAL", "return redis.call('XADD', KEYS[1], '*', 'k', 'v')", 1, f"{base}:n"),
        ("EVAL", "return redis.pcall('XADD', KEYS[1], '*', 'k', 'v')", 1, f"{base}:n"),
    ):
        with raises(errors.WrongKeyType, here, transient=False):
            client.execute_command(*command)
    client.close()


def test_a_server_busy_with_a_script(fresh: Server) -> None:
    with fresh.client() as raw, fresh.client() as second:
        second.config_set("lua-time-limit", "20")

        def run() -> None:
            with suppress(redis.ResponseError):
                raw.eval("while true do end", 0)

        endless = threading.Thread(target=run)
        endless.start()
        here = connector(fresh.url)
        client = here.sync_client()

        def busy() -> bool:
            try:
                client.execute_command("PING")
            except redis.ResponseError as error:
                assert is_transient(error)
                assert type(here.translate(error)) is errors.BrokerUnavailable
                assert "BUSY" in str(here.translate(error)) and "SCRIPT KILL or FUNCTION KILL" in str(
                    here.translate(error)
                )
                return True
            return False

        wait_until(busy)
        second.script_kill()
        endless.join()
        client.close()


def test_a_server_without_xautoclaim_is_too_old(tmp_path: Path) -> None:
    server = Server(binary("redis-6.2"), tmp_path, "--rename-command", "XAUTOCLAIM", "").start()
    try:
        client = connector(server.url).sync_client()
        with pytest.raises(errors.ServerTooOld, match=r"Redis 6\.2"):
            check_server(client)
        client.close()

        async def ask() -> None:
            aclient = connector(server.url).async_client()
            with pytest.raises(errors.ServerTooOld):
                await acheck_server(aclient)
            await aclient.aclose()

        anyio.run(ask)
    finally:
        server.kill()


def test_errors_that_are_ours_stay_as_they_are() -> None:
    mine = errors.BrokerUnavailable("x")
    assert translate(mine, "redis://h") is mine
    assert is_transient(mine)
    assert not is_transient(errors.AuthenticationFailed("x"))
    assert not is_transient(ValueError("x"))


# Failovers


async def goes_on(call: Callable[[], Any], seconds: float = 30) -> int:
    """Call until it works again; each failure on the way must be a passing one. Their number."""
    failures = 0

    async def works() -> bool:
        nonlocal failures
        try:
            await call()
        except Exception as error:
            assert is_transient(error), repr(error)
            failures += 1
            return False
        return True

    await await_until(works, timeout=seconds)
    return failures


@pytest.fixture(params=["sentinel", "cluster"])
def failing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Connector, str, Callable[[], None]]]:
    """A connector, a key on the primary that is about to fail, and what makes it fail."""
    if request.param == "sentinel":
        with sentinels(binary(DEFAULT), tmp_path) as (servers, watchers):
            url = ACCESS.url("redis+sentinel", *(watcher.address for watcher in watchers), path="/tf")
            yield connector(url, QUICK), "{a}", servers[0].kill
        return
    with cluster(binary(DEFAULT), tmp_path, replicas=1) as nodes:
        with nodes[1].client() as raw:
            slots = {entry[2][1]: range(entry[0], entry[1] + 1) for entry in raw.execute_command("CLUSTER", "SLOTS")}
            mine = slots[nodes[0].port]
            key = next(k for i in range(1000) if raw.cluster("KEYSLOT", k := f"{{a{i}}}") in mine)
        url = ACCESS.url("redis+cluster", *(node.address for node in nodes[:2]))
        yield connector(url, QUICK), key, nodes[0].kill


@pytest.mark.anyio
async def test_clients_follow_a_failover(failing: tuple[Connector, str, Callable[[], None]]) -> None:
    here, key, fail = failing
    client, aclient, reader, node = (
        here.sync_client(),
        here.async_client(),
        here.async_reader(key, 0.3),
        here.sync_node(key),
    )

    async def sync_call() -> None:
        client.execute_command("SET", key, "1")

    async def node_call() -> None:
        node.execute_command("SET", key, "1")

    async def async_call() -> None:
        await aclient.execute_command("SET", key, "1")

    async def read() -> None:
        await reader.execute_command("SET", key, "1")

    calls = (sync_call, async_call, node_call, read)
    for call in calls:
        await call()
    fail()
    failures = 0
    for call in calls:
        failures += await goes_on(call)
    assert failures > 0
    client.close()
    node.close()
    await aclient.aclose()
    await reader.aclose()
