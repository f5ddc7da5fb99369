"""A worker in a process of its own, for tests that kill it: ``python -m tests.integration.worker_process JSON``."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading

from penstock import App
from penstock.events import Event, WorkerStarted
from tests.integration import shared_tasks


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def tell(event: Event) -> None:
    if isinstance(event, WorkerStarted):
        say("ready")


def die_with_parent() -> None:
    sys.stdin.read()
    os._exit(9)


async def main() -> None:
    threading.Thread(target=die_with_parent, daemon=True).start()
    app = App("process", **json.loads(sys.argv[1]))
    app.include(shared_tasks.tasks)
    app.observe(tell)
    worker = app.worker()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, worker.stop)
    await worker.run()


if __name__ == "__main__":
    asyncio.run(main())
