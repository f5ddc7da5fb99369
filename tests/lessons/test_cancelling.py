"""A cancellation is kept by Redis: it needs no worker, survives all restarts, and holds while a worker stops."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import redis

from penstock import App, State, TaskCancelled
from penstock.events import Cancelled, Released, Started, Succeeded
from tests.commands import Folder
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, entries, share
from tests.lessons.conftest import StartJobs
from tests.servers import Server, await_until

pytestmark = pytest.mark.anyio


async def test_a_cancellation_survives_the_restart_of_everything(
    app: App, make_app: MakeApp, own_server: Server, namespace: str
) -> None:
    """celery/celery#1246, #4300, hatchet-dev/hatchet#1010: revokes were kept in the memories of workers; with none up,
    or once all had been restarted, the revoked task ran."""

    def tasks_of(app: App) -> Any:
        @app.task(name="work")
        async def work(n: int) -> int:
            return n

        return work

    work = tasks_of(app)
    handles = await work.abulk([(n,) for n in range(6)])
    handles += [await work.options(delay=0.3).adelay(n) for n in (6, 7)]
    cancelled, kept = handles[::2], handles[1::2]
    for handle in cancelled:
        assert await app.handle(handle.id).acancel()  # nobody is there to hear it
    await app.aclose()
    await asyncio.to_thread(own_server.stop)
    own_server.start()  # here: it dies with the thread that starts it
    again = make_app()
    seen = Seen(again)
    tasks_of(again)
    async with again.running():
        assert await asyncio.gather(*[again.handle(handle.id).aget(20) for handle in kept]) == [1, 3, 5, 7]
        for handle in cancelled:
            with pytest.raises(TaskCancelled):
                await again.handle(handle.id).aget(20)
    assert {event.id for event in seen.of(Started)} == {handle.id for handle in kept}
    with own_server.client() as client:
        assert entries(client, namespace) == 0
    await app.aclose()


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_a_cancellation_is_obeyed_by_a_worker_that_is_stopping(app: App, seen: Seen, kind: str) -> None:
    """celery/celery#8417: during a warm shutdown nobody listened any more, and the revoked task held up the deploy to
    its end."""
    stopped = threading.Event()

    @app.task
    async def wait() -> None:
        try:
            await asyncio.sleep(600)  # work
        finally:
            stopped.set()

    @app.task
    def wait_sync() -> None:
        try:
            while True:
                threading.Event().wait(0.01)
        finally:
            stopped.set()

    async with app.running(grace=600, lease=0.9) as worker:
        handle = await (wait if kind == "async" else wait_sync).adelay()
        await seen.arrive(Started)
        worker.stop()
        with pytest.raises(TimeoutError):  # it does wait for its task
            await handle.aget(timeout=0.3)
        assert await handle.acancel()
        with pytest.raises(TaskCancelled):
            await handle.aget(timeout=30)
    assert stopped.is_set() and seen.of(Cancelled) and not seen.of(Released)
    assert await handle.astate() is State.CANCELLED


def test_a_running_task_can_be_cancelled_in_another_process(app: App, worker: StartJobs, folder: Folder) -> None:
    """taskiq-python/taskiq#305, Bogdanp/dramatiq#51: there was no way to end a task that had begun."""
    hold = app.task_named("tests.lessons.jobs.hold")
    supervised = worker()
    pids = supervised.ready()
    handle = hold.delay(str(folder), "held")
    folder.wait("begin", "held")
    assert handle.cancel()
    with pytest.raises(TaskCancelled):
        handle.get(timeout=30)
    folder.release("held")
    assert app.task_named("tests.lessons.jobs.add").delay(1, 2).get(timeout=30) == 3
    assert not folder.notes("end") and supervised.ready() == pids  # the task was ended, and nothing else


async def test_a_cancelled_task_is_not_run_by_the_one_who_takes_it_over(
    app: App, start_worker: Any, seen: Seen, raw: redis.Redis, tmp_path: Any
) -> None:
    """celery/celery#1246, #4300: the worker that knew of the revoke was killed, and the next one ran the task."""
    shared, log = share(app), tmp_path / "log"
    dying = start_worker(lease=0.6)
    handle = await shared.note.adelay(str(log), 600)
    await await_until(log.exists, 20)
    dying.kill()
    assert dying.process.returncode < 0 and await handle.acancel()
    async with app.running(lease=0.6):
        with pytest.raises(TaskCancelled):
            await handle.aget(timeout=20)
    assert not seen.of(Started) and not seen.of(Succeeded) and log.read_text().count("start") == 1
