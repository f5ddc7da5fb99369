"""Connections that ask where to connect each time they do: sentinels, a slot's owner, embedded.

A plain pool of such connections follows a failover by reconnecting, and holds ordinary
connections, so that CLIENT ID, CLIENT UNBLOCK and pub/sub work the same on every kind of server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import redis
import redis.asyncio
from redis.asyncio.connection import Connection as AsyncConnection
from redis.asyncio.connection import SSLConnection as AsyncSSLConnection
from redis.asyncio.connection import UnixDomainSocketConnection as AsyncUnixConnection
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.crc import key_slot
from redis.exceptions import MovedError, NoPermissionError, ReadOnlyError
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError

from penstock.streams.embedded import connect_embedded, is_connected

Host = tuple[str, int]


def no_retry() -> Retry:
    """For every client: redis-py 8.1 retries ten times by default, and so duplicates writes whose
    reply was lost."""
    return Retry(NoBackoff(), 0)


def no_async_retry() -> AsyncRetry:
    """`no_retry` for async clients."""
    return AsyncRetry(NoBackoff(), 0)


class Locator(Protocol):
    """Says where a connection goes, as attributes to set on it; asked before every connect."""

    def find(self) -> Mapping[str, Any]: ...

    async def afind(self) -> Mapping[str, Any]: ...


class _Asking:
    """Asks each known host in turn, the one that answered last first, over a short connection."""

    def __init__(self, hosts: tuple[Host, ...], options: Mapping[str, Any]) -> None:
        self._hosts = list(hosts)
        self._options = dict(options)

    def _question(self) -> tuple[str, ...]:
        raise NotImplementedError

    def _answer(self, reply: Any, asked: Host) -> Host:
        raise NotImplementedError

    def find(self) -> Mapping[str, Any]:
        failure: redis.RedisError | None = None
        for host in tuple(self._hosts):
            client: Any = redis.Redis(host=host[0], port=host[1], retry=no_retry(), **self._options)
            try:
                return self._found(client.execute_command(*self._question()), host)
            except (redis.AuthenticationError, NoPermissionError):
                raise
            except redis.RedisError as error:
                failure = error
            finally:
                client.close()
        assert failure is not None
        raise failure

    async def afind(self) -> Mapping[str, Any]:
        failure: redis.RedisError | None = None
        for host in tuple(self._hosts):
            client: Any = redis.asyncio.Redis(host=host[0], port=host[1], retry=no_async_retry(), **self._options)
            try:
                return self._found(await client.execute_command(*self._question()), host)
            except (redis.AuthenticationError, NoPermissionError):
                raise
            except redis.RedisError as error:
                failure = error
            finally:
                await client.aclose()
        assert failure is not None
        raise failure

    def _found(self, reply: Any, asked: Host) -> Mapping[str, Any]:
        host, port = self._answer(reply, asked)
        # One assignment: several threads may be asking.
        self._hosts = [asked, *(h for h in self._hosts if h != asked)]
        return {"host": host, "port": port}


class SentinelLocator(_Asking):
    """The primary of `service`, by the sentinels."""

    def __init__(self, sentinels: tuple[Host, ...], service: str, options: Mapping[str, Any]) -> None:
        super().__init__(sentinels, options)
        self._service = service

    def _question(self) -> tuple[str, ...]:
        return ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)

    def _answer(self, reply: Any, asked: Host) -> Host:
        if not reply:
            raise MasterNotFoundError(f"the sentinel at {asked[0]}:{asked[1]} knows no service {self._service!r}")
        return reply[0].decode(), int(reply[1])


class SlotLocator(_Asking):
    """The primary that owns the slot of `key`, by any node of the cluster."""

    def __init__(self, seeds: tuple[Host, ...], key: str, options: Mapping[str, Any]) -> None:
        super().__init__(seeds, options)
        self._seeds = seeds
        self._slot = key_slot(key.encode())

    def _question(self) -> tuple[str, ...]:
        return ("CLUSTER", "SLOTS")

    def _answer(self, reply: Any, asked: Host) -> Host:
        # [[first, last, [host, port, id, ..] of the primary, of its replicas..], ..]; an empty or
        # missing host means the one that was asked (Redis 7.0: cluster-preferred-endpoint-type).
        owner: Host | None = None
        nodes: list[Host] = []
        for first, last, *members in reply:
            found = [(m[0].decode() if m[0] else asked[0], int(m[1])) for m in members]
            nodes += found
            if first <= self._slot <= last:
                owner = found[0]
        self._hosts = list(dict.fromkeys([*nodes, *self._seeds]))
        if owner is None:
            raise redis.ConnectionError(f"no node of the cluster serves slot {self._slot} at present")
        return owner


class EmbeddedLocator:
    """The socket of the embedded server of `directory`, which this process starts if need be."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def find(self) -> Mapping[str, Any]:
        return {"path": connect_embedded(self._directory).removeprefix("unix://")}

    async def afind(self) -> Mapping[str, Any]:
        if is_connected(self._directory):
            return self.find()
        return await asyncio.to_thread(self.find)


