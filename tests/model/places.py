"""Where the model keeps its tasks, and how it looks from outside."""

from __future__ import annotations

from collections import Counter

from penstock.settings import PRIORITIES
from penstock.streams.record import State
from tests.model.clock import TICK
from tests.model.words import Entry, Task

#: What is seen: a thing that has a name, and how it is.
View = dict[str, object]


class Places:
    """The streams, the records, the dead letters and the counters of one queue."""

    def __init__(self, now: int) -> None:
        self.now = now
        self.streams: dict[str, list[Entry]] = {priority: [] for priority in PRIORITIES}
        self.tasks: dict[str, Task] = {}
        #: Key -> time of death. A key may stay here for a while when its record has gone.
        self.dead: dict[str, int] = {}
        #: Since when the queue is paused.
        self.paused: int | None = None
        #: (outcome, task name) -> how often.
        self.counters: Counter[tuple[str, str]] = Counter()
        #: Tasks that were taken on: sent, redriven, or brought back by a copy. Each of them has to end, once.
        self.accepted = 0

    def advance(self, ms: int) -> None:
        """Time passes, and what has outlived its TTL goes."""
        self.now += ms
        for key, task in list(self.tasks.items()):
            if task.result_gone_at is not None and task.result_gone_at <= self.now:
                task.result = task.result_gone_at = None
            if task.gone_at is not None and task.gone_at <= self.now:
                del self.tasks[key]

    def add(self, key: str | None, message: bytes, priority: str) -> Entry:
        """At the end of a stream."""
        entry = Entry(key, message, priority)
        self.streams[priority].append(entry)
        return entry

    def drop(self, entry: Entry | None) -> None:
        if entry is not None:
            self.streams[entry.priority].remove(entry)

    def end(self, task: Task, state: State, ttl: int, name: str | None) -> None:
        """Every ending: the task leaves its place, and is counted."""
        self.drop(task.entry)
        task.state, task.ended_at, task.gone_at = state, self.now, self.now + ttl
        task.entry = task.due = task.attempt = task.settled_by = None
        self.counters[state.value, name or "?"] += 1

    def owns(self, consumer: str, entry: Entry) -> bool:
        return entry in self.streams[entry.priority] and entry.owner == consumer

    @property
    def empty(self) -> bool:
        """Every task has ended."""
        return not any(self.streams.values()) and all(task.state.finished for task in self.tasks.values())

    def check(self) -> None:
        """The invariants that hold between any two verbs."""
        outcomes = [state.value for state in State if state.finished]
        ended = sum(n for (outcome, _), n in self.counters.items() if outcome in outcomes)
        living = sum(not task.state.finished for task in self.tasks.values())
        assert ended + living == self.accepted, "a task was lost, or ended twice"
        for key, task in self.tasks.items():
            places = (task.entry is not None, task.due is not None, task.ended_at is not None)
            assert sum(places) == 1, f"{key} is in {sum(places)} places"
            assert task.state.finished == (task.gone_at is not None), f"{key}: a TTL while it lives, or none afterwards"
            assert (task.state is State.RUNNING) <= (task.entry is not None and task.entry.owner is not None), key
            assert task.entry is None or task.entry in self.streams[task.entry.priority], f"{key}: its entry is lost"

    def view(self) -> View:
        """All that the server must show, too."""
        seen: View = {f"stream {p}": [self._entry(entry) for entry in s] for p, s in self.streams.items()}
        seen["parked"] = {key: task.due for key, task in self.tasks.items() if task.due is not None}
        seen["dead letters"] = self.dead
        seen["paused"] = self.paused
        seen["counters"] = {"|".join(names): n for names, n in self.counters.items()}
        return seen | {f"task {key}": self._task(task) for key, task in self.tasks.items()}

    def _entry(self, entry: Entry) -> View:
        task = self.tasks.get(entry.key or "")
        idle = (self.now - entry.since) // TICK if entry.owner else None
        current = task is not None and task.entry is entry
        return {"key": entry.key, "message": entry.message, "owner": entry.owner, "idle": idle, "current": current}

    def _task(self, task: Task) -> View:
        kept = task.state is State.SCHEDULED or task.redrivable
        gone_at = task.result_gone_at or task.gone_at
        return {
            "state": task.state.value,
            "name": task.name,
            "priority": task.priority,
            "due": task.due,
            "ended_at": task.ended_at,
            "goes in": self._ticks(task.gone_at),
            "message": (task.message, self._ticks(task.gone_at)) if kept else None,
            "result": None if task.result is None else (task.result, self._ticks(gone_at)),
            "expires": task.expires,
            "retries": task.retries,
            "deliveries": task.deliveries,
            "worker": task.worker,
            "started_at": task.started_at,
            "unknown_since": task.unknown_since,
            "cancel": task.cancel is not None,
        }

    def _ticks(self, moment: int | None) -> int | None:
        return None if moment is None else (moment - self.now) // TICK
