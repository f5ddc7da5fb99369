"""docket (pydocket): Redis Streams, asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import uvloop
from common import CONFIG, RESULT, URL, About, Args, AsyncClient, hit, started
from docket import Docket, Worker

ABOUT = About(
    packages=("pydocket", "redis", "hiredis", "uvloop"),
    guarantee="at least once: XACK and XDEL after the task; leases renewed (redelivery_timeout 5 min)",
    results="state 15 min; a result of None is not stored",
    bulk="Docket.add_many (pipelines of 1,000)",
    notes="minimum_check_interval 5 ms for throughput (default 250 ms: how long it sleeps when all slots are taken)",
    configs=tuple({"concurrency": n, "check_ms": 5} for n in (32, 10, 100, 256)),
    sleep={"concurrency": 256, "check_ms": 5},
    usual={"concurrency": 10, "check_ms": 250},
    scale=0.7,
    uvloop=True,
)


async def noop() -> None:
    hit()


async def sleep10() -> None:
    await asyncio.sleep(0.01)
    hit()


async def blob(data: str) -> None:
    hit()


async def big() -> str:
    hit()
    return RESULT


async def lat(sent: int) -> int:
    return started(sent)


TASKS: dict[str, Any] = {"noop": noop, "sleep10": sleep10, "blob": blob, "big": big, "lat": lat}


def open_docket() -> Docket:
    """With all tasks."""
    # redis-py 8 allows 100 connections in a pool by default, too few for 100 tasks at once.
    docket = Docket(name="bench", url=URL + "?max_connections=1000")
    for task in TASKS.values():
        docket.register(task)
    return docket


class Client(AsyncClient):
    """`add` and `add_many`."""

    async def open(self) -> None:
        self._docket = open_docket()
        await self._docket.__aenter__()

    async def close(self) -> None:
        await self._docket.__aexit__(None, None, None)

    async def one(self, task: str, args: Args) -> Any:
        return await self._docket.add(TASKS[task])(*args)

    async def many(self, task: str, calls: Sequence[Args]) -> None:
        await self._docket.add_many(self._docket.call(TASKS[task])(*args) for args in calls)

    async def result(self, handle: Any) -> Any:
        return await handle.get_result(timeout=timedelta(seconds=30))


CLIENTS = {"async": Client}


def run_worker() -> None:
    """In the foreground."""

    async def main() -> None:
        interval = timedelta(milliseconds=CONFIG.get("check_ms", 250))
        concurrency = CONFIG.get("concurrency", 10)
        async with (
            open_docket() as docket,
            Worker(docket, concurrency=concurrency, minimum_check_interval=interval) as worker,
        ):
            await worker.run_forever()

    uvloop.run(main())
