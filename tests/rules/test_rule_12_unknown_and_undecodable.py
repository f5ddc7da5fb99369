"""Rule 12: "An unknown task name, or arguments that do not fit, are parked with growing delay and `unknown_since`,
spending nothing, and buried after a stated time. An undecodable message is buried with its raw bytes. Neither loops."
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import pytest
import redis

from penstock import App, Context, State, TaskFailed
from penstock.events import Failed, Reclaimed, Started, Unknown
from penstock.streams import keys
from penstock.streams.message import Message, encode_message
from tests.contract.helpers import Queue
from tests.integration.support import Seen, WorkerProcess, share
from tests.rules.conftest import MakeApp
from tests.rules.late import outcomes
from tests.servers import await_until

pytestmark = pytest.mark.anyio

DEAD = "a-dead-worker"


def hurry(q: Queue, key: str) -> None:
    """Have it tried again now, if it is parked."""
    q.raw.zadd(keys.parked(q.base), {key: 1}, xx=True)
    q.raw.publish(keys.control_channel(q.base), "due")


def waits_as_unknown(q: Queue, key: str, at_least: int = 1) -> bool:
    """Parked, since it is unknown, for the `at_least`-th time or more."""
    record = q.record(key)
    return record.get("s") == "s" and "g" in record and outcomes(q.raw, q.namespace).get("unknown", 0) >= at_least


# "An unknown task name .. parked .. spending nothing"


async def test_over_a_rolling_deploy_an_unknown_task_waits_for_the_worker_that_knows_it(
    make_app: MakeApp, q: Queue, start_worker: Callable[..., WorkerProcess]
) -> None:
    """Old workers first, as processes; then one of the new version beside them."""
    new = make_app("new")

    @new.task(name="brand.new", bind=True)
    async def brand_new(ctx: Context, n: int) -> list[int]:
        return [n, ctx.attempt, ctx.deliveries]

    workers = [start_worker(), start_worker()]
    handle = await brand_new.options(id="k").adelay(5)
    await await_until(lambda: waits_as_unknown(q, "k"))
    info = await handle.ainfo()
    assert info.state is State.SCHEDULED and info.attempt == 0 and "brand.new" in str(info.error)
    async with new.running():

        async def is_done() -> bool:
            hurry(q, "k")  # each time whoever is first gets it, old or new
            return await handle.adone()

        await await_until(is_done, 30)
        assert await handle == [5, 1, 1]
    assert [worker.stop() for worker in workers] == [0, 0]
    counted = outcomes(q.raw, q.namespace)
    assert counted.pop("unknown") >= 1 and counted == {"succeeded": 1}


async def test_being_handed_round_spends_neither_attempts_nor_deliveries(make_app: MakeApp, q: Queue) -> None:
    """Twenty times, with a limit of two crashes; a delivery that counted as one would bury it."""
    old, new = make_app("old", max_deliveries=2), make_app("new", max_deliveries=2)

    @old.task
    async def known() -> None: ...

    @new.task(name="brand.new", bind=True)
    async def brand_new(ctx: Context) -> list[int]:
        return [ctx.attempt, ctx.deliveries]

    handle = await brand_new.options(id="k").adelay()
    async with old.running():
        for times in range(1, 21):
            await await_until(partial(waits_as_unknown, q, "k", times))
            hurry(q, "k")
    async with new.running():
        assert await handle.aget(timeout=20) == [1, 1]


@pytest.mark.parametrize(("since", "delay"), [(0, 1.0), (20, 10.0), (80, 40.0), (86_000, 60.0)])
async def test_the_delay_grows_with_the_time_since_it_is_unknown(
    app: App, q: Queue, since: float, delay: float
) -> None:
    """Half of that time, from a second up to a minute, so that a deploy is noticed."""

    @app.task
    async def known() -> None: ...

    handle = await app.task_named("no.such", id="k").adelay()
    if since:
        q.raw.hset(q.record_key("k"), "g", q.now() - round(since * 1000))
    async with app.running():
        await await_until(lambda: waits_as_unknown(q, "k"))
    record, now = q.record("k"), q.now()
    took = now - int(record["g"]) - round(since * 1000)  # ms of this test, in which the time went on
    assert delay * 1000 - took <= int(record["u"]) - now <= delay * 1000 + took
    assert await handle.astate() is State.SCHEDULED


# "or arguments that do not fit"


@pytest.mark.parametrize("task", ["add", "square"])
async def test_arguments_that_do_not_fit_are_parked_too(make_app: MakeApp, q: Queue, task: str) -> None:
    """`square` runs in a process of its own, where they are decoded."""
    old, new = make_app("old"), make_app("new")
    name = getattr(share(old), task).name

    @new.task(name=name)
    async def grown(**given: int) -> int:
        return sum(given.values())

    seen = Seen(old)
    handle = await new.task_named(name, id="k").adelay(a=1, b=2, c=3)
    async with old.running(processes=1):
        await await_until(lambda: waits_as_unknown(q, "k"), 60)
        await seen.arrive(Unknown, id=handle.id)
        assert await handle.astate() is State.SCHEDULED
    q.make_due("k")
    async with new.running():
        assert await handle.aget(timeout=20) == 6
    info = await handle.ainfo()
    assert (info.attempt, info.deliveries) == (1, 1)


# "and buried after a stated time"


async def test_what_nobody_knows_is_buried_after_its_time(make_app: MakeApp, raw: redis.Redis, q: Queue) -> None:
    app = make_app()

    @app.task
    async def known() -> int:
        return 1

    seen = Seen(app)
    async with app.running(unknown_ttl=1):
        unknown, misfit = app.send("no.such.task", 1), app.send(known.name, "too", "many")
        since = {}
        for handle in (unknown, misfit):
            key = handle.id.partition(":")[2]
            await await_until(partial(waits_as_unknown, q, key))
            since[handle.id] = int(q.record(key)["g"])
        for handle, word in ((unknown, "no.such.task"), (misfit, "positional")):
            with pytest.raises(TaskFailed, match=word) as caught:
                await handle.aget(timeout=30)
            assert caught.value.reason == "unknown_task"
        assert await (await known.adelay()) == 1
    assert not seen.of(Started, name="no.such.task")
    letters = {letter.id: letter for letter in await asyncio.to_thread(app.dead_letters().list)}
    assert letters.keys() == since.keys()
    for id, letter in letters.items():
        assert letter.died_at.timestamp() * 1000 >= since[id] + 1000 - 1  # no sooner


async def test_time_without_any_worker_does_not_count(make_app: MakeApp, q: Queue) -> None:
    """A queue that stood still for a weekend does not bury what the first worker of Monday is too old for."""
    app = make_app(unknown_ttl=0.3)

    @app.task
    async def known() -> None: ...

    await app.task_named("no.such", id="k").adelay()
    sent = q.now()
    await await_until(lambda: q.now() > sent + 400)
    async with app.running():
        await await_until(lambda: waits_as_unknown(q, "k"))


# "An undecodable message is buried with its raw bytes"

BAD = {
    "not msgpack": {b"k": b"key", b"m": b"\xc1 no msgpack"},
    "no message": {b"k": b"key2", b"m": msgspec.msgpack.encode(["a", "list"])},
    "no fields of ours": {b"some": b"thing", b"else": b"\xff\x00"},
    "no text as its key": {b"k": b"\xff\xfe", b"m": b"\xc1 binary key"},
}


@pytest.mark.parametrize("way", ["fetched", "read by a blocking read", "taken over"])
async def test_an_undecodable_entry_is_buried_with_its_raw_bytes_whichever_way_it_came(
    app: App, seen: Seen, raw: redis.Redis, q: Queue, way: str
) -> None:
    def add() -> None:
        for fields in BAD.values():
            raw.xadd(q.stream(), fields)  # type: ignore[arg-type]

    if way != "read by a blocking read":
        add()
    if way == "taken over":
        raw.xgroup_create(q.stream(), keys.GROUP, "0")
        assert len(q.read_blocking(DEAD, count=10)) == len(BAD)
    async with app.running(["default"], lease=0.5):
        if way == "read by a blocking read":
            await await_until(lambda: is_blocked(raw))
            add()
        events = await seen.arrive(Failed, len(BAD))
    assert {event.reason for event in events} == {"undecodable"} and len(events) == len(BAD)
    assert bool(seen.of(Reclaimed)) is (way == "taken over") and not seen.of(Started)
    assert q.is_empty() and outcomes(raw, q.namespace) == {"failed": len(BAD)}
    letters = await asyncio.to_thread(app.dead_letters().list)
    messages = [letter.message for letter in letters]
    assert BAD["no message"][b"m"] in messages and BAD["not msgpack"][b"m"] in messages
    # Of an entry that has no key of ours, all of it is kept.
    for fields in (BAD["no fields of ours"], BAD["no text as its key"]):
        assert any(all(part in message for part in (*fields, *fields.values())) for message in messages)
    assert all(letter.reason == "undecodable" and letter.args is None for letter in letters)


def is_blocked(raw: redis.Redis) -> bool:
    clients: Any = raw.info("clients")
    return int(clients["blocked_clients"]) > 0


async def test_a_message_that_is_buried_can_be_looked_at_by_its_id(app: App, raw: redis.Redis, q: Queue) -> None:
    raw.xadd(q.stream(), {"k": "key", b"m": b"\xc1 no msgpack"})
    async with app.running(["default"]):
        with pytest.raises(TaskFailed, match="undecodable"):
            await (await until_known(app, "default:key")).aget(timeout=20)
    (letter,) = await asyncio.to_thread(app.dead_letters().list)
    assert (letter.id, letter.message) == ("default:key", b"\xc1 no msgpack")


async def until_known(app: App, id: str) -> Any:
    await await_until(lambda: app.dead_letters().list())
    return app.handle(id)


# "Neither loops"


async def test_an_unknown_task_does_not_spin(app: App, seen: Seen) -> None:
    @app.task
    async def known() -> int:
        return 1

    async with app.running():
        app.send("no.such.task")
        await (await known.options(delay=2.5).adelay())  # a clock
    assert 1 <= len(seen.of(Unknown)) <= 3  # at 0, 1 and 2 seconds


async def test_an_undecodable_message_goes_round_once_for_each_redrive(
    app: App, seen: Seen, raw: redis.Redis, q: Queue
) -> None:
    @app.task
    async def known() -> int:
        return 1

    raw.xadd(q.stream(), {"k": "bad", "m": b"\xc1"})
    raw.xadd(q.stream(), {"k": "newer", "m": encode_message(Message(known.name, version=99))})
    async with app.running():
        for times in (1, 2, 3):
            await seen.arrive(Failed, times)
            assert await (await known.adelay()).aget(timeout=20) == 1  # a clock
            assert len(seen.of(Failed)) == times and q.pending() == {}
            if times < 3:
                assert await asyncio.to_thread(app.redrive, "default:bad") == 1
        # A newer version's message is not undecodable: whoever is newer may run it.
        assert waits_as_unknown(q, "newer") and len(seen.of(Unknown)) <= 2
