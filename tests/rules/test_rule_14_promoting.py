"""Rule 14: "The promoter sleeps by a client timer to the next due time (BLOCK timeouts fire up to 100 ms late) and is
woken by the script that makes an earlier head; a backstop <= 10 s. `max_length` counts the streams; promotion and retry
are never refused."
"""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
import redis

from penstock import App, QueueFull, RetryPolicy, Snooze, State
from penstock.consumers import promoter
from penstock.consumers.promoter import Promoter
from penstock.events import Promoted, Retried, Snoozed, Started, Succeeded
from penstock.streams import keys
from tests.contract.helpers import Queue
from tests.integration.support import Seen
from tests.rules.conftest import MakeApp
from tests.rules.late import denied, holding, mute
from tests.rules.support import Monitor
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio

#: Seconds: a time that no test waits for.
FAR = 3600.0


@pytest.fixture
def no_backstop(monkeypatch: pytest.MonkeyPatch) -> None:
    """The promoter looks when something is due or when it is woken, and never by itself."""
    monkeypatch.setattr(promoter, "BACKSTOP", FAR)
    monkeypatch.setattr("penstock.streams.control.QUIET", FAR)  # nor when its channel has been silent for long


# "The promoter sleeps by a client timer to the next due time"


@pytest.mark.usefixtures("no_backstop")
async def test_it_starts_no_task_early_and_forgets_none(app: App, seen: Seen, raw: Any, q: Queue) -> None:
    """200 at random times, sent in no order, by the server's clock: the entry's id is not before the due time."""

    @app.task
    async def work() -> None: ...

    rng = random.Random(14)
    delays = [round(rng.uniform(0.05, 0.8), 3) for _ in range(200)]
    async with app.running():
        handles = await app.abulk(work.s().options(delay=delay) for delay in delays)
        await seen.arrive(Succeeded, 200)
    for handle in handles:
        entry, due = map(bytes.decode, raw.hmget(q.record_key(handle.id.partition(":")[2]), "e", "u"))
        assert int(entry.partition("-")[0]) >= int(due)
    assert sum(event.count for event in seen.of(Promoted)) == 200


@pytest.mark.usefixtures("no_backstop")
async def test_it_asks_nothing_while_it_sleeps(app: App, seen: Seen, raw: redis.Redis) -> None:
    """A second until the head is due: whoever parks it says when that is, and it looks then."""

    @app.task
    async def work() -> None: ...

    async with app.running(lease=60):
        await (await work.adelay())
        with Monitor(raw) as monitor:
            await work.options(delay=1.0).adelay()
            await seen.arrive(Promoted)
            looks = monitor.ran("promote")
            # A second one where the timer was a hair early for the server's clock.
            assert 1 <= len(looks) <= 2


# "and is woken by the script that makes an earlier head"


@pytest.mark.usefixtures("no_backstop")
@pytest.mark.parametrize("how", ["send", "retry", "snooze"])
async def test_it_is_woken_by_an_earlier_head(app: App, seen: Seen, how: str) -> None:
    """It sleeps for an hour, and would not look before."""

    @app.task(retry=RetryPolicy(max_retries=1, delay=0.1, jitter=0))
    async def work() -> int:
        if len(seen.of(Started)) == 1:
            if how == "retry":
                raise ValueError
            if how == "snooze":
                raise Snooze(0.1)
        return 1

    async with app.running():
        await work.options(delay=FAR).adelay()
        handle = await work.options(delay=0.1 if how == "send" else 0).adelay()
        assert await handle.aget(timeout=30) == 1
    assert len(seen.of(Promoted)) == 1 and len(seen.of(Retried)) + len(seen.of(Snoozed)) == (how != "send")


@pytest.mark.usefixtures("no_backstop")
async def test_it_is_not_woken_by_a_later_one(app: App, raw: redis.Redis, q: Queue) -> None:
    @app.task
    async def work() -> int:
        return 1

    async with app.running(lease=60):
        await work.options(delay=100).adelay()
        assert await (await work.adelay()) == 1
        with Monitor(raw) as monitor, q.on_control() as heard:
            await app.abulk(work.s().options(delay=delay) for delay in (200, 300, 250))
            assert await (await work.adelay()) == 1  # a clock
            assert heard.take() == [] and not monitor.ran("promote")


