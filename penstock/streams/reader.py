"""The blocking read: waits until any of a worker's streams has an entry.

It is never cancelled. redis-py drops a connection whose read is cancelled, while the server may
already have delivered an entry to it, which nobody would then run. CLIENT UNBLOCK ends it instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.exceptions import NoScriptError, ResponseError

from penstock.errors import BrokerError
from penstock.streams import keys
from penstock.streams.calls import Arg, Call
from penstock.streams.client import FAULTS, pauses
from penstock.streams.connector import Connector
from penstock.streams.faults import translate
from penstock.streams.wire import packed

T = TypeVar("T")
#: (base, priority, entry id)
Arrival = tuple[str, str, str]


class Reader:
    """One blocking connection for the streams of one slot, or of a server that is no cluster."""

    def __init__(self, connector: Connector, base: str, consumer: str, block: float) -> None:
        self._connector = connector
        self._consumer = consumer
        self._block_ms = round(block * 1000)
        # The connection is held, so that its id stays true: a pool might reconnect in silence.
        self._pool: Any = connector.async_reader(base, block).connection_pool  # type: ignore[attr-defined]
        self._other = connector.async_node(base)
        self._connection: Any = None
        self._id = 0
        self._reading = False
        #: Whether the server knows the script that goes with a read, as far as we know.
        self._loaded = False
        #: Number of the read that is under way, or was last.
        self._turn = 0

    async def read(
        self, streams: Sequence[tuple[str, str]], then: Call[T] | None = None
    ) -> tuple[list[Arrival] | None, T | None]:
        """Wait for an entry on any of the `streams` (base, priority): one of each that has some; None: none came.

        `then` goes with it, and the server carries it out as soon as the wait has ended, however it did. Its answer
        comes second; None: it failed, and who needs it has to ask once more.

        COUNT is per stream, and up to Redis 7.0 a wake may bring a lower priority first: so one
        entry is taken, and the rest by a fetch. Raises `BrokerError`; entries may then have been
        delivered without our knowing (see `orphans`).
        """
        names = [keys.stream(base, priority) for base, priority in streams]
        self._reading = True
        self._turn += 1
        try:
            connection = await self._connected()
            read: tuple[Arg, ...] = (
                "XREADGROUP", "GROUP", keys.GROUP, self._consumer, "COUNT", 1, "BLOCK", self._block_ms,
                "STREAMS", *names, *[">"] * len(names),
            )  # fmt: skip
            commands = [read]
            if then is not None:
                commands.append(then.by_sha() if self._loaded else then.by_text())
            await connection.send_packed_command(packed(commands), check_health=False)
            reply, *rest = [await _reply(connection) for _ in commands]
            if rest:
                self._loaded = not isinstance(rest[0], NoScriptError)
        except FAULTS as fault:
            await self._drop()
            raise self._error(fault) from fault
        except asyncio.CancelledError:
            await self._drop()
            raise
        finally:
            self._reading = False
        if isinstance(reply, ResponseError):
            # The group or the stream is gone (FLUSHALL, DEL): 7.0 says UNBLOCKED, others NOGROUP. The
            # next fetch makes both again. Anything else is a real error.
            if not str(reply).startswith(("NOGROUP", "UNBLOCKED")):
                raise self._error(reply) from reply
            return [], None  # worth a fetch
        if not reply:
            return None, None
        of = dict(zip(names, streams, strict=True))
        arrivals = [(*of[name.decode()], entries[0][0].decode()) for name, entries in reply]
        if then is None or isinstance(rest[0], ResponseError):
            return arrivals, None
        return arrivals, then.read(rest[0])

    async def unblock(self) -> None:
        """End the read that is under way, if any; it then returns what it has. Never loses an entry."""
        turn = self._turn
        for pause in pauses(0.005, 0.1):
            if not self._reading or self._turn != turn:  # the next read may have begun already
                return
            if self._id:
                with suppress(*FAULTS):
                    await self._other.execute_command("CLIENT", "UNBLOCK", self._id)
            # It may not have reached the server yet, and then UNBLOCK did nothing: ask again.
            await asyncio.sleep(pause)

    async def aclose(self) -> None:
        await self._drop()
        with suppress(*FAULTS):
            await self._pool.disconnect()
        with suppress(*FAULTS):
            await self._other.aclose()

    async def _connected(self) -> Any:
        if self._connection is None:
            self._connection = await self._pool.get_connection()
            await self._connection.send_command("CLIENT", "ID")
            self._id = await self._connection.read_response()
        return self._connection

    async def _drop(self) -> None:
        connection, self._connection, self._id, self._loaded = self._connection, None, 0, False
        if connection is not None:
            with suppress(*FAULTS):
                await connection.disconnect()
            await self._pool.release(connection)

    def _error(self, fault: Exception) -> BrokerError:
        return translate(fault, self._connector.display, self._connector.source)


async def _reply(connection: Any) -> Any:
    """What the server has answered, if it is an error, too."""
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
