"""A producer that does what is asked of penstock alone: ``alone.py REQUEST``; prints one line of JSON.

Actions: `scheduled` (tasks with a delay), `payload` (arguments of one size) and `answers` (tasks that return so much).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop
from client import warm
from peer_penstock import TASKS, Client

Answer = dict[str, float]

#: Calls before those that count: few, since they may be of 1 MiB.
WARM_UP = 20


def main() -> None:
    request = json.loads(sys.argv[1])
    print(json.dumps(uvloop.run(run(request))))


async def run(request: dict[str, Any]) -> Answer:
    """One action."""
    client = Client()
    await client.open()
    try:
        return await ACTIONS[request.pop("action")](client, **request)
    finally:
        await client.close()


async def scheduled(client: Client, *, n: int, over: float, lead: float, dense: int, dense_over: float) -> Answer:
    """Sends `n` tasks with due times spread over `over` seconds, the first one after `lead`; then `dense` likewise.

    Answers the seconds that sending took, and the due time (ns) from which on they are the dense ones.
    """
    await warm(client)
    begin = time.monotonic()
    await spread(n, begin + lead, over)
    await spread(dense, begin + lead + over, dense_over)
    return {"seconds": time.monotonic() - begin, "dense_from": (begin + lead + over - over / n / 2) * 1e9}


async def spread(n: int, first: float, over: float) -> None:
    """Sends them; what a task is given is its due time at the earliest: the clock before the call, and the delay."""
    task = TASKS["lat"]
    for i in range(n):
        delay = first + over * i / n - time.monotonic()
        due = time.monotonic_ns() + int(delay * 1e9)
        await task.options(delay=delay).adelay(due)


async def payload(client: Client, *, size: int, one: int, bulk: int) -> Answer:
    """Calls/s one by one and in bulk, and how many are queued then."""
    arguments = ("x" * size,)
    for _ in range(WARM_UP):
        await client.one("blob", arguments)
    start = time.perf_counter()
    for _ in range(one):
        await client.one("blob", arguments)
    middle = time.perf_counter()
    await client.many("blob", [arguments] * bulk)
    end = time.perf_counter()
    return {"one": one / (middle - start), "bulk": bulk / (end - middle), "n": WARM_UP + one + bulk}


async def answers(client: Client, *, size: int, n: int) -> Answer:
    """Tasks that return so many bytes."""
    await client.many("answer", [(size,)] * n)
    return {"n": n}


ACTIONS: dict[str, Callable[..., Coroutine[Any, Any, Answer]]] = {
    "scheduled": scheduled,
    "payload": payload,
    "answers": answers,
}

if __name__ == "__main__":
    main()
