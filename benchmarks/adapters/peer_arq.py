"""arq: a sorted set, asyncio."""

from __future__ import annotations

import asyncio
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from arq.worker import Worker
from common import CONFIG, RESULT, URL, About, Args, AsyncClient, hit, started

ABOUT = About(
    packages=("arq", "redis", "hiredis", "uvloop"),
    guarantee="at least once: leaves the queue after the task; an in-progress key of job_timeout + 10 s (310 s)",
    results="yes, 1 h",
    bulk="64 concurrent enqueue_job() calls (no bulk call)",
    notes="poll_delay 0.02 s (default 0.5 s: for the idle worker); plain functions by run_in_executor, as it advises",
    configs=tuple({"concurrency": n, "poll_delay": 0.02} for n in (256, 10, 32, 100)),
    sync_configs=tuple({"concurrency": n, "poll_delay": 0.02} for n in (100, 10)),
    sync_task="noop_sync",
    sleep={"concurrency": 256, "poll_delay": 0.02},
    usual={"concurrency": 10},
    latency={"concurrency": 10, "poll_delay": 0.02},
    scale=0.5,
    uvloop=True,
)

SETTINGS = RedisSettings.from_dsn(URL)


async def noop(ctx: dict[str, Any]) -> None:
    hit()


async def noop_sync(ctx: dict[str, Any]) -> None:
    await asyncio.get_running_loop().run_in_executor(None, hit)


async def sleep10(ctx: dict[str, Any]) -> None:
    await asyncio.sleep(0.01)
    hit()


async def blob(ctx: dict[str, Any], data: str) -> None:
    hit()


async def big(ctx: dict[str, Any]) -> str:
    hit()
    return RESULT


async def lat(ctx: dict[str, Any], sent: int) -> int:
    return started(sent)


class Client(AsyncClient):
    """`enqueue_job`."""

    async def open(self) -> None:
        self._pool = await create_pool(SETTINGS)

    async def close(self) -> None:
        await self._pool.aclose()

    async def one(self, task: str, args: Args) -> Any:
        return await self._pool.enqueue_job(task, *args)

    async def result(self, handle: Any) -> Any:
        return await handle.result(timeout=30, poll_delay=0.001)


CLIENTS = {"async": Client}


def run_worker() -> None:
    """In the foreground."""
    uvloop.install()
    Worker(
        [noop, noop_sync, sleep10, blob, big, lat],
        redis_settings=SETTINGS,
        max_jobs=CONFIG.get("concurrency", 10),
        poll_delay=CONFIG.get("poll_delay", 0.5),
        log_results=False,
    ).run()
