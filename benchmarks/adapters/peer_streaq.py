"""streaq: Redis Streams, asyncio and anyio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio
import coredis
from common import CONFIG, RESULT, URL, About, Args, AsyncClient, hit, started
from streaq import Worker

ABOUT = About(
    packages=("streaq", "coredis", "anyio", "hiredis", "uvloop"),
    guarantee="at least once: XACK and XDEL after the task; XAUTOCLAIM after idle_timeout (60 s)",
    results="yes, 5 min",
    bulk="Worker.enqueue_many (one pipeline)",
    notes="coredis.Config.optimized; prefetch = concurrency (its default)",
    configs=tuple({"concurrency": n} for n in (10, 32, 100, 256)),
    sync_configs=tuple({"concurrency": n} for n in (10, 32)),
    sync_task="noop_sync",
    sleep={"concurrency": 256},
    usual={"concurrency": 16},
    scale=0.35,
    uvloop=True,
)

coredis.Config.optimized = True
worker = Worker(redis_url=URL, concurrency=CONFIG.get("concurrency", 16), anyio_kwargs={"use_uvloop": True})


@worker.task()
async def noop() -> None:
    hit()


@worker.task()
def noop_sync() -> None:
    hit()


@worker.task()
async def sleep10() -> None:
    await anyio.sleep(0.01)
    hit()


@worker.task()
async def blob(data: str) -> None:
    hit()


@worker.task()
async def big() -> str:
    hit()
    return RESULT


@worker.task()
async def lat(sent: int) -> int:
    return started(sent)


TASKS: dict[str, Any] = {
    "noop": noop, "noop_sync": noop_sync, "sleep10": sleep10, "blob": blob, "big": big, "lat": lat,
}  # fmt: skip


class Client(AsyncClient):
    """`enqueue` within the worker's context."""

    async def open(self) -> None:
        await worker.__aenter__()

    async def close(self) -> None:
        await worker.__aexit__(None, None, None)

    async def one(self, task: str, args: Args) -> Any:
        return await TASKS[task].enqueue(*args)

    async def many(self, task: str, calls: Sequence[Args]) -> None:
        await worker.enqueue_many([TASKS[task].enqueue(*args) for args in calls])

    async def result(self, handle: Any) -> Any:
        return await handle.result(timeout=30)


CLIENTS = {"async": Client}


def run_worker() -> None:
    """In the foreground."""
    worker.run_sync()
