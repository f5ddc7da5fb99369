"""Every crash point: the same script of work, once for each request, with a fault at that request.

Afterwards every task has ended exactly once in the records, none is lost, no key is left over, and the
code of those that succeeded has run at least once. ``make chaos`` tries every point; the tests that are
not marked ``chaos`` try a sample.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.crash_run import Killable, Result, Run
from tests.chaos.proxy import Act, Fault
from tests.servers import Server

pytestmark = pytest.mark.anyio

#: Runs at the same time. Nearly all their time is spent waiting: for a lease, for a retry.
AT_ONCE = 12
#: Runs without a fault, to see how many requests of each kind there are at least: timers make it vary.
CLEAN_RUNS = 3
#: A point that a run did not reach (it did with fewer requests) is tried so often.
TRIES = 5
#: How long a reply is held back (s): longer than `command_timeout`, so that it comes to a closed connection.
DELAY = 1.5

Tell = Callable[[str, object], None]


@pytest.fixture(autouse=True)
async def _prepared() -> AsyncIterator[None]:
    Killable.prepare()
    # Each run of a process waits for it in a thread; asyncio's own pool has as many as cores, and four.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(8 * AT_ONCE))
    logger = logging.getLogger("penstock")
    before = logger.level
    logger.setLevel(logging.CRITICAL)  # what is broken on purpose, thousands of lines
    yield
    logger.setLevel(before)


async def explore(server: Server, act: Act, kill: bool, every: int, tell: Tell) -> None:
    """Try every `every`-th point of `act`; `kill`: the worker is killed there, too."""
    clean = await _all([Run(server, None, kill).result() for _ in range(CLEAN_RUNS)])
    assert not [problem for run in clean for problem in run.problems], clean
    points = _points(clean, kill, act)[::every]
    runs = await _all([_strike(server, fault, kill) for fault in points])
    failed = [run for run in runs if run.problems]
    text = "\n".join(f"{run.fault}: {run.problems}" for run in failed)
    assert not failed, f"{len(failed)} of {len(runs)} runs:\n{text}"
    # Only those count in which the fault took place; timers keep a few of the last of a kind from coming.
    struck = [run for run in runs if run.struck is not None and (run.killed > 0 or not kill)]
    missed = [str(run.fault) for run in runs if run not in struck]
    tell("points", f"{len(struck)} points: {'worker killed, ' if kill else ''}{act.value}; {len(missed)} never came")
    kinds = Counter(run.struck.kind for run in struck if run.struck)
    tell("kinds", ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items())))
    assert len(missed) <= max(1, len(runs) * 0.05), f"faults that did not take place: {missed}"
    assert len(struck) >= (300 if not kill else 200) / 4 / every, "the script has lost its point"
    if every == 1:
        assert set(kinds) >= {fault.kind for fault in points if fault.number == 1}, "a kind was never struck"


def _points(clean: Sequence[Result], kill: bool, act: Act) -> list[Fault]:
    """Each request that all clean runs had."""
    sides = ("worker:",) if kill else ("worker:", "producer:")
    kinds = sorted(kind for kind in set.intersection(*[set(run.counts) for run in clean]) if kind.startswith(sides))
    most = {kind: min(run.counts[kind] for run in clean) for kind in kinds}
    return [Fault(kind, number, act, DELAY) for kind in kinds for number in range(1, most[kind] + 1)]


async def _strike(server: Server, fault: Fault, kill: bool) -> Result:
    """One point; tried again if the run ended well before the fault took place."""
    run = await Run(server, fault, kill).result()
    for _ in range(TRIES - 1):
        if run.problems or (run.struck is not None and (run.killed > 0 or not kill)):
            break
        run = await Run(server, fault, kill).result()
    return run


async def _all(runs: Iterable[object]) -> list[Result]:
    limit = asyncio.Semaphore(AT_ONCE)

    async def limited(run: object) -> Result:
        async with limit:
            return await run  # type: ignore[no-any-return,misc]

    return await asyncio.gather(*[limited(run) for run in runs])


ALL = [
    pytest.param(Act.CUT, False, id="cut"),
    pytest.param(Act.LOSE, False, id="reply-lost"),
    pytest.param(Act.SWALLOW, False, id="reply-swallowed"),
    pytest.param(Act.DELAY, False, id="delayed"),
    pytest.param(Act.CUT, True, id="killed-before"),
    pytest.param(Act.LOSE, True, id="killed-after"),
]


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("act", "kill"), ALL)
async def test_every_crash_point(server: Server, act: Act, kill: bool, record_property: Tell) -> None:
    await explore(server, act, kill, 1, record_property)


@pytest.mark.parametrize(("act", "kill"), [p for p in ALL if p.id in ("reply-lost", "killed-after")])
async def test_a_sample_of_the_crash_points(server: Server, act: Act, kill: bool, record_property: Tell) -> None:
    await explore(server, act, kill, 12, record_property)
