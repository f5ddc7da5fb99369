"""Attempts in child processes: their outcomes, their deaths, and that nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from penstock.consumers.outcome import Failed, Outcome, Retrying, Snoozed, Succeeded, Unknown
from penstock.consumers.processes import ChildDied, Job, ProcessPool
from penstock.errors import HardTimeout
from penstock.streams.message import Failure, RetrySpec
from tests import process_tasks
from tests.servers import await_until, wait_until

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": request.param}


@pytest.fixture
async def pool() -> AsyncIterator[ProcessPool]:
    pool = ProcessPool(2)
    yield pool
    await pool.close()


@pytest.fixture(autouse=True)
def _no_process_is_left() -> Iterator[None]:
    _others.clear()
    _others.update(children())
    yield
    assert children() == set()


#: Children that this process had before the test: servers and guardians of other tests.
_others: set[int] = set()


def children() -> set[int]:
    """Processes whose parent is this one, zombies included; without multiprocessing's resource tracker and those
    that were there before the test."""
    listing = subprocess.run(
        ["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,args="], capture_output=True, text=True, check=True
    )
    found = set()
    for line in listing.stdout.splitlines():
        pid, ppid, _, args = line.split(maxsplit=3)
        if int(ppid) != os.getpid() or "resource_tracker" in args or args.startswith("ps -A"):
            continue
        found.add(int(pid))
    return found - _others


def alive(pid: int) -> bool:
    """Whether the process exists and is no zombie that its new parent has yet to reap."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.strip() not in ("", "Z")


def job(task: str, *args: Any, **changes: Any) -> Job:
    """A job that calls `task` of `tests.process_tasks`."""
    found = getattr(process_tasks, task, None)
    codec = getattr(found, "codec", None)
    fields: dict[str, Any] = {
        "module": "tests.process_tasks",
        "qualname": task,
        "name": f"tests.{task}",
        "args": codec.encode_args(args, {}) if codec and "args" not in changes else b"\x80",
        "id": "mail:1",
        "queue": "mail",
        "priority": "high",
        "attempt": 1,
        "deliveries": 1,
    }
    return Job(**fields | changes)


async def value(pool: ProcessPool, task: str, *args: Any, **changes: Any) -> Any:
    outcome = await pool.run(job(task, *args, **changes), timeout=60)
    assert isinstance(outcome, Succeeded), outcome
    assert outcome.value is not None
    return msgspec.msgpack.decode(outcome.value)


async def failure(pool: ProcessPool, task: str, *args: Any, **changes: Any) -> Failure:
    outcome = await pool.run(job(task, *args, **changes), timeout=60)
    assert isinstance(outcome, Failed), outcome
    return outcome.failure


async def test_runs_plain_and_async_functions_in_a_child_that_is_reused(pool: ProcessPool) -> None:
    assert await value(pool, "double", 21) == 42
    assert await value(pool, "double_async", 21) == 42
    first = await value(pool, "pid")
    assert first != os.getpid()
    assert await value(pool, "pid") == first
    assert children() == {first}
    assert await value(pool, "main_thread")


async def test_one_child_for_each_slot(pool: ProcessPool) -> None:
    await asyncio.gather(value(pool, "sleepy", 0.3), value(pool, "sleepy", 0.3))
    assert len(children()) == 2
    pids = {await value(pool, "pid") for _ in range(10)}
    assert len(pids) == 1  # a warm one rather than each in turn: the other stays swapped out


async def test_large_arguments_and_results(pool: ProcessPool) -> None:
    assert len(await value(pool, "big", 5_000_000)) == 5_000_000
    assert await value(pool, "length", bytes(5_000_000)) == 5_000_000


async def test_the_task_gets_its_context(pool: ProcessPool) -> None:
    changes = {"attempt": 3, "deliveries": 2, "meta": {"a": [1]}, "worker": "w1"}
    expected = ["mail:1", "tests.who", "mail", "high", 3, 2, {"a": [1]}, "w1"]
    assert await value(pool, "who", **changes) == expected
    assert await value(pool, "who_async") == "mail:1"


