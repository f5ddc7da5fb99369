"""penstock as it is after `pip install`: records, results, leases and at-least-once are its defaults."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from common import CONFIG, RESULT, URL, About, Args, AsyncClient, SyncClient, hit, started

from penstock import App

ABOUT = About(
    packages=("penstock", "redis", "hiredis", "uvloop", "msgspec"),
    guarantee="at least once: acknowledged with the result; leases (15 s) renewed by a thread",
    results="yes, 1 h, with a record of the task's state",
    bulk="Task.abulk",
    notes="all settings at their defaults but the number of slots",
    configs=({"queue": "default", "concurrency": 100}, {"queue": "default", "concurrency": 256}),
    sync_configs=tuple({"queue": "plain", "threads": n} for n in (100, 6, 16, 32)),
    sync_task="noop_sync",
    sleep={"queue": "default", "concurrency": 256},
    usual={"queue": "default"},
    scale=5,
    worker=("-m", "penstock", "-A", "peer_penstock:app", "worker", "-Q", "{queue}", "--log-level", "warning"),
    uvloop=True,
)

app = App("bench", url=URL, **{name: value for name, value in CONFIG.items() if name != "queue"})


@app.task
async def noop() -> None:
    hit()


# In a queue of its own: one fetch brings no more than the scarcest kind of slot allows for that the queue's tasks need,
# and there are fewer threads than async slots.
@app.task(queue="plain")
def noop_sync() -> None:
    hit()


@app.task
async def sleep10() -> None:
    await asyncio.sleep(0.01)
    hit()


@app.task
async def blob(data: str) -> None:
    hit()


@app.task
async def big() -> str:
    hit()
    return RESULT


@app.task
async def lat(sent: int) -> int:
    return started(sent)


@app.task
async def answer(size: int) -> str:
    hit()
    return "x" * size


TASKS: dict[str, Any] = {
    task.name.rpartition(".")[2]: task for task in (noop, noop_sync, sleep10, blob, big, lat, answer)
}


class Client(AsyncClient):
    """`adelay` and its kin."""

    async def close(self) -> None:
        await app.aclose()

    async def one(self, task: str, args: Args) -> Any:
        return await TASKS[task].adelay(*args)

    async def many(self, task: str, calls: Sequence[Args]) -> None:
        await TASKS[task].abulk(calls)

    async def result(self, handle: Any) -> Any:
        return await handle.aget(timeout=30)


class Blocking(SyncClient):
    """`delay` and its kin."""

    def close(self) -> None:
        app.close()

    def one(self, task: str, args: Args) -> Any:
        return TASKS[task].delay(*args)

    def many(self, task: str, calls: Sequence[Args]) -> None:
        TASKS[task].bulk(calls)

    def result(self, handle: Any) -> Any:
        return handle.get(timeout=30)


CLIENTS = {"async": Client, "sync": Blocking}
