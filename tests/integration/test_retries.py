"""What becomes of a task that raises: retry by policy or by word, snooze, reject, and odd exceptions."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock import App, Context, Reject, Retry, RetryPolicy, Snooze, State, TaskFailed, current
from penstock.events import Failed, Retried, Snoozed, Succeeded
from tests.integration.support import Seen, share

pytestmark = pytest.mark.anyio
QUICK = RetryPolicy(max_retries=3, delay=0.01, jitter=0)


async def test_without_a_policy_an_exception_is_final(app: App, seen: Seen) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("no")

    async with app.running():
        with pytest.raises(TaskFailed, match="ValueError: no"):
            await (await fail.adelay())
    assert not seen.of(Retried) and len(seen.of(Failed)) == 1


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_retries_until_it_succeeds(app: App, seen: Seen, tmp_path: Path, kind: str) -> None:
    attempts: list[int] = []
    task: Any
    if kind == "async":

        @app.task(retry=QUICK, bind=True)
        async def flaky(ctx: Context, path: str) -> int:
            attempts.append(ctx.attempt)
            return _flaky(ctx.attempt)

        task = flaky
    elif kind == "thread":

        @app.task(retry=QUICK)
        def flaky_sync(path: str) -> int:
            attempts.append(current().attempt)
            return _flaky(current().attempt)

        task = flaky_sync
    else:
        shared = share(app)
        task = shared.fail_twice
    async with app.running(processes=1):
        handle = await task.adelay(str(tmp_path / "runs"))
        assert await handle == 2
    assert kind == "process" or attempts == [1, 2, 3]
    assert [event.attempt for event in seen.of(Retried)] == [1, 2]
    assert seen.of(Succeeded)[0].attempt == 3
    assert (await handle.ainfo()).attempt == 3


def _flaky(attempt: int) -> int:
    if attempt < 3:
        raise ValueError(attempt)
    return attempt - 1


async def test_max_retries_is_the_number_of_runs_after_the_first(app: App, seen: Seen) -> None:
    runs: list[int] = []

    @app.task(retry=QUICK)
    async def fail() -> None:
        runs.append(current().attempt)
        raise ValueError(f"run {len(runs)}")

    async with app.running():
        with pytest.raises(TaskFailed, match="run 4"):
            await (await fail.adelay())
    assert runs == [1, 2, 3, 4]


async def test_delays_grow_and_the_task_is_parked_meanwhile(app: App, seen: Seen) -> None:
    @app.task(retry=RetryPolicy(max_retries=3, delay=0.05, backoff=2, jitter=0, max_delay=0.1))
    async def fail() -> None:
        raise ValueError

    @app.task(retry=RetryPolicy(max_retries=3, delay=3600, jitter=0))
    async def later() -> None:
        raise ValueError

    async with app.running():
        handle, parked = await fail.adelay(), await later.adelay()
        with pytest.raises(TaskFailed):
            await handle
        await seen.arrive(Retried, id=parked.id)
        info = await parked.ainfo()
    assert [event.delay for event in seen.of(Retried, id=handle.id)] == [0.05, 0.1, 0.1]
    assert info.state is State.SCHEDULED and info.due_at is not None and info.started_at is not None
    assert timedelta(seconds=3590) < info.due_at - info.started_at < timedelta(seconds=3630)


async def test_on_and_never_choose_what_is_retried(app: App, seen: Seen) -> None:
    @app.task(retry=RetryPolicy(max_retries=1, delay=0, jitter=0, on=(OSError, ValueError), never=FileNotFoundError))
    async def fail(kind: str) -> None:
        raise {"os": OSError, "value": ValueError, "file": FileNotFoundError, "key": KeyError}[kind](kind)

    @app.task(retry=RetryPolicy(max_retries=1, delay=0, jitter=0, on=lambda error: "yes" in str(error)))
    async def by_function(text: str) -> None:
        raise RuntimeError(text)

    retried = set()
    async with app.running():
        for task, word in [(fail, w) for w in ("os", "value", "file", "key")] + [
            (by_function, "yes"),
            (by_function, "no"),
        ]:
            handle = await task.adelay(word)
            with pytest.raises(TaskFailed):
                await handle
            if seen.of(Retried, id=handle.id):
                retried.add(word)
    assert retried == {"os", "value", "yes"}


async def test_a_call_may_bring_its_own_policy(app: App, seen: Seen) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError

    async with app.running():
        handle = await fail.options(retry=RetryPolicy(max_retries=2, delay=0, jitter=0)).adelay()
        with pytest.raises(TaskFailed):
            await handle
    assert len(seen.of(Retried, id=handle.id)) == 2


async def test_raise_retry_runs_it_again_and_spends_attempts(app: App, seen: Seen) -> None:
    @app.task(bind=True)
    async def work(ctx: Context) -> int:
        if ctx.attempt < 3:
            raise Retry("not ready", delay=0.02)
        return ctx.attempt

    @app.task(retry=RetryPolicy(max_retries=1, delay=0.01, jitter=0, on=OSError))
    async def hopeless() -> None:
        raise Retry("still not")

    async with app.running():
        assert await (await work.adelay()) == 3
        handle = await hopeless.adelay()
        with pytest.raises(TaskFailed, match="still not"):
            await handle
    assert [e.delay for e in seen.of(Retried, name=work.name)] == [0.02, 0.02]
    assert [e.error for e in seen.of(Retried, id=handle.id)] == ["penstock.errors.Retry: still not"]


@pytest.mark.parametrize("kind", ["async", "thread", "process"])
async def test_raise_snooze_runs_it_again_and_spends_none(app: App, seen: Seen, tmp_path: Path, kind: str) -> None:
    runs: list[int] = []
    task: Any
    if kind == "async":

        @app.task
        async def work(path: str) -> str:
            return _snoozing(runs)

        task = work
    elif kind == "thread":

        @app.task
        def work_sync(path: str) -> str:
            return _snoozing(runs)

        task = work_sync
    else:
        shared = share(app)
        task = shared.snooze_once
    async with app.running(processes=1):
        handle = await task.adelay(str(tmp_path / "x"))
        assert await handle == "awake"
        info = await handle.ainfo()
    assert info.attempt == 1 and info.deliveries <= 1
    assert set(runs) <= {1}
    assert len(seen.of(Snoozed)) == (1 if kind == "process" else 8)
    assert not seen.of(Retried)


def _snoozing(runs: list[int]) -> str:
    runs.append(current().attempt)
    if len(runs) <= 8:  # more often than max_deliveries: it is no crash
        raise Snooze(timedelta(milliseconds=5))
    return "awake"


async def test_raise_reject_goes_to_the_dead_letters_at_once(app: App, seen: Seen) -> None:
    @app.task(retry=QUICK)
    async def work() -> None:
        raise Reject("not wanted")

    async with app.running():
        handle = await work.adelay()
        with pytest.raises(TaskFailed, match="not wanted") as caught:
            await handle
    assert caught.value.reason == "rejected" and not seen.of(Retried)
    letters = await asyncio.to_thread(app.dead_letters().list)
    assert [(letter.id, letter.reason) for letter in letters] == [(handle.id, "rejected")]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, BaseException, asyncio.CancelledError, GeneratorExit])
@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_an_odd_exception_is_the_tasks_own_failure(app: App, error: type[BaseException], kind: str) -> None:
    task: Any
    if kind == "async":

        @app.task
        async def work() -> None:
            await asyncio.sleep(0)
            raise error("odd")

        task = work
    else:

        @app.task
        def work_sync() -> None:
            raise error("odd")

        task = work_sync

    @app.task
    async def healthy() -> int:
        return 1

    async with app.running(concurrency=1, threads=1):
        for _ in range(2):
            with pytest.raises(TaskFailed) as caught:
                await (await task.adelay()).aget(timeout=20)
            assert error.__name__ in str(caught.value)
        assert await (await healthy.adelay()).aget(timeout=20) == 1


@pytest.mark.parametrize("kind", ["value", "exit", "interrupt", "base"])
async def test_an_odd_exception_in_a_process(app: App, kind: str) -> None:
    shared = share(app)
    async with app.running(processes=1):
        with pytest.raises(TaskFailed, match=kind):
            await (await shared.raise_in_child.adelay(kind)).aget(timeout=60)
        assert await (await shared.square.adelay(2)) == 4


async def test_a_result_that_cannot_be_encoded_fails_without_retry(app: App, seen: Seen) -> None:
    @app.task(retry=QUICK)
    async def work() -> Any:
        return object()

    @app.task(retry=QUICK)
    def wrong_type() -> int:
        return "text"  # type: ignore[return-value]

    shared = share(app)
    async with app.running(processes=1):
        for task in (work, wrong_type, shared.unencodable):
            with pytest.raises(TaskFailed, match="result") as caught:
                await (await task.adelay()).aget(timeout=60)
            assert caught.value.reason == "unencodable_result"
    assert not seen.of(Retried)


async def test_a_task_group_passes_a_control_exception_through(app: App, seen: Seen) -> None:
    runs = 0

    @app.task
    async def work() -> int:
        nonlocal runs
        runs += 1
        async with asyncio.TaskGroup() as group:
            group.create_task(_snooze(runs))
        return runs

    async def _snooze(run: int) -> None:
        if run == 1:
            raise Snooze(0.01)

    async with app.running():
        assert await (await work.adelay()) == 2
    assert len(seen.of(Snoozed)) == 1
