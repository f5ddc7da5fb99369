"""A small shop: what runs while pictures of the dashboards are taken (`tests.observability.live`)."""

from __future__ import annotations

import asyncio
import random
import time

from penstock import App, Reject, RetryPolicy, Snooze
from penstock.settings import load_settings

app = App("shop")


@app.task(name="shop.mail.receipt", queue="mail", retry=RetryPolicy(max_retries=3, delay=1))
async def receipt() -> None:
    await asyncio.sleep(random.uniform(0.01, 0.08))
    if random.random() < 0.05:
        raise ConnectionError("the mail server hung up")


@app.task(name="shop.mail.newsletter", queue="mail", priority="low")
async def newsletter() -> None:
    await asyncio.sleep(random.uniform(0.05, 0.2))
    if random.random() < 0.02:
        raise Snooze(2)


@app.task(name="shop.payments.charge", queue="payments", priority="high", timeout=2)
async def charge(broken: bool) -> None:
    await asyncio.sleep(random.lognormvariate(-2.0, 0.6))
    if broken and random.random() < 0.4:
        raise random.choice([Reject("declined"), RuntimeError("no such account")])
    if broken and random.random() < 0.1:
        await asyncio.sleep(10)


@app.task(name="shop.images.resize", queue="images")
def resize() -> None:
    time.sleep(random.lognormvariate(-2.5, 0.7))


@app.task(name="shop.reports.build", queue="reports")
async def build() -> None:
    await asyncio.sleep(random.uniform(1, 6))


@app.task(name="shop.stock.sync", queue="stock")
async def sync() -> None:
    await asyncio.sleep(random.uniform(0.1, 0.4))


@app.task(name="shop.exports.nightly", queue="exports")
async def nightly() -> None:
    await asyncio.sleep(1)


assert load_settings({}).namespace != "penstock", "a test's namespace is missing"
