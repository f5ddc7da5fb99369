"""One queue twice, on a server and in the model: its clock, its faults, and the comparison of the two."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from enum import Enum
from typing import Any, TypeVar

import redis

from penstock.errors import ServerOutOfMemory
from penstock.streams import consume, keys
from penstock.streams.calls import Call
from penstock.streams.consume import Delivery
from tests.model.clock import Clock, ClockedClient
from tests.model.model import Model
from tests.model.snapshot import differences, look
from tests.model.words import JUNK, JUNK_FIELDS, KEYS, Attempt, Entry, Task

T = TypeVar("T")

#: When every history begins, in ms.
START = 1_000_000_000_000


class Fault(Enum):
    """What befalls a verb."""

    NONE = "none"
    #: It was done and nobody heard of it. Who sends or settles sends again; who fetches has to find it later.
    REPLY_LOST = "reply lost"
    #: A restart or SCRIPT FLUSH: the server knows no script.
    FLUSHED = "scripts flushed"
    #: maxmemory is reached. What is refused changes nothing.
    NO_MEMORY = "no memory"

    def __repr__(self) -> str:
        return f"Fault.{self.name}"


class Bench:
    """The queue, its workers, and what befalls them. The verbs are in `World`."""

    def __init__(self, raw: redis.Redis, client: ClockedClient, namespace: str, queue: str) -> None:
        self.raw = raw
        self.client = client
        self.queue = queue
        self.base = keys.base(namespace, queue)
        self.model = Model(START)
        self.clock = Clock(raw, self.base, START)
        #: The consumers that live: a name is never used again.
        self.workers = ["c1.1", "c2.1", "c3.1"]
        #: What runs in some worker, as far as it knows; a lost lease changes nothing here.
        self.running: dict[Attempt, Delivery] = {}
        #: What a blocking read brought to a worker, and is not admitted yet.
        self.read: dict[str, list[tuple[Entry, str]]] = {}
        self._calls = 0

    # What else befalls a queue

    def crash(self, consumer: str) -> None:
        """A worker dies with all that it knew, and another one begins in its place."""
        place, _, life = consumer.partition(".")
        self.workers[self.workers.index(consumer)] = f"{place}.{int(life) + 1}"
        self.running = {a: d for a, d in self.running.items() if a.consumer != consumer}
        self.read.pop(consumer, None)
        self.retire()

    def retire(self) -> None:
        """Consumers that own nothing are forgotten; what is delivered stays delivered."""
        self.run(consume.retire(self.base, 0.0))

    def stray(self, key: str | None, priority: str) -> None:
        """An entry that comes from nowhere: a copy of this task's, or none of ours."""
        task = self.model.tasks[key] if key else None
        fields: Any = {"k": key, "m": task.message} if task else JUNK_FIELDS
        priority = task.priority if task else priority
        self.raw.xadd(keys.stream(self.base, priority), fields)
        self.model.add(key, task.message if task else JUNK, priority)

    def advance(self, ms: int) -> None:
        self.clock.advance(ms)
        self.model.advance(ms)

    def entries(self, delivered: bool) -> list[Entry]:
        """All that are delivered, or all that are not."""
        everything = [entry for stream in self.model.streams.values() for entry in stream]
        return [entry for entry in everything if (entry.owner is not None) == delivered]

    def owners(self) -> list[str]:
        """Those that live and own something."""
        owners = {entry.owner for entry in self.entries(delivered=True)}
        return [worker for worker in self.workers if worker in owners]

    def overtaken(self) -> list[Attempt]:
        """What runs in a worker that does not know that its lease is lost."""
        return [attempt for attempt in self.running if not self.model.owns(attempt.consumer, attempt.entry)]

    def parked(self) -> list[Task]:
        return [task for task in self.model.tasks.values() if task.due is not None]

    # What must hold

    def compare(self) -> None:
        """The server shows what the model says."""
        self.model.check()
        wrong = differences(look(self.raw, self.base, sorted({*KEYS, *self.model.tasks})), self.model.view())
        assert not wrong, "\n".join(wrong)

    def left_over(self) -> list[str]:
        """Keys that should not be there when all has ended and every TTL is over."""
        names = {name.decode() for name in self.raw.scan_iter(match=f"{self.base}*", count=1000)}
        return sorted(n for n in names - {self.clock.key} if not n.endswith(keys.PERMANENT) or self.raw.pttl(n) >= 0)

    def clear(self) -> None:
        """Delete the queue."""
        names = list(self.raw.scan_iter(match=f"{self.base}*", count=1000))
        self.raw.delete(*names)

    # What verbs are made of

    def number(self) -> int:
        """Another one each time."""
        self._calls += 1
        return self._calls

    def run(self, call: Call[T], fault: Fault = Fault.NONE) -> T | None:
        """The reply; None if the server refused it all for want of memory."""
        if fault is Fault.FLUSHED:
            self.raw.script_flush()
        with self._no_memory() if fault is Fault.NO_MEMORY else nullcontext():
            try:
                return self.client.run(call)
            except ServerOutOfMemory:
                assert fault is Fault.NO_MEMORY
                return None

    @contextmanager
    def _no_memory(self) -> Iterator[None]:
        self.raw.config_set("maxmemory", 1)
        try:
            yield
        finally:
            self.raw.config_set("maxmemory", 0)
