"""Connections that break again and again (a proxy, a load balancer) do not keep tasks from being taken over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import redis

from penstock import App
from penstock.events import Reclaimed
from penstock.streams import consume, keys
from penstock.streams.client import AsyncClient
from tests.integration.support import Seen
from tests.servers import Server

MakeApp = Callable[..., App]
pytestmark = pytest.mark.anyio

LEASE = 1.5


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
async def test_reclaim_goes_on_while_connections_break(
    app: App, seen: Seen, own_server: Server, raw: redis.Redis, namespace: str, kind: str
) -> None:
    @app.task
    async def work(n: int) -> int:
        return n

    handle = await work.adelay(1)
    client = AsyncClient(app.connector)
    base = keys.base(namespace, "default")
    held = await client.run(consume.fetch(base, "default", "dead", 1, [("default", 1)], 60.0))
    assert len(held.deliveries) == 1
    await client.aclose()

    cut = 0

    async def break_connections() -> None:
        nonlocal cut
        while True:
            cut += raw.client_kill_filter(_type=kind, skipme=True)
            await asyncio.sleep(LEASE / 4)  # work: what breaks them comes again before each lease is over

    async with app.running(lease=LEASE):
        breaking: asyncio.Task[Any] = asyncio.create_task(break_connections())
        assert await handle.aget(timeout=15 * LEASE) == 1
        breaking.cancel()
    assert seen.of(Reclaimed) and cut >= 3
