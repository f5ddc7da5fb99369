"""Workers of two versions side by side: what one cannot run, the other gets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from penstock import App, TaskFailed
from penstock.events import Succeeded, Unknown
from tests.integration.support import Seen

MakeApp = Callable[..., App]
pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("kind", ["async", "thread"])
async def test_arguments_that_do_not_fit_are_handed_to_the_worker_that_takes_them(make_app: MakeApp, kind: str) -> None:
    old, new = make_app("old"), make_app("new")
    if kind == "async":

        @old.task(name="send")
        async def send_1(to: str) -> str:
            return f"old {to}"

    else:

        @old.task(name="send")
        def send_1_sync(to: str) -> str:
            return f"old {to}"

    @new.task(name="send")
    async def send_2(to: str, *, copy: bool) -> str:
        return f"new {to} {copy}"

    seen = Seen(old)
    async with old.running():
        handle = await send_2.adelay("ann", copy=True)
        unknown = await seen.arrive(Unknown, id=handle.id)
        assert "copy" in unknown[0].error
        assert not seen.of(Succeeded)
        fits = old.send("send", "bob")
        assert await fits.aget(timeout=30) == "old bob"
    async with new.running():
        assert await handle.aget(timeout=30) == "new ann True"


async def test_both_versions_at_once(make_app: MakeApp) -> None:
    old, new = make_app("old"), make_app("new")

    @old.task(name="send")
    async def send_1(to: str) -> str:
        return f"old {to}"

    @new.task(name="send")
    async def send_2(to: str, *, copy: bool = False) -> str:
        return f"new {to}"

    async with old.running(), new.running():
        plain = await send_1.abulk([(f"u{i}",) for i in range(20)])
        assert {(await h).split()[0] for h in plain} <= {"old", "new"}
        handle = await send_2.adelay("x", copy=True)
        assert await handle.aget(timeout=60) == "new x"


async def test_a_dead_letter_can_be_redriven_once_the_code_is_there(make_app: MakeApp) -> None:
    old, new = make_app("old"), make_app("new")

    @old.task
    async def known() -> int:
        return 1

    @new.task(name="late")
    async def late() -> int:
        return 2

    async with old.running(unknown_ttl=0):
        handle = await late.adelay()
        with pytest.raises(TaskFailed):
            await handle.aget(timeout=30)
    assert await asyncio.to_thread(new.redrive, handle.id) == 1
    async with new.running():
        assert await handle.aget(timeout=30) == 2
