"""The one place from which all Redis clients come.

Every client speaks RESP2, returns bytes, never retries by itself, waits a bounded time for a
connection and for an answer, and follows failovers by reconnecting. Retrying is the caller's
business: `faults.is_transient` says when, `faults.translate` makes the error that users see.

A script's reply is what the server sent. That of a plain command goes through redis-py's response
callbacks also in `execute_command` (ZRANGE WITHSCORES: pairs; INFO: a dict).
"""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

import redis
import redis.asyncio
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException

from penstock.settings import Settings
from penstock.streams.connector import AsyncClient, SyncClient
from penstock.streams.faults import as_redis_error
from penstock.streams.locate import (
    ASYNC_CLASSES,
    SYNC_CLASSES,
    EmbeddedLocator,
    Locator,
    SentinelLocator,
    SlotLocator,
    no_async_retry,
    no_retry,
)
from penstock.streams.urls import Target

#: Connections of one client. Callers beyond them wait: more connections gain nothing on one Redis core.
POOL = 32
CLIENT_NAME = "penstock"


class Connections:
    """What `Connector` promises (its docstrings say what each is for), by redis-py."""

    def __init__(self, target: Target, settings: Settings) -> None:
        self._target = target
        self._settings = settings

    def sync_client(self) -> SyncClient:
        if self._target.kind == "cluster":
            return _SyncCluster(self._cluster_options())
        return self.sync_node()

    def async_client(self) -> AsyncClient:
        if self._target.kind == "cluster":
            return _AsyncCluster(self._cluster_options())
        return self.async_node()

    def async_reader(self, base: str, block: float) -> AsyncClient:
        timeout = block + self._settings.command_timeout
        pool: Any = redis.asyncio.ConnectionPool(
            max_connections=1,
            retry=no_async_retry(),
            **self._connection_options(ASYNC_CLASSES, base, socket_timeout=timeout),
        )
        return redis.asyncio.Redis.from_pool(pool)

    def sync_node(self, base: str = "", patience: float = 0.0) -> redis.Redis:
        timeout = self._settings.command_timeout + patience
        make: Any = redis.BlockingConnectionPool  # redis-py 8.1 has no types here
        pool = make(
            max_connections=POOL,
            retry=no_retry(),
            timeout=timeout,
            **self._connection_options(SYNC_CLASSES, base, socket_timeout=timeout),
        )
        return redis.Redis.from_pool(pool)

    def async_node(self, base: str = "", patience: float = 0.0) -> redis.asyncio.Redis:
        timeout = self._settings.command_timeout + patience
        pool: Any = redis.asyncio.BlockingConnectionPool(
            max_connections=POOL,
            retry=no_async_retry(),
            timeout=timeout,
            **self._connection_options(ASYNC_CLASSES, base, socket_timeout=timeout),
        )
        return redis.asyncio.Redis.from_pool(pool)

    def _connection_options(self, classes: Any, base: str, **changes: Any) -> dict[str, Any]:
        """Arguments of a pool of plain connections to one server."""
        target = self._target
        options = {**self._common(), "db": target.db, **changes}
        if target.kind in ("unix", "embedded"):
            wire = "unix"
            if target.kind == "unix":
                options["path"] = target.path
        else:
            wire = "tls" if target.tls else "tcp"
            options |= {"socket_keepalive": True, **self._tls()}
            if target.kind == "tcp":
                options["host"], options["port"] = target.hosts[0]
        locator = self._locator(base)
        if locator is None:
            return {"connection_class": classes[wire], **options}
        return {"connection_class": classes[f"located {wire}"], "locator": locator, **options}

    def _locator(self, base: str) -> Locator | None:
        target = self._target
        if target.kind == "embedded":
            return EmbeddedLocator(target.path)
        if target.kind not in ("sentinel", "cluster"):
            return None
        options = {**self._common(), **self._tls(), "ssl": target.tls is not None}
        if target.kind == "cluster":
            return SlotLocator(target.hosts, base, options)
        options |= {"username": target.sentinel_username, "password": target.sentinel_password}
        return SentinelLocator(target.hosts, target.service, options)

    def _common(self) -> dict[str, Any]:
        return {
            "username": self._target.username,
            "password": self._target.password,
            "socket_connect_timeout": self._settings.connect_timeout,
            "socket_timeout": self._settings.command_timeout,
            "client_name": CLIENT_NAME,
            # No CLIENT SETINFO: two round trips per connection, and an error before Redis 7.2.
            "driver_info": None,
            # RESP2 has arrays, integers and bytes only, on 6.2 as on 9.1: RESP3 would give dicts
            # for XREADGROUP and floats for scores (redis-py 8.1 bends some of them back), costs a
            # HELLO per connection and makes redis-py ask for maintenance notifications.
            "protocol": 2,
            "decode_responses": False,
        }

    def _tls(self) -> dict[str, Any]:
        tls = self._target.tls
        return {} if tls is None else {name: getattr(tls, name) for name in tls.__struct_fields__}

    def _cluster_options(self) -> dict[str, Any]:
        tls = self._target.tls
        # Not `ssl_ca_path` and `ssl_password`, which redis.asyncio.RedisCluster does not know.
        options = {k: v for k, v in self._tls().items() if k not in ("ssl_ca_path", "ssl_password")}
        return {
            **self._common(),
            **options,
            "hosts": self._target.hosts,
            "ssl": tls is not None,
            "socket_keepalive": True,
            "max_connections": POOL + 1,
        }


