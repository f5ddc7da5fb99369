"""Fixtures of the tests of verbs: a queue on each server, and on a cluster."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from penstock.settings import Settings
from penstock.streams.client import SyncClient
from penstock.streams.connector import Connector
from penstock.streams.urls import resolve_url
from tests.conftest import CLUSTER, Running
from tests.contract.helpers import Queue
from tests.servers import SERVERS, Server


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "any_server" in metafunc.fixturenames:
        # What is tested through a queue holds on a cluster, too; the rest is about single servers.
        names = [*SERVERS, CLUSTER] if "q" in metafunc.fixturenames else list(SERVERS)
        metafunc.parametrize("any_server", names, indirect=True)


@pytest.fixture
def any_server(request: pytest.FixtureRequest, running_servers: Running) -> Server:
    """Each supported server in turn, and a node of a cluster."""
    return running_servers.get(request.param)


@pytest.fixture
def connector(any_server: Server) -> Connector:
    return Connector(resolve_url(any_server.url, {}), Settings())


@pytest.fixture
def q(connector: Connector, raw: redis.Redis, namespace: str) -> Iterator[Queue]:
    """A queue of the test's own, on each server in turn."""
    client = SyncClient(connector)
    yield Queue(raw, client, namespace)
    client.close()
