"""celery on its Redis transport."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from celery import Celery
from common import CONFIG, RESULT, STORE_RESULTS, URL, About, Args, SyncClient, hit, started

ABOUT = About(
    packages=("celery", "kombu", "redis", "hiredis", "gevent"),
    guarantee="at most once (early acknowledgement); unacknowledged messages come back after 1 h",
    results="no (no backend); Redis backend for the round trip",
    bulk="apply_async in a loop on one connection (no bulk call)",
    notes="--without-gossip --without-mingle --without-heartbeat; prefetch_multiplier as said",
    configs=(
        {"pool": "solo", "concurrency": 1, "prefetch": 64},
        {"pool": "prefork", "concurrency": 1, "prefetch": 64},
        {"pool": "prefork", "concurrency": 2, "prefetch": 64},
        {"pool": "threads", "concurrency": 10, "prefetch": 10},
        {"pool": "gevent", "concurrency": 100, "prefetch": 4},
    ),
    sync_configs=(
        {"pool": "solo", "concurrency": 1, "prefetch": 64},
        {"pool": "threads", "concurrency": 10, "prefetch": 10},
    ),
    sync_task="noop",
    sleep={"pool": "gevent", "concurrency": 256, "prefetch": 4},
    usual={"pool": "prefork", "concurrency": 2, "prefetch": 4},
    scale=0.4,
    worker=(
        "-m", "celery", "-A", "peer_celery", "worker", "--pool", "{pool}", "--concurrency", "{concurrency}",
        "--loglevel", "WARNING", "--without-gossip", "--without-mingle", "--without-heartbeat", "-n", "w{number}@bench",
    ),
)  # fmt: skip

app = Celery("bench", broker=URL, backend=URL if STORE_RESULTS else None)
app.conf.update(
    worker_prefetch_multiplier=CONFIG.get("prefetch", 4),
    broker_connection_retry_on_startup=True,
    worker_send_task_events=False,
)


@app.task
def noop() -> None:
    hit()


@app.task
def sleep10() -> None:
    time.sleep(0.01)
    hit()


@app.task
def blob(data: str) -> None:
    hit()


@app.task
def big() -> str:
    hit()
    return RESULT


@app.task
def lat(sent: int) -> int:
    return started(sent)


TASKS: dict[str, Any] = {"noop": noop, "sleep10": sleep10, "blob": blob, "big": big, "lat": lat}


class Client(SyncClient):
    """`apply_async`."""

    def one(self, task: str, args: Args) -> Any:
        return TASKS[task].apply_async(args)

    def many(self, task: str, calls: Sequence[Args]) -> None:
        with app.producer_pool.acquire(block=True) as producer:
            for args in calls:
                TASKS[task].apply_async(args, producer=producer)

    def result(self, handle: Any) -> Any:
        return handle.get(timeout=30)


CLIENTS = {"sync": Client}
