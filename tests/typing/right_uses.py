"""What users may write: mypy --strict and pyright's strict mode accept all of it, with no ignores."""

from __future__ import annotations

from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, assert_type

from penstock import (
    App,
    Context,
    Handle,
    Reject,
    Retry,
    RetryPolicy,
    Signature,
    Snooze,
    State,
    Task,
    TaskInfo,
    TaskOptions,
    TaskSet,
    current,
)
from penstock.events import Event, Failed

app = App(
    "shop",
    url="redis://localhost:6379/0",
    imports=["shop.mail"],
    defaults=TaskOptions(queue="mail", retry=RetryPolicy(max_retries=2, on=(OSError, ValueError))),
    lease=5.0,
)
library = TaskSet(defaults=TaskOptions(queue="images"))


@app.task
async def send_receipt(order_id: int, *, copy: bool = False) -> str:
    return f"{order_id} {copy}"


@app.task
def resize(path: Path, width: int = 100) -> tuple[int, int]:
    return len(str(path)), width


@app.task(
    name="crunch",
    queue="numbers",
    priority="high",
    run="process",
    retry=RetryPolicy(max_retries=None, delay=timedelta(seconds=1), on=lambda error: "busy" in str(error)),
    timeout=30,
    soft_timeout=timedelta(seconds=20),
    expires=3600,
    result_ttl=0,
    max_deliveries=3,
)
def crunch(*numbers: float, **names: float) -> float:
    return sum(numbers) + sum(names.values())


@app.task()
async def no_result(name: str) -> None:
    if name == "again":
        raise Retry("busy", delay=timedelta(seconds=5))
    if name == "later":
        raise Snooze(60)
    raise Reject("never")


@app.task(bind=True)
async def crawl(ctx: Context, url: str, depth: int = 1) -> list[str]:
    return [url, ctx.id, str(depth), str(ctx.meta.get("who"))]


@app.task(bind=True, queue="mail", run="thread")
def visit(ctx: Context, url: str) -> int:
    return len(url) + ctx.attempt


@app.task(bind=True)
def only_context(ctx: Context) -> str:
    return ctx.name


@app.task(bind=False, priority="low")
def not_bound(ctx: Context) -> str:
    return ctx.name


@app.task
def anything(value: Any) -> Any:
    return value


@app.task
async def anything_async(value: Any) -> Any:
    return value


@library.task
async def blur(path: str) -> bytes:
    return path.encode()


@library.task(timeout=5, bind=True)
def sharpen(ctx: Context, path: str) -> bytes | None:
    return path.encode() if current().attempt == ctx.attempt else None


class Shop:
    @staticmethod
    @app.task
    def stock(item: str) -> dict[str, int]:
        return {item: 1}


app.include(library)


def tasks_are_still_functions() -> None:
    assert_type(resize(Path("a")), tuple[int, int])
    assert_type(crunch(1, 2.5, x=3), float)
    assert_type(anything(1), Any)
    assert_type(Shop.stock("tea"), dict[str, int])


def a_task_can_be_annotated() -> None:
    plain: Task[[Path, int], tuple[int, int]] = app.task(_unregistered)
    assert_type(plain.delay(Path("a"), 1), Handle[tuple[int, int]])
    name: str = plain.name
    options: TaskOptions = plain.config
    print(name, options.queue)


def _unregistered(path: Path, width: int) -> tuple[int, int]:
    return len(str(path)), width


def sending() -> None:
    assert_type(send_receipt.delay(42), Handle[str])
    assert_type(send_receipt.delay(order_id=42, copy=True), Handle[str])
    assert_type(resize.delay(Path("a"), width=3), Handle[tuple[int, int]])
    assert_type(crunch.delay(1, 2, 3.5, a=1), Handle[float])
    assert_type(no_result.delay("x"), Handle[None])
    assert_type(crawl.delay("http://example.org"), Handle[list[str]])
    assert_type(crawl.delay("http://example.org", depth=2), Handle[list[str]])
    assert_type(visit.delay(url="http://example.org"), Handle[int])
    assert_type(only_context.delay(), Handle[str])
    assert_type(blur.delay("a.png"), Handle[bytes])
    assert_type(sharpen.delay("a.png"), Handle[bytes | None])
    assert_type(Shop.stock.delay("tea"), Handle[dict[str, int]])
    anything.delay(1).get(timeout=1).whatever()
    anything_async.delay([1]).get().whatever()


async def sending_from_async_code() -> None:
    assert_type(await send_receipt(1, copy=True), str)
    assert_type(await send_receipt.options(delay=5)(42), str)
    assert_type(await send_receipt.adelay(42, copy=False), Handle[str])
    assert_type(await resize.adelay(Path("a"), 3), Handle[tuple[int, int]])
    assert_type(await crawl.adelay("http://example.org"), Handle[list[str]])
    assert_type(await visit.adelay("http://example.org"), Handle[int])
    assert_type(await no_result.adelay("x"), Handle[None])
    assert_type(await blur.adelay("a.png"), Handle[bytes])
    (await (await anything_async.adelay(1))).whatever()


