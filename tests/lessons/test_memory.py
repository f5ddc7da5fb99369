"""What Redis keeps: nothing of what has ended, everything that has not been read, and no search through all keys."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from penstock import App, ConfigurationError, Context, Reject, RetryPolicy, ServerOutOfMemory, Snooze
from penstock.cli.root import root
from penstock.events import Failed, Succeeded
from penstock.streams import keys
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, entries, pending
from tests.lessons.monitor import Monitor, monitored
from tests.servers import Server, await_until, wait_until

pytestmark = pytest.mark.anyio

#: More than the 10,000 at which others trim.
MANY = 10_050


def ways_to_end(app: App) -> Callable[[int], list[Any]]:
    """Registers a task that can end in each way; makes signatures of so many calls for each of them."""
    asleep: set[str] = set()

    @app.task(bind=True, name="work", retry=RetryPolicy(max_retries=1, delay=0.01, jitter=0, never=(ValueError,)))
    async def work(ctx: Context, way: str) -> str:
        if way == "retried" and ctx.attempt == 1:
            raise KeyError
        if way == "snoozed" and ctx.id not in asleep:
            asleep.add(ctx.id)
            raise Snooze(0.01)
        if way == "failed":
            raise ValueError
        if way == "rejected":
            raise Reject("no")
        return "x" * 500 if way == "large" else way

    ways = ("succeeded", "large", "retried", "snoozed", "failed", "rejected")
    return lambda times: [work.s(way) for way in ways for _ in range(times)]


async def test_what_has_ended_leaves_nothing_in_its_stream(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    """safe-global/safe-decoder-service PR #329, ag2ai/faststream PR #2232, redis/redis#6941, svix/svix-webhooks PR
    #671: XACK takes an entry out of the pending list and leaves it in the stream, which grew until Redis was
    killed."""
    calls, stream = ways_to_end(app), keys.stream(keys.base(namespace, "default"), "default")

    async def all_ended(times: int) -> int:
        before = len(seen.of(Succeeded)) + len(seen.of(Failed))
        sent = calls(times)
        await app.abulk(sent)
        await await_until(lambda: len(seen.of(Succeeded)) + len(seen.of(Failed)) == before + len(sent), 60)
        await await_until(lambda: entries(raw, namespace) == 0)
        assert not pending(raw, namespace)
        return int(raw.memory_usage(stream, samples=0))  # type: ignore[arg-type]

    async with app.running():
        baseline = await all_ended(1)
        cancelled = await app.task_named("work", delay=600).adelay("succeeded")
        assert await cancelled.acancel()
        assert await all_ended(400) <= baseline + 200  # its counters have more digits
    group: Any = raw.xinfo_groups(stream)
    assert group[0]["pending"] == 0 and group[0]["consumers"] == 0  # nor does a worker leave its name


async def test_no_number_of_unread_tasks_makes_the_oldest_vanish(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis, namespace: str
) -> None:
    """taskiq-redis `taskiq_redis/redis_broker.py` (`maxlen` on XADD): a stream was trimmed to a length, and what had
    not been read yet was deleted without a word."""
    ran: set[int] = set()

    @app.task(result_ttl=0)
    async def work(n: int) -> None:
        ran.add(n)

    with monitored(own_server.port, raw) as monitor:
        await work.abulk([(n,) for n in range(500)])
        await app.adrain(timeout=60)
        asked = monitor.take()
    added = [command for command in asked if command[0].upper() == "XADD"]
    assert len(added) == 500
    assert not [command for command in added if {"MAXLEN", "MINID"} & {word.upper() for word in command[:6]}]
    assert not [command for command in asked if command[0].upper() == "XTRIM"]
    await work.abulk([(n,) for n in range(MANY)])
    assert entries(raw, namespace) == MANY
    ran.clear()
    await app.adrain(timeout=60)
    assert ran == set(range(MANY))


def every_key(raw: redis.Redis) -> list[bytes]:
    """Names of all keys that have not expired."""
    return list(raw.scan_iter(count=1000))


async def test_the_number_of_keys_is_back_where_it_was(make_app: MakeApp, own_server: Server, raw: redis.Redis) -> None:
    """celery/celery#7801, #9797, #6089, #4660 (keys of results, pidboxes and reply queues without a TTL), #4843,
    #8521: each task and each worker left something behind for ever."""
    brief = {"result_ttl": 0.3, "resend_window": 0.3, "dead_ttl": 0.3}

    async def one_round(times: int) -> int:
        app = make_app(**brief)
        seen, calls = Seen(app), ways_to_end(app)
        async with app.running(lease=0.6):
            handles = await app.abulk(calls(times))
            handles.append(await app.task_named("work", delay=0.05, expires=0.06).adelay("succeeded"))
            parked = await app.task_named("work", delay=600).adelay("succeeded")
            waiting = asyncio.gather(*[handle.aget(60) for handle in handles], return_exceptions=True)
            assert await parked.acancel()
            assert len(await waiting) == len(handles)
        assert raw.dbsize() > 0 and len(seen.of(Succeeded)) > times
        await app.aclose()
        # KEYS leaves out what has expired; DBSIZE counts it until the server has deleted it.
        await await_until(lambda: not any(raw.ttl(key) != -1 for key in every_key(raw)), 20)
        await await_until(lambda: raw.dbsize() == len(every_key(raw)), 20)
        return int(raw.dbsize())

    baseline = await one_round(1)
    assert await one_round(50) == baseline < 12


