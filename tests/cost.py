"""What a task costs by counters that hardly depend on time: commands, script calls, Python calls, memory blocks.

`python -m tests.cost` prints what they are now beside their bounds, for a change that lowers or raises them. The
bounds stand about 15 % above what was measured when they were set; `tests/test_cost.py` checks them.

It has a process of its own. A pytest process has threads of other tests, and one of them with an exception that
waits for it (`penstock.consumers.threads` raises such) is enough for `sys.setprofile` of CPython 3.11.2, Debian's, to
go round in circles at the next call, for ever.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from penstock import App
from penstock.consumers import handover
from penstock.events import Event, Succeeded
from tests.servers import DEFAULT, SERVERS, Server, await_until

#: Most per task. Behind each is what was measured when it was set: the largest of Python 3.11, 3.12 and 3.13.
BOUNDS: dict[str, dict[str, float]] = {
    "drain": {
        "commands": 8.2,  # 7.14
        "scripts": 0.1,  # 0.023; with more room, since it hangs on how many are settled together
        "calls": 166,  # 145, of which 14 measure the task (`consumers/tally.py`) and 4 ask for middlewares
    },
    "delay": {
        "commands": 4.6,  # 4.00
        "calls": 128,  # 111
    },
    "adelay": {
        "commands": 4.6,  # 4.00
        "calls": 430,  # 373; 306 on Python 3.12
    },
    "bulk": {
        "commands": 3.5,  # 3.00
        "calls": 55,  # 48.2
    },
    "finished": {
        "blocks kept": 0.05,  # 0.00; each object that is kept is one, at least
    },
}

#: Tasks of a drain, and calls of a producer. A drain's start and its end are counted with it.
TASKS, CALLS = 2000, 500
#: Each count is the least of so many: a fetch or a settle brings fewer where the machine is busy with other things.
TRIES = 3
#: Times `TASKS` tasks before a worker's memory is looked at again.
ROUNDS = 4
#: Seconds for what should take a moment; nothing is ever measured by it.
PATIENCE = 60.0

Figures = dict[str, float]
#: Commands that only measure.
_OWN = ("cmdstat_info", "cmdstat_config", "cmdstat_client")


class Counter:
    """Counts calls of Python and of C functions, and resumptions of coroutines, of the thread that it is used in."""

    def __init__(self) -> None:
        self.calls = 0

    def _count(self, frame: object, event: str, argument: object) -> None:
        if event in ("call", "c_call"):
            self.calls += 1

    def __enter__(self) -> Counter:
        self._before = sys.getprofile()
        sys.setprofile(self._count)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(self._before)


class Subject:
    """An app with a no-op task on a server, and the server's own counters."""

    def __init__(self, server: Server, namespace: str) -> None:
        self.app = App("cost", url=server.url, namespace=namespace, sync_in_loop="allow")
        self._client: Any = server.client()
        self.succeeded = 0

        @self.app.task(name="noop")
        async def noop(a: int = 1) -> None: ...

        self.noop = noop

    def commands(self) -> tuple[int, int]:
        """Commands that the server has run, those inside scripts included; and calls of scripts."""
        stats = self._client.info("commandstats")
        calls = {name: stat["calls"] for name, stat in stats.items() if not name.startswith(_OWN)}
        return sum(calls.values()), sum(calls.get(f"cmdstat_{name}", 0) for name in ("eval", "evalsha"))

    def count_successes(self) -> None:
        """From now on `succeeded` says how many tasks have."""

        def count(event: Event) -> None:
            # Other threads tell events, too: who sends is told that it is sent. One that added 0 here could put back
            # what it has read before; between the two the garbage collector may call Python (Hypothesis has it do so).
            if isinstance(event, Succeeded):
                self.succeeded += 1

        self.app.observe(count)

    def close(self) -> None:
        self.app.close()
        self._client.close()


@contextmanager
def subject(server: Server, namespace: str) -> Iterator[Subject]:
    """It is closed afterwards."""
    made = Subject(server, namespace)
    try:
        yield made
    finally:
        made.close()


def least(tries: list[Figures]) -> Figures:
    """Of each figure the least."""
    return {name: min(each[name] for each in tries) for name in tries[0]}


