"""Errors of tasks in Sentry, with the task they belong to; nothing leaves this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from penstock import App, RetryPolicy, TaskFailed
from penstock.integrations.sentry import Sentry
from tests.servers import wait_until

pytestmark = pytest.mark.anyio


class Kept(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__({"dsn": None})
        self.items: list[dict[str, Any]] = []

    def capture_envelope(self, envelope: Envelope) -> None:
        self.items += [item.payload.json for item in envelope.items if item.payload.json is not None]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """``error`` or ``transaction``."""
        return [item for item in self.items if (item.get("type") or "error") == kind]


@pytest.fixture
def kept() -> Iterator[Kept]:
    transport = Kept()
    sentry_sdk.init(
        dsn="http://key@127.0.0.1:1/1", transport=transport, traces_sample_rate=1.0, default_integrations=False,
        auto_enabling_integrations=False,
    )  # fmt: skip
    yield transport
    sentry_sdk.init()


@pytest.mark.parametrize("retries", [False, True])
async def test_errors_and_their_task(plain_app: App, kept: Kept, retries: bool) -> None:
    plain_app.use(Sentry(retries=retries))

    @plain_app.task(name="bad", queue="mail", retry=RetryPolicy(max_retries=1, delay=0.01))
    async def bad() -> None:
        sentry_sdk.set_tag("shop.order", 42)
        raise ValueError("no")

    @plain_app.task(name="good")
    def good() -> None: ...

    async with plain_app.running():
        handle = await bad.adelay()
        with pytest.raises(TaskFailed):
            await handle
        await (await good.adelay())
    wait_until(lambda: len(kept.of("transaction")) == 3)
    errors = kept.of("error")
    assert [error["contexts"]["penstock"]["attempt"] for error in errors] == ([1, 2] if retries else [2])
    last = errors[-1]
    assert last["exception"]["values"][0]["type"] == "ValueError"
    assert last["tags"]["penstock.task"] == "bad" and last["tags"]["penstock.queue"] == "mail"
    assert last["tags"]["penstock.id"] == handle.id and str(last["tags"]["shop.order"]) == "42"
    of_good = next(each for each in kept.of("transaction") if each["transaction"] == "good")
    assert "shop.order" not in of_good.get("tags", {})  # one attempt's scope is not another's


async def test_the_trace_of_the_call_goes_on(plain_app: App, kept: Kept) -> None:
    plain_app.use(Sentry())

    @plain_app.task(name="work")
    async def work() -> None: ...

    with sentry_sdk.start_transaction(name="request") as request:
        handle = await work.adelay()
    async with plain_app.running():
        await handle
    wait_until(lambda: len(kept.of("transaction")) == 2)
    run = next(each for each in kept.of("transaction") if each["transaction"] == "work")
    assert run["contexts"]["trace"]["trace_id"] == request.trace_id
    assert run["contexts"]["trace"]["op"] == "queue.task.penstock"
