"""Plain functions in threads: what they return, and that they can be stopped for real."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from penstock.consumers.threads import ThreadPool, ThreadStuck, _Call
from penstock.errors import HardTimeout, SoftTimeout, TaskStopped
from tests.servers import await_until

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    pool = ThreadPool(4, name="test-threads", stop_grace=0.2)
    yield pool
    pool.close()


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Let threads take turns after some ten instructions, so that races have a chance."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


async def run(pool: ThreadPool, call: Callable[[], Any], **limits: float) -> Any:
    return await pool.run(call, context=copy_context(), **limits)


def spin() -> None:
    while True:
        pass


async def test_returns_the_value_and_raises_the_error(pool: ThreadPool) -> None:
    assert await run(pool, lambda: 7) == 7
    assert await run(pool, lambda: None) is None
    with pytest.raises(ZeroDivisionError):
        await run(pool, lambda: 1 // 0)


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
async def test_raises_what_is_no_exception_as_well(pool: ThreadPool, error: type[BaseException]) -> None:
    def call() -> None:
        raise error

    with pytest.raises(error):
        await run(pool, call)
    assert await run(pool, lambda: 7) == 7


@pytest.mark.parametrize("error", [asyncio.CancelledError, StopIteration])
async def test_errors_that_mean_something_to_a_coroutine_come_out_as_runtime_error(
    pool: ThreadPool, error: type[BaseException]
) -> None:
    def call() -> None:
        raise error

    with pytest.raises(RuntimeError) as caught:
        await run(pool, call)
    assert isinstance(caught.value.__cause__, error)


async def test_runs_as_many_at_once_as_it_has_threads_and_reuses_them(pool: ThreadPool) -> None:
    barrier = threading.Barrier(4)
    seen = set()

    def call() -> None:
        barrier.wait(10)
        seen.add(threading.current_thread().name)

    for _ in range(3):
        await asyncio.gather(*(run(pool, call) for _ in range(4)))
    assert seen == {f"test-threads-{number}" for number in range(1, 5)}


async def test_starts_no_more_threads_than_are_needed(pool: ThreadPool) -> None:
    names = {await run(pool, lambda: threading.current_thread().name) for _ in range(20)}
    assert names == {"test-threads-1"}


async def test_all_of_many_calls_run_once(pool: ThreadPool) -> None:
    done: list[int] = []

    def note(number: int) -> int:
        done.append(number)
        return number

    async def caller(first: int) -> None:
        for number in range(first, 4000, 4):
            assert await run(pool, partial(note, number)) == number

    await asyncio.gather(*(caller(first) for first in range(4)))
    assert sorted(done) == list(range(4000))


async def test_context_variables_are_those_of_the_given_context(pool: ThreadPool) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")

    def call() -> str:
        before = variable.get()
        variable.set("changed")
        return before

    mine, other = Context(), Context()
    mine.run(variable.set, "mine")
    assert await pool.run(call, context=mine) == "mine"
    assert await pool.run(call, context=other) == "none"
    assert (mine[variable], other[variable]) == ("changed", "changed")
    assert variable.get() == "none"


async def test_hard_timeout_stops_an_endless_loop(pool: ThreadPool) -> None:
    with pytest.raises(HardTimeout, match=r"not done within 0\.05 s") as caught:
        await run(pool, spin, timeout=0.05)
    assert not isinstance(caught.value, ThreadStuck)
    assert "spin" in {frame.name for frame in caught.traceback}
    assert pool.stuck == 0
    assert await run(pool, lambda: threading.current_thread().name) == "test-threads-1"


async def test_soft_timeout_can_be_caught(pool: ThreadPool) -> None:
    def call() -> str:
        try:
            spin()
        except SoftTimeout:
            return "cleaned up"
        return "not reached"

    assert await run(pool, call, soft=0.05, timeout=10) == "cleaned up"
    assert await run(pool, call, soft=0.05) == "cleaned up"


async def test_soft_timeout_that_is_not_caught_ends_the_call(pool: ThreadPool) -> None:
    with pytest.raises(SoftTimeout):
        await run(pool, spin, soft=0.05)


async def test_hard_timeout_follows_a_soft_one(pool: ThreadPool) -> None:
    def call() -> None:
        try:
            spin()
        except SoftTimeout:
            spin()

    with pytest.raises(HardTimeout):
        await run(pool, call, soft=0.05, timeout=0.1)


async def test_limits_that_are_not_reached_change_nothing(pool: ThreadPool) -> None:
    assert await run(pool, lambda: 7, soft=5, timeout=10) == 7


async def test_hard_timeout_that_is_swallowed_is_raised_again() -> None:
    pool = ThreadPool(1, stop_grace=10)
    swallowed = 0

    def call() -> None:
        nonlocal swallowed
        while True:
            try:
                spin()
            except Exception:
                swallowed += 1
                if swallowed == 2:
                    raise

    with pytest.raises(HardTimeout):
        await run(pool, call, timeout=0.05)
    assert swallowed == 2
    pool.close()


async def test_what_comes_after_the_hard_timeout_does_not_count(pool: ThreadPool) -> None:
    def value() -> str:
        try:
            spin()
        except HardTimeout:
            pass
        return "too late"

    def error() -> str:
        try:
            spin()
        except HardTimeout:
            raise ValueError("from the clean-up") from None
        return "not reached"

    with pytest.raises(HardTimeout) as caught:
        await run(pool, value, timeout=0.05)
    assert caught.value.__cause__ is None
    with pytest.raises(HardTimeout) as caught:
        await run(pool, error, timeout=0.05)
    assert str(caught.value.__cause__) == "from the clean-up"


async def test_cancelling_the_task_stops_the_thread(pool: ThreadPool) -> None:
    begun, stopped = threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        try:
            spin()
        except TaskStopped:
            stopped.set()
            raise

    task = asyncio.create_task(run(pool, call))
    await await_until(begun.is_set)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert stopped.is_set()  # the task has waited for it
    assert pool.stuck == 0


async def test_a_cancel_scope_stops_the_thread(pool: ThreadPool) -> None:
    stopped = threading.Event()

    def call() -> None:
        try:
            spin()
        finally:
            stopped.set()

    with anyio.move_on_after(0.05) as scope:
        await run(pool, call)
    assert scope.cancelled_caught
    assert stopped.is_set()


async def test_a_call_cancelled_at_once_may_not_begin_and_the_pool_goes_on(pool: ThreadPool) -> None:
    for _ in range(200):
        task = asyncio.create_task(run(pool, lambda: None))
        await anyio.lowlevel.checkpoint()
        task.cancel()
        await asyncio.wait([task])
    assert await run(pool, lambda: 7) == 7
    assert pool.stuck == 0


async def test_cancelled_twice_still_waits_for_the_thread() -> None:
    pool = ThreadPool(1, stop_grace=10)
    begun, told, leave = threading.Event(), threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        try:
            spin()
        except TaskStopped:
            told.set()
            while not leave.is_set():
                pass

    task = asyncio.create_task(run(pool, call))
    await await_until(begun.is_set)
    task.cancel()
    await await_until(told.is_set)
    leave.set()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    pool.close()


@pytest.mark.parametrize("how", ["timeout", "cancel", "scope"])
async def test_a_stuck_thread_is_reported_and_replaced(how: str) -> None:
    pool = ThreadPool(1, name="stuck", stop_grace=0.1)
    lock = threading.Lock()
    lock.acquire()
    threads: list[threading.Thread] = []

    def call() -> None:
        threads.append(threading.current_thread())
        lock.acquire()  # in C: no exception gets in before it returns

    async def stop() -> None:
        if how == "timeout":
            await run(pool, call, timeout=0.05)
        elif how == "scope":
            with anyio.move_on_after(0.05):
                await run(pool, call)
        else:
            task = asyncio.create_task(run(pool, call))
            await await_until(lambda: threads)
            task.cancel()
            await task

    with pytest.raises(ThreadStuck) as caught:
        await stop()
    assert 0.09 < caught.value.overdue < 10
    assert isinstance(caught.value, HardTimeout)
    assert pool.stuck == 1

    assert await run(pool, lambda: threading.current_thread().name) == "stuck-2"
    lock.release()
    await await_until(lambda: not threads[0].is_alive())
    await await_until(lambda: pool.stuck == 0)
    assert await run(pool, lambda: threading.current_thread().name) == "stuck-2"
    pool.close()


async def test_a_thread_that_was_given_up_is_told_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.consumers.threads.REPEAT", 0.05)
    pool = ThreadPool(1, stop_grace=0.01)
    swallowed = 0

    def call() -> None:
        nonlocal swallowed
        while swallowed < 5:
            try:
                spin()
            except Exception:
                swallowed += 1

    with pytest.raises(ThreadStuck):
        await run(pool, call, timeout=0.01)
    await await_until(lambda: pool.stuck == 0)
    assert swallowed == 5
    pool.close()


async def test_close_ends_idle_threads_and_does_not_wait_for_others() -> None:
    pool = ThreadPool(3, name="closing", stop_grace=0.05)
    lock, begun = threading.Lock(), threading.Event()
    lock.acquire()

    def block() -> threading.Thread:
        begun.set()
        lock.acquire()
        return threading.current_thread()

    idle, _ = await asyncio.gather(run(pool, threading.current_thread), run(pool, threading.current_thread))
    task = asyncio.create_task(run(pool, block))
    await await_until(begun.is_set)
    pool.close()
    pool.close()
    await await_until(lambda: sum(thread.name.startswith("closing") for thread in threading.enumerate()) == 1)
    with pytest.raises(RuntimeError, match="closed"):
        await run(pool, lambda: None)
    lock.release()
    busy = await task
    await await_until(lambda: not busy.is_alive() and not idle.is_alive())


async def test_an_idle_thread_keeps_nothing_alive(pool: ThreadPool) -> None:
    class Big:
        pass

    seen: list[weakref.ref[Big]] = []

    def value() -> Big:
        big = Big()
        seen.append(weakref.ref(big))
        return big

    def error() -> None:
        big = Big()
        seen.append(weakref.ref(big))
        raise ValueError

    gc.disable()  # reference counts must do, or a worker's memory waits for the collector
    try:
        await run(pool, value)
        with pytest.raises(ValueError):
            await run(pool, error)
        await run(pool, lambda: None)
        assert [ref() for ref in seen] == [None, None]
    finally:
        gc.enable()


@pytest.mark.usefixtures("quick_switches")
@pytest.mark.parametrize("stop", ["soft", "timeout", "cancel"])
async def test_a_stop_never_lands_in_the_next_call(stop: str) -> None:
    """Thousands of calls that end when their time is over; each is followed by one without limits."""
    pool = ThreadPool(1, stop_grace=30)
    endings = {"in time": 0, "stopped": 0}

    def busy(end: float) -> str:
        while time.perf_counter() < end:
            pass
        return "done"

    def innocent() -> str:
        total = 0
        for number in range(200):
            total += number
        return str(total)

    for number in range(1500):
        limit = 0.001
        # Timers are up to a millisecond late: spread the ends around that.
        end = time.perf_counter() + limit * (number % 40) / 16
        task = asyncio.ensure_future(run(pool, partial(busy, end), **({} if stop == "cancel" else {stop: limit})))
        if stop == "cancel":
            asyncio.get_running_loop().call_later(limit, task.cancel)
        await asyncio.wait([task])
        if task.cancelled() or task.exception() is not None:
            assert task.cancelled() or isinstance(task.exception(), SoftTimeout | HardTimeout)
            endings["stopped"] += 1
        else:
            assert task.result() == "done"
            endings["in time"] += 1
        assert await run(pool, innocent) == "19900"
    assert await run(pool, lambda: threading.current_thread().name) == "penstock-1"  # no thread was lost
    assert min(endings.values()) > 0, endings
    pool.close()


@pytest.mark.usefixtures("quick_switches")
async def test_a_stop_that_comes_with_the_last_instruction_is_caught_in_the_pools_own_code() -> None:
    """A second thread waits for the call's last instruction and sends two stops then."""
    rounds = 4000
    over: list[_Call[int]] = []
    landed = {"in the call": 0, "nowhere": 0}

    def sender() -> None:
        for number in range(rounds):
            while len(over) <= number:
                pass
            over[number].send(SoftTimeout)
            over[number].send(HardTimeout)

    def worker() -> None:
        for number in range(rounds):

            def call() -> int:
                over.append(job)  # noqa: B023
                while number % 4 == 0:  # noqa: B023
                    pass
                return 7

            job = _Call(call, copy_context(), ended)
            job.execute(threading.get_ident())
            assert sum(number for number in range(100)) == 4950
            try:
                landed["nowhere"] += job.result(None) == 7
            except TaskStopped:
                landed["in the call"] += 1

    ended = asyncio.get_running_loop().create_future()
    helper = threading.Thread(target=sender)
    helper.start()
    await asyncio.get_running_loop().run_in_executor(None, worker)
    helper.join()
    assert sum(landed.values()) == rounds
    assert landed["in the call"] >= rounds // 4
    assert landed["nowhere"] > 0
