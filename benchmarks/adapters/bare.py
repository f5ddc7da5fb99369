"""redis-py without a framework: ``bare.py REQUEST``, in penstock's environment; prints one line of JSON.

What it can do at best is what penstock is measured against. Actions: `sync` and `async` (calls one by one) and `bulk`
let penstock and redis-py take turns in one process, so that both meet the same noise; `limit` is redis-py alone.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import redis
import uvloop
from common import URL
from peer_penstock import Blocking, Client
from redis.asyncio import Redis

Pairs = list[tuple[float, float]]
Answer = dict[str, float]

STREAM, GROUP = "bare", "g"
#: Calls of one before it is the other's turn.
TURN = 250
#: Commands in a pipeline, entries in a fetch.
PIPELINE, BATCH = 1000, 100
#: What a framework on streams cannot do without, as scripts, with nothing in them but that.
FETCH = "return redis.call('XREADGROUP', 'GROUP', ARGV[1], 'c', 'COUNT', ARGV[2], 'STREAMS', KEYS[1], '>')"
FINISH = """redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))"""


def main() -> None:
    request = json.loads(sys.argv[1])
    n = request["n"]
    if request["action"] == "sync":
        answer = one_by_one(n)
    else:
        answer = uvloop.run(ACTIONS[request["action"]](n))
    print(json.dumps(answer))


def rates(pairs: Pairs, each: int) -> Answer:
    """Calls/s of penstock and of redis-py, from the seconds of their turns, and the ratio of their times."""
    ours, bare = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"rate": each / ours, "bare": each / bare, "ratio": statistics.median(a / b for a, b in pairs)}


def one_by_one(n: int) -> Answer:
    """`delay()` and XADD of an entry as `delay()` makes it."""
    client, server = Blocking(), redis.Redis.from_url(URL)
    client.one("noop", ())
    entry = entry_of(server)

    def turn(call: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for _ in range(TURN):
            call()
        return time.perf_counter() - start

    def send() -> Any:
        return client.one("noop", ())

    def add() -> Any:
        return server.xadd(STREAM, entry)

    turn(send), turn(add)  # the first ones warm up
    pairs = [(turn(send), turn(add)) for _ in range(turns(n))]
    client.close()
    server.close()
    return rates(pairs, TURN)


async def aone_by_one(n: int) -> Answer:
    """`await adelay()` and `await xadd()`."""
    client, server = Client(), Redis.from_url(URL)
    await client.one("noop", ())
    entry = await asyncio.to_thread(entry_of, redis.Redis.from_url(URL))

    async def turn(call: Callable[[], Awaitable[Any]]) -> float:
        start = time.perf_counter()
        for _ in range(TURN):
            await call()
        return time.perf_counter() - start

    def send() -> Awaitable[Any]:
        return client.one("noop", ())

    def add() -> Any:
        return server.xadd(STREAM, entry)

    await turn(send), await turn(add)
    pairs = [(await turn(send), await turn(add)) for _ in range(turns(n))]
    await client.close()
    await server.aclose()
    return rates(pairs, TURN)


async def bulk(n: int) -> Answer:
    """`abulk` of `n`, and as many XADDs in pipelines."""
    client, server = Client(), Redis.from_url(URL)
    await client.one("noop", ())
    entry = await asyncio.to_thread(entry_of, redis.Redis.from_url(URL))
    calls: list[tuple[Any, ...]] = [()] * n

    async def send() -> float:
        start = time.perf_counter()
        await client.many("noop", calls)
        return time.perf_counter() - start

    async def add() -> float:
        start = time.perf_counter()
        await pipelined(server, entry, n)
        return time.perf_counter() - start

    pairs = [(await send(), await add()) for _ in range(3)]
    await client.close()
    await server.aclose()
    return rates(pairs, n)


async def limit(n: int) -> Answer:
    """Entries/s that one process can fetch and finish: nothing is done with them, and no result is kept.

    Once with one request at a time, and once with two, so that redis-py and the server work at the same time; the
    faster one is the limit.
    """
    async with Redis.from_url(URL) as server:
        single = await drain(server, n, 1)
        double = await drain(server, n, 2)
    return {"rate": max(single, double), "single": single, "double": double}


async def drain(server: Redis, n: int, loops: int) -> float:
    """Entries/s with so many loops of fetch and finish."""
    await server.flushall()
    await server.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    await pipelined(server, {"k": "0" * 16, "m": "x" * 60}, n)
    fetch, finish = await server.script_load(FETCH), await server.script_load(FINISH)

    async def loop() -> None:
        while reply := await server.evalsha(fetch, 1, STREAM, GROUP, BATCH):
            await server.evalsha(finish, 1, STREAM, GROUP, *[entry[0] for entry in reply[0][1]])

    start = time.perf_counter()
    await asyncio.gather(*[loop() for _ in range(loops)])
    took = time.perf_counter() - start
    left = await server.xlen(STREAM)
    assert left == 0, left
    return n / took


async def pipelined(server: Redis, entry: dict[Any, Any], n: int) -> None:
    """XADD it `n` times."""
    for begin in range(0, n, PIPELINE):
        pipeline = server.pipeline(transaction=False)
        for _ in range(min(PIPELINE, n - begin)):
            pipeline.xadd(STREAM, entry)
        await pipeline.execute()


def entry_of(server: redis.Redis) -> dict[Any, Any]:
    """The fields of an entry that penstock has just made: redis-py is to add entries of the same size."""
    (stream,) = server.scan_iter(match="*:s:*", _type="STREAM")
    entries: Any = server.xrange(stream, count=1)
    server.close()
    return dict(entries[0][1])


def turns(n: int) -> int:
    """How many of them make about `n` calls."""
    return max(3, n // TURN)


ACTIONS: dict[str, Callable[[int], Coroutine[Any, Any, Answer]]] = {
    "async": aone_by_one,
    "bulk": bulk,
    "limit": limit,
}

if __name__ == "__main__":
    main()
