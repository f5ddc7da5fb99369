"""The shortest way of a command through redis-py: each call of a producer or worker is one of these.

`Redis.execute_command` looks at its pool, its connection, its retries and its telemetry each time;
for one small command that is half of what the client does. Here a connection that was just used is
used again. A connection that the server has closed meanwhile is found out by the command itself,
which is sent again on a new one: every call of ours may be.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import hiredis
from redis.exceptions import ConnectionError, ReadOnlyError, RedisError, ResponseError, TimeoutError

from penstock.streams.connection import POOL


class Wire:
    """Sends commands on the connections of a client's pool. Safe for threads, and in a forked child."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pool = client.connection_pool
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._idle: deque[Any] = deque()
        # More threads than connections wait here, and not for the pool, which does not know `_idle`.
        self._free = threading.Semaphore(POOL)

    def execute_command(self, *args: Any) -> Any:
        """The reply, or an exception of redis-py."""
        return self._run(self._on, args)

    def execute_commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The reply to each, or the error that the server has answered, in one round trip."""
        replies: list[Any] = self._run(self._all_on, commands)
        return replies

    def _run(self, on: Callable[[Any, Any], Any], what: Any) -> Any:
        if self._pid != os.getpid():
            self._reset()  # the parent's sockets stay the parent's; the pool forgets them, too
        with self._free:
            try:
                connection = self._idle.pop()
            except IndexError:
                return on(self._pool.get_connection(), what)
            try:
                return on(connection, what)
            except TimeoutError:
                raise
            except ConnectionError:
                return on(self._pool.get_connection(), what)

    def _on(self, connection: Any, args: tuple[Any, ...]) -> Any:
        try:
            connection.send_command(*args)
            reply = connection.read_response()
        except ResponseError as error:
            if isinstance(error, ReadOnlyError):  # demoted: behind one address there may be another primary by now
                self._drop(connection)
            else:
                self._idle.append(connection)
            raise
        except BaseException:  # also an interrupt between command and reply: it must not be used again
            self._drop(connection)
            raise
        self._idle.append(connection)
        return reply

    def _all_on(self, connection: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies: list[Any] = []
        try:
            connection.send_packed_command([packed(commands)])
            for _ in commands:
                try:
                    replies.append(connection.read_response())
                except ResponseError as error:
                    replies.append(error)
        except BaseException:
            self._drop(connection)
            raise
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            self._drop(connection)
        else:
            self._idle.append(connection)
        return replies

    def _drop(self, connection: Any) -> None:
        with suppress(RedisError, OSError):
            connection.disconnect()
        self._pool.release(connection)

    def drop_idle(self) -> None:
        """Close what is not in use: the next commands connect anew, perhaps to another server."""
        with suppress(IndexError):
            while True:
                self._drop(self._idle.pop())

    def close(self) -> None:
        """Close all connections; the next command opens new ones."""
        while self._idle:
            self._pool.release(self._idle.pop())
        self._client.close()


def packed(commands: Sequence[tuple[Any, ...]]) -> bytes:
    """The commands as they go over the wire. redis-py 8.1 does this in Python where the connection is async: that took
    more of a worker's time than all that it does for a no-op task."""
    return b"".join([hiredis.pack_command(command) for command in commands])


class AsyncWire:
    """The async twin, for the coroutines of one event loop."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._pool = client.connection_pool
        self._idle: deque[Any] = deque()
        self._free = asyncio.Semaphore(POOL)

    async def execute_command(self, *args: Any) -> Any:
        """The reply, or an exception of redis-py."""
        reply = (await self.execute_commands([args]))[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def execute_commands(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The reply to each, or the error that the server has answered, in one round trip."""
        async with self._free:
            try:
                connection = self._idle.pop()
            except IndexError:
                return await self._on(await self._pool.get_connection(), commands)
            try:
                return await self._on(connection, commands)
            except TimeoutError:
                raise
            except ConnectionError:
                return await self._on(await self._pool.get_connection(), commands)

    async def _on(self, connection: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies: list[Any] = []
        try:
            await connection.send_packed_command(packed(commands), check_health=False)
            for _ in commands:
                try:
                    replies.append(await connection.read_response())
                except ResponseError as error:
                    replies.append(error)
        except BaseException:  # also a cancellation between command and reply: it must not be used again
            await self._drop(connection)
            raise
        if any(isinstance(reply, ReadOnlyError) for reply in replies):
            await self._drop(connection)
        else:
            self._idle.append(connection)
        return replies

    async def _drop(self, connection: Any) -> None:
        with suppress(RedisError, OSError):
            await connection.disconnect(nowait=True)
        await self._pool.release(connection)

    async def drop_idle(self) -> None:
        """As `Wire.drop_idle`."""
        while self._idle:
            await self._drop(self._idle.pop())

    async def aclose(self) -> None:
        """Close all connections; the next command opens new ones."""
        while self._idle:
            await self._pool.release(self._idle.pop())
        await self._client.aclose()
