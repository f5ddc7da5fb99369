"""What the workers of the run do: tasks of every ending."""

from __future__ import annotations

import asyncio
import os
import time

from penstock import App, Context, Reject, RetryPolicy, Snooze
from penstock.settings import load_settings

app = App("observed")


@app.task(name="shop.ok", queue="mail")
async def ok() -> None:
    await asyncio.sleep(0.01)


@app.task(name="shop.flaky", queue="mail", bind=True, retry=RetryPolicy(max_retries=2, delay=0.2, jitter=0))
async def flaky(ctx: Context) -> None:
    if ctx.attempt == 1:
        raise ConnectionError("the first time")


@app.task(name="shop.sleepy", queue="mail", bind=True)
async def sleepy(ctx: Context) -> None:
    if not os.path.exists(marker := f"{os.environ['TEST_FOLDER']}/{ctx.id}"):  # noqa: ASYNC240
        os.close(os.open(marker, os.O_CREAT))
        raise Snooze(0.2)


@app.task(name="shop.bad", queue="mail")
async def bad() -> None:
    raise ValueError("for good")


@app.task(name="shop.slow", queue="mail", timeout=0.2)
async def slow() -> None:
    await asyncio.sleep(60)


@app.task(name="shop.refused", queue="mail")
async def refused() -> None:
    raise Reject("for good")


@app.task(name="shop.thread", queue="mail")
def thread() -> None:
    time.sleep(0.01)


@app.task(name="shop.note")
async def note() -> None: ...


@app.task(name="shop.nap", queue="busy")
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


@app.task(name="shop.block", queue="blocks")
async def block(seconds: float) -> None:
    time.sleep(seconds)  # noqa: ASYNC251 - the fault


@app.task(name="shop.hold", bind=True)
async def hold(ctx: Context, name: str) -> None:
    """Runs until there is a file of its name and of the number of its delivery."""
    file = f"{os.environ['TEST_FOLDER']}/{name}"
    os.close(os.open(f"{file}.began", os.O_CREAT))
    while not os.path.exists(f"{file}.{ctx.deliveries}"):  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.05)


assert load_settings({}).namespace != "penstock", "a test's namespace is missing"
