"""Says how long there was no service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import App
from tests.conftest import Running, binary
from tests.failover.topology import Behind, of_cluster, of_sentinels
from tests.servers import DEFAULT
from tests.topologies import cluster, sentinels

MakeApp = Callable[..., App]
_seen: list[str] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Reports of all processes of a distributed run arrive here, with their properties.
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "service" and getattr(report, "when", "") == "call":
                    terminalreporter.write_line(f"{report.nodeid.rpartition('::')[2]}: {value}")


@pytest.fixture
def make_app(namespace: str) -> Iterator[MakeApp]:
    """Makes apps in the test's own namespace; sync calls are allowed in its event loop."""
    made: list[App] = []

    def make(url: str, **settings: Any) -> App:
        app = App("failover", **{"url": url, "namespace": namespace, "sync_in_loop": "allow", **settings})
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def shared_cluster(running_servers: Running) -> Behind:
    """The cluster of this pytest process: nothing is killed in it."""
    return of_cluster(running_servers.cluster())


@pytest.fixture(params=["cluster", "sentinel"])
def behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Behind]:
    """Servers of the test's own, whose primary may be killed."""
    if request.param == "cluster":
        with cluster(binary(DEFAULT), tmp_path, replicas=1) as nodes:
            yield of_cluster(nodes)
    else:
        with sentinels(binary(DEFAULT), tmp_path, replicas=2) as (servers, watchers):
            yield of_sentinels(servers, watchers)
