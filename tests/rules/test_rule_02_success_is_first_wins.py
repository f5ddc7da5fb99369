"""Rule 2. **Success is first-wins**: XACK answering 1 is the compare-and-set. Every other ending (retry, snooze, bury,
release, drop) needs ownership (XPENDING). A resent settle whose reply was lost is told from a late one (the record's
entry and worker) and answered "done".
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from penstock import App, Handle, Reject, Retry, Snooze, State, TaskFailed
from penstock.events import Failed, Late, Lost, Released, Retried, Snoozed, Started, Succeeded
from penstock.streams.reader import Arrival, Reader
from penstock.streams.scripts import load
from tests.chaos.proxy import Act, Fault, Proxy
from tests.contract.helpers import Queue
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, WorkerProcess, share
from tests.rules.support import blocked
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio

#: Renewed every 20 s: no renewal tells a worker of its loss before it settles.
LEASE = 60.0


class Side:
    """A worker with one task, whose end is for the test to say."""

    def __init__(self, app: App, value: str) -> None:
        self.app = app
        self.seen = Seen(app)
        self.go = asyncio.Event()
        self.ending: BaseException | None = None

        @app.task(name="work")
        async def work() -> str:
            await self.go.wait()
            if self.ending is not None:
                raise self.ending
            return value

        self.work = work

    def end(self, error: BaseException | None = None) -> None:
        """Have the task succeed, or fail by this error."""
        self.ending = error
        self.go.set()


class Both:
    """`robbed` runs a task that `heir` has taken over and runs, too; `stop` ends the first one's worker now."""

    def __init__(self, robbed: Side, heir: Side, handle: Handle[str], stop: Callable[[], Any]) -> None:
        self.robbed, self.heir, self.handle, self.stop = robbed, heir, handle, stop


@pytest.fixture
def both(make_app: MakeApp, q: Queue) -> Callable[[], Any]:
    @asynccontextmanager
    async def both() -> AsyncIterator[Both]:
        robbed, heir = Side(make_app(lease=LEASE), "robbed"), Side(make_app(lease=LEASE), "heir")
        async with AsyncExitStack() as stack:
            # One slot: with a free one, its own sweeps would find the entry first, and know it.
            worker = await stack.enter_async_context(robbed.app.running(grace=0, concurrency=1))
            handle = await robbed.work.adelay()
            await robbed.seen.arrive(Started)
            (entry,) = q.pending()
            q.claim(worker.name, "default", entry, idle=LEASE + 1)  # it has not renewed for so long
            await stack.enter_async_context(heir.app.running())
            await heir.seen.arrive(Started)
            assert q.pending()[entry].consumer != worker.name
            yield Both(robbed, heir, handle, worker.stop)

    return both


async def test_success_is_first_wins(both: Callable[[], Any], q: Queue) -> None:
    """Also that of a worker that has lost the lease: its code has done the work."""
    async with both() as b:
        b.robbed.end()
        assert await b.handle.aget(20) == "robbed"
        b.heir.end()
        assert (await b.heir.seen.arrive(Late))[0].id == b.handle.id
        assert await b.handle == "robbed"
        assert q.is_empty() and q.counters()["succeeded|work"] == 1
    assert b.robbed.seen.of(Succeeded) and not b.robbed.seen.of(Late) and not b.heir.seen.of(Succeeded)


ENDINGS: dict[str, tuple[BaseException | None, type[Any]]] = {
    "retry": (Retry(delay=0), Retried),
    "retry later": (Retry(delay=60), Retried),
    "snooze": (Snooze(60), Snoozed),
    "fail": (ValueError("late"), Failed),
    "reject": (Reject("late"), Failed),
    "release": (None, Released),
}


@pytest.mark.parametrize("how", ENDINGS)
async def test_every_other_ending_needs_ownership(both: Callable[[], Any], q: Queue, how: str) -> None:
    error, kind = ENDINGS[how]
    async with both() as b:
        if error is None:
            b.stop()
        else:
            b.robbed.end(error)
        assert (await b.robbed.seen.arrive(Late))[0].id == b.handle.id
        assert await b.handle.astate() is State.RUNNING and not q.parked() and not q.dead()
        assert len(q.pending()) == len(q.entries()) == 1
        b.heir.end()
        assert await b.handle.aget(20) == "heir"
    assert not b.robbed.seen.of(kind) and not b.heir.seen.of(Late)


@pytest.mark.parametrize("how", ENDINGS)
async def test_a_late_finisher_that_fails_after_another_succeeded_changes_nothing(
    both: Callable[[], Any], q: Queue, how: str
) -> None:
    error, kind = ENDINGS[how]
    async with both() as b:
        b.heir.end()
        assert await b.handle.aget(20) == "heir"
        record = q.record_key(b.handle.id.partition(":")[2])
        before = q.raw.hgetall(record)
        if error is None:
            b.stop()
        else:
            b.robbed.end(error)
        assert (await b.robbed.seen.arrive(Late))[0].id == b.handle.id
        assert await b.handle == "heir" and q.raw.hgetall(record) == before
        assert q.is_empty() and not q.dead() and set(q.counters()) == {"succeeded|work"}
    assert not b.robbed.seen.of(kind)


