"""Rule 7. Priorities are separate streams, read in order against a budget with weights and a rotating start, so that
low never starves; `strict` is an option. Budget = free slots of the scarcest kind on that queue; what was over-read is
released at once. No hidden prefetch. The reply counts what was dropped: block only when nothing was read.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
import redis

from penstock import App, State
from penstock.consumers.weights import Weights
from penstock.events import Dropped, Event, Released, Started, Succeeded
from penstock.settings import PRIORITIES
from penstock.streams.reader import Arrival, Reader
from tests.contract.helpers import Queue
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen
from tests.rules.support import Monitor, blocked
from tests.servers import await_until

pytestmark = pytest.mark.anyio

BACKLOG = {"high": 1800, "default": 900, "low": 300}


async def _order(app: App, counts: dict[str, int], concurrency: int, **settings: Any) -> list[str]:
    """The priorities in which a backlog starts."""

    order: list[str] = []

    @app.observe
    def started(event: Event) -> None:
        if isinstance(event, Started):
            order.append(event.priority)

    @app.task
    async def work() -> None:
        await asyncio.sleep(0)

    for priority, count in reversed(counts.items()):  # low has waited for the longest
        await work.options(priority=priority).abulk([()] * count)  # type: ignore[arg-type]
    async with app.running(concurrency=concurrency, **settings):
        await await_until(lambda: len(order) >= sum(counts.values()), 60)
    return order


# Priorities


async def test_priorities_are_separate_streams(app: App, q: Queue) -> None:
    @app.task
    async def work() -> None: ...

    handles = {p: await work.options(priority=p).adelay() for p in PRIORITIES}  # type: ignore[arg-type]
    for priority, handle in handles.items():
        assert q.queued(priority) == [handle.id.partition(":")[2]]
    async with app.running():
        await asyncio.gather(*[handle.aget(20) for handle in handles.values()])


@pytest.mark.parametrize("concurrency", [1, 7])
async def test_low_never_starves_and_gets_its_weight(app: App, concurrency: int) -> None:
    """3,000 picks from a backlog of all three: 6 : 3 : 1 in each hundred of them, no long gap between two of low."""
    order = await _order(app, BACKLOG, concurrency)
    assert Counter(order) == BACKLOG
    for begin in range(0, 2900, 100):  # at the end one of them has run out
        shares = Counter(order[begin : begin + 100])
        # The first read of all may bring one of each; a fetch takes whole slots.
        assert abs(shares["high"] - 60) <= 4 and abs(shares["default"] - 30) <= 4 and abs(shares["low"] - 10) <= 3
    assert max(_gaps(order[:2900], "low")) <= 2 * 10


def _gaps(order: list[str], priority: str) -> list[int]:
    places = [i for i, each in enumerate(order) if each == priority]
    return [b - a for a, b in zip([0, *places], places, strict=False)]


@pytest.mark.parametrize("weights", [(6, 3, 1), (1, 1, 1), (100, 10, 1)])
def test_the_start_rotates_with_one_slot_at_a_time(weights: tuple[int, int, int]) -> None:
    """Who is read first, over thousands of picks: each as often as its weight says, and the lightest in each round."""
    plan, total = Weights(weights), sum(weights)
    picks = [next(p for p, quota in plan.plan(1) if quota) for _ in range(30 * total)]
    for priority, weight in zip(PRIORITIES, weights, strict=True):
        assert abs(picks.count(priority) - 30 * weight) <= 1
        assert max(_gaps(picks, priority)) <= 2 * total / weight


async def test_strict_is_an_option(app: App) -> None:
    order = await _order(app, {"high": 30, "default": 30, "low": 30}, 1, strict=True)
    # The first read of all may bring one of each.
    assert order[3:] == sorted(order[3:], key=PRIORITIES.index)


# The budget


async def test_the_budget_is_the_free_slots_of_the_scarcest_kind_on_that_queue(
    app: App, make_app: MakeApp, seen: Seen, q: Queue
) -> None:
    """Two threads and ten coroutines serve one queue: it is asked for two. Another queue is asked for all it has."""
    go = threading.Event()

    @app.task
    def in_thread() -> None:
        go.wait(60)

    @app.task
    async def on_loop() -> None:
        await await_until(go.is_set, 60)

    @app.task(queue="only-async")
    async def elsewhere() -> None:
        await await_until(go.is_set, 60)

    handles = [*await in_thread.abulk([()] * 5), *await on_loop.abulk([()] * 5), *await elsewhere.abulk([()] * 5)]
    try:
        async with app.running(threads=2, concurrency=10):
            await seen.arrive(Started, 2, name=in_thread.name)
            await seen.arrive(Started, 5, name=elsewhere.name)
            await await_until(lambda: blocked(q.raw))  # it has nothing more to ask for
            assert len(q.pending()) == 2 and len(q.entries()) == 10 and not seen.of(Started, name=on_loop.name)
            assert len(q.sibling("only-async").pending()) == 5
            go.set()
            await asyncio.gather(*[handle.aget(20) for handle in handles])
    finally:
        go.set()
    assert not seen.of(Released)


async def test_what_was_over_read_is_released_at_once(
    make_app: MakeApp, app: App, seen: Seen, q: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blocking read brings one of each stream to a worker with one slot: the others are free for any worker now."""
    read = Reader.read
    sent: list[Any] = []

    async def read_all_three(reader: Reader, streams: Any, then: Any) -> tuple[list[Arrival] | None, Any]:
        if not sent:
            sent.extend([await work.options(priority=p).adelay() for p in PRIORITIES])  # type: ignore[arg-type]
        return await read(reader, streams, then)

    monkeypatch.setattr(Reader, "read", read_all_three)
    go = asyncio.Event()

    @app.task(name="work")
    async def work() -> str:
        await go.wait()
        return "first worker"

    other = make_app("other")

    @other.task(name="work")
    async def quick() -> str:
        return "other worker"

    async with app.running(concurrency=1, lease=60):
        await await_until(lambda: len(sent) == 3 and seen.of(Started))
        await seen.arrive(Released, 2)
        states = [await handle.astate() for handle in sent]
        assert states == [State.RUNNING, State.QUEUED, State.QUEUED]
        assert sum(len(q.pending(p)) for p in PRIORITIES) == 1
        async with other.running():
            assert [await handle.aget(20) for handle in sent[1:]] == ["other worker"] * 2
        go.set()
        assert await sent[0].aget(20) == "first worker"
    # It was no crash, and no attempt.
    assert [q.raw.hget(q.record_key(h.id.partition(":")[2]), "d") for h in sent[1:]] == [b"1", b"1"]


