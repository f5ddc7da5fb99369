"""taskiq with taskiq-redis' broker on Redis Streams, the one that acknowledges."""

from __future__ import annotations

import asyncio
from typing import Any

from common import CONFIG, RESULT, STORE_RESULTS, URL, About, Args, AsyncClient, hit, started
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

SLOTS = CONFIG.get("concurrency", 100)

ABOUT = About(
    packages=("taskiq", "taskiq-redis", "redis", "hiredis", "uvloop"),
    guarantee="at least once: XACK after the task; XAUTOCLAIM after idle_timeout (10 min); entries stay in the stream",
    results="no (a dummy backend); Redis backend for the round trip",
    bulk="64 concurrent kiq() calls (no bulk call)",
    notes="RedisStreamBroker; xread_count = max-prefetch = concurrency; its CLI adds a supervisor process",
    configs=tuple({"concurrency": n} for n in (256, 10, 32, 100)),
    sync_configs=tuple({"concurrency": n} for n in (100, 32, 256)),
    sync_task="noop_sync",
    sleep={"concurrency": 256},
    usual={"concurrency": 100},
    worker=(
        "-m", "taskiq", "worker", "peer_taskiq:broker", "--workers", "1", "--log-level", "WARNING",
        "--max-async-tasks", "{concurrency}", "--max-prefetch", "{concurrency}",
    ),
    uvloop=True,
)  # fmt: skip

broker = RedisStreamBroker(URL, xread_count=SLOTS)
if STORE_RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=600))


@broker.task
async def noop() -> None:
    hit()


@broker.task
def noop_sync() -> None:
    hit()


@broker.task
async def sleep10() -> None:
    await asyncio.sleep(0.01)
    hit()


@broker.task
async def blob(data: str) -> None:
    hit()


@broker.task
async def big() -> str:
    hit()
    return RESULT


@broker.task
async def lat(sent: int) -> int:
    return started(sent)


TASKS: dict[str, Any] = {
    "noop": noop, "noop_sync": noop_sync, "sleep10": sleep10, "blob": blob, "big": big, "lat": lat,
}  # fmt: skip


class Client(AsyncClient):
    """`kiq`."""

    async def open(self) -> None:
        await broker.startup()

    async def close(self) -> None:
        await broker.shutdown()

    async def one(self, task: str, args: Args) -> Any:
        return await TASKS[task].kiq(*args)

    async def result(self, handle: Any) -> Any:
        return await handle.wait_result(check_interval=0.001, timeout=30)


CLIENTS = {"async": Client}
