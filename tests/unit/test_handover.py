"""Handover: few runners are woken, and none keeps another one's task waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import pytest
from anyio.lowlevel import checkpoint

from penstock.consumers import handover as module
from penstock.consumers.attempt import Attempt
from penstock.consumers.handover import Handover

pytestmark = pytest.mark.anyio

Log = list[tuple[int, int]]


@pytest.fixture(autouse=True)
def endless_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """How much one runner does in a turn hangs on the machine's speed: here all of it."""
    monkeypatch.setattr(module, "TURN", 60.0)


@asynccontextmanager
async def runners(handover: Handover, log: Log, waits: frozenset[int], release: asyncio.Event) -> AsyncIterator[None]:
    """Four of them. They note (runner, task), and wait in some tasks as users' code may."""

    async def run(number: int) -> None:
        while True:
            task = cast(int, await handover.next())
            log.append((number, task))
            if task in waits:
                handover.start_others()
                await release.wait()

    running = [asyncio.create_task(run(i)) for i in range(4)]
    await turns()
    yield
    for task in running:
        task.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*running, return_exceptions=True)
    )


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await checkpoint()


def hand_over(handover: Handover, *tasks: int) -> None:
    for task in tasks:
        handover.add(cast(Attempt, task))
    handover.start()


async def test_one_runner_takes_all_that_do_not_wait() -> None:
    handover, log = Handover(), cast(Log, [])
    async with runners(handover, log, frozenset(), asyncio.Event()):
        hand_over(handover, 1, 2, 3, 4, 5, 6)
        await turns()
        assert [task for _, task in log] == [1, 2, 3, 4, 5, 6]
        assert len({runner for runner, _ in log}) == 1


async def test_who_waits_keeps_nobody_else_waiting() -> None:
    handover, log, release = Handover(), cast(Log, []), asyncio.Event()
    async with runners(handover, log, frozenset({1, 2, 3}), release):
        hand_over(handover, 1, 2, 3, 4, 5)
        await turns()
        assert sorted(task for _, task in log) == [1, 2, 3, 4, 5]
        assert len({runner for runner, task in log if task in (1, 2, 3)}) == 3
        hand_over(handover, 6)  # the fourth runner is there
        await turns()
        assert log[-1][1] == 6
        release.set()
        await turns()
        hand_over(handover, 7, 8)
        await turns()
        assert sorted(task for _, task in log[-2:]) == [7, 8]


async def test_more_tasks_than_runners_are_taken_as_these_get_free() -> None:
    handover, log, release = Handover(), cast(Log, []), asyncio.Event()
    async with runners(handover, log, frozenset(range(10)), release):
        hand_over(handover, *range(10))
        await turns()
        assert sorted(task for _, task in log) == [0, 1, 2, 3]
        release.set()
        await turns(10)
        assert sorted(task for _, task in log) == list(range(10))


async def test_a_turn_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have the event loop in between, however many tasks there are that never wait."""
    monkeypatch.setattr(module, "TURN", 0.0)
    handover, log, between = Handover(), cast(Log, []), set[int]()
    async with runners(handover, log, frozenset(), asyncio.Event()):
        hand_over(handover, 1, 2, 3)
        while len(log) < 3:
            between.add(len(log))
            await checkpoint()
        assert [task for _, task in log] == [1, 2, 3] and {1, 2} <= between


async def test_a_runner_that_was_cancelled_is_not_woken() -> None:
    handover, log = Handover(), cast(Log, [])
    async with runners(handover, log, frozenset(), asyncio.Event()):
        first = handover._idle[0]
        first.cancel()
        hand_over(handover, 1, 2)  # before the runner has found out
        await turns()
        assert [task for _, task in log] == [1, 2]


async def test_a_runner_that_is_cancelled_as_it_is_woken_passes_it_on() -> None:
    handover = Handover()
    taken: list[Attempt] = []

    async def take() -> None:
        taken.append(await handover.next())

    first, second = asyncio.create_task(take()), asyncio.create_task(take())
    await turns()
    hand_over(handover, 1)
    first.cancel()
    await asyncio.wait_for(second, 10)
    assert cast(list[int], taken) == [1] and first.cancelled()
