"""Async, thread and process tasks side by side in one worker, and how each is stopped by its timeout.

python examples/all_kinds.py
"""

import asyncio
import math
import os
import tempfile
import time
from collections.abc import Callable

from penstock import App, SoftTimeout, TaskFailed

app = App("kinds", url=os.environ.get("PENSTOCK_URL") or f"embedded://{tempfile.mkdtemp()}")


@app.task  # `async def`: on the worker's event loop, 100 at a time (--concurrency)
async def fetch(page: int) -> str:
    await asyncio.sleep(0.05)
    return f"page {page}"


@app.task  # `def`: in a thread (--threads), so it may block
def read_file(path: str) -> int:
    with open(path, "rb") as file:
        return len(file.read())


@app.task(run="process")  # in a process of its own (--processes), so it may compute
def factor(number: int) -> list[int]:
    found: list[int] = []
    for candidate in range(2, math.isqrt(number) + 1):
        while number % candidate == 0:
            found.append(candidate)
            number //= candidate
    return [*found, number] if number > 1 else found


# A timeout stops the code for real: async code is cancelled, a thread gets an exception, a process is killed.


@app.task(timeout=0.2)
async def slow_async() -> None:
    await asyncio.sleep(60)


@app.task(timeout=0.2)
def slow_thread() -> None:
    while True:
        time.sleep(0.01)


@app.task(run="process", timeout=0.2)
def slow_process() -> None:
    while True:
        pass


@app.task(timeout=10, soft_timeout=0.2)  # the soft one can be caught, to save what is done
def polite() -> str:
    done = 0
    try:
        while True:
            time.sleep(0.01)
            done += 1
    except SoftTimeout:
        return "saved what was done" if done else "had no time"


def outcome(get: Callable[[float], object]) -> str:
    try:
        return str(get(30))
    except TaskFailed as error:
        return f"{error.reason}: {error.type}"


if __name__ == "__main__":
    with app.running(concurrency=50, threads=4, processes=1):
        started = time.monotonic()
        pages = fetch.bulk([(i,) for i in range(50)])
        size = read_file.delay(__file__)
        factors = factor.delay(600851475143)
        print(f"{len([page.get(30) for page in pages])} pages, the last {pages[-1].get()!r}")
        print(f"this file has {'some' if size.get(30) else 'no'} bytes")
        print(f"factors: {factors.get(60)}")
        for task in (slow_async, slow_thread, slow_process):
            print(f"{task.name.rpartition('.')[2]}: {outcome(task.delay().get)}")
        print(f"polite: {outcome(polite.delay().get)}")
        print(f"done in {time.monotonic() - started:.1f} s")
