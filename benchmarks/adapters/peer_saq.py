"""saq: lists and Lua, asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from common import CONFIG, RESULT, URL, About, Args, AsyncClient, hit, started
from saq import Queue, Worker

ABOUT = About(
    packages=("saq", "redis", "hiredis", "uvloop"),
    guarantee="at most once (retries=1); with more, a sweep each 60 s retries jobs whose timeout (10 s) has passed",
    results="yes, 10 min",
    bulk="64 concurrent enqueue() calls (no bulk call)",
    notes="max_concurrent_ops 64; the result is polled each 1 ms",
    configs=tuple({"concurrency": n} for n in (10, 32, 100, 256)),
    sync_configs=tuple({"concurrency": n} for n in (10, 32)),
    sync_task="noop_sync",
    sleep={"concurrency": 256},
    usual={"concurrency": 10},
    scale=0.5,
    uvloop=True,
)

# redis-py 8 allows 100 connections in a pool by default; each slot of the worker blocks on one.
queue = Queue.from_url(URL + "?max_connections=1000", max_concurrent_ops=64)


async def noop(ctx: dict[str, Any]) -> None:
    hit()


def noop_sync(ctx: dict[str, Any]) -> None:
    hit()


async def sleep10(ctx: dict[str, Any]) -> None:
    await asyncio.sleep(0.01)
    hit()


async def blob(ctx: dict[str, Any], *, data: str) -> None:
    hit()


async def big(ctx: dict[str, Any]) -> str:
    hit()
    return RESULT


async def lat(ctx: dict[str, Any], *, sent: int) -> int:
    return started(sent)


#: It takes arguments by name only.
NAMES = {"blob": ("data",), "lat": ("sent",)}


class Client(AsyncClient):
    """`enqueue`."""

    async def open(self) -> None:
        await queue.connect()

    async def close(self) -> None:
        await queue.disconnect()

    async def one(self, task: str, args: Args) -> Any:
        return await queue.enqueue(task, **dict(zip(NAMES.get(task, ()), args, strict=True)))

    async def result(self, handle: Any) -> Any:
        # As Queue.apply does it; Job.refresh(until_complete=...) can miss the notice and time out.
        while not handle.completed:
            await asyncio.sleep(0.001)
            await handle.refresh()
        return handle.result


CLIENTS = {"async": Client}


def run_worker() -> None:
    """In the foreground."""

    async def main() -> None:
        tasks = [noop, noop_sync, sleep10, blob, big, lat]
        await Worker(queue, tasks, concurrency=CONFIG.get("concurrency", 10)).start()

    uvloop.run(main())
