"""What the behaviour tests share: recorded events, worker processes, counts of commands."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import redis

from penstock import App, TaskSet
from penstock.events import Event
from tests.integration import shared_tasks
from tests.servers import await_until, wait_until

E = TypeVar("E", bound=Event)

#: Seconds for what should take a moment; nothing is ever measured by it.
PATIENCE = 20.0


class Seen:
    """The events of an app, in order."""

    def __init__(self, *apps: App) -> None:
        self.events: list[Event] = []
        for app in apps:
            app.observe(self.events.append)

    def of(self, kind: type[E], **fields: Any) -> list[E]:
        """Events of this kind with these fields."""
        return [
            event
            for event in list(self.events)
            if isinstance(event, kind) and all(getattr(event, name) == value for name, value in fields.items())
        ]

    def wait(self, kind: type[E], count: int = 1, timeout: float = PATIENCE, **fields: Any) -> list[E]:
        """At least `count` of them, as soon as there are so many."""
        wait_until(lambda: len(self.of(kind, **fields)) >= count, timeout)
        return self.of(kind, **fields)

    async def arrive(self, kind: type[E], count: int = 1, timeout: float = PATIENCE, **fields: Any) -> list[E]:
        """As `wait`, while the event loop runs."""
        await await_until(lambda: len(self.of(kind, **fields)) >= count, timeout)
        return self.of(kind, **fields)


class WorkerProcess:
    """One worker in a process of its own (`tests.integration.worker_process`). It dies with the test."""

    def __init__(self, settings: dict[str, Any]) -> None:
        command = [sys.executable, "-m", "tests.integration.worker_process", json.dumps(settings)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        #: What it has told: "ready", then lines of the tasks.
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stdout:
            for line in stdout:
                self.lines.append(line.rstrip("\n"))

    def wait_ready(self) -> WorkerProcess:
        wait_until(lambda: "ready" in self.lines or self.process.poll() is not None, 60)
        assert "ready" in self.lines, "the worker process ended"
        return self

    def stop(self) -> int:
        """SIGTERM, and wait."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=30)

    def kill(self) -> None:
        """SIGKILL, and wait."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=30)
        self._reader.join()
        assert self.process.stdin is not None
        self.process.stdin.close()


def calls_of(client: redis.Redis, *commands: str) -> int:
    """How often the server has run these commands, by INFO commandstats; calls in scripts count."""
    stats: Any = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{command}", {}).get("calls", 0) for command in commands)


def entries(client: redis.Redis, namespace: str, queue: str = "default", priority: str = "default") -> int:
    """Entries in a stream, delivered or not."""
    return int(client.xlen(f"{{{namespace}:{queue}}}:s:{priority}"))


def pending(client: redis.Redis, namespace: str, queue: str = "default", priority: str = "default") -> Sequence[Any]:
    """(entry, consumer, ..) of delivered entries; none if there is no group yet."""
    try:
        found: Any = client.xpending_range(f"{{{namespace}:{queue}}}:s:{priority}", "w", "-", "+", 1000)
    except redis.ResponseError:
        return []
    return list(found)


def share(app: App) -> Any:
    """Registers `tests.integration.shared_tasks` with `app`; the tasks by name, as attributes.

    A task set belongs to one app, hence a new one for each test. Children of process slots find the
    tasks by module and qualified name.
    """
    tasks = TaskSet()
    found = SimpleNamespace()
    for task in shared_tasks.tasks.tasks.values():
        given = {name: getattr(task.config, name) for name in task.config.given}
        setattr(found, task.__name__, tasks.task(name=task.name, **given)(task.fn))
    app.include(tasks)
    return found
