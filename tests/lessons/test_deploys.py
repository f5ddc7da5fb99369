"""Old and new code side by side: what one worker cannot run is left for the one that can."""

from __future__ import annotations

import asyncio

import pytest
import redis

from penstock import State, TaskFailed
from penstock.events import Failed, Started, Unknown
from penstock.streams import keys
from tests.integration.conftest import MakeApp
from tests.integration.support import Seen, entries
from tests.lessons.conftest import StartJobs
from tests.servers import await_until

pytestmark = pytest.mark.anyio


async def test_a_task_of_the_new_release_is_not_thrown_away_by_the_old_worker(
    make_app: MakeApp, worker: StartJobs, raw: redis.Redis, namespace: str
) -> None:
    """celery/celery#6485, onyx-dot-app/onyx#4740, inveniosoftware/invenio-rdm-records#1396: "received unregistered
    task ... discarded": during a deploy the old workers deleted what the new producers sent."""
    new = make_app()
    seen = Seen(new)

    @new.task(name="new.release")
    async def of_new_release(n: int) -> int:
        return n

    old = worker(PENSTOCK_LEASE="1")
    old.ready()
    handles = await of_new_release.abulk([(n,) for n in range(5)])
    changed = [await new.task_named("tests.lessons.jobs.add").adelay(n, 1, carry=True) for n in range(2)]
    counters = keys.counters(keys.base(namespace, "default"))
    await await_until(lambda: int(raw.hget(counters, "unknown|new.release") or 0) >= 5, 20)
    await await_until(lambda: int(raw.hget(counters, "unknown|tests.lessons.jobs.add") or 0) >= 2)
    assert [await handle.astate() for handle in handles] == [State.SCHEDULED] * 5

    @new.task(name="tests.lessons.jobs.add")
    async def add(a: int, b: int, *, carry: bool = False) -> int:
        return a + b + 10 * carry

    async with new.running():  # the deploy goes on: both are there
        assert await asyncio.gather(*[handle.aget(60) for handle in handles]) == list(range(5))
        assert await asyncio.gather(*[handle.aget(60) for handle in changed]) == [11, 12]
    assert len(seen.of(Started)) == 7 and entries(raw, namespace) == 0
    assert {(await handle.ainfo()).attempt for handle in handles} == {1}  # to be handed round has spent nothing


async def test_workers_with_different_tasks_share_a_queue_without_losing_any(make_app: MakeApp) -> None:
    """onyx-dot-app/onyx#4740: workers that each imported some of the tasks read from one queue, and threw away those
    of the others."""
    mails, images, clock = make_app(), make_app(), make_app()
    seen = Seen(mails, images)

    @mails.task(name="mail")
    async def mail(n: int) -> str:
        return f"mail {n}"

    @images.task(name="image")
    async def image(n: int) -> str:
        return f"image {n}"

    async with mails.running(), images.running():
        handles = [await clock.task_named(name).adelay(n) for n in range(10) for name in ("mail", "image")]
        results = await asyncio.gather(*[handle.aget(60) for handle in handles])
    assert results == [f"{name} {n}" for n in range(10) for name in ("mail", "image")]
    assert seen.of(Unknown) and not seen.of(Failed), "each had only its own: nothing is proven"
    assert len(seen.of(Started)) == 20
    await clock.aclose()


async def test_a_task_that_nobody_knows_ends_where_it_can_be_found(make_app: MakeApp) -> None:
    """celery/celery#6485: a misspelt name was a line in the log of some worker, and the task was gone."""
    app = make_app(unknown_ttl=0.5)

    @app.task
    async def known() -> int:
        return 1

    async with app.running():
        handle = await app.asend("misspelt", 42)
        with pytest.raises(TaskFailed, match="misspelt") as caught:
            await handle.aget(30)
        assert caught.value.reason == "unknown_task"
    (letter,) = await asyncio.to_thread(app.dead_letters().list)
    assert (letter.id, letter.name, letter.reason) == (handle.id, "misspelt", "unknown_task")