def options() -> None:
    soon = datetime.now(UTC) + timedelta(minutes=5)
    later = send_receipt.options(delay=5, priority="low", id="receipt-42", expires=60, meta={"who": "me"})
    assert_type(later.delay(42, copy=True), Handle[str])
    assert_type(later.options(queue="mail", timeout=timedelta(seconds=3)).delay(42), Handle[str])
    assert_type(resize.options(eta=soon, expires=soon, result_ttl=5).delay(Path("a")), Handle[tuple[int, int]])
    assert_type(visit.options(countdown=5, retry=RetryPolicy(0), id=None).delay("u"), Handle[int])


def celery_spelling() -> None:
    assert_type(send_receipt.apply_async((42,), {"copy": True}, countdown=5), Handle[str])
    assert_type(resize.apply_async([Path("a"), 5], priority="high"), Handle[tuple[int, int]])
    assert_type(visit.apply_async(kwargs={"url": "u"}), Handle[int])


def signatures_and_bulk() -> None:
    assert_type(send_receipt.s(42, copy=True), Signature[str])
    assert_type(resize.s(Path("a")), Signature[tuple[int, int]])
    assert_type(crawl.options(priority="low").s("u").options(id="u").delay(), Handle[list[str]])
    assert_type(send_receipt.bulk([(1,), (2,)]), list[Handle[str]])
    assert_type(resize.options(priority="low").bulk((Path(p), 5) for p in "ab"), list[Handle[tuple[int, int]]])
    assert_type(app.bulk(send_receipt.s(i) for i in range(5)), list[Handle[str]])
    assert_type(app.bulk([resize.s(Path("a")), resize.s(Path("b"))]), list[Handle[tuple[int, int]]])
    mixed: list[Handle[str | tuple[int, int]]] = app.bulk([send_receipt.s(1), resize.s(Path("a"))])
    print(mixed)
    anything: list[Handle[object]] = [send_receipt.delay(1), resize.delay(Path("a"))]
    print(anything)


async def signatures_and_bulk_in_async_code() -> None:
    assert_type(await send_receipt.s(42).adelay(), Handle[str])
    assert_type(await visit.s("u").adelay(), Handle[int])
    assert_type(await send_receipt.abulk([(1,), (2,)]), list[Handle[str]])
    assert_type(await resize.abulk([(Path("a"), 5)]), list[Handle[tuple[int, int]]])
    assert_type(await app.abulk(send_receipt.s(i) for i in range(5)), list[Handle[str]])


def handles() -> None:
    h = send_receipt.delay(42)
    assert_type(h.get(), str)
    assert_type(h.get(timeout=2.5), str)
    assert_type(h.id, str)
    assert_type(h.created, bool | None)
    assert_type(h.state(), State)
    assert_type(h.done(), bool)
    assert_type(h.info(), TaskInfo)
    assert_type(h.cancel(), bool)
    assert_type(send_receipt.handle("receipt-42"), Handle[str])
    assert_type(resize.handle("x").get(timeout=1), tuple[int, int])
    assert_type(app.handle("mail:receipt-42"), Handle[Any])
    assert_type(app.handle("mail:receipt-42").get(), Any)


async def handles_in_async_code() -> None:
    h = await resize.adelay(Path("a"))
    assert_type(await h, tuple[int, int])
    assert_type(await h.aget(timeout=2), tuple[int, int])
    assert_type(await h.astate(), State)
    assert_type(await h.adone(), bool)
    assert_type(await h.ainfo(), TaskInfo)
    assert_type(await h.acancel(), bool)
    assert_type(await (await no_result.adelay("x")), None)


def by_name() -> None:
    assert_type(app.send("mail.send", 42, copy=True), Handle[Any])
    assert_type(app.task_named("mail.send", queue="mail").options(delay=5).delay(42), Handle[Any])


async def running() -> None:
    async with app, app.running(concurrency=10):
        assert_type(await app.asend("mail.send", 42), Handle[Any])
    with app.running("mail"):
        app.drain(timeout=5)
    await app.adrain(["mail"], timeout=5)


def operating() -> None:
    for letter in app.dead_letters("mail").list():
        print(letter.id, letter.reason, letter.error, letter.args)
    assert_type(app.redrive("mail:receipt-42"), int)
    assert_type(app.dead_letters("mail").redrive(limit=10), int)
    assert_type(app.queues(), list[str])

    @app.observe
    def tell(event: Event) -> None:
        if isinstance(event, Failed):
            print(event.reason)

    print(tell)


def tasks_are_passed_around() -> None:
    def send_five(task: Task[[str], Coroutine[Any, Any, list[str]]]) -> list[Handle[list[str]]]:
        return [task.delay(f"http://{i}") for i in range(5)]

    @app.task(bind=True)
    async def fetch(ctx: Context, url: str) -> list[str]:
        return [url, ctx.id]

    assert_type(send_five(fetch), list[Handle[list[str]]])
