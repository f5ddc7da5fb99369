"""Fixtures: servers, a namespace for each test, and the check that a test leaves no key behind."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from penstock.streams import keys
from tests.servers import DEFAULT, SERVERS, Server, find_leaks


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "leaks: the test may leave keys without a TTL in its namespace")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    report = yield
    if report.when == "call":
        item.stash[_failed] = report.failed
    return report


_failed = pytest.StashKey[bool]()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in list(os.environ):
        if variable.startswith(("PENSTOCK_", "REDIS_")):
            monkeypatch.delenv(variable)


def binary(name: str) -> str:
    """The server's binary; without one the test fails on CI and is skipped elsewhere."""
    found = SERVERS.get(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed")
        pytest.skip(f"{name} is not installed")
    return found


class _Running:
    """The servers of this pytest process, by name; each is started when first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: dict[str, Server] = {}

    def get(self, name: str) -> Server:
        found = binary(name)
        if name not in self._servers:
            self._servers[name] = Server(found, self._directory / name).start()
        return self._servers[name]

    def stop(self) -> None:
        for server in self._servers.values():
            server.kill()


@pytest.fixture(scope="session")
def running_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Running]:
    running = _Running(tmp_path_factory.mktemp("servers"))
    yield running
    running.stop()


@pytest.fixture
def server(request: pytest.FixtureRequest, running_servers: _Running) -> Server:
    """The server of most tests, shared with the others of this pytest process."""
    return running_servers.get(DEFAULT)


@pytest.fixture(params=list(SERVERS))
def any_server(request: pytest.FixtureRequest, running_servers: _Running) -> Server:
    """Each supported server in turn."""
    return running_servers.get(request.param)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server of the test's own, to stop, start, pause, resume and kill; its data survives."""
    server = Server(binary(DEFAULT), tmp_path / "own-server", durable=True).start()
    yield server
    server.kill()


def _server_of(request: pytest.FixtureRequest) -> Server:
    for name in ("own_server", "any_server"):
        if name in request.fixturenames:
            return request.getfixturevalue(name)  # type: ignore[no-any-return]
    return request.getfixturevalue("server")  # type: ignore[no-any-return]


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """URL of the test's server: `own_server`, else `any_server`, else `server`."""
    return _server_of(request).url


@pytest.fixture
def raw(request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """A plain client of the test's server."""
    with _server_of(request).client() as client:
        yield client


@pytest.fixture
def namespace(request: pytest.FixtureRequest) -> Iterator[str]:
    """A namespace of the test's own. Afterwards every key in it must have a TTL or an owner."""
    server = _server_of(request)  # before the test's own fixtures, hence stopped after this check
    name = f"t-{secrets.token_hex(6)}"
    yield name
    if not server.running:
        return
    server.resume()
    with server.client() as client:
        leaks = find_leaks(client, name, keys.PERMANENT)
        for key in client.scan_iter(match=f"{{{name}*", count=1000):
            client.unlink(key)
    if leaks and request.node.get_closest_marker("leaks") is None and not request.node.stash.get(_failed, True):
        pytest.fail(f"keys without TTL and without owner: {leaks}")
