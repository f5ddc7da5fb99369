"""Fixtures: those of the behaviour tests; the verbs of the queue ``default``; supervised workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from penstock import App
from penstock.streams.client import SyncClient
from tests.acceptance.conftest import Penstock, folder, penstock
from tests.commands import Command, Folder
from tests.contract.helpers import Queue
from tests.integration.conftest import MakeApp, app, make_app, seen, start_worker
from tests.rules.support import Told

__all__ = ["MakeApp", "app", "folder", "make_app", "penstock", "seen", "start_worker"]

#: Times of supervised workers (s): short, so that a wedged one is not waited for.
QUICK = {"PENSTOCK_LEASE": "0.6", "PENSTOCK_CONNECT_TIMEOUT": "0.5", "PENSTOCK_COMMAND_TIMEOUT": "0.5"}


@pytest.fixture
def q(app: App, raw: redis.Redis, namespace: str) -> Iterator[Queue]:
    """The queue ``default`` by its verbs, beside the app's workers."""
    client = SyncClient(app.connector)
    yield Queue(raw, client, namespace, "default")
    client.close()


@pytest.fixture
def supervised(penstock: Penstock) -> Callable[..., Command]:
    """Starts a supervisor with workers of `tests.rules.tasks`, with these options."""

    def start(*args: object, **env: str) -> Command:
        return penstock("-A", "tests.rules.tasks:app", "worker", *args, env={**QUICK, **env})

    return start


@pytest.fixture
def send(app: App) -> Callable[..., Any]:
    """Sends a task of `tests.rules.tasks` by its function's name."""

    def send(task: str, *args: object, **options: Any) -> Any:
        return app.task_named(f"tests.rules.tasks.{task}", **options).delay(*args)

    return send


@pytest.fixture
def told(folder: Folder) -> Told:
    """The events of supervised workers."""
    return Told(folder)
