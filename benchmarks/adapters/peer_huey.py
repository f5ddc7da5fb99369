"""huey: a list, threads or processes."""

from __future__ import annotations

import time
from typing import Any

from common import RESULT, URL, About, Args, SyncClient, hit, started
from huey import RedisHuey

ABOUT = About(
    packages=("huey", "redis", "hiredis"),
    guarantee="at most once: BRPOP, no acknowledgement",
    results="yes, until read; a result of None is not stored",
    bulk="calls from 4 threads (no bulk call)",
    notes="notify_result (a blocking wait for results); -k process -w 2 is two processes and their parent",
    configs=(
        {"kind": "process", "concurrency": 2},
        {"kind": "thread", "concurrency": 1},
        {"kind": "thread", "concurrency": 4},
        {"kind": "thread", "concurrency": 10},
    ),
    sync_configs=({"kind": "process", "concurrency": 2}, {"kind": "thread", "concurrency": 4}),
    sync_task="noop",
    sleep={"kind": "thread", "concurrency": 100},
    usual={"kind": "thread", "concurrency": 4},
    worker=("{bin}/huey_consumer", "peer_huey.huey", "-k", "{kind}", "-w", "{concurrency}", "-q"),
)

huey = RedisHuey("bench", url=URL, notify_result=True)


@huey.task()
def noop() -> None:
    hit()


@huey.task()
def sleep10() -> None:
    time.sleep(0.01)
    hit()


@huey.task()
def blob(data: str) -> None:
    hit()


@huey.task()
def big() -> str:
    hit()
    return RESULT


@huey.task()
def lat(sent: int) -> int:
    return started(sent)


TASKS: dict[str, Any] = {"noop": noop, "sleep10": sleep10, "blob": blob, "big": big, "lat": lat}


class Client(SyncClient):
    """A call of the task sends it."""

    def one(self, task: str, args: Args) -> Any:
        return TASKS[task](*args)

    def result(self, handle: Any) -> Any:
        return handle.get(blocking=True, timeout=30)


CLIENTS = {"sync": Client}