@contextmanager
def _no_turns() -> Iterator[None]:
    """How much of a batch is settled together hangs on the machine's speed: here all of it."""
    turn, handover.TURN = handover.TURN, PATIENCE
    try:
        yield
    finally:
        handover.TURN = turn


def of_drain(one: Subject) -> Figures:
    """A full backlog of async no-op tasks, 100 slots, in this thread's event loop."""

    def drain() -> Figures:
        one.noop.bulk([()] * TASKS)
        before = one.commands()
        with _no_turns(), Counter() as counter:
            asyncio.run(one.app.adrain())
        after = one.commands()
        return {
            "commands": (after[0] - before[0]) / TASKS,
            "scripts": (after[1] - before[1]) / TASKS,
            "calls": counter.calls / TASKS,
        }

    drain()  # what happens once: scripts are loaded, coders made
    return least([drain() for _ in range(TRIES)])


def of_delay(one: Subject) -> Figures:
    """`delay()`, one after the other."""
    return _of_producer(one, CALLS, lambda: [one.noop.delay() for _ in range(CALLS)])


def of_bulk(one: Subject) -> Figures:
    """`bulk()` of the calls of a drain."""
    return _of_producer(one, TASKS, lambda: one.noop.bulk([()] * TASKS))


def _of_producer(one: Subject, calls: int, send: Callable[[], object]) -> Figures:
    def run() -> Figures:
        before = one.commands()
        with Counter() as counter:
            send()
        after = one.commands()
        return {"commands": (after[0] - before[0]) / calls, "calls": counter.calls / calls}

    run()
    return least([run() for _ in range(TRIES)])


def of_adelay(one: Subject) -> Figures:
    """`adelay()`, one after the other."""

    async def run() -> Figures:
        await one.noop.adelay()
        before = one.commands()
        with Counter() as counter:
            for _ in range(CALLS):
                await one.noop.adelay()
        after = one.commands()
        return {"commands": (after[0] - before[0]) / CALLS, "calls": counter.calls / CALLS}

    async def runs() -> list[Figures]:
        found = [await run() for _ in range(TRIES)]
        await one.app.aclose()
        return found

    return least(asyncio.run(runs()))


def of_finished(one: Subject) -> Figures:
    """Blocks of memory that a worker keeps of each task that has ended: none."""
    one.count_successes()

    async def finish(tasks: int) -> int:
        goal = one.succeeded + tasks
        await asyncio.to_thread(one.noop.bulk, [()] * tasks)
        await await_until(lambda: one.succeeded >= goal, PATIENCE)
        gc.collect()
        return sys.getallocatedblocks()

    async def run() -> Figures:
        async with one.app.running():
            blocks = [await finish(TASKS) for _ in range(2 * ROUNDS)]
        # The lowest of each half: it goes up and down with what the last batch has left to be reused.
        return {"blocks kept": (min(blocks[ROUNDS:]) - min(blocks[:ROUNDS])) / (ROUNDS * TASKS)}

    return asyncio.run(run())


#: What is counted.
MEASURES: dict[str, Callable[[Subject], Figures]] = {
    "drain": of_drain,
    "delay": of_delay,
    "adelay": of_adelay,
    "bulk": of_bulk,
    "finished": of_finished,
}


def measure_all() -> dict[str, Figures]:
    """All that is counted, on a server of its own."""
    binary = SERVERS[DEFAULT]
    assert binary is not None, f"{DEFAULT} is not installed"
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        server = Server(binary, Path(folder)).start()
        try:
            for name, measure in MEASURES.items():
                with subject(server, f"cost-{secrets.token_hex(4)}") as one:
                    found[name] = measure(one)
        finally:
            server.kill()
    return found


def main() -> None:
    """Print what is measured now, and the bounds; with --json for a program."""
    logging.disable(logging.WARNING)
    found = measure_all()
    if "--json" in sys.argv[1:]:
        print(json.dumps(found))
        return
    for name, figures in found.items():
        for figure, value in figures.items():
            print(f"{name:10} {figure:12} {value:10.3f}   at most {BOUNDS[name][figure]:g}")


if __name__ == "__main__":
    main()
