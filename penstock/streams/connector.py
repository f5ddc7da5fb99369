"""Which server an app speaks to; its clients come from `penstock.streams.connection`, when the first one is needed.

redis-py takes two thirds of the time in which a program imports everything that it needs to send tasks. One that
declares tasks and sends none (yet) does without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from penstock.errors import BrokerError
from penstock.settings import Settings
from penstock.streams.urls import Address, Target, parse

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from penstock.streams.connection import Connections


class SyncClient(Protocol):
    """What all sync clients offer. Thread safe; usable in a forked child, too."""

    def execute_command(self, *args: Any) -> Any: ...

    def close(self) -> None: ...


class AsyncClient(Protocol):
    """What all async clients offer. Belongs to the event loop that uses it first."""

    async def execute_command(self, *args: Any) -> Any: ...

    async def aclose(self) -> None: ...


class Connector:
    """Makes the clients for one server. Each call makes a new one, which its caller closes.

    No method connects (nor starts an embedded server): the first command does.
    """

    def __init__(self, address: Address, settings: Settings) -> None:
        self.address = address
        self._settings = settings
        self._target: Target = parse(address)
        self._made: Connections | None = None

    def __repr__(self) -> str:
        return f"Connector({self.display!r})"

    @property
    def _connections(self) -> Connections:
        # No `functools.cached_property`: up to Python 3.11 it has a lock, which a fork may leave taken in the child.
        if self._made is None:
            from penstock.streams.connection import Connections

            self._made = Connections(self._target, self._settings)
        return self._made

    def load(self) -> None:
        """Import now what the first client would."""
        from penstock.streams import client  # noqa: F401 - it loads the rest

    @property
    def display(self) -> str:
        """The URL without its passwords."""
        return self.address.display

    @property
    def source(self) -> str:
        """Where the URL came from, as in `Address.source`."""
        return self.address.source

    @property
    def is_cluster(self) -> bool:
        return self._target.kind == "cluster"

    def translate(self, exc: BaseException) -> BrokerError:
        """The `BrokerError` for what a client of this connector raised; raise it ``from exc``."""
        from penstock.streams.faults import translate

        return translate(exc, self.display, self.source)

    def sync_client(self) -> SyncClient:
        """A client for many threads."""
        return self._connections.sync_client()

    def async_client(self) -> AsyncClient:
        """A client for many coroutines of one event loop."""
        return self._connections.async_client()

    def async_reader(self, base: str, block: float) -> AsyncClient:
        """A client with one connection, for ONE blocking reader of the queue with key base `base`.

        `block` is the longest BLOCK in seconds: the socket waits that long and `command_timeout`
        on top, so that a server that has died is noticed, and a slow one does not look dead.
        `sync_node(base)` and `async_node(base)` reach the same server, for CLIENT UNBLOCK.
        """
        return self._connections.async_reader(base, block)

    def sync_node(self, base: str = "", patience: float = 0.0) -> redis.Redis:
        """A client for the node that owns the slot of `base`; without Cluster, for the server.

        It waits `patience` seconds longer than `command_timeout` for an answer.
        """
        return self._connections.sync_node(base, patience)

    def async_node(self, base: str = "", patience: float = 0.0) -> redis.asyncio.Redis:
        """`sync_node`, async."""
        return self._connections.async_node(base, patience)

    def pubsub_client(self) -> redis.Redis:
        """A client whose `pubsub()` hears every channel: any node of a cluster will do.

        Wait by ``get_message(timeout=...)``. After an error the next call reconnects and
        subscribes again; look then for what may have been published meanwhile.
        """
        return self._connections.sync_node()

    def async_pubsub_client(self) -> redis.asyncio.Redis:
        """`pubsub_client`, async."""
        return self._connections.async_node()
