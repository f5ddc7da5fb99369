"""dramatiq: lists and Lua, threads or gevent."""

from __future__ import annotations

import time
from typing import Any

import dramatiq
from common import RESULT, STORE_RESULTS, URL, About, Args, SyncClient, hit, started
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

ABOUT = About(
    packages=("dramatiq", "redis", "hiredis", "gevent"),
    guarantee="at least once: acknowledged after the task; a dead worker's are requeued after heartbeat_timeout (60 s)",
    results="no (no Results middleware); on for the round trip",
    bulk="send() from 4 threads (no bulk call)",
    notes="its default prefetch (2 x threads); its CLI adds a supervisor process",
    configs=(
        {"program": "dramatiq", "concurrency": 32},
        {"program": "dramatiq", "concurrency": 2},
        {"program": "dramatiq", "concurrency": 8},
        {"program": "dramatiq-gevent", "concurrency": 100},
    ),
    sync_configs=({"program": "dramatiq", "concurrency": 32}, {"program": "dramatiq-gevent", "concurrency": 100}),
    sync_task="noop",
    sleep={"program": "dramatiq-gevent", "concurrency": 256},
    usual={"program": "dramatiq", "concurrency": 8},
    worker=(
        "{bin}/{program}", "peer_dramatiq", "--processes", "1", "--threads", "{concurrency}",
        "--skip-logging", "--path", ".",
    ),
)  # fmt: skip

broker = RedisBroker(url=URL)
if STORE_RESULTS:
    broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)
OPTIONS = {"store_results": True} if STORE_RESULTS else {}


@dramatiq.actor(**OPTIONS)
def noop() -> None:
    hit()


@dramatiq.actor(**OPTIONS)
def sleep10() -> None:
    time.sleep(0.01)
    hit()


@dramatiq.actor(**OPTIONS)
def blob(data: str) -> None:
    hit()


@dramatiq.actor(**OPTIONS)
def big() -> str:
    hit()
    return RESULT


@dramatiq.actor(**OPTIONS)
def lat(sent: int) -> int:
    return started(sent)


TASKS: dict[str, Any] = {"noop": noop, "sleep10": sleep10, "blob": blob, "big": big, "lat": lat}


class Client(SyncClient):
    """`send`."""

    def close(self) -> None:
        broker.close()

    def one(self, task: str, args: Args) -> Any:
        return TASKS[task].send(*args)

    def result(self, handle: Any) -> Any:
        return handle.get_result(block=True, timeout=30_000)


CLIENTS = {"sync": Client}
