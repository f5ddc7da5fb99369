"""Clients of every scheme against real servers: what they all do, logins, TLS."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from anyio import create_task_group

from penstock import errors
from penstock.settings import Settings
from penstock.streams.connection import POOL
from penstock.streams.connector import Connector
from penstock.streams.faults import acheck_server, check_server
from tests.access import ACCESS
from tests.certificates import make_certificates
from tests.conftest import binary
from tests.connectors import QUICK, connector, raises
from tests.lessons.half_open import HalfOpen
from tests.proxies import tls_proxy
from tests.servers import DEFAULT, SERVERS, Server, await_until, free_port, wait_until
from tests.topologies import cluster, sentinels

SCRIPT = "return {KEYS[1], ARGV[1], redis.call('INCR', KEYS[1])}"
SHA = hashlib.sha1(SCRIPT.encode()).hexdigest()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    if not make_certificates(folder):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no openssl")
    return folder


@pytest.fixture(scope="module")
def cluster_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with cluster(binary(DEFAULT), tmp_path_factory.mktemp("cluster")) as nodes:
        yield ACCESS.url("redis+cluster", nodes[0].address, nodes[1].address)


@pytest.fixture(scope="module")
def sentinel_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with sentinels(binary(DEFAULT), tmp_path_factory.mktemp("sentinels"), replicas=0) as (_, watchers):
        yield ACCESS.url("redis+sentinel", *(watcher.address for watcher in watchers), path="/tf/0")


@pytest.fixture
def unix_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    socket = tmp_path_factory.mktemp("u") / "s"
    server = Server(binary(DEFAULT), socket.parent, "--unixsocket", str(socket), "--unixsocketperm", "700").start()
    yield f"unix://{ACCESS.login}{socket}?db=3"
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


# Python 3.12 and later warn of a fork beside threads, as those of pytest-xdist; users do it all the same.
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
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
    client = connector(any_server.url_for(f"alice:{LOGIN}@")).sync_client()
    assert client.execute_command("ACL", "WHOAMI") == b"alice"
    client.close()


@pytest.mark.anyio
async def test_a_wrong_password_is_told_at_once(any_server: Server) -> None:
    broken = connector(any_server.url_for("nobody:s3cr3t@"))
    client, aclient = broken.sync_client(), broken.async_client()
    with raises(errors.AuthenticationFailed, broken, transient=False) as text:
        client.execute_command("PING")
    with raises(errors.AuthenticationFailed, broken, transient=False):
        await aclient.execute_command("PING")
    assert any_server.url_for("nobody:***@") in text[0]
    assert "s3cr3t" not in text[0]
    client.close()
    await aclient.aclose()


@pytest.mark.parametrize("name", list(SERVERS))
def test_a_missing_password_is_told_at_once(name: str, tmp_path: Path) -> None:
    server = Server(binary(name), tmp_path, "--requirepass", "s3cr3t").start()
    try:
        without = connector(server.url_for(""))
        client = without.sync_client()
        with raises(errors.AuthenticationFailed, without, transient=False):
            client.execute_command("PING")
        client.close()
        client = connector(server.url_for(":s3cr3t@")).sync_client()
        assert client.execute_command("PING")
        client.close()
    finally:
        server.kill()


def test_a_missing_right_is_told_at_once(any_server: Server, raw: redis.Redis, base: str) -> None:
    own_user(raw, "bob", f"~{base}*", "+@all", "-set", "-command")
    bob = connector(any_server.url_for(f"bob:{LOGIN}@"))
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
        client = connector(f"rediss://{ACCESS.login}localhost:{port}?ssl_ca_certs={certificates}/ca.pem").sync_client()
        assert client.execute_command("PING")
        client.close()


@pytest.mark.anyio
@pytest.mark.parametrize("options", ["ssl_ca_certs={}/ca.pem", "ssl_cert_reqs=none"])
async def test_async_tls(server: Server, certificates: Path, options: str) -> None:
    with tls_proxy(server.port, certificates) as port:
        client = connector(f"rediss://{ACCESS.login}localhost:{port}?{options.format(certificates)}").async_client()
        assert await client.execute_command("PING")
        await client.aclose()


@pytest.mark.anyio
async def test_a_certificate_that_nobody_signed_is_told_at_once(server: Server, certificates: Path) -> None:
    with tls_proxy(server.port, certificates) as port:
        strict = connector(f"rediss://{ACCESS.login}localhost:{port}")
        client, aclient = strict.sync_client(), strict.async_client()
        with raises(errors.BrokerUnavailable, strict, transient=False) as text:
            client.execute_command("PING")
        assert "CERTIFICATE_VERIFY_FAILED" in text[0]
        with raises(errors.BrokerUnavailable, strict, transient=False):
            await aclient.execute_command("PING")
        client.close()
        await aclient.aclose()


@pytest.mark.anyio
async def test_a_server_that_is_silent_does_not_hold_up_the_end(server: Server, certificates: Path) -> None:
    """TLS says good-bye when it closes, and waits for the answer."""
    with tls_proxy(server.port, certificates) as port:
        way = HalfOpen(port, wrap=lambda plain: plain)  # what it carries is TLS already
        url = f"rediss://{ACCESS.login}localhost:{way.port}?ssl_ca_certs={certificates}/ca.pem"
        here = connector(url, Settings(connect_timeout=30))
        clients = here.async_client(), here.async_node(), here.async_reader("{a}", 1.0), here.async_pubsub_client()
        for client in clients:
            assert await client.execute_command("PING")
        assert way.forget() == len(clients)
        since = time.monotonic()
        for client in clients:
            await client.aclose()
        assert time.monotonic() - since < 10 and way.swallowed
        way.close()


@pytest.mark.anyio
async def test_a_cluster_that_is_silent_does_not_make_an_error_of_the_end(tmp_path: Path) -> None:
    """Said through TLS: --access=tls."""
    with cluster(binary(DEFAULT), tmp_path) as nodes:
        client = connector(nodes[0].url).async_client()
        assert await client.execute_command("SET", "{a}", "1")
        for node in nodes:
            node.pause()
        await client.aclose()


@pytest.mark.anyio
async def test_a_client_certificate(server: Server, certificates: Path) -> None:
    with tls_proxy(server.port, certificates, client_certificate=True) as port:
        url = f"rediss://{ACCESS.login}127.0.0.1:{port}?ssl_ca_certs={certificates}/ca.pem"
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


def test_a_service_that_the_sentinels_do_not_know(sentinel_url: str) -> None:
    unknown = connector(sentinel_url.replace("/tf/", "/other/"))
    client = unknown.sync_client()
    with raises(errors.BrokerUnavailable, unknown, transient=True) as text:
        client.execute_command("PING")
    assert "knows no service 'other'" in text[0]
    client.close()