async def test_drop_needs_ownership(app: App, seen: Seen, q: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A blocking read brings what has expired, and before it is looked at somebody else has taken it over."""
    read = Reader.read

    async def robbed(self: Reader, streams: Any, then: Any) -> tuple[list[Arrival] | None, Any]:
        arrivals, started = await read(self, streams, then)
        for _, priority, entry in arrivals or ():
            q.claim("somebody-else", priority, entry)
            q.raw.hset(q.record_key(q.entries()[entry]), "x", 1)  # it has expired
            taken.append(entry)
        return arrivals, started

    monkeypatch.setattr(Reader, "read", robbed)
    taken: list[str] = []

    @app.task
    async def work() -> None: ...

    async with app.running(lease=LEASE):
        await await_until(lambda: blocked(q.raw))
        handle = await work.adelay()
        await await_until(lambda: taken and blocked(q.raw))  # it has looked at it, and waits again
    assert [(entry, p.consumer) for entry, p in q.pending().items()] == [(taken[0], "somebody-else")]
    assert not seen.of(Started) and await handle.astate() is State.QUEUED


@pytest.mark.parametrize(
    ("how", "verb", "kind"),
    [
        ("succeed", "succeed", Succeeded),
        ("snooze", "park", Snoozed),
        ("retry", "park", Retried),
        ("fail", "bury", Failed),
    ],
)
async def test_a_resent_settle_whose_reply_was_lost_is_answered_done(
    make_app: MakeApp, server: Server, q: Queue, how: str, verb: str, kind: type[Any]
) -> None:
    fault = Fault(f"worker:main {verb}", 1, Act.LOSE)
    proxy = Proxy(server.port, ["worker"], fault)
    app = make_app(url=proxy.url("worker"))
    seen = Seen(app)
    errors = {"snooze": Snooze(60), "retry": Retry(delay=60), "fail": ValueError("no")}

    @app.task(name="work")
    async def work() -> int:
        if how in errors:
            raise errors[how]
        return 1

    try:
        # The script is known, so that the first EVALSHA does the work.
        q.raw.script_load(load(verb).text)
        async with app.running(lease=LEASE):
            handle = await work.adelay()
            assert (await seen.arrive(kind))[0].id == handle.id
            assert proxy.struck is not None and proxy.counts[fault.kind] == 2
            expected = {"succeed": State.SUCCEEDED, "fail": State.FAILED}.get(how, State.SCHEDULED)
            assert (await handle.ainfo()).state is expected
        await app.aclose()
    finally:
        proxy.close()
    assert not seen.of(Late) and len(seen.of(Started)) == len(seen.of(kind)) == 1
    assert {name: n for name, n in q.counters().items() if not name.startswith("?")} == {f"{_word(how)}|work": 1}


def _word(how: str) -> str:
    return {"succeed": "succeeded", "snooze": "snoozed", "retry": "retried", "fail": "failed"}[how]


async def test_a_resend_is_told_from_a_late_one(both: Callable[[], Any], q: Queue) -> None:
    """The same end of the same entry, by two workers: who comes second is late, whatever the record says."""
    async with both() as b:
        b.heir.end(ValueError("heir"))
        with pytest.raises(TaskFailed, match="heir"):
            await b.handle.aget(20)
        b.robbed.end(ValueError("robbed"))
        assert (await b.robbed.seen.arrive(Late))[0].id == b.handle.id
        with pytest.raises(TaskFailed, match="heir"):
            await b.handle
    assert b.heir.seen.of(Failed) and not b.robbed.seen.of(Failed)
    assert q.counters()["failed|work"] == 1


async def test_a_worker_that_stood_still_does_not_overrule_the_one_that_took_over(
    app: App, seen: Seen, start_worker: Callable[..., WorkerProcess], tmp_path: Path
) -> None:
    """SIGSTOP longer than the lease: the task runs again elsewhere, and only one outcome counts."""
    shared = share(app)
    log = tmp_path / "log"
    worker = start_worker(lease=0.6)
    handle = await shared.note.adelay(str(log), 1.0)
    await await_until(log.exists)
    os.kill(worker.process.pid, signal.SIGSTOP)
    async with app.running(lease=0.6) as mine:
        assert await handle.aget(timeout=60) == mine.name
        os.kill(worker.process.pid, signal.SIGCONT)
        again = await shared.note.adelay(str(log), 0)
        await again.aget(timeout=60)
    assert await handle == mine.name
    assert not seen.of(Late) and not seen.of(Lost)
    assert worker.stop() == 0