async def test_the_initializer_runs_once_in_each_child() -> None:
    pool = ProcessPool(1, initializer=("tests.process_tasks", "initialize"))
    assert [await value(pool, "initialized") for _ in range(2)] == [1, 1]
    await pool.close()


async def test_errors_become_outcomes_by_the_tasks_policy(pool: ProcessPool) -> None:
    outcome = await pool.run(job("fail", "value"))
    assert isinstance(outcome, Retrying)
    assert (outcome.delay, outcome.failure.type, outcome.failure.message) == (10, "ValueError", "wrong")
    assert (await failure(pool, "fail", "value", attempt=3)).reason == "error"
    assert (await failure(pool, "fail", "key")).type == "KeyError"
    assert (await failure(pool, "fail", "reject")).reason == "rejected"
    assert (await failure(pool, "fail", "exit")).type == "SystemExit"
    assert (await failure(pool, "fail", "interrupt")).type == "KeyboardInterrupt"
    assert await pool.run(job("fail", "snooze")) == Snoozed(60)
    outcome = await pool.run(job("fail", "retry"))
    assert isinstance(outcome, Retrying)
    assert outcome.delay == 5
    assert len(children()) == 1  # all in the same child


async def test_the_calls_own_policy_replaces_the_numbers_of_the_tasks(pool: ProcessPool) -> None:
    spec = RetrySpec(max_retries=9, delay=7, jitter=0)
    outcome = await pool.run(job("fail", "value", retry=spec, attempt=9))
    assert isinstance(outcome, Retrying)
    assert outcome.delay == 7 * 2**8
    assert (await failure(pool, "fail", "key", retry=spec)).type == "KeyError"


async def test_the_traceback_shows_the_users_frames_only(pool: ProcessPool) -> None:
    found = await failure(pool, "fail_async", "/nowhere/at/all")
    assert found.type == "FileNotFoundError"
    first = found.traceback.splitlines()[1]
    assert "process_tasks.py" in first and "in fail_async" in first


async def test_what_is_no_task_or_does_not_fit(pool: ProcessPool) -> None:
    assert (await failure(pool, "nothing", module="tests.no_such_module")).type == "ModuleNotFoundError"
    assert (await failure(pool, "no_such_task")).type == "AttributeError"
    assert "is not a task but 'function'" in (await failure(pool, "plain")).message
    outcome = await pool.run(job("double", args=msgspec.msgpack.encode({"number": "x"})))
    assert isinstance(outcome, Unknown)
    assert "number" in outcome.error
    assert (await failure(pool, "unencodable")).reason == "unencodable_result"
    assert await pool.run(job("unencodable", keep_result=False)) == Succeeded(None)


async def test_hard_timeout_kills_the_child_and_the_next_job_runs(pool: ProcessPool, tmp_path: Path) -> None:
    began = tmp_path / "began"
    with pytest.raises(HardTimeout, match=r"not done within 0\.1 s"):
        await pool.run(job("spin", str(began)), timeout=0.1)
    await await_until(lambda: not alive(int(began.read_text())))
    assert children() == set()
    assert await value(pool, "double", 1) == 2


async def test_the_time_limit_does_not_count_the_start_of_the_child() -> None:
    pool = ProcessPool(1)
    assert isinstance(await pool.run(job("double", 1), timeout=0.05), Succeeded)  # an interpreter needs longer to start
    await pool.close()


async def test_a_child_that_does_not_get_ready_is_killed() -> None:
    pool = ProcessPool(1, start_timeout=0.001)
    with pytest.raises(ChildDied, match=r"not ready within 0\.001 s") as caught:
        await pool.run(job("double", 1))
    assert not caught.value.began
    assert children() == set()
    await pool.close()


