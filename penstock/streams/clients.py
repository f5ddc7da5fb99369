"""The clients of one process: a sync one for all threads, an async one for each event loop; and durable ones."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from penstock.errors import BrokerError
from penstock.streams.confirmation import Confirmation
from penstock.streams.connector import Connector

if TYPE_CHECKING:
    from penstock.streams.client import AsyncClient, SyncClient
    from penstock.streams.durable import DurableAsyncClient, DurableSyncClient

T = TypeVar("T")


class Clients:
    """Made, and loaded with redis-py (see `Connector`), when first needed; closed with their loop or by `close`."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._sync: SyncClient | None = None
        self._async = PerLoop(self._new_async, lambda client: client.aclose())
        # On Cluster one for each queue, since each of them is a client for one node.
        self._durable: dict[tuple[str, Confirmation], DurableSyncClient] = {}
        self._async_durable: PerLoop[dict[tuple[str, Confirmation], DurableAsyncClient]] = PerLoop(dict, _aclose_all)

    @property
    def sync(self) -> SyncClient:
        """For any thread; also after a fork."""
        sync = self._sync
        if sync is None:
            from penstock.streams.client import SyncClient

            made = SyncClient(self._connector)
            sync = self._sync = self._sync or made  # another thread may have been first, during the import
        return sync

    def load(self) -> None:
        """Import now what the first call would."""
        self._connector.load()

    def _new_async(self) -> AsyncClient:
        from penstock.streams.client import AsyncClient

        return AsyncClient(self._connector)

    @property
    def of_loop(self) -> AsyncClient:
        """For the running event loop."""
        return self._async.get()

    def sync_for(self, base: str, confirmation: Confirmation | None) -> SyncClient:
        """`sync`, or one whose calls on the queue `base` return when that is confirmed."""
        if confirmation is None:
            return self.sync
        key = (base if self._connector.is_cluster else "", confirmation)
        if key not in self._durable:
            from penstock.streams.durable import DurableSyncClient

            self._durable.setdefault(key, DurableSyncClient(self._connector, base, confirmation))
        return self._durable[key]

    def of_loop_for(self, base: str, confirmation: Confirmation | None) -> AsyncClient:
        """`of_loop`, or one as `sync_for`."""
        if confirmation is None:
            return self.of_loop
        made = self._async_durable.get()
        key = (base if self._connector.is_cluster else "", confirmation)
        if key not in made:
            from penstock.streams.durable import DurableAsyncClient

            made[key] = DurableAsyncClient(self._connector, base, confirmation)
        return made[key]

    def item_error(self, text: str) -> BrokerError:
        """The error for one item of a batch, from the server's text."""
        from redis.exceptions import ResponseError

        return self._connector.translate(ResponseError(text))

    def close(self) -> None:
        """Close the sync clients; the next use makes new ones."""
        sync, self._sync = self._sync, None
        if sync is not None:
            sync.close()
        while self._durable:
            self._durable.popitem()[1].close()

    async def aclose(self) -> None:
        """Close the running loop's client, and the sync one."""
        self.close()
        await self._async_durable.aclose()
        await self._async.aclose()


async def _aclose_all(clients: Mapping[Any, AsyncClient]) -> None:
    for client in clients.values():
        await client.aclose()


class PerLoop(Generic[T]):
    """One T for each event loop, closed when its loop shuts down.

    An async generator that is left suspended is closed by ``loop.shutdown_asyncgens()``, which
    `asyncio.run`, anyio and uvloop call at the end: so connections end with the loop they belong to,
    in programs that never heard of `aclose`, and two `asyncio.run` in a row each have their own.
    """

    def __init__(self, make: Callable[[], T], close: Callable[[T], Awaitable[object]]) -> None:
        self._make = make
        self._close = close
        self._of: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None, None]]]
        self._of = weakref.WeakKeyDictionary()

    def get(self) -> T:
        loop = asyncio.get_running_loop()
        held = self._of.get(loop)
        return held[0] if held is not None else self._new(loop)

    def _new(self, loop: asyncio.AbstractEventLoop) -> T:
        value = self._make()
        lifetime = self._lifetime(value)
        # Its first step registers it with the loop; it does not await anything, so it ends at once.
        with suppress(StopIteration):
            lifetime.__anext__().send(None)
        self._of[loop] = value, lifetime
        return value

    async def _lifetime(self, value: T) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._of.pop(asyncio.get_running_loop(), None)
            await self._close(value)

    async def aclose(self) -> None:
        held = self._of.get(asyncio.get_running_loop())
        if held is not None:
            await held[1].aclose()
