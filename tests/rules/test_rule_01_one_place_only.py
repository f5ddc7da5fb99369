"""Rule 1. A task is in exactly one of: a stream, parked, finished. Each move is one script: no crash point loses it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import redis

from penstock import App, Context, Reject, Retry, RetryPolicy, Snooze, State
from penstock.events import Retried, Started
from penstock.streams import keys
from tests.commands import Command, Folder, is_alive
from tests.contract.helpers import Queue
from tests.integration.support import Seen
from tests.rules.support import Monitor, Ran
from tests.servers import await_until, wait_until

pytestmark = pytest.mark.anyio

#: For each key: entries in streams, 1 if it is parked, its state. A script sees all of it at one moment.
PLACES = """
local entries, out = {}, {}
for _, priority in ipairs({'high', 'default', 'low'}) do
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1] .. ':s:' .. priority, '-', '+')) do
    entries[entry[2][2]] = (entries[entry[2][2]] or 0) + 1
  end
end
for i, key in ipairs(ARGV) do
  local parked = redis.call('ZSCORE', KEYS[1] .. ':z', key) and redis.call('EXISTS', KEYS[1] .. ':p:' .. key) or 0
  out[i] = {entries[key] or 0, parked, redis.call('HGET', KEYS[1] .. ':t:' .. key, 's') or '-'}
