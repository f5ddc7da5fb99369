"""Tasks of every kind that leave notes of what happened to them in a file."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path

from penstock import App, RetryPolicy
from penstock.settings import load_settings

app = App("chores", result_ttl=60)
log = logging.getLogger("chores")
_eaten: list[bytearray] = []


def note(folder: str, word: str, name: str) -> None:
    """One line: word, name, process, time. Appending a short line is atomic."""
    line = f"{word} {name} {os.getpid()} {time.monotonic()}\n"
    fd = os.open(Path(folder, "notes"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, line.encode())
    os.close(fd)


@app.task
async def nap(folder: str, name: str, seconds: float) -> int:
    note(folder, "begin", name)
    await asyncio.sleep(seconds)
    note(folder, "end", name)
    return os.getpid()


@app.task
async def hold(folder: str, name: str) -> str:
    """Runs until there is a file of its name."""
    note(folder, "begin", name)
    while not os.path.exists(f"{folder}/{name}"):  # noqa: ASYNC110, ASYNC240 - another process makes it
        await asyncio.sleep(0.02)
    note(folder, "end", name)
    return name


@app.task(timeout=0.5, max_deliveries=1)
async def wedge(folder: str, name: str) -> None:
    """Blocks the event loop, for ever."""
    note(folder, "begin", name)
    while True:
        time.sleep(0.01)  # noqa: ASYNC251 - the fault


@app.task
async def eat(folder: str, megabytes: int) -> None:
    _eaten.append(bytearray(os.urandom(1024) * 1024 * megabytes))
    note(folder, "end", "eat")


@app.task(name="say.async")
async def say_async(word: str) -> None:
    log.info("%s", word, extra={"word": word})


@app.task(name="say.thread")
def say_thread(word: str) -> None:
    log.info("%s", word, extra={"word": word})


@app.task(name="say.process", run="process")
def say_process(word: str) -> None:
    log.info("%s", word, extra={"word": word})


@app.task(queue="mail", retry=RetryPolicy(max_retries=1, delay=0.01))
async def fail(word: str, *, loud: bool = False) -> None:
    raise ValueError(word)


@app.task(queue="mail", priority="high")
async def add(a: int, b: int = 2) -> int:
    return a + b


assert load_settings({}).namespace != "penstock", "a test's namespace is missing"
