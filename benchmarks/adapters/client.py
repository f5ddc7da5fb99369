"""One producer process, in the peer's environment: ``client.py PEER REQUEST``; prints one line of JSON.

The request is JSON: ``action``, ``n``, and for some ``task`` or ``kind``. Actions: about, one, concurrent, many, fill,
latency, roundtrip.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from common import ARGUMENT, About, Args, AsyncClient, SyncClient

Answer = dict[str, Any]
Clients = dict[str, type[AsyncClient] | type[SyncClient]]

WARM_UP = 200
#: Seconds between two tasks of `latency`: 50 tasks/s.
PACE = 0.02
#: How a task's arguments look; () for those that are not named.
ARGUMENTS: dict[str, Args] = {"blob": (ARGUMENT,)}


def main() -> None:
    peer, request = sys.argv[1], json.loads(sys.argv[2])
    adapter = importlib.import_module(f"peer_{peer}")
    if request["action"] == "about":
        print(json.dumps(about(adapter.ABOUT, adapter.CLIENTS)))
        return
    client = adapter.CLIENTS[request.get("kind") or next(iter(adapter.CLIENTS))]()
    if isinstance(client, SyncClient) and request["action"] not in PACED:
        answer = send(client, request)
    else:
        answer = runner(adapter.ABOUT)(asend(client, request))
    print(json.dumps(answer))


def about(said: About, clients: Clients) -> Answer:
    """What the benchmark needs to know of the peer."""
    return {
        **asdict(said),
        "clients": list(clients),
        "versions": {name: version(name) for name in said.packages},
        "python": sys.version.split()[0],
    }


def runner(said: About) -> Callable[[Coroutine[Any, Any, Answer]], Answer]:
    """What runs a coroutine."""
    if not said.uvloop:
        return asyncio.run
    import uvloop  # not in every peer's environment

    run: Callable[[Coroutine[Any, Any, Answer]], Answer] = uvloop.run
    return run


def send(client: SyncClient, request: Answer) -> Answer:
    """The actions of a producer without a loop."""
    action, n = request["action"], request["n"]
    task = request.get("task", "noop")
    calls = [ARGUMENTS.get(task, ())] * n
    client.open()
    try:
        if action == "one":
            for args in calls[:WARM_UP]:
                client.one(task, args)
            start = time.perf_counter()
            for args in calls:
                client.one(task, args)
        else:
            start = time.perf_counter()
            (client.concurrent if action == "concurrent" else client.many)(task, calls)
        return {"rate": n / (time.perf_counter() - start)}
    finally:
        client.close()


async def asend(client: AsyncClient | SyncClient, request: Answer) -> Answer:
    """The actions of a producer with one, and those that keep a pace."""
    action, n = request["action"], request["n"]
    task = request.get("task", "noop")
    calls = [ARGUMENTS.get(task, ())] * n
    if isinstance(client, SyncClient):
        client = Awaited(client)
    await client.open()
    try:
        if action in PACED:
            return await PACED[action](client, n)
        if action == "one":
            for args in calls[:WARM_UP]:
                await client.one(task, args)
            start = time.perf_counter()
            for args in calls:
                await client.one(task, args)
        else:
            start = time.perf_counter()
            await (client.concurrent if action == "concurrent" else client.many)(task, calls)
        return {"rate": n / (time.perf_counter() - start)}
    finally:
        await client.close()


class Awaited(AsyncClient):
    """A producer without a loop, for the actions that keep a pace: it blocks the loop, in which nothing else runs."""

    def __init__(self, client: SyncClient) -> None:
        self._client = client

    async def open(self) -> None:
        self._client.open()

    async def close(self) -> None:
        self._client.close()

    async def one(self, task: str, args: Args) -> Any:
        return self._client.one(task, args)

    async def result(self, handle: Any) -> Any:
        return self._client.result(handle)


async def latency(client: AsyncClient, n: int) -> Answer:
    """Sends at an even pace; the tasks note when they begin."""
    await warm(client)
    begin, late = time.perf_counter(), 0
    for i in range(n):
        wait = begin + i * PACE - time.perf_counter()
        late += i > 0 and wait < 0
        await asyncio.sleep(max(0, wait))
        await client.one("lat", (time.monotonic_ns(),))
    return {"late": late}


async def roundtrip(client: AsyncClient, n: int) -> Answer:
    """Seconds from just before each call to its result in the client."""
    await warm(client)
    took = []
    for _ in range(n):
        start = time.perf_counter()
        await client.result(await client.one("lat", (time.monotonic_ns(),)))
        took.append(time.perf_counter() - start)
        await asyncio.sleep(max(0, PACE - took[-1]))
    return {"seconds": took}


async def warm(client: AsyncClient) -> None:
    """Until the worker is up, and everything has been done some times."""
    for _ in range(30):
        await client.result(await client.one("lat", (0,)))


PACED: dict[str, Callable[[AsyncClient, int], Coroutine[Any, Any, Answer]]] = {
    "latency": latency,
    "roundtrip": roundtrip,
}

if __name__ == "__main__":
    main()
