"""Every crash point: the same script of work, once for each request, with a fault at that request.

Afterwards every task has ended exactly once in the records, none is lost, no key is left over, and the
code of those that succeeded has run at least once. ``make chaos`` tries every point; the tests that are
not marked ``chaos`` try a sample.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos.crash_run import Killable, Result, Run
from tests.chaos.proxy import Act, Fault
from tests.servers import Server

pytestmark = pytest.mark.anyio

#: Runs at the same time. Nearly all their time is spent waiting: for a lease, for a retry.
AT_ONCE = 12
#: Runs without a fault, to see how many requests of each role there are at least: timers make it vary.
CLEAN_RUNS = 3
#: A point that a run did not reach (it did with fewer requests) is tried so often.
TRIES = 5
#: How long a reply is held back (s): longer than `command_timeout`, so that it comes to a closed connection.
DELAY = 1.5

Tell = Callable[[str, object], None]


@pytest.fixture(autouse=True)
async def _prepared() -> None:
    Killable.prepare()
    # Each run of a process waits for it in a thread; asyncio's own pool has as many as cores, and four.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(8 * AT_ONCE))
    logging.getLogger("penstock").setLevel(logging.CRITICAL)  # what is broken on purpose, thousands of lines


async def explore(server: Server, act: Act, kill: bool, every: int, tell: Tell) -> None:
    """Try every `every`-th point of `act`; `kill`: the worker is killed there, too."""
    clean = await _all([Run(server, None, kill).result() for _ in range(CLEAN_RUNS)])
    assert not [problem for run in clean for problem in run.problems], clean
    points = _points(clean, act, kill)[::every]
    assert len({fault.role for fault in points}) >= (4 if every > 1 else 6), "the script has lost its point"
    runs = await _all([_strike(server, fault, kill) for fault in points])
    assert len(runs) == len(points) > 0
    tell("points", f"{len(runs)} points: {'worker killed, ' if kill else ''}{act.value}")
    verbs = Counter(f"{run.struck.role} {run.struck.verb}" for run in runs if run.struck)
    tell("verbs", ", ".join(f"{verb} {n}" for verb, n in sorted(verbs.items())))
    failed = [run for run in runs if run.problems]
    text = "\n".join(f"{run.fault} ({run.struck}): {run.problems}" for run in failed)
    assert not failed, f"{len(failed)} of {len(runs)} runs:\n{text}"


def _points(clean: Sequence[Result], act: Act, kill: bool) -> list[Fault]:
    roles = sorted(set.intersection(*[set(run.counts) for run in clean]))
    most = {role: min(run.counts[role] for run in clean) for role in roles}
    sides = ("worker:",) if kill else ("worker:", "producer:")
    return [
        Fault(role, number, act, DELAY) for role in roles if role.startswith(sides) for number in range(1, most[role] + 1)
    ]


async def _strike(server: Server, fault: Fault, kill: bool) -> Result:
    """One point; a run that ended well before the fault took place does not count."""
    for attempt in itertools.count(1):
        run = await Run(server, fault, kill).result()
        if run.problems or (run.struck is not None and (run.killed > 0 or not kill)):
            return run
        if attempt == TRIES:
            run.problems.append("the fault did not take place")
            return run
    raise AssertionError("unreachable")


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


@pytest.mark.parametrize(("act", "kill"), [p for p in ALL if p.id not in ("reply-swallowed", "delayed")])
async def test_a_sample_of_the_crash_points(server: Server, act: Act, kill: bool, record_property: Tell) -> None:
    await explore(server, act, kill, 12, record_property)