async def test_cancelling_kills_and_reaps_the_child(pool: ProcessPool, tmp_path: Path) -> None:
    began = tmp_path / "began"
    task = asyncio.create_task(pool.run(job("spin", str(began))))
    await await_until(began.exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children() == set()

    began.unlink()
    with anyio.move_on_after(30) as scope:
        async with anyio.create_task_group() as group:
            group.start_soon(pool.run, job("spin", str(began)))
            await await_until(began.exists)
            group.cancel_scope.cancel()
    assert not scope.cancelled_caught
    assert children() == set()
    assert await value(pool, "double", 1) == 2


async def test_cancelling_while_the_child_starts(pool: ProcessPool) -> None:
    for steps in range(6):
        task = asyncio.create_task(pool.run(job("double", 1)))
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
    await await_until(lambda: children() == set())
    assert await value(pool, "double", 1) == 2


@pytest.mark.parametrize(
    ("how", "words", "code"),
    [
        ("SIGSEGV", r"killed by signal 11 \(SIGSEGV\)", -11),
        ("SIGKILL", r"killed by signal 9 \(SIGKILL\); perhaps there was not enough memory", -9),
        ("exit", "ended with exit code 3", 3),
    ],
)
async def test_a_childs_death_fails_that_attempt_only(pool: ProcessPool, how: str, words: str, code: int) -> None:
    other = asyncio.create_task(value(pool, "sleepy", 0.5))
    with pytest.raises(ChildDied, match=words) as caught:
        await pool.run(job("die", how))
    assert (caught.value.exitcode, caught.value.began) == (code, True)
    assert await value(pool, "double", 1) == 2
    assert await other == "done"


async def test_a_childs_death_is_seen_though_another_process_holds_its_files(pool: ProcessPool) -> None:
    began = time.monotonic()
    with pytest.raises(ChildDied, match="exit code 4"):
        await pool.run(job("hang_up_and_die"))
    assert time.monotonic() - began < 4.5


async def test_a_child_that_died_while_idle_costs_nothing(pool: ProcessPool) -> None:
    first = await value(pool, "pid")
    os.kill(first, signal.SIGKILL)  # and at once, before the pool can know
    second = await value(pool, "pid")
    os.kill(second, signal.SIGKILL)
    await await_until(lambda: children() == set())
    assert await value(pool, "pid") not in (first, second)


async def test_soft_timeout_can_be_caught(pool: ProcessPool) -> None:
    assert await value(pool, "soft", soft=0.05) == "cleaned up"
    assert await value(pool, "sleepy", 0.1) == "done"
    found = await failure(pool, "sleepy", 10, soft=0.05)
    assert (found.type, found.reason) == ("penstock.errors.SoftTimeout", "timeout")
    assert await value(pool, "sleepy", 0, soft=0.05) == "done"
    assert await value(pool, "sleepy", 0.1) == "done"  # its alarm has not outlived it
    assert len(children()) == 1


@pytest.mark.parametrize("how", ["busy", "waits", "gather"])
async def test_soft_timeout_reaches_a_coroutine(pool: ProcessPool, how: str) -> None:
    assert await value(pool, "soft_async", how, soft=0.05) == "cleaned up, 0"


async def test_soft_timeout_never_lands_in_the_next_job(pool: ProcessPool) -> None:
    """Attempts that end when their time is over, each followed by another in the same child."""
    outcomes: set[type[Outcome]] = set()
    for number in range(300):
        length = 0.002 + (number % 20 - 10) * 1e-4
        outcomes.add(type(await pool.run(job("sleepy", length, soft=0.002))))
        assert await value(pool, "double", number) == 2 * number
    assert outcomes == {Succeeded, Failed}
    assert len(children()) == 1


async def test_signals_to_the_group_do_not_stop_a_child_or_what_it_starts(pool: ProcessPool) -> None:
    assert await value(pool, "signalled") == "True"


async def test_a_task_may_have_processes_of_its_own(pool: ProcessPool) -> None:
    assert await value(pool, "has_children") == 0


async def test_close_ends_idle_children_and_kills_busy_ones(tmp_path: Path) -> None:
    pool, began = ProcessPool(2), tmp_path / "began"
    assert await value(pool, "double", 1) == 2
    busy = asyncio.create_task(pool.run(job("spin", str(began))))
    await await_until(began.exists)
    await asyncio.wait_for(pool.close(), 10)
    assert children() == set()
    with pytest.raises(ChildDied):
        await busy
    with pytest.raises(RuntimeError, match="closed"):
        await pool.run(job("double", 1))
    await pool.close()


WORKER = """
    import asyncio, os, sys
    from pathlib import Path
    from penstock.consumers.processes import Job, ProcessPool
    from tests import process_tasks

    def job(task, *args):
        return Job(module="tests.process_tasks", qualname=task, name=task, id="q:1", queue="q", priority="low",
                   args=getattr(process_tasks, task).codec.encode_args(args, {}), attempt=1, deliveries=1)

    async def main():
        pool = ProcessPool(2, initializer=("tests.process_tasks", "initialize"))
        %s

    if __name__ == "__main__":
        asyncio.run(main())
"""


def script(tmp_path: Path, body: str) -> list[str]:
    """A command that runs `body` in a worker of its own."""
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(WORKER) % textwrap.indent(textwrap.dedent(body), " " * 4).strip())
    return [sys.executable, "-W", "error", str(path)]


