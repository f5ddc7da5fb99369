"""Fixtures: servers, a namespace for each test, and the check that a test leaves no key behind."""

from __future__ import annotations

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path

import pytest
import redis

from penstock.streams import keys
from tests import access_run
from tests.servers import DEFAULT, SERVERS, Server, find_leaks
from tests.topologies import cluster

#: Name of the cluster among the servers.
CLUSTER = "cluster"


#: Long suites with a command of their own (`make chaos`, ..): run only if ``-m`` names them.
LONG = {"chaos": "takes minutes", "failover": "takes a minute", "observability": "takes two minutes"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--access",
        choices=["open", "acl", "tls"],
        default="open",
        help="acl: each server demands a user, who has the documented rights only; tls: it speaks TLS only",
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # As a shell without job control starts what it runs in the background. Our child processes would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    access_run.configure(config)
    config.addinivalue_line("markers", "leaks: the test may leave keys without a TTL in its namespace")
    for name, why in LONG.items():
        config.addinivalue_line("markers", f"{name}: {why}; runs with -m {name} only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    unasked = [name for name in LONG if name not in config.getoption("markexpr")]
    left_out = [item for item in items if any(map(item.get_closest_marker, unasked))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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


class Running:
    """The servers of this pytest process, by name; each is started when first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._servers: dict[str, Server] = {}
        self._stack = ExitStack()
        self._nodes: list[Server] = []
        self._turns: Iterator[Server] = iter(())

    def get(self, name: str) -> Server:
        """The server of this name; `CLUSTER`: a primary of the cluster, each time another one."""
        if name == CLUSTER:
            self.cluster()
            return next(self._turns)
        found = binary(name)
        if name not in self._servers:
            self._servers[name] = Server(found, self._directory / name).start()
        return self._servers[name]

    def cluster(self) -> list[Server]:
        """Three primaries, and a replica of each."""
        if not self._nodes:
            self._nodes = self._stack.enter_context(cluster(binary(DEFAULT), self._directory / CLUSTER, replicas=1))
            self._turns = cycle(self._nodes[:3])
        return self._nodes

    def stop(self) -> None:
        self._stack.close()
        for server in self._servers.values():
            server.kill()


@pytest.fixture(scope="session")
def running_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("servers"))
    yield running
    running.stop()


@pytest.fixture
def server(request: pytest.FixtureRequest, running_servers: Running) -> Server:
    """The server of most tests, shared with the others of this pytest process."""
    return running_servers.get(DEFAULT)


@pytest.fixture(params=list(SERVERS))
def any_server(request: pytest.FixtureRequest, running_servers: Running) -> Server:
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
    # On a cluster: one that this node serves, with its queue `q`, so that `raw` sees them.
    name = next(n for _ in range(1000) if server.owns(n := f"t-{secrets.token_hex(6)}", f"{n}:q"))
    access_run.enter(name)
    yield name
    refused = access_run.refused()
    leaks: list[str] = []
    for each in server.peers:
        if not each.running:
            return
        each.resume()
        with each.client() as client:
            leaks += find_leaks(client, name, keys.PERMANENT)
            for key in client.scan_iter(match=f"{{{name}*", count=1000):
                client.unlink(key)
    if request.node.stash.get(_failed, True):
        return
    if refused:
        pytest.fail(f"the documented rights are not enough: {sorted(refused)}")
    if leaks and request.node.get_closest_marker("leaks") is None:
        pytest.fail(f"keys without TTL and without owner: {leaks}")
