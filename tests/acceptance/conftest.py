"""Fixtures: the command line as processes, with the test's own server and namespace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from penstock import App
from tests.commands import Command, Folder

Penstock = Callable[..., Command]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Where the tasks of `tests.apps.chores` leave notes."""
    path = tmp_path / "notes"
    path.mkdir()
    return Folder(path)


@pytest.fixture
def penstock(url: str, namespace: str, tmp_path: Path, folder: Folder) -> Iterator[Penstock]:
    """Starts `penstock` with these arguments; `env` adds to its environment."""
    started: list[Command] = []
    numbers = count()

    def start(*args: object, env: dict[str, str] | None = None) -> Command:
        found = {"PENSTOCK_URL": url, "PENSTOCK_NAMESPACE": namespace, "TEST_FOLDER": str(folder), **(env or {})}
        command = Command([str(arg) for arg in args], found, tmp_path / f"log{next(numbers)}")
        started.append(command)
        return command

    yield start
    for command in started:
        command.close()


@pytest.fixture
def worker(penstock: Penstock) -> Callable[..., Command]:
    """Starts workers of `tests.apps.chores`, with these options."""

    def start(*args: object, app: str = "chores", **env: str) -> Command:
        return penstock("-A", f"tests.apps.{app}:app", "worker", *args, env=env)

    return start


@pytest.fixture
def app(url: str, namespace: str) -> Iterator[App]:
    """A producer without the tasks' code."""
    with App("producer", url=url, namespace=namespace) as app:
        yield app


@pytest.fixture
def send(app: App) -> Callable[..., Any]:
    """Sends a task of `tests.apps.chores` by its function's name."""

    def send(task: str, *args: object, **options: Any) -> Any:
        name = task if "." in task else f"tests.apps.chores.{task}"
        return app.task_named(name, **options).delay(*args)

    return send