@pytest.mark.usefixtures("no_backstop")
async def test_a_wake_that_comes_while_it_looks_is_not_lost(
    make_app: MakeApp, server: Server, monkeypatch: pytest.MonkeyPatch, q: Queue
) -> None:
    """The server has answered "in an hour", and the answer is on its way; then an earlier head is parked."""
    looked: list[str] = []
    look = Promoter.look

    def spy(self: Promoter, base: str, after: float = 0.0) -> None:
        looked.append(base)
        look(self, base, after)

    monkeypatch.setattr(Promoter, "look", spy)
    direct = make_app("direct")
    with holding(server, "promote") as (url, hold):
        app = make_app(url=url)

        @app.task(name="work")
        async def work() -> int:
            return 1

        async with app.running():
            await await_until(lambda: looked)  # of its subscription
            remote = direct.task_named("work")
            hold.close()
            await remote.options(delay=FAR).adelay()
            q.raw.publish(keys.control_channel(q.base), "due")  # without a time: it looks at once
            await await_until(hold.held.is_set)
            told = len(looked)
            handle = await remote.options(delay=0.1).adelay()
            await await_until(lambda: len(looked) > told)
            hold.release()
            assert await handle.aget(timeout=20) == 1
        await app.aclose()


# "a backstop <= 10 s"


async def test_without_a_wake_the_backstop_finds_it(
    app: App, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, server: Server, raw: redis.Redis, q: Queue
) -> None:
    """The producer may not publish. (10 s, made 1 s for this test.)"""
    assert promoter.BACKSTOP <= 10.0
    monkeypatch.setattr(promoter, "BACKSTOP", 1.0)

    @app.task(name="work")
    async def work() -> int:
        return 1

    with mute(raw, server, q.namespace) as url:
        producer = make_app("mute", url=url)
        async with app.running():
            await (await work.adelay())
            before = denied(raw, q.namespace)
            handle = await producer.task_named("work", delay=0.05).adelay()
            assert denied(raw, q.namespace) == before + 1
            assert await app.handle(handle.id).aget(timeout=20) == 1
        await producer.aclose()


# "`max_length` counts the streams; promotion and retry are never refused"


async def test_a_full_queue_refuses_new_sends_only(make_app: MakeApp, q: Queue) -> None:
    """Three fill it. Sends are refused; what is parked is promoted, what fails is retried, what snoozes comes back."""
    app = make_app(max_length=3)
    seen = Seen(app)
    go = asyncio.Event()

    @app.task(bind=True, retry=RetryPolicy(max_retries=1, delay=0, jitter=0))
    async def work(ctx: Any, how: str) -> str:
        await go.wait()
        if len(seen.of(Started, id=ctx.id)) == 1:
            if how == "retries":
                raise ValueError
            if how == "snoozes":
                raise Snooze(0.05)
        return how

    parked = [await work.options(delay=0.05).adelay("parked") for _ in range(5)]
    filling = [await work.adelay(how) for how in ("retries", "snoozes", "plain")]

    async def is_refused(**options: Any) -> None:
        with pytest.raises(QueueFull):
            await work.options(**options).adelay("one more")
        with pytest.raises(QueueFull):
            work.options(**options).delay("one more")

    await is_refused()
    await is_refused(priority="high")  # all streams together
    async with app.running(concurrency=2):
        # Promoted into the full streams; what runs counts as well.
        await await_until(lambda: len(q.queued()) == 8)
        await is_refused()
        assert {await handle.astate() for handle in parked} == {State.QUEUED}
        go.set()
        assert await asyncio.gather(*parked) == ["parked"] * 5
        assert await asyncio.gather(*filling) == ["retries", "snoozes", "plain"]
        assert len(seen.of(Retried)) == 1 and len(seen.of(Snoozed)) == 1
        assert await (await work.adelay("there is room")) == "there is room"
    assert q.is_empty()
