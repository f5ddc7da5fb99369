"""Fixtures of the lessons: apps, worker processes, the command line, and a way to lose connections."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.acceptance.conftest import folder, penstock
from tests.commands import Command
from tests.integration.conftest import app, make_app, seen, start_worker
from tests.lessons.half_open import HalfOpen
from tests.servers import Server

__all__ = ["app", "folder", "half_open", "make_app", "penstock", "seen", "start_worker", "worker"]

#: Starts workers of `tests.lessons.jobs` under a supervisor, with these options.
StartJobs = Callable[..., Command]


@pytest.fixture
def worker(penstock: Callable[..., Command]) -> StartJobs:
    """Starts workers of `tests.lessons.jobs` under a supervisor, with these options."""

    def start(*args: object, **env: str) -> Command:
        return penstock("-A", "tests.lessons.jobs:app", "worker", *args, env=env)

    return start


@pytest.fixture
def half_open(request: pytest.FixtureRequest) -> Iterator[HalfOpen]:
    """A way to the test's server on which connections can be forgotten."""
    server: Server = request.getfixturevalue("own_server" if "own_server" in request.fixturenames else "server")
    proxy = HalfOpen(server.port)
    yield proxy
    proxy.close()
