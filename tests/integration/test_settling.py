"""A bug in the settler's own code loses no outcome: forgotten, its task would stay in flight for ever."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import App
from penstock.streams import settle

pytestmark = pytest.mark.anyio


async def test_outcomes_are_kept_when_a_call_cannot_be_built(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    failures = [RuntimeError("a bug")]
    succeed = settle.succeed

    def succeed_or_fail(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return succeed(*args)

    @app.task
    async def work() -> int:
        return 1

    monkeypatch.setattr(settle, "succeed", succeed_or_fail)
    async with app.running(lease=0.9, grace=0):
        assert await (await work.adelay()).aget(10) == 1
    assert not failures
