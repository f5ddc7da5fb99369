"""Before rule 1, of all verbs: each is one Lua script over one slot, in batches, one round trip. A batch isolates its
items: one bad item neither hides nor loses the others.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis

from penstock import App, Handle, RetryPolicy, State
from penstock.events import EntryStuck, Started
from tests.contract.helpers import Queue
from tests.integration.support import Seen
from tests.rules.support import Monitor
from tests.servers import await_until

pytestmark = pytest.mark.anyio

LEASE = 0.6
#: How each task ends the first time, and what its neighbours are then.
ENDINGS = {
    "succeed": (None, State.SUCCEEDED),
    "park": (KeyError("again"), State.SCHEDULED),
    "bury": (ValueError("no"), State.FAILED),
}


def _key(handle: Handle[Any]) -> str:
    return handle.id.partition(":")[2]


def _spoil(q: Queue, key: str) -> None:
    """Somebody else's key comes into the place of a record."""
    q.raw.rename(q.record_key(key), f"{q.record_key(key)}:aside")
    q.break_record(key)


def _mend(q: Queue, key: str) -> None:
    q.raw.rename(f"{q.record_key(key)}:aside", q.record_key(key))


def _in_one_call(monitor: Monitor, verb: str, words: set[str]) -> bool:
    return any(words <= set(ran.args) for ran in monitor.ran(verb))


@pytest.mark.parametrize("verb", ENDINGS)
async def test_one_bad_item_in_a_batch_of_three_that_is_settled(
    app: App, seen: Seen, q: Queue, raw: redis.Redis, verb: str
) -> None:
    """A key of another type is where the second one's record was. Once it is gone, that one runs again, and ends."""
    error, state = ENDINGS[verb]
    go = asyncio.Event()
    ran: list[int] = []

    @app.task(retry=RetryPolicy(max_retries=1, delay=60, on=KeyError))
    async def work(n: int) -> int:
        ran.append(n)
        await go.wait()
        if error is not None and ran.count(n) == 1:
            raise error
        return n

    async with app.running(lease=LEASE):
        handles = await work.abulk([(n,) for n in range(3)])
        await seen.arrive(Started, 3)
        entries = {key: entry for entry, key in q.entries().items()}
        bad = _key(handles[1])
        _spoil(q, bad)
        with Monitor(raw) as monitor:
            go.set()
            await seen.arrive(EntryStuck)
            assert _in_one_call(monitor, verb, set(entries.values()))
        assert [await handles[i].astate() for i in (0, 2)] == [state] * 2
        assert list(q.pending()) == [entries[bad]]
        _mend(q, bad)
        assert await handles[1].aget(20) == 1
    assert sorted(ran) == [0, 1, 1, 2]


async def test_one_bad_item_in_a_batch_of_three_that_is_fetched(app: App, seen: Seen, q: Queue) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    handles = await work.abulk([(n,) for n in range(3)])
    entries = {key: entry for entry, key in q.entries().items()}
    bad = _key(handles[1])
    _spoil(q, bad)
    async with app.running(lease=LEASE):
        assert [await handles[i].aget(20) for i in (0, 2)] == [0, 2]
        assert bad in (await seen.arrive(EntryStuck))[0].error
        assert list(q.pending()) == [entries[bad]] and len(seen.of(Started)) == 2
        _mend(q, bad)
        assert await handles[1].aget(20) == 1


async def test_one_bad_item_in_a_batch_of_three_that_is_promoted(app: App, seen: Seen, q: Queue) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    handles = [await work.options(delay=0.05).adelay(n) for n in range(3)]
    due = q.parked()
    bad = _key(handles[1])
    _spoil(q, bad)
    await await_until(lambda: q.now() >= max(due.values()))  # all of them, at the promoter's first look
    async with app.running(lease=LEASE):
        assert [await handles[i].aget(20) for i in (0, 2)] == [0, 2]
        assert list(q.parked()) == [bad] and len(seen.of(Started)) == 2
        _mend(q, bad)
        assert await handles[1].aget(20) == 1
