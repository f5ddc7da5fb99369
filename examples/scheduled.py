"""Tasks for later: delay, eta, expires; and cancelling what is scheduled, and what runs.

python examples/scheduled.py
"""

import asyncio
import os
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta

from penstock import App, State, TaskCancelled, TaskExpired

app = App("later", url=os.environ.get("PENSTOCK_URL") or f"embedded://{tempfile.mkdtemp()}")

started = threading.Event()


@app.task
async def remind(text: str) -> str:
    return f"reminder: {text}"


@app.task
async def export() -> str:
    started.set()
    try:
        await asyncio.sleep(3600)
    finally:
        print("export: cleaning up")  # a cancelled async task gets CancelledError at its `await`
    return "exported"


def before_any_worker_is_up() -> None:
    tomorrow = remind.options(id="tomorrow", eta=datetime.now(UTC) + timedelta(days=1)).delay("pay rent")
    print(f"{tomorrow.id} is {tomorrow.state()}")
    print(f"cancelled: {tomorrow.cancel()}, and it is {tomorrow.state()}")  # at once, with no worker
    remind.options(id="stale", expires=0.05).delay("the train leaves")  # not worth anything after 50 ms
    time.sleep(0.2)


def with_a_worker() -> None:
    sent = time.monotonic()
    soon = remind.options(delay=0.3).delay("tea is ready")
    now = remind.delay("no delay")
    print(now.get(timeout=10))
    info = soon.info()
    if info.state is State.SCHEDULED and info.due_at is not None and info.enqueued_at is not None:
        print(f"due after {(info.due_at - info.enqueued_at).total_seconds():.1f} s")
    print(f"{soon.get(timeout=10)}; not early: {time.monotonic() - sent >= 0.3}")
    try:
        app.handle("default:stale").get(timeout=10)
    except TaskExpired as error:
        print(error)
    running = export.delay()
    started.wait(timeout=10)
    requested = running.cancel()
    try:
        running.get(timeout=10)
    except TaskCancelled:
        print(f"cancel of a running task: {requested}")
        print("export was cancelled")


if __name__ == "__main__":
    before_any_worker_is_up()
    with app.running():
        with_a_worker()
