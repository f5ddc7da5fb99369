"""Producers that go on sending, and what they and the workers saw, with times."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise
from typing import Any

from penstock import App, Handle, NotDurable, Task

#: Seconds between two sends of one producer.
PACE = 0.005


class Load:
    """Two producers, sync and async, send to each of some queues; `run` is filled in by the task."""

    def __init__(self, app: App, queues: Sequence[str]) -> None:
        self.app = app
        self.queues = queues
        #: id -> when it was acknowledged; those that a replica has confirmed are in `safe`, too.
        self.accepted: dict[str, float] = {}
        self.safe: set[str] = set()
        #: Not acknowledged, because nobody has confirmed them.
        self.unconfirmed: set[str] = set()
        #: id -> when it ran, each time.
        self.runs: dict[str, list[float]] = {}
        self.errors: list[BaseException] = []
        self._numbers = count()
        self._ending = threading.Event()
        self.task: Task[[str], Any] = app.task(name="note")(self._note)

    async def _note(self, id: str) -> str:
        self.runs.setdefault(id, []).append(time.monotonic())
        return id

    @contextmanager
    def going(self) -> Iterator[None]:
        """Producers send until the end of the block."""
        threads = [threading.Thread(target=self._guarded, args=(way,)) for way in (self._send, self._asend)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._ending.set()
            for thread in threads:
                thread.join(60)
            assert not any(thread.is_alive() for thread in threads)

    def times(self, queue: str, ran: bool) -> list[float]:
        """When tasks of a queue were accepted, or ran."""
        if ran:
            return sorted(t for id, each in self.runs.copy().items() if id.startswith(f"{queue}:") for t in each)
        return sorted(t for id, t in self.accepted.copy().items() if id.startswith(f"{queue}:"))

    def since(self, moment: float, queue: str, ran: bool) -> int:
        """How many of them since then."""
        return sum(t > moment for t in self.times(queue, ran))

    def gap(self, moment: float, queue: str, ran: bool) -> float:
        """The longest time (s) around `moment` and after it in which nothing was accepted, or ran."""
        times = [t for t in self.times(queue, ran) if t > moment - 1]
        return max(b - a for a, b in pairwise(times))

    def _guarded(self, way: Any) -> None:
        try:
            way()
        except BaseException as error:
            self.errors.append(error)

    def _next(self) -> tuple[str, str, Task[[str], Any]]:
        number = next(self._numbers)
        queue, safe = self.queues[number % len(self.queues)], number % 3 == 0
        options = self.task.options(id=f"n{number}", queue=queue, durability="replicated" if safe else "memory")
        return f"{queue}:n{number}", "safe" if safe else "", options

    def _keep(self, id: str, safe: str, handle: Handle[Any]) -> None:
        assert handle.id == id
        self.accepted[id] = time.monotonic()
        if safe:
            self.safe.add(id)

    def _send(self) -> None:
        while not self._ending.wait(PACE):
            id, safe, task = self._next()
            try:
                self._keep(id, safe, task.delay(id))
            except NotDurable as error:
                self.unconfirmed.update(error.ids)

    def _asend(self) -> None:
        asyncio.run(self._asend_all())

    async def _asend_all(self) -> None:
        while not self._ending.is_set():
            id, safe, task = self._next()
            try:
                self._keep(id, safe, await task.adelay(id))
            except NotDurable as error:
                self.unconfirmed.update(error.ids)
            await asyncio.to_thread(self._ending.wait, PACE)
