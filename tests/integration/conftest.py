"""Fixtures of the behaviour tests: apps in the test's own namespace, what they tell, worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from penstock import App
from tests.integration.support import Seen, WorkerProcess

MakeApp = Callable[..., App]


@pytest.fixture
def make_app(url: str, namespace: str) -> Iterator[MakeApp]:
    """Makes apps on the test's server; sync calls are allowed in its event loop."""
    made: list[App] = []

    def make(name: str = "test", **settings: Any) -> App:
        app = App(name, **{"url": url, "namespace": namespace, "sync_in_loop": "allow", **settings})
        made.append(app)
        return app

    yield make
    for app in made:
        app.close()


@pytest.fixture
def app(make_app: MakeApp) -> App:
    return make_app()


@pytest.fixture
def seen(app: App) -> Seen:
    """All events of `app`."""
    return Seen(app)


@pytest.fixture
def start_worker(url: str, namespace: str) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts worker processes that serve `tests.integration.shared_tasks`."""
    started: list[WorkerProcess] = []

    def start(**settings: Any) -> WorkerProcess:
        worker = WorkerProcess({"url": url, "namespace": namespace, **settings})
        started.append(worker)
        return worker.wait_ready()

    yield start
    for worker in started:
        worker.kill()
