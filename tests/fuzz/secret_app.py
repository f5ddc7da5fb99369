"""Tasks that fail in every way while they hold a secret argument."""

from __future__ import annotations

import asyncio
import os
from enum import Enum
from typing import Any, Literal

import pydantic

from penstock import App, Reject, Retry, RetryPolicy, Snooze

app = App("secretive", lease=1.0, unknown_ttl=0, result_ttl=60)
ONCE = RetryPolicy(max_retries=1, delay=0.01, jitter=0)


class Kind(Enum):
    """A value that is none of these is told by msgspec."""

    A = "a"


class Login(pydantic.BaseModel):
    """Pydantic's errors show the input."""

    name: int
    password: str = pydantic.Field(max_length=3)


@app.task(retry=ONCE)
async def fails(secret: str) -> None:
    raise ValueError("no")


@app.task
def fails_in_thread(secret: str) -> None:
    raise ValueError("no")


@app.task(run="process", retry=ONCE)
def fails_in_process(secret: str) -> None:
    raise ValueError("no")


@app.task(run="process")
def dies(secret: str) -> None:
    os._exit(3)


@app.task(timeout=0.2)
async def hangs(secret: str) -> None:
    await asyncio.sleep(60)  # work


@app.task
async def rejects(secret: str) -> None:
    raise Reject("no")


@app.task(retry=ONCE)
async def asks_again(secret: str) -> None:
    raise Retry("later", delay=0.01)


@app.task(bind=True)
async def snoozes(ctx: Any, secret: str) -> None:
    raise Snooze(30)


@app.task
async def returns(secret: str) -> int:
    return secret  # type: ignore[return-value]  # is refused when it is encoded


@app.task
async def returns_what_cannot_be_sent(secret: str) -> Any:
    return {"x": [object(), secret]}


@app.task
async def wants_a_kind(secret: Kind) -> None: ...


@app.task
async def wants_a_word(secret: Literal["x", "y"]) -> None: ...


@app.task
async def wants_a_login(secret: Login) -> None: ...


@app.task
async def wants_a_number(secret: int) -> None: ...


@app.task(run="process")
def wants_a_login_in_process(secret: Login) -> None: ...


@app.task
async def fine(secret: str) -> str:
    return secret
