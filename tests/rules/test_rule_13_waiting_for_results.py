"""Rule 13: "Waiting for a result: one script reads the record or sets a waiter flag; a shared `finish` prelude of
every terminal transition publishes only if flagged (last, in pcall: ACL); one listener per process; look again on
(re)subscribe and once a second."
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from penstock import App, Handle, Reject, State, TaskCancelled, TaskExpired, TaskFailed
from penstock.events import Failed, Started, Succeeded
from penstock.streams import keys
from tests.chaos.proxy import Act
from tests.contract.helpers import Queue
from tests.integration.support import PATIENCE, Seen
from tests.rules.conftest import MakeApp
from tests.rules.late import SIDE, denied, fault, gate, mute
from tests.rules.support import Monitor
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio


@pytest.fixture
def no_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks again once a second: only a message, or a new subscription, helps."""
    monkeypatch.setattr("penstock.tasks.results.LOOK_AGAIN", 3600.0)
    monkeypatch.setattr("penstock.streams.listener.QUIET", 3600.0)


def waiter_of(q: Queue, key: str) -> str:
    return q.record(key).get("l", "")


# Who was not told looks once more when his own time is over. That comes too late here.


def get_in_thread(handle: Handle[Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(asyncio.wait_for(asyncio.to_thread(handle.get, timeout=2 * PATIENCE), PATIENCE))


def get_in_loop(handle: Handle[Any]) -> asyncio.Task[Any]:
    return asyncio.create_task(asyncio.wait_for(handle.aget(timeout=2 * PATIENCE), PATIENCE))


WAYS: dict[str, Callable[[Handle[Any]], asyncio.Task[Any]]] = {"sync": get_in_thread, "async": get_in_loop}


# "one script reads the record or sets a waiter flag"


@pytest.mark.usefixtures("no_looks")
@pytest.mark.parametrize("way", WAYS)
async def test_a_task_that_ends_between_the_look_and_the_wait_is_found(
    make_app: MakeApp, server: Server, q: Queue, way: str
) -> None:
    """The end comes just before the script that leaves word: then it reads the result instead, and leaves none."""
    app = make_app()
    handle = await app.task_named("t", id="k").adelay()
    (delivery,) = q.fetch("a").deliveries
    with fault(server, "main read", Act.DELAY, number=2) as proxy:  # the first is the look before
        proxy.on_strike = lambda: q.succeed("a", delivery)
        waits = make_app("waits", url=proxy.url(SIDE))
        assert await WAYS[way](waits.handle(handle.id)) == 1 and proxy.struck
        await asyncio.to_thread(waits.close)
    assert waiter_of(q, "k") == ""


# "a shared `finish` prelude of every terminal transition publishes only if flagged"

ENDINGS = (
    "succeeds",
    "fails",
    "cancelled while queued",
    "cancelled while parked",
    "cancelled while running",
    "expires",
)


@pytest.mark.usefixtures("no_looks")
@pytest.mark.parametrize("ending", ENDINGS)
async def test_every_ending_wakes_who_waits(app: App, make_app: MakeApp, seen: Seen, q: Queue, ending: str) -> None:
    """From another process's app, without a look in between."""
    go = asyncio.Event()

    @app.task
    async def work() -> int:
        await go.wait()
        if ending == "fails":
            raise Reject("no")
        return 1

    waits, other = make_app("waits"), make_app("other")
    delay = 3600 if ending == "cancelled while parked" else 0
    handle = await work.options(id="k", delay=delay, expires=0.05 if ending == "expires" else 0).adelay()
    waiting = get_in_loop(waits.handle(handle.id))
    await await_until(lambda: waiter_of(q, "k") and is_heard(q, waits))
    with Monitor(q.raw) as monitor:
        if ending in ("cancelled while queued", "cancelled while parked"):
            assert await other.handle(handle.id).acancel()
        else:
            sent = int(q.record("k")["e"].partition("-")[0])
            await await_until(lambda: q.now() > sent + 60)
            async with app.running():
                if ending != "expires":
                    await seen.arrive(Started)
                if ending == "cancelled while running":
                    assert await other.handle(handle.id).acancel()
                else:
                    go.set()
                await await_until(waiting.done, 2 * PATIENCE)
        ends = {"succeeds": None, "fails": TaskFailed, "expires": TaskExpired}.get(ending, TaskCancelled)
        if ends is None:
            assert await waiting == 1
        else:
            with pytest.raises(ends):
                await waiting
        told = [r.args for r in monitor.ran("PUBLISH") if r.args[0].startswith(f"{{{q.namespace}}}:l:")]
    assert [args[0] for args in told] == [keys.listener_channel(q.namespace, waits._listener.name)]
    assert told[0][1].startswith(handle.id + "\\n")


@pytest.mark.usefixtures("no_looks")
@pytest.mark.parametrize("way", WAYS)
async def test_who_is_told_the_result_does_not_read_it(make_app: MakeApp, q: Queue, raw: redis.Redis, way: str) -> None:
    app = make_app("waits")

    async def reads(key: str, looks: int) -> int:
        handle = await app.task_named("t", id=key).adelay()
        (delivery,) = q.fetch("a").deliveries
        with Monitor(raw) as monitor:
            waiting = WAYS[way](handle)
            await await_until(lambda: waiter_of(q, key) and is_heard(q, app) and len(monitor.ran("read")) == looks)
            q.succeed("a", delivery)
            assert await waiting == 1
            return len(monitor.ran("read"))

    assert await reads("first", LOOKS) == LOOKS
    # The listener is there: nobody looks before he leaves word, and there is no new subscription.
    assert await reads("second", 1) == 1


@pytest.mark.parametrize(
    "message", ["", "\n", "\nx", "\n\0\0\0\1s\0\0\0\1?", "\n\xff\xff\xff\xff", "\n\0\0\0\1s\0\0\0\1c"]
)
@pytest.mark.parametrize("way", WAYS)
async def test_what_is_told_wrongly_is_not_believed(make_app: MakeApp, q: Queue, way: str, message: str) -> None:
    """No record of ours, or one of another life of the task: who waits looks again, and goes on waiting."""
    app = make_app("waits")
    handle = await app.task_named("t", id="k").adelay()
    (delivery,) = q.fetch("a").deliveries
    waiting = WAYS[way](handle)
    await await_until(lambda: waiter_of(q, "k") and is_heard(q, app))
    channel = keys.listener_channel(q.namespace, app._listener.name)
    q.raw.publish(channel, handle.id.encode() + message.encode("latin-1"))
    with Monitor(q.raw) as monitor:
        await await_until(lambda: monitor.ran("read"))
    assert not waiting.done()
    q.succeed("a", delivery)
    assert await waiting == 1


def is_heard(q: Queue, app: App) -> bool:
    """The server has the app's subscription."""
    channel = keys.listener_channel(q.namespace, app._listener.name)
    found: Any = q.raw.pubsub_numsub(channel)
    return int(found[0][1]) == 1


async def test_nobody_is_told_what_nobody_waits_for(app: App, seen: Seen, raw: redis.Redis, q: Queue) -> None:
    @app.task
    async def work(n: int) -> int:
        if n % 5 == 0:
            raise Reject("no")
        return n

    with Monitor(raw) as monitor:
        handles = await work.abulk([(n,) for n in range(50)])
        assert await handles[0].acancel()
        async with app.running():
            await seen.arrive(Succeeded, 40)
            await seen.arrive(Failed, 9)
        assert not monitor.ran("PUBLISH") and len(monitor.ran("succeed")) >= 1
    assert await handles[1] == 1  # there for who asks later


# "(last, in pcall: ACL)"


@pytest.mark.parametrize("but", ["", "-hgetall"])
async def test_a_worker_that_may_not_publish_settles_all_the_same(
    make_app: MakeApp, server: Server, raw: redis.Redis, q: Queue, but: str
) -> None:
    """And who waits finds the result by looking."""
    go = asyncio.Event()
    with mute(raw, server, q.namespace, but) as url:
        worker, app = make_app("worker", url=url), make_app()
        seen = Seen(worker)

        @worker.task(name="work")
        async def work(ok: bool) -> int:
            await go.wait()
            if not ok:
                raise Reject("no")
            return 1

        remote = app.task_named("work")
        handles = [await remote.adelay(True), await remote.adelay(False), await remote.adelay(True)]
        async with worker.running():
            waiting = [get_in_loop(handle) for handle in handles]
            await await_until(lambda: all(waiter_of(q, handle.id.partition(":")[2]) for handle in handles))
            before = denied(raw, q.namespace)
            go.set()
            assert await waiting[0] == 1 and await waiting[2] == 1
            with pytest.raises(TaskFailed):
                await waiting[1]
            assert denied(raw, q.namespace) >= before + 3
        assert len(seen.of(Succeeded)) == 2 and q.is_empty()
        await worker.aclose()


# "one listener per process"


async def test_however_many_wait_there_is_one_listener(app: App, q: Queue, raw: redis.Redis) -> None:
    """20 coroutines and 4 threads, on 15 tasks: one subscription and one thread."""
    go = asyncio.Event()

    @app.task
    async def work(n: int) -> int:
        await go.wait()
        return n

    async with app.running():
        handles = await work.abulk([(n,) for n in range(15)])
        waiting = [get_in_loop(handle) for handle in handles] + [get_in_loop(handle) for handle in handles[:5]]
        threads = [get_in_thread(handle) for handle in handles[:4]]
        await await_until(lambda: sum(map(len, app._listener._waiting.values())) == 24 and is_heard(q, app))
        channels: Any = raw.pubsub_channels(f"{{{q.namespace}}}:l:*")
        assert len(channels) == 1
        assert len([thread for thread in threading.enumerate() if thread.name == "penstock-results"]) == 1
        go.set()
        assert await asyncio.gather(*waiting, *threads) == [*range(15), *range(5), *range(4)]


#: How often a waiter has looked when only the message is missing: before, to leave word, when subscribed.
LOOKS = 3


# "look again on (re)subscribe"


@pytest.mark.usefixtures("no_looks")
@pytest.mark.parametrize("way", WAYS)
async def test_an_end_before_the_subscription_is_found_when_it_is_there(
    make_app: MakeApp, server: Server, q: Queue, way: str
) -> None:
    """The task ends, and its message goes to nobody, while no SUBSCRIBE gets through."""
    app = make_app()
    handle = await app.task_named("t", id="k").adelay()
    (delivery,) = q.fetch("a").deliveries
    with gate(server, "SUBSCRIBE") as proxy:
        waits = make_app("waits", url=proxy.url(SIDE))
        waiting = WAYS[way](waits.handle(handle.id))
        await await_until(lambda: waiter_of(q, "k") and proxy.count("SUBSCRIBE"))
        assert not is_heard(q, waits)
        q.succeed("a", delivery)
        proxy.closed.clear()
        assert await waiting == 1
        await asyncio.to_thread(waits.close)


@pytest.mark.usefixtures("no_looks")
@pytest.mark.parametrize("way", WAYS)
async def test_an_end_whose_message_was_lost_with_its_connection_is_found_after_resubscribing(
    make_app: MakeApp, server: Server, q: Queue, way: str
) -> None:
    """The connection is cut just before the message."""
    app = make_app()
    handle = await app.task_named("t", id="k").adelay()
    (delivery,) = q.fetch("a").deliveries
    with fault(server, "pushed message", Act.CUT) as proxy:
        waits = make_app("waits", url=proxy.url(SIDE))
        waiting = WAYS[way](waits.handle(handle.id))
        await await_until(lambda: proxy.counts[f"{SIDE}:main read"] >= LOOKS)
        q.succeed("a", delivery)
        assert await waiting == 1 and proxy.struck
        assert proxy.counts[f"{SIDE}:pubsub SUBSCRIBE"] >= 2
        await asyncio.to_thread(waits.close)


# "and once a second"


@pytest.mark.parametrize("way", WAYS)
async def test_an_end_whose_message_never_comes_is_found_within_a_second(
    make_app: MakeApp, server: Server, q: Queue, way: str
) -> None:
    """The message is swallowed, and the connection stays: nothing tells the listener."""
    app = make_app()
    handle = await app.task_named("t", id="k").adelay()
    (delivery,) = q.fetch("a").deliveries
    with fault(server, "pushed message", Act.SWALLOW) as proxy:
        waits = make_app("waits", url=proxy.url(SIDE))
        waiting = WAYS[way](waits.handle(handle.id))
        await await_until(lambda: proxy.counts[f"{SIDE}:main read"] >= LOOKS)
        q.succeed("a", delivery)
        assert await waiting == 1 and proxy.struck
        assert proxy.counts[f"{SIDE}:pubsub SUBSCRIBE"] == 1
        await asyncio.to_thread(waits.close)


@pytest.mark.usefixtures("no_looks")
async def test_where_there_is_no_room_to_leave_word_looking_helps(
    app: App, monkeypatch: pytest.MonkeyPatch, q: Queue
) -> None:
    """A record holds the names of seven processes; the eighth looks once a second."""
    monkeypatch.setattr("penstock.tasks.results.LOOK_AGAIN", 0.1)
    handle = await app.task_named("t", id="k").adelay()
    (delivery,) = q.fetch("a").deliveries
    for n in range(10):
        q.read("k", listener=f"process{n}")
    full = waiter_of(q, "k")
    waiting = get_in_loop(handle)
    await await_until(lambda: handle.id in app._listener._waiting)
    assert waiter_of(q, "k") == full and app._listener.name not in full
    q.succeed("a", delivery)
    assert await waiting == 1
    assert await handle.astate() is State.SUCCEEDED