end
return out
"""
#: What a record may say of a task that has one entry, that is parked, and of one that is neither.
STATES = {(1, 0): b"qr", (0, 1): b"s", (0, 0): b"ofce"}
#: Commands by which a task enters a place, and by which it leaves one.
WRITES = {"XADD", "XDEL", "XACK", "ZADD", "ZREM", "SET", "DEL", "HSET", "HDEL", "PEXPIRE", "XAUTOCLAIM", "XCLAIM"}
MOVES = {"succeed": "XDEL", "park": "XDEL", "bury": "XDEL", "promote": "ZREM", "cancel": "ZREM", "redrive": "ZREM"}


def _register(app: App) -> Any:
    """A task that ends in the way that its argument names, and succeeds the second time."""

    @app.task(bind=True, name="work", retry=RetryPolicy(max_retries=1, on=KeyError))
    async def work(ctx: Context, how: str) -> str:
        first = ctx.id not in begun
        begun.add(ctx.id)
        if first and how in endings:
            raise endings[how]
        await asyncio.sleep(0.002)
        return how

    begun: set[str] = set()
    endings = {
        "retry": Retry(delay=0.02),
        "retry now": Retry(delay=0),
        "snooze": Snooze(0.02),
        "fail": ValueError("no"),
        "reject": Reject("never"),
    }
    return work


async def test_a_task_is_in_exactly_one_of_a_stream_parked_finished(app: App, q: Queue) -> None:
    """Looked at again and again while two workers move hundreds of tasks about."""
    work = _register(app)
    kinds = ["succeed", "retry", "retry now", "snooze", "fail", "reject"] * 30
    handles = await work.abulk([(kind,) for kind in kinds])
    handles += [await work.options(delay=0.2).adelay("later") for _ in range(20)]
    handles += [await work.options(delay=0.1 + 0.01 * i).adelay("cancelled") for i in range(10)]
    keys = [handle.id.partition(":")[2] for handle in handles]
    seen_in: set[tuple[int, int]] = set()
    looks, wrong = 0, []

    def look() -> bool:
        nonlocal looks
        looks += 1
        places: Any = q.raw.eval(PLACES, 1, q.base, *keys)
        for key, (entries, parked, state) in zip(keys, places, strict=True):
            seen_in.add((entries, parked))
            if state not in STATES.get((entries, parked), b""):
                wrong.append((key, entries, parked, state))
        return all(state in b"ofce" for _, _, state in places)

    async with app.running(concurrency=10), app.running(concurrency=10):
        cancels = asyncio.gather(*[handle.acancel() for handle in handles[-10:]])
        await await_until(lambda: asyncio.to_thread(look), 30)
        await cancels
    assert not wrong
    assert seen_in == set(STATES) and looks > 5


async def test_each_move_is_one_script(app: App, seen: Seen, q: Queue, raw: redis.Redis) -> None:
    work = _register(app)
    with Monitor(raw) as monitor:
        async with app.running(lease=0.6):
            handles = [await work.adelay(how) for how in ("succeed", "retry", "retry now", "snooze", "fail")]
            handles.append(await work.options(delay=0.05).adelay("later"))
            parked = await work.options(delay=60).adelay("cancelled")
            assert await parked.acancel()
            await await_until(lambda: _all_finished(handles))
            await asyncio.to_thread(app.redrive, handles[4].id)
            await handles[4].aget(timeout=20)
        commands = monitor.ran()
    written = [r for r in commands if r.verb in WRITES and not r.in_script and q.base in " ".join(r.args)]
    # No place of a task, but what is known of the measures that the worker has told.
    assert [r for r in written if not r.args[0].startswith(keys.measured(q.base, ""))] == []
    assert "MULTI" not in {r.verb for r in commands}
    moved = {verb for verb, inside in _scripts(commands) if verb in MOVES and _moves(verb, inside)}
    assert moved == set(MOVES)


async def _all_finished(handles: Sequence[Any]) -> bool:
    return all([await handle.adone() for handle in handles])


def _scripts(commands: list[Ran]) -> list[tuple[str, list[Ran]]]:
    """Each script with the commands that it ran."""
    found: list[tuple[str, list[Ran]]] = []
    for ran in commands:
        if not ran.in_script:
            found.append((ran.verb, []))
        elif found:
            found[-1][1].append(ran)
    return found


def _moves(verb: str, inside: list[Ran]) -> bool:
    """The same script took a task from where it was, and put it, or its end, where it is now."""
    verbs = [ran.verb for ran in inside]
    return MOVES[verb] in verbs and bool({"XADD", "ZADD", "HSET"} & set(verbs))


def test_no_crash_point_loses_it(
    supervised: Callable[..., Command], send: Callable[..., Any], q: Queue, raw: redis.Redis, folder: Folder
) -> None:
    """SIGKILL after the code of three tasks has ended, while the server has not yet run what settles them."""
    command = supervised()
    [old] = command.ready()
    ways = {"good": "succeed", "bad": "fail", "tired": "snooze"}
    handles = {name: send("end_as", name, how) for name, how in ways.items()}
    folder.wait("begin", count=3)
    raw.execute_command("CLIENT", "PAUSE", 60_000, "WRITE")
    try:
        folder.release(*ways)
        folder.wait("end", count=3)
        held = wait_until(lambda: _held_up(raw))
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: not is_alive(old) and not held & _held_up(raw))
    finally:
        raw.execute_command("CLIENT", "UNPAUSE")
    # What was to be moved is where it was.
    assert {q.record(handle.id.partition(":")[2])["s"] for handle in handles.values()} == {"r"}

    assert handles["good"].get(timeout=60) == handles["tired"].get(timeout=60) == command.ready(2)[1]
    wait_until(lambda: handles["bad"].state() is State.FAILED, 60)
    assert q.is_empty() and q.counters()["failed|tests.rules.tasks.end_as"] == 1


def _held_up(raw: redis.Redis) -> set[str]:
    """Clients whose scripts wait for the end of CLIENT PAUSE."""
    clients: Any = raw.client_list()
    return {client["id"] for client in clients if client["cmd"] == "evalsha" and "b" in client["flags"]}


async def test_no_end_of_a_worker_loses_it(app: App, seen: Seen, q: Queue) -> None:
    """Stopped at once, again and again, with tasks in each place."""
    work = _register(app)
    handles = await work.abulk([("retry",), ("snooze",), ("succeed",)] * 20)
    for _ in range(4):
        done = len(seen.of(Started))
        async with app.running(concurrency=3, grace=0):
            await seen.arrive(Started, done + 5)
    async with app.running():
        assert await asyncio.gather(*[handle.aget(20) for handle in handles]) == ["retry", "snooze", "succeed"] * 20
    assert seen.of(Retried) and q.is_empty()