def environment() -> dict[str, str]:
    others = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return {**others, "PYTHONPATH": str(ROOT)}


def test_children_die_with_their_worker(tmp_path: Path) -> None:
    busy, idle = tmp_path / "busy", tmp_path / "idle"
    body = f"""
        spin = asyncio.create_task(pool.run(job("spin", {str(busy)!r})))
        outcome = await pool.run(job("pid"))
        Path({str(idle)!r} + ".new").write_text(outcome.value[1:].hex())
        os.replace({str(idle)!r} + ".new", {str(idle)!r})
        await spin
    """
    worker = subprocess.Popen(script(tmp_path, body), env=environment(), cwd=tmp_path)
    try:
        wait_until(lambda: busy.exists() and idle.exists(), 30)
        pids = int(busy.read_text()), int(idle.read_text(), 16)
        assert all(alive(pid) for pid in pids)
    finally:
        worker.kill()
        worker.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids))


def test_output_of_a_task_reaches_the_workers_streams(tmp_path: Path) -> None:
    body = """
        print(await pool.run(job("prints"), timeout=60))
        await pool.close()
    """
    done = subprocess.run(
        script(tmp_path, body), env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Succeeded" in done.stdout
    assert "printed by the task\n" in done.stdout
    assert done.stderr == "and an error\nchild says hello\n"  # and no warning: everything was closed


@pytest.mark.parametrize("ending", ["return", "raise SystemExit(5)"])
def test_a_worker_that_forgets_to_close_ends_all_the_same(tmp_path: Path, ending: str) -> None:
    body = f"""
        spin = asyncio.create_task(pool.run(job("spin", "began")))
        print(await pool.run(job("prints")))
        while not Path("began").exists():
            await asyncio.sleep(0.01)
        {ending}
    """
    command = script(tmp_path, body)[:1] + script(tmp_path, body)[-1:]
    done = subprocess.run(
        command, env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == (0 if ending == "return" else 5), done.stderr
    assert "printed by the task\n" in done.stdout  # though the child had no time to flush at its end
    wait_until(lambda: not alive(int((tmp_path / "began").read_text())))


def test_a_script_without_the_main_guard_gets_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "script.py"
    body = (
        "\n    print(repr((await asyncio.gather(pool.run(job('double', 1)), return_exceptions=True))[0]), flush=True)"
    )
    path.write_text((textwrap.dedent(WORKER) % body).replace('if __name__ == "__main__":', "if True:"))
    done = subprocess.run(
        [sys.executable, str(path)],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "with exit code 1 before the task began" in done.stdout
    assert "if __name__ == '__main__'" in done.stdout
    assert "Succeeded" not in done.stdout
