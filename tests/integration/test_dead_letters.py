"""Failed tasks are kept with all that is known, and can be sent again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
import redis

from penstock import App, ConfigurationError, Context, Reject, RetryPolicy, State, TaskFailed, TaskNotFound
from penstock.events import Failed
from tests.integration.support import Seen
from tests.servers import await_until

MakeApp = Callable[..., App]
pytestmark = pytest.mark.anyio


async def test_a_dead_letter_says_everything(app: App, seen: Seen) -> None:
    @app.task(queue="mail", retry=RetryPolicy(max_retries=1, delay=0, jitter=0))
    async def send(to: str, *, copy: bool = False) -> None:
        raise ValueError(f"no such user: {to}")

    async with app.running() as worker:
        handle = await send.adelay("ann", copy=True)
        with pytest.raises(TaskFailed):
            await handle
    (letter,) = await asyncio.to_thread(app.dead_letters("mail").list)
    assert (letter.id, letter.name, letter.reason, letter.attempts) == (handle.id, send.name, "error", 2)
    assert letter.error == "ValueError: no such user: ann"
    assert 'raise ValueError(f"no such user: {to}")' in letter.traceback
    assert letter.args == {"to": "ann", "copy": True}
    assert letter.worker == worker.name
    info = await handle.ainfo()
    assert info.finished_at is not None and abs((letter.died_at - info.finished_at).total_seconds()) < 1
    assert msgspec.msgpack.decode(letter.message)["n"] == send.name
    assert await asyncio.to_thread(app.dead_letters().list) == []  # of another queue


async def test_redrive_starts_anew(app: App, seen: Seen) -> None:
    broken = True
    attempts: list[tuple[int, int]] = []

    @app.task(bind=True, retry=RetryPolicy(max_retries=1, delay=0, jitter=0))
    async def work(ctx: Context, n: int) -> int:
        attempts.append((ctx.attempt, ctx.deliveries))
        if broken:
            raise ValueError
        return n

    async with app.running():
        handles = await work.abulk([(i,) for i in range(3)])
        await seen.arrive(Failed, 3)
        broken = False
        attempts.clear()
        assert await asyncio.to_thread(app.redrive, handles[0].id) == 1
        assert await handles[0] == 0
        assert attempts == [(1, 1)]
        assert await asyncio.to_thread(app.dead_letters().redrive) == 2
        assert await asyncio.gather(*handles) == [0, 1, 2]
        info = await handles[1].ainfo()
        assert (info.state, info.error, info.attempt) == (State.SUCCEEDED, None, 1)
    assert await asyncio.to_thread(app.dead_letters().list) == []
    with pytest.raises(ConfigurationError, match="no dead letters"):
        await asyncio.to_thread(app.redrive, handles[0].id)


async def test_the_newest_come_first_and_the_limit_holds(app: App, seen: Seen) -> None:
    @app.task
    async def work(n: int) -> None:
        raise Reject(str(n))

    async with app.running(concurrency=1):
        for n in range(5):
            with pytest.raises(TaskFailed):
                await (await work.adelay(n))
    letters = await asyncio.to_thread(app.dead_letters().list, 3)
    assert len(letters) == 3 and letters[0].died_at >= letters[1].died_at >= letters[2].died_at
    assert len(await asyncio.to_thread(app.dead_letters().list)) == 5


async def test_they_are_bounded_in_number(make_app: MakeApp, raw: redis.Redis, namespace: str) -> None:
    app = make_app(dead_max=3, result_ttl=0)
    seen = Seen(app)

    @app.task
    async def work(n: int) -> None:
        raise Reject(str(n))

    async with app.running(concurrency=1):
        for n in range(6):
            await work.adelay(n)
        await seen.arrive(Failed, 6)
    assert len(await asyncio.to_thread(app.dead_letters().list)) == 3
    assert raw.hget(f"{{{namespace}:default}}:m", "trimmed|") == b"3"


async def test_they_are_kept_for_their_time(make_app: MakeApp) -> None:
    app = make_app(dead_ttl=0.2, result_ttl=0, resend_window=0.1)

    @app.task
    async def work() -> None:
        raise Reject("no")

    async with app.running():
        handle = await work.adelay()
        with pytest.raises(TaskFailed):
            await handle

        async def gone() -> bool:
            try:
                await handle.astate()
            except TaskNotFound:
                return True
            return False

        await await_until(gone)
        assert await asyncio.to_thread(app.dead_letters().list) == []
        assert (await work.adelay()).created


async def test_a_dead_letter_holds_its_id(app: App) -> None:
    @app.task
    async def work() -> None:
        raise Reject("no")

    async with app.running():
        handle = await work.options(id="once").adelay()
        with pytest.raises(TaskFailed):
            await handle
        assert (await work.options(id="once").adelay()).created is False


async def test_a_message_of_a_newer_version_is_handed_back(app: App, raw: redis.Redis, namespace: str) -> None:
    @app.task
    async def work() -> int:
        return 1

    message = msgspec.msgpack.encode({"n": work.name, "a": {}, "v": 99})
    raw.xadd(f"{{{namespace}:default}}:s:default", {"k": "future", "m": message})
    async with app.running():
        handle = app.handle("default:future")
        await await_until(lambda: _scheduled(handle))
        assert "version 99" in str((await handle.ainfo()).error)


async def _scheduled(handle: object) -> bool:
    try:
        return bool(await handle.astate() is State.SCHEDULED)  # type: ignore[attr-defined]
    except TaskNotFound:
        return False
