"""What both checkers must refuse. A use that becomes accepted makes its ignore an unused one: an error."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from penstock import App, Context, Handle, RetryPolicy, Task, TaskOptions, TaskSet

app = App("shop")
library = TaskSet()


@app.task
async def send_receipt(order_id: int, *, copy: bool = False) -> str:
    return f"{order_id} {copy}"


@app.task(queue="images")
def resize(path: str, width: int = 100) -> int:
    return len(path) + width


@app.task(bind=True)
async def crawl(ctx: Context, url: str) -> bytes:
    return f"{ctx.id} {url}".encode()


@library.task(bind=True, timeout=5)
def blur(ctx: Context, path: str) -> int:
    return len(path) + ctx.attempt


def delay_checks_arguments() -> None:
    send_receipt.delay("42")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    send_receipt.delay()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    send_receipt.delay(42, True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    send_receipt.delay(42, copies=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    send_receipt.delay(42, copy="yes")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    resize.delay("a.png", "wide")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize.delay("a.png", 1, 2)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    resize.delay(42, width=1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize.options(delay=5).delay(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def adelay_checks_arguments() -> None:
    await send_receipt.adelay("42")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    await send_receipt.adelay()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await send_receipt.adelay(42, copies=True)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    await resize.adelay("a.png", "wide")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    await resize.options(priority="low").adelay()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def signatures_check_arguments() -> None:
    send_receipt.s("42")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    send_receipt.s()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    resize.s("a.png", height=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def plain_calls_check_arguments() -> None:
    resize(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]


def the_context_is_not_given() -> None:
    crawl.delay()  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    crawl.delay(1)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    crawl.delay("http://example.org", "more")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    crawl.delay(ctx=1, url="http://example.org")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    blur.delay()  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    blur.delay(b"a.png")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@app.task(bind=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
async def bound_without_context(url: str) -> str:
    return url


@app.task(bind=True)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
def bound_without_parameters() -> None:
    pass


def unknown_and_wrong_options_of_a_task() -> None:
    app.task(retries=3)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    app.task(queue=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(priority="urgent")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(run="fork")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(retry=3)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(timeout="30")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(bind="yes")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    app.task(name=5)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    app.task(delay=5)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    app.task(max_deliveries="3")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    library.task(prio="low")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]
    library.task(timeout="30")  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType]
    TaskOptions(prio="low")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryPolicy(retries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    RetryPolicy(max_retries="3")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    RetryPolicy(on=ValueError())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def unknown_and_wrong_options_of_a_call() -> None:
    send_receipt.options(prio="low")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send_receipt.options(priority="urgent")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_receipt.options(delay="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_receipt.options(eta=timedelta(seconds=5))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_receipt.options(id=42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_receipt.options(retry=3)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_receipt.options(meta="who")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_receipt.options(max_deliveries=3)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    send_receipt.s(1).options(prio="low")  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    resize.apply_async(("a.png",), {"width": 5}, later=5)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    resize.apply_async(("a.png",), priority="urgent")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize.apply_async(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def results_have_the_type_of_the_task() -> None:
    wrong: int = send_receipt.delay(42).get()  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    name: Handle[int] = send_receipt.delay(42)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    found: Handle[str] = resize.handle("x")  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    both: list[Handle[int]] = send_receipt.bulk([(1,)])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    all_of: list[Handle[int]] = app.bulk([send_receipt.s(1)])  # type: ignore[list-item]  # pyright: ignore[reportAssignmentType]
    count: int = send_receipt(42)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(wrong, name, found, both, all_of, count)
    send_receipt.delay(42).get(timeout="5")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    send_receipt.handle(42)  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    app.handle(42)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    resize.bulk(5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


async def results_have_the_type_of_the_task_in_async_code() -> None:
    wrong: int = await (await send_receipt.adelay(42))  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    late: str = await send_receipt.adelay(42)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    name: Handle[int] = await send_receipt.adelay(42)  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    both: list[Handle[int]] = await send_receipt.abulk([(1,)])  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(wrong, late, name, both)


def a_task_is_of_its_own_signature() -> None:
    other: Task[[int, int], int] = resize  # type: ignore[assignment]  # pyright: ignore[reportAssignmentType]
    print(other)
    app.include(resize)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def the_checkers_are_awake() -> None:
    assert_type(resize.delay("a.png"), Handle[str])  # type: ignore[assert-type]  # pyright: ignore[reportAssertTypeFailure]
