"""Fixtures of the tests of verbs: a queue on each server."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from penstock.settings import Settings
from penstock.streams.client import SyncClient
from penstock.streams.connection import Connector
from penstock.streams.urls import resolve_url
from tests.contract.helpers import Queue
from tests.servers import Server


@pytest.fixture
def connector(any_server: Server) -> Connector:
    return Connector(resolve_url(any_server.url, {}), Settings())


@pytest.fixture
def q(connector: Connector, raw: redis.Redis, namespace: str) -> Iterator[Queue]:
    """A queue of the test's own, on each server in turn."""
    client = SyncClient(connector)
    yield Queue(raw, client, namespace)
    client.close()
