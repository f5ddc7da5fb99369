"""Tasks without annotations, as in code bases that are not checked strictly."""

# mypy: allow-untyped-defs, allow-incomplete-defs
# pyright: basic

from __future__ import annotations

from typing import Any, assert_type

from penstock import App, Handle, Signature

app = App("shop")


@app.task
def add(a, b=2):
    return a + b


@app.task(queue="numbers", timeout=3)
async def add_async(a, b=2):
    return a + b


@app.task(bind=True)
def whoami(ctx, greeting):
    return greeting + ctx.id


@app.task
def half_typed(a: int, b):
    return a + b


def use() -> None:
    add(1).anything()
    add.delay(1, b=3).get().anything()
    whoami.delay("hello").get().upper()
    half_typed.delay(1, 2).get().anything()
    add_async.options(delay=5).delay(1).get().anything()
    add.bulk([(1, 2)])[0].get().anything()
    app.bulk([add.s(1, 2), add_async.s(3)])


async def use_async() -> None:
    (await (await add.adelay(1))).anything()
    (await (await add_async.adelay(1, 2))).anything()


def untyped_is_any_for_mypy() -> None:
    handle: Handle[Any] = add.delay(1)
    signature: Signature[Any] = add_async.s(1)
    number: int = handle.get()
    assert_type(number, int)
    assert_type(signature.delay(), Handle[Any])
