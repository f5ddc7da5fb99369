"""Clients of every scheme against real servers: they work, fail in bounded time and say why."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
import redis
from anyio import create_task_group

from penstock import errors
from penstock.settings import Settings
from penstock.streams.connection import (
    POOL,
    Connector,
    acheck_server,
    check_server,
    is_transient,
    translate,
)
from penstock.streams.urls import Address, resolve_url
from tests.conftest import binary
from tests.proxies import make_certificates, proxy, tls_proxy
from tests.servers import DEFAULT, SERVERS, Server, await_until, cluster, free_port, sentinels, wait_until

SCRIPT = "return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}"
SHA = hashlib.sha1(SCRIPT.encode()).hexdigest()
QUICK = Settings(connect_timeout=0.5, command_timeout=0.3)


def connector(url: str, settings: Settings | None = None) -> Connector:
    return Connector(resolve_url(url, {}), settings or Settings())


@contextmanager
def raises(kind: type[errors.BrokerError], of: Connector, transient: bool) -> Iterator[list[str]]:
    """The block fails with something of redis-py that `translate` makes a `kind`; yields its text."""
    text: list[str] = []
    with pytest.raises(Exception) as caught:
        yield text
    error = of.translate(caught.value)
    assert type(error) is kind, repr(caught.value)
    assert is_transient(caught.value) is transient
    text.append(str(error))


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    if not make_certificates(folder):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no openssl")
    return folder


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(binary(DEFAULT), tmp_path_factory.mktemp("cluster")) as nodes:
        yield f"redis+cluster://127.0.0.1:{nodes[0].port},127.0.0.1:{nodes[1].port}"


@pytest.fixture(scope="module")
def sentinel_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sentinels(binary(DEFAULT), tmp_path_factory.mktemp("sentinels"), replicas=0) as (_, watchers):
        hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
        yield f"redis+sentinel://{hosts}/tf/0"


@pytest.fixture
def unix_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    socket = tmp_path_factory.mktemp("u") / "s"
    server = Server(binary(DEFAULT), socket.parent, "--unixsocket", str(socket), "--unixsocketperm", "700").start()
    yield f"unix://{socket}?db=3"
    server.kill()


@pytest.fixture(params=[*SERVERS, "unix", "sentinel", "cluster"])
def each(request: pytest.FixtureRequest) -> Connector:
    """A connector for each kind of server."""
    if request.param in SERVERS:
        return connector(request.getfixturevalue("running_servers").get(request.param).url)
    return connector(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def base() -> str:
    return f"{{t-{os.urandom(6).hex()}:q}}"


def own_user(raw: redis.Redis, name: str, *rules: str) -> None:
    raw.execute_command("ACL", "SETUSER", name, "reset", "on", ">pass/wörd@1", *rules)


LOGIN = "pass%2Fw%C3%B6rd%401"


# What all kinds of clients do


def test_a_sync_client_runs_scripts(each: Connector, base: str) -> None:
    client = each.sync_client()
    key = f"{base}:n"
    with pytest.raises(redis.exceptions.NoScriptError):
        client.execute_command("EVALSHA", "0" * 40, 1, key, "x")
    assert client.execute_command("EVAL", SCRIPT, 1, key, "x") == [key.encode(), b"x", 1]
    assert client.execute_command("EVALSHA", SHA, 1, key, "x") == [key.encode(), b"x", 2]
    assert client.execute_command("DEL", key) == 1
    check_server(client)
    client.close()


@pytest.mark.anyio
async def test_an_async_client_runs_scripts(each: Connector, base: str) -> None:
    client = each.async_client()
    key = f"{base}:n"
    with pytest.raises(redis.exceptions.NoScriptError):
        await client.execute_command("EVALSHA", "0" * 40, 1, key, "x")
    assert await client.execute_command("EVAL", SCRIPT, 1, key, "x") == [key.encode(), b"x", 1]
    assert await client.execute_command("EVALSHA", SHA, 1, key, "x") == [key.encode(), b"x", 2]
    assert await client.execute_command("DEL", key) == 1
    await acheck_server(client)
    await client.aclose()


@pytest.mark.anyio
async def test_a_blocking_reader_is_ended_through_its_node(each: Connector, base: str) -> None:
    reader, node = each.async_reader(base, 30.0), each.sync_node(base)
    stream = f"{base}:s"
    node.execute_command("XGROUP", "CREATE", stream, "w", "0", "MKSTREAM")
    number = await reader.execute_command("CLIENT", "ID")
    read = ("XREADGROUP", "GROUP", "w", "me", "COUNT", 1, "BLOCK", 30_000, "STREAMS", stream, ">")
    replies: list[Any] = []

    async def block() -> None:
        replies.append(await reader.execute_command(*read))

    async with create_task_group() as group:
        group.start_soon(block)
        await await_until(lambda: node.execute_command("CLIENT", "UNBLOCK", number) == 1)
    assert replies == [[]]
    node.execute_command("XADD", stream, "*", "k", "v")
    ((name, ((_, fields),)),) = await reader.execute_command(*read)
    assert (name, fields) == (stream.encode(), {b"k": b"v"})
    assert await reader.execute_command("CLIENT", "ID") == number
    node.delete(stream)
    node.close()
    await reader.aclose()


def test_pubsub_hears_what_any_client_publishes(each: Connector, base: str) -> None:
    client, sender = each.pubsub_client(), each.sync_node(base)
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(base)
        pubsub.get_message(timeout=5)
        wait_until(lambda: sender.execute_command("PUBLISH", base, "x") is not None)
        message = wait_until(lambda: pubsub.get_message(timeout=1))
        assert message["data"] == b"x"
    client.close()
    sender.close()


@pytest.mark.anyio
async def test_async_pubsub_hears_what_any_client_publishes(each: Connector, base: str) -> None:
    client, sender = each.async_pubsub_client(), each.async_node(base)
    async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(base)
        await pubsub.get_message(timeout=5)
        await sender.execute_command("PUBLISH", base, "x")
        message = await await_until(lambda: pubsub.get_message(timeout=1))
        assert message is not None
        assert message["data"] == b"x"
    await client.aclose()
    await sender.aclose()


def test_threads_queue_for_connections(each: Connector, base: str) -> None:
    client = each.sync_client()
    node = each.sync_node(base)
    before = len(node.client_list())
    start = threading.Barrier(3 * POOL)
    done: list[Any] = []

    def call() -> None:
        start.wait()
        done.append(client.execute_command("EVAL", SCRIPT, 1, f"{base}:n", "x"))

    threads = [threading.Thread(target=call) for _ in range(3 * POOL)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(reply[2] for reply in done) == list(range(1, 3 * POOL + 1))
    assert len(node.client_list()) <= before + POOL + 1
    node.delete(f"{base}:n")
    node.close()
    client.close()


@pytest.mark.anyio
async def test_coroutines_queue_for_connections(each: Connector, base: str) -> None:
    client, node = each.async_client(), each.async_node(base)
    before = len(await node.client_list())
    done: list[Any] = []

    async def call() -> None:
        done.append(await client.execute_command("EVAL", SCRIPT, 1, f"{base}:n", "x"))

    async with create_task_group() as group:
        for _ in range(10 * POOL):
            group.start_soon(call)
    assert sorted(reply[2] for reply in done) == list(range(1, 10 * POOL + 1))
    assert len(await node.client_list()) <= before + POOL + 1
    await node.delete(f"{base}:n")
    await node.aclose()
    await client.aclose()


def test_a_forked_child_has_connections_of_its_own(each: Connector, base: str) -> None:
    client = each.sync_client()
    key = f"{base}:n"
    client.execute_command("SET", key, 0)
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            replies = [client.execute_command("INCRBY", key, 1000) for _ in range(20)]
            os.write(write, b"ok" if replies[-1] > 19_000 else b"no")
        finally:
            os._exit(0)
    os.close(write)
    replies = [client.execute_command("INCR", key) % 1000 for _ in range(100)]
    assert os.read(read, 10) == b"ok"
    os.waitpid(child, 0)
    os.close(read)
    assert replies == list(range(1, 101))
    assert client.execute_command("GET", key) == b"20100"
    client.execute_command("DEL", key)
    client.close()


def test_connections_say_who_they_are_and_speak_resp2(any_server: Server) -> None:
    client = connector(any_server.url).sync_node()
    info = client.client_info()
    assert info["name"] == "penstock"
    assert info.get("lib-name", "") == ""
    assert info.get("resp", "2") == "2"
    client.close()


# Logins


def test_an_acl_user_logs_in_by_url(any_server: Server, raw: redis.Redis) -> None:
    own_user(raw, "alice", "~*", "+@all")
    client = connector(f"redis://alice:{LOGIN}@127.0.0.1:{any_server.port}").sync_client()
    assert client.execute_command("ACL", "WHOAMI") == b"alice"
    client.close()


@pytest.mark.anyio
async def test_a_wrong_password_is_told_at_once(any_server: Server) -> None:
    broken = connector(f"redis://nobody:s3cr3t@127.0.0.1:{any_server.port}")
    client, aclient = broken.sync_client(), broken.async_client()
    with raises(errors.AuthenticationFailed, broken, transient=False) as text:
        client.execute_command("PING")
    with raises(errors.AuthenticationFailed, broken, transient=False):
        await aclient.execute_command("PING")
    assert f"redis://nobody:***@127.0.0.1:{any_server.port}" in text[0]
    assert "s3cr3t" not in text[0]
    client.close()
    await aclient.aclose()


@pytest.mark.parametrize("name", list(SERVERS))
def test_a_missing_password_is_told_at_once(name: str, tmp_path: Path) -> None:
    server = Server(binary(name), tmp_path, "--requirepass", "s3cr3t").start()
    try:
        without = connector(server.url)
        client = without.sync_client()
        with raises(errors.AuthenticationFailed, without, transient=False):
            client.execute_command("PING")
        client.close()
        client = connector(f"redis://:s3cr3t@127.0.0.1:{server.port}").sync_client()
        assert client.execute_command("PING")
        client.close()
    finally:
        server.kill()


def test_a_missing_right_is_told_at_once(any_server: Server, raw: redis.Redis, base: str) -> None:
    own_user(raw, "bob", f"~{base}*", "+@all", "-set", "-command")
    bob = connector(f"redis://bob:{LOGIN}@127.0.0.1:{any_server.port}")
    client = bob.sync_client()
    check_server(client)  # no right to ask
    for command in (
        ("SET", f"{base}:n", "1"),
        ("GET", "elsewhere"),
        ("EVAL", "return redis.call('SET', KEYS[1], 1)", 1, f"{base}:n"),
        ("EVAL", "return redis.call('GET', KEYS[1])", 1, "elsewhere"),
    ):
        with raises(errors.PermissionDenied, bob, transient=False):
            client.execute_command(*command)
    client.close()


# TLS


def test_tls_with_a_ca_of_ones_own(server: Server, certificates: Path) -> None:
    with tls_proxy(server.port, certificates) as port:
        client = connector(f"rediss://localhost:{port}?ssl_ca_certs={certificates}/ca.pem").sync_client()
        assert client.execute_command("PING")
        client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("options", ["ssl_ca_certs={}/ca.pem", "ssl_cert_reqs=none"])
async def test_async_tls(server: Server, certificates: Path, options: str) -> None:
    with tls_proxy(server.port, certificates) as port:
        client = connector(f"rediss://localhost:{port}?{options.format(certificates)}").async_client()
        assert await client.execute_command("PING")
        await client.aclose()


@pytest.mark.anyio
async def test_a_certificate_that_nobody_signed_is_told_at_once(server: Server, certificates: Path) -> None:
    with tls_proxy(server.port, certificates) as port:
        strict = connector(f"rediss://localhost:{port}")
        client, aclient = strict.sync_client(), strict.async_client()
        with raises(errors.BrokerUnavailable, strict, transient=False) as text:
            client.execute_command("PING")
        assert "CERTIFICATE_VERIFY_FAILED" in text[0]
        with raises(errors.BrokerUnavailable, strict, transient=False):
            await aclient.execute_command("PING")
        client.close()
        await aclient.aclose()


@pytest.mark.anyio
async def test_a_client_certificate(server: Server, certificates: Path) -> None:
    with tls_proxy(server.port, certificates, client_certificate=True) as port:
        url = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificates}/ca.pem"
        known = connector(f"{url}&ssl_certfile={certificates}/client.pem&ssl_keyfile={certificates}/client.key")
        client, aclient = known.sync_client(), known.async_client()
        assert client.execute_command("PING")
        assert await aclient.execute_command("PING")
        client.close()
        await aclient.aclose()
        unknown = connector(url)
        client = unknown.sync_client()
        with pytest.raises(redis.ConnectionError) as caught:
            client.execute_command("PING")
        assert type(unknown.translate(caught.value)) is errors.BrokerUnavailable
        client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("scheme", ["rediss://{}", "redis+sentinel://{}/tf?ssl=true", "redis+cluster://{}?ssl=true"])
async def test_every_client_takes_the_tls_options(scheme: str, certificates: Path) -> None:
    files = f"ssl_ca_certs={certificates}/ca.pem&ssl_certfile={certificates}/client.pem"
    files += f"&ssl_keyfile={certificates}/client.key&ssl_check_hostname=no"
    url = scheme.format(f"127.0.0.1:{free_port()}")
    tls = connector(f"{url}{'&' if '?' in url else '?'}{files}", QUICK)
    for client in (tls.sync_client(), tls.sync_node("{a}"), tls.pubsub_client()):
        with raises(errors.BrokerUnavailable, tls, transient=True):
            client.execute_command("PING")
        client.close()
    for aclient in (tls.async_client(), tls.async_node("{a}"), tls.async_reader("{a}", 1.0), tls.async_pubsub_client()):
        with raises(errors.BrokerUnavailable, tls, transient=True):
            await aclient.execute_command("PING")
        await aclient.aclose()


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


def test_a_service_that_the_sentinels_do_not_know(sentinel_url: str) -> None:
    unknown = connector(sentinel_url.replace("/tf/", "/other/"))
    client = unknown.sync_client()
    with raises(errors.BrokerUnavailable, unknown, transient=True) as text:
        client.execute_command("PING")
    assert "knows no service 'other'" in text[0]
    client.close()


@pytest.mark.anyio
async def test_a_plain_server_is_no_cluster(server: Server) -> None:
    wrong = connector(server.url.replace("redis://", "redis+cluster://"))
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
    assert 0.6 <= time.monotonic() - before < 1.5
    before = time.monotonic()
    with raises(errors.BrokerUnavailable, hanging, transient=True):
        await reader.execute_command("PING")
    assert 0.8 <= time.monotonic() - before < 1.5
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
        losing = connector(f"redis://127.0.0.1:{port}")
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
                assert type(here.translate(error)) is errors.BrokerError
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
            hosts = ",".join(f"127.0.0.1:{watcher.port}" for watcher in watchers)
            yield connector(f"redis+sentinel://{hosts}/tf", QUICK), "{a}", servers[0].kill
        return
    with cluster(binary(DEFAULT), tmp_path, replicas=1) as nodes:
        with nodes[1].client() as raw:
            slots = {entry[2][1]: range(entry[0], entry[1] + 1) for entry in raw.execute_command("CLUSTER", "SLOTS")}
            mine = slots[nodes[0].port]
            key = next(k for i in range(1000) if raw.cluster("KEYSLOT", k := f"{{a{i}}}") in mine)
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes[:2])
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
