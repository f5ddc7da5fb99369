"""Runs calls on a server: EVALSHA, and EVAL after NOSCRIPT; resends what was lost on the way.

redis-py's own retries are off, since it would also repeat what must not be repeated. Every call of
ours may be repeated: an enqueue finds its id, a settle its own traces.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import NoScriptError, RedisError

from penstock.errors import BrokerError
from penstock.streams.calls import Call
from penstock.streams.connector import Connector
from penstock.streams.faults import acheck_server, is_demoted, is_transient, translate
from penstock.streams.wire import AsyncWire, Wire

T = TypeVar("T")
#: What a broken connection may raise: redis-py's errors, and the operating system's.
FAULTS = (RedisError, OSError)


def pauses(first: float = 0.02, most: float = 1.0) -> Iterator[float]:
    """Seconds to wait between tries: doubling, jittered so that clients do not come back in step."""
    pause = first
    while True:
        yield random.uniform(pause / 2, pause)
        pause = min(most, pause * 2)


class _Client:
    _connector: Connector

    def _error(self, fault: BaseException) -> BrokerError:
        error = translate(fault, self._connector.display, self._connector.source)
        if error is not fault:
            error.__cause__ = fault  # for `was_silent`: not every one of these is raised
        return error


class SyncClient(_Client):
    """Safe to share between threads, and with a forked child."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        client: Any = connector.sync_client()
        self._wire: Any = client if connector.is_cluster else Wire(client)

    def run(self, call: Call[T], retry_for: float = 0.0) -> T:
        """The call's reply; goes on trying for `retry_for` seconds while the server is away.

        Raises a `BrokerError` that says what is wrong.
        """
        try:
            return call.read(self._send(call))
        except FAULTS as fault:
            return self._again(call, fault, retry_for)

    def run_all(self, calls: Sequence[Call[T]]) -> list[T | BrokerError]:
        """Several calls in one round trip (on Cluster: one after the other); each has its reply or its error."""
        if self._connector.is_cluster:
            return [self._or_error(call) for call in calls]
        try:
            replies = self._wire.execute_commands([call.by_sha() for call in calls])
        except FAULTS as fault:
            return [self._error(fault)] * len(calls)
        return [self._reply(call, reply) for call, reply in zip(calls, replies, strict=True)]

    def node_of(self, key: str) -> str:
        """On Cluster: host and port of the node that has `key`. Raises `BrokerError`."""
        try:
            return str(self._wire.node_of(key))
        except FAULTS as fault:
            raise self._error(fault) from fault

    def _reply(self, call: Call[T], reply: Any) -> T | BrokerError:
        if isinstance(reply, NoScriptError):
            return self._or_error(call)
        if isinstance(reply, Exception):
            return self._error(reply)
        try:
            return call.read(reply)
        except FAULTS as fault:
            return self._error(fault)

    def _or_error(self, call: Call[T]) -> T | BrokerError:
        try:
            return self.run(call)
        except BrokerError as error:
            return error

    def _send(self, call: Call[T]) -> Any:
        try:
            return self._wire.execute_command(*call.by_sha())
        except NoScriptError:
            # After SCRIPT FLUSH, a restart or a failover: scripts are not kept or replicated.
            return self._wire.execute_command(*call.by_text())

    def _again(self, call: Call[T], fault: Exception, retry_for: float) -> T:
        deadline = time.monotonic() + retry_for
        for pause in pauses():
            if is_demoted(fault):
                self._leave()
            if not is_transient(fault) or time.monotonic() + pause > deadline:
                raise self._error(fault) from fault
            time.sleep(pause)
            try:
                return call.read(self._send(call))
            except FAULTS as next_fault:
                fault = next_fault
        raise AssertionError("unreachable")

    def _leave(self) -> None:
        """Let go of connections to a server that was demoted; on Cluster MOVED does that."""
        if isinstance(self._wire, Wire):
            self._wire.drop_idle()
        elif not self._connector.is_cluster:
            self._wire.connection_pool.disconnect(inuse_connections=False)

    def close(self) -> None:
        self._wire.close()


class AsyncClient(_Client):
    """Belongs to the event loop in which it was made."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        client: Any = connector.async_client()
        self._client = client
        self._wire: Any = client if connector.is_cluster else AsyncWire(client)

    async def run(self, call: Call[T], retry_for: float = 0.0) -> T:
        """As `SyncClient.run`."""
        try:
            return call.read(await self._send(call))
        except FAULTS as fault:
            return await self._again(call, fault, retry_for)

    async def run_all(self, calls: Sequence[Call[T]]) -> list[T | BrokerError]:
        """Several calls in one round trip (on Cluster: at the same time); each has its reply or its error."""
        if len(calls) == 1:  # as a rule; `gather` would make an asyncio task of it
            return [await self._or_error(calls[0])]
        if self._connector.is_cluster:
            return await asyncio.gather(*[self._or_error(call) for call in calls])
        try:
            replies = await self._wire.execute_commands([call.by_sha() for call in calls])
        except FAULTS as fault:
            return [self._error(fault)] * len(calls)
        return [await self._reply(call, reply) for call, reply in zip(calls, replies, strict=True)]

    async def check_server(self) -> None:
        """Raise `ServerTooOld` for a server before Redis 6.2, and `BrokerError` if it cannot be used."""
        try:
            await acheck_server(self._client)
        except FAULTS as fault:
            raise self._error(fault) from fault

    async def _reply(self, call: Call[T], reply: Any) -> T | BrokerError:
        if isinstance(reply, NoScriptError):
            return await self._or_error(call)
        if isinstance(reply, Exception):
            return self._error(reply)
        try:
            return call.read(reply)
        except FAULTS as fault:  # the server refused each item of it
            if is_demoted(fault):
                await self._leave()
            return self._error(fault)

    async def _or_error(self, call: Call[T]) -> T | BrokerError:
        try:
            return await self.run(call)
        except BrokerError as error:
            return error

    async def _send(self, call: Call[T]) -> Any:
        try:
            return await self._wire.execute_command(*call.by_sha())
        except NoScriptError:
            return await self._wire.execute_command(*call.by_text())

    async def _again(self, call: Call[T], fault: Exception, retry_for: float) -> T:
        deadline = time.monotonic() + retry_for
        for pause in pauses():
            if is_demoted(fault):
                await self._leave()
            if not is_transient(fault) or time.monotonic() + pause > deadline:
                raise self._error(fault) from fault
            await asyncio.sleep(pause)
            try:
                return call.read(await self._send(call))
            except FAULTS as next_fault:
                fault = next_fault
        raise AssertionError("unreachable")

    async def _leave(self) -> None:
        """As `SyncClient._leave`."""
        if isinstance(self._wire, AsyncWire):
            await self._wire.drop_idle()
        elif not self._connector.is_cluster:
            with suppress(*FAULTS):
                await self._wire.connection_pool.disconnect(inuse_connections=False)

    async def aclose(self) -> None:
        await self._wire.aclose()
