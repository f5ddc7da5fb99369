"""Rule 16: "What may run twice: a crash or stall past the lease (a C call that holds the GIL stops the lease thread
too), an undead thread after its timeout, a failover that loses an ack. What may be lost: writes that Redis itself
lost (unsynced failover, power loss with everysec, eviction, FLUSHALL). The README says so in these words, and `doctor`
checks the settings that matter."
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from click.testing import CliRunner

from penstock import App, RetryPolicy, State, TaskNotFound
from penstock.cli.root import root
from penstock.events import Lost, Reclaimed, Retried, Succeeded, ThreadStuck
from tests.chaos.crash_tasks import noted
from tests.conftest import binary
from tests.contract.helpers import Queue
from tests.integration.support import PATIENCE, Seen
from tests.rules.late import outcomes
from tests.rules.late_tasks import Process, make_app
from tests.servers import DEFAULT, Server, await_until, wait_until
from tests.source import ROOT

pytestmark = pytest.mark.anyio

Start = Callable[[], Process]


@pytest.fixture
def late(url: str, namespace: str, tmp_path: Path) -> Iterator[App]:
    """Client, and worker when asked, of the tasks of `late_tasks`."""
    app = make_app(url, namespace, str(tmp_path))
    yield app
    app.close()


@pytest.fixture
def start(url: str, namespace: str, tmp_path: Path) -> Iterator[Start]:
    """Starts worker processes."""
    started: list[Process] = []

    def start() -> Process:
        started.append(Process(url, namespace, str(tmp_path)))
        return started[-1]

    yield start
    for process in started:
        process.stop()


def runs(folder: Path, word: str = "start") -> int:
    return len([line for line in noted(str(folder)) if line.startswith(word)])


# "What may run twice": each does, and no more often than that; there is one outcome


async def test_a_crash(late: App, q: Queue, start: Start, tmp_path: Path) -> None:
    """The worker is killed while the task runs."""
    (tmp_path / "stay").touch()
    first = start()
    handle = await late.tasks["nap"].adelay()
    await await_until(lambda: runs(tmp_path) == 1, PATIENCE)
    first.kill()
    (tmp_path / "stay").unlink()
    second = start()
    assert await handle.aget(timeout=PATIENCE) == second.pid
    assert (runs(tmp_path), runs(tmp_path, "end")) == (2, 1)
    info = await handle.ainfo()
    assert (info.attempt, info.deliveries) == (1, 2) and outcomes(q.raw, q.namespace) == {"succeeded": 1}


async def test_a_stall_past_the_lease(late: App, q: Queue, start: Start, tmp_path: Path) -> None:
    """The whole process stands still (SIGSTOP, a paused VM), and goes on when another has done its work."""
    (tmp_path / "stay").touch()
    first = start()
    handle = await late.tasks["nap"].adelay()
    await await_until(lambda: runs(tmp_path) == 1, PATIENCE)
    os.kill(first.pid, signal.SIGSTOP)
    second = start()
    await await_until(lambda: runs(tmp_path) == 2, PATIENCE)
    (tmp_path / "stay").unlink()
    assert await handle.aget(timeout=PATIENCE) == second.pid
    os.kill(first.pid, signal.SIGCONT)
    assert (first.stop(), second.stop()) == (0, 0)
    assert await handle == second.pid and runs(tmp_path) == 2
    assert outcomes(q.raw, q.namespace) == {"succeeded": 1} and q.is_empty()


async def test_a_c_call_that_holds_the_gil(late: App, q: Queue, start: Start, tmp_path: Path) -> None:
    """It stops the lease thread, too: the task runs again while the first run goes on, whose success comes late."""
    first = start()
    handle = await late.tasks["keeps_the_gil_once"].adelay()
    await await_until(lambda: runs(tmp_path) == 1, PATIENCE)
    second = start()
    assert await handle.aget(timeout=PATIENCE) == second.pid
    assert (runs(tmp_path), runs(tmp_path, "end")) == (2, 1)  # the first is in its call still
    await await_until(lambda: runs(tmp_path, "end") == 2, PATIENCE)
    assert (first.stop(), second.stop()) == (0, 0)
    assert await handle == second.pid and runs(tmp_path) == 2
    assert outcomes(q.raw, q.namespace) == {"succeeded": 1} and q.is_empty()


async def test_an_undead_thread_after_its_timeout(app: App, seen: Seen, q: Queue) -> None:
    """No exception gets into it. It is settled, retried, and runs beside its own next attempt."""
    release, beside = threading.Event(), threading.Event()
    running: list[int] = []

    @app.task(timeout=0.1, retry=RetryPolicy(max_retries=1, delay=0, jitter=0))
    def stubborn() -> str:
        running.append(threading.get_ident())
        if len(running) == 2:
            beside.set()
            return "second"
        while not release.is_set():
            try:
                release.wait(PATIENCE)
            except BaseException:
                continue
        return "first"

    try:
        async with app.running(threads=2, grace=1):
            handle = await stubborn.adelay()
            assert await handle.aget(timeout=PATIENCE) == "second"
            (stuck,) = await seen.arrive(ThreadStuck)
            alive = {thread.ident for thread in threading.enumerate()}
            assert stuck.id == handle.id and beside.is_set() and running[0] in alive and not release.is_set()
            release.set()
    finally:
        release.set()
    assert len(running) == 2 and len(seen.of(Retried)) == 1
    assert await handle == "second" and outcomes(q.raw, q.namespace) == {"retried": 1, "succeeded": 1}


class Pair:
    """A primary, its replica, and a failover."""

    def __init__(self, directory: Path) -> None:
        self.primary = Server(binary(DEFAULT), directory / "primary").start()
        option = ("--replicaof", "127.0.0.1", str(self.primary.port))
        self.replica = Server(binary(DEFAULT), directory / "replica", *option).start()
        self.sync()

    def sync(self) -> None:
        """The replica has all that was written until now."""
        with self.primary.client() as client:

            def confirmed() -> bool:
                client.set("written", 1)
                return int(client.wait(1, 100)) == 1

            wait_until(confirmed, 20)

    def cut_off(self) -> None:
        """From now on the primary accepts writes that the replica does not get."""
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "127.0.0.1", "1")

    def fail_over(self) -> str:
        """The primary dies; the URL of the new one."""
        self.primary.kill()
        with self.replica.client() as client:
            client.execute_command("REPLICAOF", "NO", "ONE")
        return self.replica.url

    def close(self) -> None:
        self.primary.kill()
        self.replica.kill()


@contextmanager
def pair_of(directory: Path) -> Iterator[Pair]:
    pair = Pair(directory)
    try:
        yield pair
    finally:
        pair.close()


async def test_a_failover_that_loses_an_ack(tmp_path: Path) -> None:
    """The task has succeeded on the old primary; the new one knows that it was running."""
    (tmp_path / "stay").touch()
    with pair_of(tmp_path) as pair:
        with make_app(pair.primary.url, "t", str(tmp_path)) as app:
            seen = Seen(app)
            async with app.running():
                handle = await app.tasks["nap"].adelay()
                await await_until(lambda: runs(tmp_path) == 1)
                pair.sync()
                pair.cut_off()
                (tmp_path / "stay").unlink()
                assert await handle.aget(timeout=PATIENCE) == os.getpid()
                await seen.arrive(Succeeded)
            await app.aclose()
        with make_app(pair.fail_over(), "t", str(tmp_path)) as app:
            seen = Seen(app)
            again = app.handle(handle.id)
            assert await again.astate() is State.RUNNING
            async with app.running():
                assert await again.aget(timeout=PATIENCE) == os.getpid()
            assert seen.of(Reclaimed) and (runs(tmp_path), runs(tmp_path, "end")) == (2, 2)
            await app.aclose()


# "What may be lost: writes that Redis itself lost"


async def test_what_was_sent_and_not_replicated_is_lost_with_its_primary(tmp_path: Path) -> None:
    with pair_of(tmp_path) as pair:
        with make_app(pair.primary.url, "t", str(tmp_path)) as app:
            kept = await app.tasks["nap"].adelay()
            pair.sync()
            pair.cut_off()
            lost = await app.tasks["nap"].adelay()
            assert await lost.astate() is State.QUEUED
            await app.aclose()
        with make_app(pair.fail_over(), "t", str(tmp_path)) as app:
            async with app.running():
                assert await app.handle(kept.id).aget(timeout=PATIENCE) == os.getpid()
            with pytest.raises(TaskNotFound):
                await app.handle(lost.id).astate()
            await app.aclose()
    assert runs(tmp_path) == 1


async def test_flushall_loses_what_it_says_and_the_worker_goes_on(
    own_server: Server, raw: redis.Redis, late: App, tmp_path: Path
) -> None:
    (tmp_path / "stay").touch()
    seen = Seen(late)
    async with late.running():
        running, parked = await late.tasks["nap"].adelay(), await late.tasks["nap"].options(delay=3600).adelay()
        await await_until(lambda: runs(tmp_path) == 1)
        raw.flushall()
        await seen.arrive(Lost)
        (tmp_path / "stay").unlink()
        assert await (await late.tasks["nap"].adelay()).aget(timeout=PATIENCE) == os.getpid()
        for handle in (running, parked):
            with pytest.raises(TaskNotFound):
                await handle.astate()
    await late.aclose()


# "The README says so in these words"

#: What the README names -> the test here that shows it.
SHOWN: dict[str, Callable[..., Any]] = {
    "crash": test_a_crash,
    "stall past the lease": test_a_stall_past_the_lease,
    "C call that holds the GIL": test_a_c_call_that_holds_the_gil,
    "undead thread after its timeout": test_an_undead_thread_after_its_timeout,
    "failover that loses an ack": test_a_failover_that_loses_an_ack,
}


def sentence(page: Path, begin: str) -> str:
    """The rest of the sentence that begins so, on one line."""
    text = " ".join(re.sub(r"^> ?", "", page.read_text("utf-8"), flags=re.MULTILINE).split())
    found = re.search(rf"{begin} (.*?)\.(?: |$)", text)
    assert found is not None, f"{page.name} does not say {begin!r}"
    return found[1]


def test_each_cause_that_the_readme_names_has_a_test_here_and_no_other_is_named() -> None:
    twice = sentence(ROOT / "README.md", "What may run twice:")
    causes = re.split(r", | or | \((?=a C)", twice.replace(" stops the lease thread too)", ""))
    assert [re.sub(r"^(an?) ", "", cause) for cause in causes] == list(SHOWN)
    lost = sentence(ROOT / "README.md", "What may be lost:")
    assert lost == ("writes that Redis itself lost (unsynced failover, power loss with everysec, eviction, FLUSHALL)")


# "and `doctor` checks the settings that matter"


def test_doctor_finds_the_settings_by_which_redis_may_lose_tasks(own_server: Server, raw: redis.Redis) -> None:
    def verdicts() -> dict[str, str]:
        done = CliRunner().invoke(root, ["doctor", "--url", own_server.url, "--json"])
        return {check["name"]: check["verdict"] for check in json.loads(done.stdout)["checks"]}

    wrong = {"maxmemory-policy": "allkeys-lru", "appendonly": "no"}
    assert {name: verdict for name, verdict in verdicts().items() if verdict != "ok"} == {}
    for name, value in wrong.items():
        raw.config_set(name, value)
    found = verdicts()
    assert found["eviction"] == "fail" and found["persistence"] != "ok"
