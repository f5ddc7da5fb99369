"""rq: lists, one task at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from common import CONFIG, RESULT, URL, About, Args, SyncClient, hit, started
from redis import Redis
from rq import Queue, SimpleWorker, Worker

ABOUT = About(
    packages=("rq", "redis", "hiredis"),
    guarantee="at most once: a dead worker's job fails after its lease (90 s); run again only with Retry()",
    results="yes, 500 s",
    bulk="Queue.enqueue_many in pipelines of 1,000",
    notes="SimpleWorker runs tasks in its own process; the usual Worker forks for each",
    configs=({"worker": "SimpleWorker"}, {"worker": "Worker"}),
    sync_configs=({"worker": "SimpleWorker"},),
    sync_task="noop",
    sleep=None,
    usual={"worker": "SimpleWorker"},
    scale=0.1,
)

PIPELINE = 1000

connection = Redis.from_url(URL)
queue = Queue("bench", connection=connection)


def noop() -> None:
    hit()


def sleep10() -> None:
    time.sleep(0.01)
    hit()


def blob(data: str) -> None:
    hit()


def big() -> str:
    hit()
    return RESULT


def lat(sent: int) -> int:
    return started(sent)


class Client(SyncClient):
    """`enqueue` and `enqueue_many`."""

    def close(self) -> None:
        connection.close()

    def one(self, task: str, args: Args) -> Any:
        return queue.enqueue(f"peer_rq.{task}", args=args)

    def many(self, task: str, calls: Sequence[Args]) -> None:
        for i in range(0, len(calls), PIPELINE):
            part = calls[i : i + PIPELINE]
            queue.enqueue_many([Queue.prepare_data(f"peer_rq.{task}", args=args) for args in part])

    def result(self, handle: Any) -> Any:
        return handle.latest_result(timeout=30).return_value


CLIENTS = {"sync": Client}


def run_worker() -> None:
    """In the foreground."""
    kind = {"SimpleWorker": SimpleWorker, "Worker": Worker}[CONFIG.get("worker", "SimpleWorker")]
    kind([queue], connection=connection).work(logging_level="WARNING")
