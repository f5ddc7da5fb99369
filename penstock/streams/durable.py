"""Clients whose calls return only when replicas, or the disk, have what they wrote.

WAIT and WAITAOF speak of the writes of their own connection, hence one pipeline for the call and its
confirmation, and a connection to the very node: the cluster clients of redis-py give none away. A
connection that has written nothing waits for nothing, so ``enqueue.lua`` writes also when it finds
its id: what another connection has sent is then confirmed, too.
"""

from __future__ import annotations

from typing import Any, TypeVar

import redis
from redis.exceptions import NoScriptError, ResponseError

from penstock.errors import NotDurable
from penstock.streams.calls import Arg, Call
from penstock.streams.client import AsyncClient, SyncClient
from penstock.streams.confirmation import Confirmation
from penstock.streams.connector import Connector

T = TypeVar("T")


def refused(asked: Confirmation, error: ResponseError) -> NotDurable:
    """The error when the probe has failed."""
    return NotDurable(f'durability="{asked.durability}" cannot be had here, and nothing was enqueued: {error}')


def check(asked: Confirmation, reply: Any) -> None:
    """Raise `NotDurable` unless the server says that enough have the write."""
    if isinstance(reply, ResponseError) and str(reply).startswith("UNBLOCKED"):
        # The primary was demoted while we waited: the next try asks its successor.
        raise redis.ConnectionError(str(reply)) from reply
    if isinstance(reply, ResponseError):
        raise NotDurable(f"{_MAYBE}: the server refused to wait for it: {reply}")
    if isinstance(reply, Exception):
        raise reply
    confirmed = int(reply[0] if isinstance(reply, list) else reply)
    wanted = 1 if asked.durability == "fsync" else asked.replicas
    if confirmed < wanted:
        who = "the append-only file" if asked.durability == "fsync" else f"{confirmed} of {wanted} replicas"
        verb = "was not synced to disk" if asked.durability == "fsync" else "confirmed it"
        raise NotDurable(f"{_MAYBE}: {who} {verb} within {asked.timeout:g} s", wanted, confirmed)


_MAYBE = "enqueued, but not durably (it may run, and it may be lost; sending the same id again is safe)"


class DurableSyncClient(SyncClient):
    """As `SyncClient`, for calls on the queue with key base `base`; without Cluster, on all."""

    def __init__(self, connector: Connector, base: str, confirmation: Confirmation) -> None:
        self._connector = connector
        self._confirmation = confirmation
        self._probed = False
        self._wire: Any = connector.sync_node(base, confirmation.timeout)

    def _send(self, call: Call[T]) -> Any:
        if not self._probed:
            self._probe()
        reply, confirmed = self._pipeline(call.by_sha())
        if isinstance(reply, NoScriptError):
            reply, confirmed = self._pipeline(call.by_text())
        if isinstance(reply, Exception):
            raise reply
        check(self._confirmation, confirmed)
        return reply

    def _pipeline(self, command: tuple[Arg, ...]) -> list[Any]:
        pipe = self._wire.pipeline(transaction=False)
        pipe.execute_command(*command)
        pipe.execute_command(*self._confirmation.command)
        return pipe.execute(raise_on_error=False)  # type: ignore[no-any-return]

    def _probe(self) -> None:
        if self._confirmation.probe is not None:
            try:
                self._wire.execute_command(*self._confirmation.probe)
            except ResponseError as error:
                raise refused(self._confirmation, error) from error
        self._probed = True


class DurableAsyncClient(AsyncClient):
    """The async twin."""

    def __init__(self, connector: Connector, base: str, confirmation: Confirmation) -> None:
        self._connector = connector
        self._confirmation = confirmation
        self._probed = False
        self._wire: Any = connector.async_node(base, confirmation.timeout)

    async def _send(self, call: Call[T]) -> Any:
        if not self._probed:
            await self._probe()
        reply, confirmed = await self._pipeline(call.by_sha())
        if isinstance(reply, NoScriptError):
            reply, confirmed = await self._pipeline(call.by_text())
        if isinstance(reply, Exception):
            raise reply
        check(self._confirmation, confirmed)
        return reply

    async def _pipeline(self, command: tuple[Arg, ...]) -> list[Any]:
        pipe: Any = self._wire.pipeline(transaction=False)
        pipe.execute_command(*command)
        pipe.execute_command(*self._confirmation.command)
        return await pipe.execute(raise_on_error=False)  # type: ignore[no-any-return]

    async def _probe(self) -> None:
        if self._confirmation.probe is not None:
            try:
                await self._wire.execute_command(*self._confirmation.probe)
            except ResponseError as error:
                raise refused(self._confirmation, error) from error
        self._probed = True