class _Located:
    """Mixin of a sync connection."""

    def __init__(self, *, locator: Locator, **options: Any) -> None:
        super().__init__(**options)
        self._locator = locator

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        # Every way to connect ends here: connect() and a send without a socket.
        if not self.is_connected:  # type: ignore[attr-defined]
            for name, value in self._locator.find().items():
                setattr(self, name, value)
        super().connect_check_health(*args, **options)  # type: ignore[misc]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)  # type: ignore[misc]
        except (ReadOnlyError, MovedError) as error:
            # Demoted, or the slot has moved: the next connect asks again.
            self.disconnect()  # type: ignore[attr-defined]
            raise redis.ConnectionError(f"not the primary any more: {error}") from error


class _AsyncTlsConnection(AsyncSSLConnection):
    async def disconnect(self, *args: Any, **options: Any) -> None:
        # Through TLS asyncio waits for the server's good-bye, too. redis-py 8.1 gives it connect_timeout, and then
        # raises TimeoutError: a server that is silent would hold up the end of a worker, and make an error of it.
        # So ours is sent, and its own is not waited for.
        if self._writer is not None:
            self._writer.close()
            self._writer.transport.abort()
        await super().disconnect(*args, **options)


class _AsyncLocated:
    """Mixin of an async connection."""

    def __init__(self, *, locator: Locator, **options: Any) -> None:
        super().__init__(**options)
        self._locator = locator

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        if not self.is_connected:  # type: ignore[attr-defined]
            for name, value in (await self._locator.afind()).items():
                setattr(self, name, value)
        await super().connect_check_health(*args, **options)  # type: ignore[misc]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)  # type: ignore[misc]
        except (ReadOnlyError, MovedError) as error:
            await self.disconnect()  # type: ignore[attr-defined]
            raise redis.ConnectionError(f"not the primary any more: {error}") from error


class _LocatedConnection(_Located, Connection):
    pass


class _LocatedSSLConnection(_Located, SSLConnection):
    pass


class _LocatedUnixConnection(_Located, UnixDomainSocketConnection):
    pass


class _AsyncLocatedConnection(_AsyncLocated, AsyncConnection):
    pass


class _AsyncLocatedSSLConnection(_AsyncLocated, _AsyncTlsConnection):
    pass


class _AsyncLocatedUnixConnection(_AsyncLocated, AsyncUnixConnection):
    pass


SYNC_CLASSES: Mapping[str, Callable[..., Any]] = {
    "tcp": Connection,
    "tls": SSLConnection,
    "unix": UnixDomainSocketConnection,
    "located tcp": _LocatedConnection,
    "located tls": _LocatedSSLConnection,
    "located unix": _LocatedUnixConnection,
}
ASYNC_CLASSES: Mapping[str, Callable[..., Any]] = {
    "tcp": AsyncConnection,
    "tls": _AsyncTlsConnection,
    "unix": AsyncUnixConnection,
    "located tcp": _AsyncLocatedConnection,
    "located tls": _AsyncLocatedSSLConnection,
    "located unix": _AsyncLocatedUnixConnection,
}
