"""What kills its worker, or cannot be read, is not delivered for ever, and takes nothing with it."""

from __future__ import annotations

import asyncio

import pytest
import redis

from penstock import App, State, TaskFailed
from penstock.events import Started
from penstock.streams import keys
from penstock.tasks.codec import POSITIONAL
from tests.commands import Folder, is_alive
from tests.integration.support import Seen, calls_of, entries, pending
from tests.lessons.conftest import StartJobs

pytestmark = pytest.mark.anyio


def test_a_task_that_kills_its_worker_is_buried_and_takes_no_other_with_it(
    app: App, worker: StartJobs, folder: Folder, raw: redis.Redis, namespace: str
) -> None:
    """MemTensor/MemOS PR #2403, pipeshub-ai/pipeshub-ai PR #3037 (800 deliveries), redis/redis#7386: failures were
    counted by the handler, which never gets to run when its process dies."""
    jobs = {name: app.task_named(f"tests.lessons.jobs.{name}") for name in ("poison", "add")}
    poison = jobs["poison"].delay(str(folder), "poison", {"order": 42})
    innocent = [jobs["add"].delay(n, 1) for n in range(10)]
    supervised = worker(PENSTOCK_LEASE="0.6", PENSTOCK_CONCURRENCY="4")
    with pytest.raises(TaskFailed) as caught:
        poison.get(timeout=60)
    assert caught.value.reason == "max_deliveries"
    assert [handle.get(timeout=60) for handle in innocent] == list(range(1, 11))
    deaths = folder.notes("begin", "poison")
    assert len(deaths) == 3  # its max_deliveries
    assert len({death.pid for death in deaths}) == 3 and not any(is_alive(death.pid) for death in deaths)
    (letter,) = app.dead_letters().list()
    assert letter.args == {POSITIONAL: [str(folder), "poison", {"order": 42}]}
    assert letter.worker is not None and letter.reason == "max_deliveries"
    assert "3 deliveries ended in a crash" in letter.error
    assert entries(raw, namespace) == 0 and not pending(raw, namespace)
    assert supervised.process.poll() is None


async def test_a_message_that_cannot_be_read_is_not_redelivered_for_ever(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    """taskiq-python/taskiq-aio-pika#35: a message that could not be decoded was neither acknowledged nor rejected, and
    came back at once, for ever."""

    @app.task
    async def work() -> int:
        return 1

    base = keys.base(namespace, "default")
    raw.xadd(keys.stream(base, "default"), {"k": "broken", "m": b"\xc1 not msgpack"})
    raw.xadd(keys.stream(base, "default"), {"somebody": "else's"})
    handle = await work.adelay()
    async with app.running(lease=0.5):
        assert await handle.aget(timeout=20) == 1
        with pytest.raises(TaskFailed) as caught:
            await app.handle("default:broken").aget(timeout=20)
        assert caught.value.reason == "undecodable"
        # Longer than a lease later: nothing of it has come back.
        sweeps = calls_of(raw, "xread")
        assert await (await work.options(delay=1.2).adelay()).aget(timeout=20) == 1
        assert calls_of(raw, "xread") > sweeps
    letters = await asyncio.to_thread(app.dead_letters().list)
    assert b"\xc1 not msgpack" in {letter.message for letter in letters} and len(letters) == 2
    assert entries(raw, namespace) == 0 and not pending(raw, namespace)
    assert len(seen.of(Started)) == 2
    assert await app.handle("default:broken").astate() is State.FAILED