@pytest.mark.leaks  # what is evicted may be what others belong to
@pytest.mark.parametrize("strict", [False, True])
async def test_a_server_that_evicts_keys_is_told_of_before_it_deletes_a_task(
    make_app: MakeApp, own_server: Server, raw: redis.Redis, caplog: pytest.LogCaptureFixture, strict: bool
) -> None:
    """sidekiq/sidekiq#2883, #5562, taskforcesh/bullmq#921, rq/rq#1280, fleetyards/fleetyards#4335: on a server set up
    as a cache (`allkeys-lru`) jobs vanished in silence."""
    app = make_app(strict_server=strict)

    @app.task
    async def work(text: str) -> None: ...

    raw.config_set("maxmemory-policy", "allkeys-lru")
    if strict:
        with pytest.raises(ConfigurationError, match="maxmemory-policy is allkeys-lru"):
            async with app.running():
                pytest.fail("it runs")
    else:
        async with app.running():
            assert "deletes tasks when its memory is full: its maxmemory-policy is allkeys-lru" in caplog.text
    said = CliRunner().invoke(root, ["doctor", "--url", own_server.url, "--namespace", app.settings.namespace])
    assert said.exit_code == 1 and "allkeys-lru" in said.output
    # And it would have: this is the fault.
    await work.options(delay=600).abulk([("x" * 1000,)] * 1000)
    wait_until(lambda: evicts(raw))


def evicts(raw: redis.Redis) -> bool:
    """True once the server, given less memory than it uses, has deleted keys."""
    used: Any = raw.info("memory")
    raw.config_set("maxmemory", used["used_memory"] - 100_000)
    raw.set("one more", "x" * 1000, ex=60)
    stats: Any = raw.info("stats")
    return int(stats["evicted_keys"]) > 0


async def test_a_server_whose_memory_is_full_refuses_the_new_and_keeps_the_old(
    make_app: MakeApp, own_server: Server, raw: redis.Redis
) -> None:
    """sidekiq/sidekiq#2883, rq/rq#1280: with `noeviction`, which the others advise, a producer must be told, and what
    was accepted must run."""
    app = make_app(retry_for=0.1)

    @app.task
    async def work(n: int, text: str = "") -> int:
        return n

    handles = await work.abulk([(n,) for n in range(50)])
    raw.config_set("maxmemory-policy", "noeviction")
    raw.config_set("maxmemory", 1)
    with pytest.raises(ServerOutOfMemory):
        await work.adelay(50, "x" * 1000)
    raw.config_set("maxmemory", 0)
    async with app.running():
        assert await asyncio.gather(*handles) == list(range(50))
    assert raw.info("stats")["evicted_keys"] == 0


#: Commands whose cost is the size of the whole database, or of something in it that grows without bound.
SEARCHES = {"SCAN", "KEYS", "RANDOMKEY", "SSCAN", "HSCAN", "ZSCAN", "SORT", "FLUSHALL", "FLUSHDB"}


def searched(monitor: Monitor, who: object, least: int = 1) -> list[list[str]]:
    """Those among the commands since the last call, of which there must be some."""
    asked = monitor.take()
    assert len(asked) >= least, f"{who} has asked for {asked}"
    return [command for command in asked if command[0].upper() in SEARCHES]


async def test_nobody_searches_through_all_keys(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis, namespace: str
) -> None:
    """tastyware/streaq#163: on a Redis shared with others the status page went through all keys with SCAN, and
    hung."""
    calls = ways_to_end(app)
    with monitored(own_server.port, raw) as monitor:
        handles = await app.abulk(calls(3))
        handles.append(await app.task_named("work", delay=600).adelay("succeeded"))
        assert searched(monitor, "the producer") == []
        async with app.running(lease=0.6):
            await asyncio.gather(*[handle.aget(60) for handle in handles[:-1]], return_exceptions=True)
            assert await app.handle(handles[0].id).adone() and await handles[-1].acancel()
        assert searched(monitor, "the worker", 50) == []
        letter = seen.of(Failed)[0].id
        commands = [
            ["queues"],
            ["workers"],
            ["info", handles[0].id],
            ["result", handles[0].id],
            ["cancel", handles[0].id],
            ["dead", "list"],
            ["dead", "show", letter],
            ["dead", "redrive", letter],
            ["doctor"],
        ]
        for command in commands:
            args = [*command, "--url", own_server.url, "--namespace", namespace]
            done = await asyncio.to_thread(CliRunner().invoke, root, args)
            assert done.exit_code == 0 or command == ["doctor"], f"{command}: {done.output}"
            assert searched(monitor, command) == []
        raw.keys("nothing")
        assert searched(monitor, "this test") == [["KEYS", "nothing"]], "a search is not seen: nothing is proven"