class _SyncCluster:
    """RedisCluster that connects at the first command and again in a forked child, and whose callers
    queue for its connections instead of failing with MaxConnectionsError."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._hosts = options.pop("hosts")
        self._options = options
        # By process id: a child must not wait for a lock that was held when it was forked.
        self._clients: dict[int, tuple[Any, threading.BoundedSemaphore]] = {}

    def execute_command(self, *args: Any) -> Any:
        try:
            client, slots = self._clients.get(os.getpid()) or self._connect()
            with slots:
                return client.execute_command(*args)
        except RedisClusterException as error:
            raise as_redis_error(error) from error

    def node_of(self, key: str) -> str:
        """Host and port of the primary that has `key`, as far as is known. After a first command."""
        try:
            client, _ = self._clients.get(os.getpid()) or self._connect()
            return str(client.get_node_from_key(key).name)
        except RedisClusterException as error:
            raise as_redis_error(error) from error

    def _connect(self) -> tuple[Any, threading.BoundedSemaphore]:
        node: Any = ClusterNode
        nodes = [node(host, port) for host, port in self._hosts]
        client = RedisCluster(startup_nodes=nodes, retry=no_retry(), **self._options)
        mine = (client, threading.BoundedSemaphore(POOL))
        used = self._clients.setdefault(os.getpid(), mine)
        if used is not mine:
            client.close()
        return used

    def close(self) -> None:
        made = self._clients.pop(os.getpid(), None)
        if made is not None:
            made[0].close()


class _AsyncCluster:
    """The async twin."""

    def __init__(self, options: dict[str, Any]) -> None:
        hosts = options.pop("hosts")
        nodes = [redis.asyncio.cluster.ClusterNode(host, port) for host, port in hosts]
        self._client = redis.asyncio.RedisCluster(
            startup_nodes=nodes,
            retry=no_async_retry(),
            # Each MOVED corrects its slot. redis-py 8.1 would close all connections at every fifth,
            # under the hands of those that use them.
            reinitialize_steps=0,
            **options,
        )
        if options["ssl"]:
            _use_our_tls(self._client)
        self._slots = asyncio.Semaphore(POOL)

    async def execute_command(self, *args: Any) -> Any:
        async with self._slots:
            try:
                # Else the first commands go to any node (redis-py 8.1 computes no slot before this).
                await self._client.initialize()
                return await self._client.execute_command(*args)
            except RedisClusterException as error:
                raise as_redis_error(error) from error

    async def aclose(self) -> None:
        await self._client.aclose()


def _use_our_tls(client: Any) -> None:
    # redis-py 8.1 takes no class of connections here; those to come are made of `connection_kwargs`.
    client.connection_kwargs["connection_class"] = ASYNC_CLASSES["tls"]
    for node in client.startup_nodes:
        node.connection_class = ASYNC_CLASSES["tls"]