async def test_there_is_no_hidden_prefetch(app: App, seen: Seen, q: Queue) -> None:
    """Looked at again and again: never more is delivered than there are slots, while they change hands."""
    most = 0

    @app.task
    async def work() -> None:
        nonlocal most
        most = max(most, len(q.pending()))
        await asyncio.sleep(0.002)

    handles = await work.abulk([()] * 60)
    async with app.running(concurrency=4):
        await asyncio.gather(*[handle.aget(20) for handle in handles])
    # What has ended is delivered until its settle is answered, and its slot may be taken by then.
    assert 4 <= most <= 2 * 4 and len(seen.of(Succeeded)) == 60


async def test_it_blocks_only_when_nothing_was_read(app: App, seen: Seen, q: Queue, raw: redis.Redis) -> None:
    """A fetch that has dropped all it read is followed by a fetch, and by no blocking read."""

    @app.task
    async def work() -> int:
        return 1

    expired = await work.options(expires=0.01).abulk([()] * 25)
    live = await work.adelay()
    at = max(int(q.record(handle.id.partition(":")[2])["x"]) for handle in expired)
    await await_until(lambda: q.now() >= at)
    with Monitor(raw) as monitor:
        async with app.running(concurrency=5):
            assert await live.aget(20) == 1
        verbs = [ran.verb for ran in monitor.ran() if ran.verb in ("fetch", "XREADGROUP") and not ran.in_script]
    assert verbs[:6] == ["fetch"] * 6 and "XREADGROUP" in verbs[6:]
    assert [event.count for event in seen.of(Dropped)] == [5] * 5
