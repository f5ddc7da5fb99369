"""A Redis Cluster, and a primary watched by sentinels, made of servers of `tests.servers`."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import redis

from penstock.streams.rights import ON_CLUSTER
from tests.access import ACCESS, ADMIN, has_tls
from tests.servers import SERVERS, Server, die_with_parent, free_port, wait_until


@contextmanager
def cluster(binary: str, directory: Path, primaries: int = 3, replicas: int = 0) -> Iterator[list[Server]]:
    """A Redis Cluster; its primaries first, then `replicas` for each of them, in the same order."""
    options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-config-file", "nodes.conf"]
    options += ACCESS.cluster_options()
    nodes = [Server(binary, directory / str(i), *options) for i in range(primaries * (1 + replicas))]
    try:
        for node in nodes:
            node.also = tuple(f"+{command}" for command in ON_CLUSTER)
            _start_cluster_node(node)
        clients = [node.client() for node in nodes]
        ids = [client.execute_command("CLUSTER", "MYID").decode() for client in clients]
        share = 16384 // primaries + 1
        for i, client in enumerate(clients):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
            if i < primaries:
                slots = nodes[i].slots = range(i * share, min(16384, (i + 1) * share))
                client.execute_command("CLUSTER", "ADDSLOTS", *slots)
            if i:
                client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port)
        known = f"cluster_known_nodes:{len(nodes)}\r".encode()
        wait_until(lambda: all(known in c.execute_command("CLUSTER", "INFO") for c in clients), timeout=30)
        for i in range(primaries, len(nodes)):
            clients[i].execute_command("CLUSTER", "REPLICATE", ids[i % primaries])
        wait_until(lambda: all(_settled(client, primaries) for client in clients), timeout=30)
        for client in clients:
            client.close()
        for node in nodes:
            node.shared_url = ACCESS.url("redis+cluster", *(other.address for other in nodes))
            node.peers = nodes[:primaries]
        yield nodes
    finally:
        for node in nodes:
            node.kill()


def _start_cluster_node(node: Server) -> None:
    # The bus listens on the port + 10000, which must exist and be free, too.
    for _ in range(50):
        port = free_port()
        if port < 55_000:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port + 10_000)) == 0:
                    continue
            try:
                node.start(port)
                return
            except RuntimeError:
                node.kill()
    raise RuntimeError("no port for a cluster node")


def _settled(client: Any, primaries: int) -> bool:
    state = client.execute_command("CLUSTER", "INFO")
    slots = client.execute_command("CLUSTER", "SLOTS")
    if b"cluster_state:ok" not in state or len(slots) != primaries:
        return False
    replication = client.info("replication")
    return bool(replication["role"] == "master" or replication["master_link_status"] == "up")


@contextmanager
def sentinels(
    binary: str, directory: Path, replicas: int = 1, count: int = 3
) -> Iterator[tuple[list[Server], list[Server]]]:
    """A primary with `replicas`, watched by `count` sentinels as service ``tf``; (servers, sentinels)."""
    also: tuple[str, ...] = ()
    if ACCESS.tls:
        # Sentinels tell clients the address by which they know a server: there is no place for a front.
        binary, also = _with_tls(), ("--tls-replication", "yes")
    servers = [Server(binary, directory / "primary", *also)]
    watchers: list[Server] = []
    try:
        primary = servers[0].start()
        port = primary.tls_port or primary.port
        for i in range(replicas):
            option = ("--replicaof", "127.0.0.1", str(port))
            servers.append(Server(binary, directory / f"replica{i}", *option, *also).start())
        for i in range(count):
            watchers.append(_start_sentinel(binary, directory / f"sentinel{i}", port, quorum=count // 2 + 1))

        def ready(watcher: Server) -> bool:
            with watcher.client() as client:
                state = client.sentinel_master("tf")
                return bool(state["num-slaves"] == replicas and state["num-other-sentinels"] == count - 1)

        wait_until(lambda: all(ready(watcher) for watcher in watchers), timeout=30)
        yield servers, watchers
    finally:
        for server in (*watchers, *servers):
            server.kill()


def _start_sentinel(binary: str, directory: Path, primary: int, quorum: int) -> Server:
    watcher = Server(binary, directory)
    lines = [
        f"sentinel monitor tf 127.0.0.1 {primary} {quorum}",
        "sentinel down-after-milliseconds tf 1000",
        "sentinel failover-timeout tf 5000",
    ]
    if ACCESS.closed:
        lines.append(f"sentinel auth-pass tf {ADMIN}")
    if ACCESS.tls:
        watcher.tls_port = free_port()
        lines += [f"tls-port {watcher.tls_port}", "tls-replication yes"]
        lines += [f"{name} {value}" for name, value in ACCESS.tls_settings()]
    for _ in range(20):
        port = free_port()
        config = directory / "sentinel.conf"
        config.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {directory}", *lines, ""]))
        command = [binary, str(config), "--sentinel"]
        watcher.adopt(subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent), port)
        with suppress(TimeoutError):
            wait_until(lambda: not watcher.running or _answers(watcher))
        if watcher.running:
            return watcher
    raise RuntimeError("a sentinel does not start")


def _with_tls() -> str:
    for found in SERVERS.values():
        if found is not None and has_tls(found):
            return found
    pytest.skip("no server here has TLS built in")


def _answers(server: Server) -> bool:
    with server.client() as client:
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
