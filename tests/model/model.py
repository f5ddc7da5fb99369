"""What a queue is to do, as plain Python: no Redis, no scripts, no ids of entries.

`Model` holds the whole truth about one queue; its methods are the verbs. They follow sections 1 and 5 of the
design; where a script differs, one of the two is wrong. The rules, in words:

- A task is in exactly one place: a stream, parked, or finished. Nothing but its record's TTL removes it, and as
  long as it lives there is none.
- Sending an id again changes nothing; another task's id is refused.
- A start is counted once, whichever way the entry came. Cancelled and expired tasks do not start, those of a paused
  queue wait, and an entry that its record does not point at is dropped.
- The first success wins, whoever owns the entry by then. Every other ending is its owner's alone. A settle that
  changes nothing is either late, or was sent before and gets the same answer again.
- A delivery that was handed back in order is uncounted; the others were crashes. What has crashed two workers is
  taken over one at a time.
- Outcomes are counted when they happen, once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from penstock.streams.record import State
from penstock.streams.settle import Settled
from tests.model.places import Places
from tests.model.words import (
    DEAD_TTL,
    FAILURE,
    GIVE_UP,
    LEASE,
    MOST_DEAD,
    QUOTAS,
    RECORD_TTL,
    SMALL,
    WINDOW,
    Attempt,
    Entry,
    Send,
    Task,
)


class Model(Places):
    """The verbs."""

    # Those who send and ask

    def enqueue(self, sends: Sequence[Send], max_length: int) -> list[str]:
        """Per task: created, exists, full, or the name of another task that has this id."""
        length = sum(map(len, self.streams.values()))
        answers = []
        for send in sends:
            known = self.tasks.get(send.key)
            if known is not None:
                answers.append("exists" if known.name in (send.name, None) else str(known.name))
                continue
            if send.delay <= 0:
                length += 1  # also for one that is refused
            full = send.delay <= 0 and 0 < max_length < length
            answers.append("full" if full else "created")
            if not full:
                self._create(send)
        return answers

    def _create(self, send: Send) -> None:
        task = self.tasks[send.key] = Task(send.name, send.priority, send.message)
        if send.delay > 0:
            task.state, task.due = State.SCHEDULED, self.now + send.delay
        else:
            task.entry = self.add(send.key, send.message, send.priority)
        task.expires = None if send.expires is None else self.now + send.expires
        self.accepted += 1

    def cancel(self, keys: Sequence[str], call: int) -> list[str]:
        """Per task: ended, requested, missing, or finished."""
        return [self._cancel(key, call) for key in keys]

    def _cancel(self, key: str, call: int) -> str:
        task = self.tasks.get(key)
        if task is None:
            return "missing"
        if task.state.finished:
            return "ended" if task.state is State.CANCELLED and task.cancel == call else "finished"
        task.cancel = call
        if task.entry is not None and task.entry.owner is not None:
            return "requested"  # its worker has to end it
        self.end(task, State.CANCELLED, RECORD_TTL, task.name)
        return "ended"

    def promote(self, limit: int) -> tuple[int, int | None]:
        """How many were moved, and ms until the next one is due."""
        parked = sorted((task.due, key) for key, task in self.tasks.items() if task.due is not None)
        ready = [key for due, key in parked if due <= self.now][:limit]
        for key in ready:
            task = self.tasks[key]
            task.state, task.due, task.entry = State.QUEUED, None, self.add(key, task.message, task.priority)
        rest = parked[len(ready) :]
        return len(ready), max(0, rest[0][0] - self.now) if rest else None

    def redrive(self, keys: Sequence[str], limit: int, call: int) -> tuple[int, list[str]]:
        """How many dead letters were sent again, and which keys are none."""
        chosen = keys or sorted(self.dead, key=lambda key: (self.dead[key], key))[:limit]
        refused = [key for key in chosen if not self._redrive(key, call)]
        return len(chosen) - len(refused), refused if keys else []

    def _redrive(self, key: str, call: int) -> bool:
        task = self.tasks.get(key)
        if task is not None and task.redrive == call:
            return True  # by an earlier send of this call
        if self.dead.pop(key, None) is None or task is None or not task.redrivable:
            return False
        again = self.tasks[key] = Task(task.name, task.priority, task.message, redrive=call)
        again.entry = self.add(key, task.message, task.priority)
        self.accepted += 1
        return True

    def pause(self, paused: bool) -> bool:
        """Nothing starts until it is resumed; False: it was so already."""
        if paused == (self.paused is not None):
            return False
        self.paused = self.now if paused else None
        return True

    # Workers, from an entry to a start: how many were read, and what of that starts

    def read(self, consumer: str, priority: str, count: int) -> list[Entry]:
        """Deliver entries, as XREADGROUP does; that starts none of them."""
        found = [entry for entry in self.streams[priority] if entry.owner is None][:count]
        for entry in found:
            entry.owner, entry.since = consumer, self.now
        return found

    def fetch(self, consumer: str, budget: int) -> tuple[int, list[Attempt]]:
        """Each priority gets its share, and then what is left."""
        found: list[Entry] = []
        if self.paused is not None:
            return 0, []
        for priority, share in (*QUOTAS, *[(priority, budget) for priority, _ in QUOTAS]):
            found += self.read(consumer, priority, min(share, budget - len(found)))
        return self._start_all(found, consumer)

    def admit(self, consumer: str, entries: Sequence[Entry]) -> tuple[int, list[Attempt]]:
        """Start what a blocking read brought, as far as it is still ours."""
        read, started = self._start_all([entry for entry in entries if self.owns(consumer, entry)], consumer)
        return (read if self.paused is None else len(started)), started

    def orphans(self, consumer: str, priority: str, running: Sequence[Entry], limit: int) -> tuple[int, list[Attempt]]:
        """Start what is ours and does not run here."""
        if self.paused is not None:
            return 0, []
        ours = [e for e in self.streams[priority] if e.owner == consumer and e not in running]
        return self._start_all([e for e in ours if self._mine(e, consumer) or not self._suspect(e)][:limit], consumer)

    def reclaim(self, consumer: str, priority: str, limit: int, suspects: int) -> tuple[int, list[Attempt], int]:
        """Take over what was not renewed: how many were taken, what is handed out, how many suspects were not."""
        taken, held, out = 0, 0, []
        if self.paused is not None:
            return 0, [], 0
        for entry in [e for e in self.streams[priority] if e.owner and self.now - e.since >= LEASE]:
            if taken == limit:
                break
            entry.owner, entry.since = consumer, self.now
            if mine := self._mine(entry, consumer):
                out.append(mine)
            elif self._suspect(entry) and suspects < 1:
                entry.since = self.now - LEASE  # it waits for somebody who has no other one
                held += 1
            else:
                suspects -= self._suspect(entry)
                taken += 1
                out += [started] if (started := self._start(entry, consumer)) else []
        return taken, out, held

    def renew(self, attempts: Sequence[Attempt]) -> tuple[list[int], list[int]]:
        """Which of them were lost, and which are to be cancelled."""
        lost, cancelled = [], []
        for i, attempt in enumerate(attempts):
            if not self.owns(attempt.consumer, attempt.entry):
                lost.append(i)
                continue
            attempt.entry.since = self.now
            if self.tasks[attempt.key].cancel is not None:
                cancelled.append(i)
        return lost, cancelled

    def _start_all(self, entries: Sequence[Entry], consumer: str) -> tuple[int, list[Attempt]]:
        started = [self._start(entry, consumer) for entry in entries]
        return len(entries), [attempt for attempt in started if attempt]

    def _start(self, entry: Entry, consumer: str) -> Attempt | None:
        """The one gate to a start."""
        if entry.key is None:
            return Attempt(consumer, entry, 0, 1)
        task = self.tasks.get(entry.key)
        if task is None:  # only a copy outlives its record
            task = self.tasks[entry.key] = Task(None, entry.priority, entry.message, entry=entry)
            self.accepted += 1
        if task.entry is not entry:
            self.drop(entry)
            return None
        if mine := self._mine(entry, consumer):
            return mine
        if task.cancel is not None:
            self.end(task, State.CANCELLED, RECORD_TTL, task.name)
            return None
        if task.expires is not None and task.started_at is None and task.expires <= self.now:
            self.end(task, State.EXPIRED, RECORD_TTL, task.name)
            return None
        if self.paused is not None:
            self.drop(entry)
            task.entry = self.add(entry.key, entry.message, entry.priority)
            return None
        task.state, task.worker, task.started_at = State.RUNNING, consumer, self.now
        task.deliveries += 1
        task.attempt, task.settled_by = Attempt(consumer, entry, task.retries, task.deliveries), None
        return task.attempt

    def _mine(self, entry: Entry, consumer: str) -> Attempt | None:
        """What this consumer has started before and may not have heard of."""
        task = self.tasks.get(entry.key or "")
        if task is None or task.state is not State.RUNNING or task.entry is not entry or task.worker != consumer:
            return None
        return task.attempt

    def _suspect(self, entry: Entry) -> bool:
        task = self.tasks.get(entry.key or "")
        return task is not None and task.deliveries >= 2

    # Workers, when an attempt has ended. The answers are those that are right.

    def succeed(self, attempt: Attempt, ttl: int, value: bytes) -> set[Settled]:
        if attempt.entry not in self.streams[attempt.entry.priority]:
            return self._late(attempt, attempt.key)
        task = self.tasks[attempt.key]
        self.end(task, State.SUCCEEDED, max(ttl, WINDOW), attempt.name)
        if ttl:
            task.result = value
            task.result_gone_at = None if len(value) <= SMALL else self.now + ttl
        return self._settled(task, attempt, Settled.DONE)

    def park(self, attempt: Attempt, delay: int, kind: str) -> set[Settled]:
        """`kind` is retried, snoozed, released, unstarted or unknown."""
        if not self.owns(attempt.consumer, attempt.entry):
            return self._late(attempt, attempt.key)
        task = self.tasks[attempt.key]
        if task.cancel is not None:
            self.end(task, State.CANCELLED, RECORD_TTL, attempt.name)
            return self._settled(task, attempt, Settled.CANCELLED)
        if kind == "unknown":
            since = self.now if task.unknown_since is None else task.unknown_since
            if self.now - since >= GIVE_UP:
                return {Settled.GIVEN_UP}
            delay = min(60_000, max(delay, math.ceil((self.now - since) / 2)))
            task.unknown_since = since
        else:
            task.unknown_since = None
        if kind in ("unknown", "unstarted"):  # its code has not begun, so it may still expire
            task.started_at = None
        self.drop(attempt.entry)
        task.state, task.entry, task.due = State.SCHEDULED, None, self.now + delay
        if delay == 0:
            task.state, task.due = State.QUEUED, None
            task.entry = self.add(attempt.key, task.message, attempt.entry.priority)
        task.name = attempt.name
        task.deliveries -= 1
        task.retries += kind == "retried"
        self.counters["released" if kind == "unstarted" else kind, attempt.name] += 1
        return self._settled(task, attempt, Settled.DONE)

    def bury(self, attempt: Attempt, key: str, cancelled: bool) -> set[Settled]:
        """It has failed, or was stopped since it is cancelled. `key`: its own, or one for what is no message."""
        if not self.owns(attempt.consumer, attempt.entry):
            answers = self._late(attempt, key)
        else:
            answers = self._bury(attempt, key, cancelled)
        self.trim()
        return answers

    def _bury(self, attempt: Attempt, key: str, cancelled: bool) -> set[Settled]:
        if attempt.entry.key is None:
            self.tasks[key] = Task("?", attempt.entry.priority, attempt.entry.message, entry=attempt.entry)
            self.accepted += 1
        task = self.tasks[key]
        if cancelled:
            self.end(task, State.CANCELLED, RECORD_TTL, attempt.name)
        else:
            self.end(task, State.FAILED, DEAD_TTL, attempt.name)
            task.name, task.result, task.result_gone_at = attempt.name, FAILURE, task.gone_at
            task.redrivable, self.dead[key] = True, self.now
        return self._settled(task, attempt, Settled.DONE)

    def trim(self) -> None:
        """Dead letters are bounded in time and in number; the oldest go."""
        self.dead = {key: died for key, died in self.dead.items() if died > self.now - DEAD_TTL}
        surplus = len(self.dead) - MOST_DEAD
        for key in sorted(self.dead, key=lambda key: (self.dead[key], key))[: max(0, surplus)]:
            del self.dead[key]
            self.counters["trimmed", ""] += 1
            task = self.tasks.get(key)
            if task is not None and task.state is State.FAILED:
                task.redrivable, task.result, task.result_gone_at = False, None, None
                task.gone_at = self.now + RECORD_TTL

    def _settled(self, task: Task, attempt: Attempt, answer: Settled) -> set[Settled]:
        task.worker, task.settled_by, attempt.settled = attempt.consumer, attempt, answer
        return {answer}

    def _late(self, attempt: Attempt, key: str) -> set[Settled]:
        """Nothing changes. That it was sent before is known for as long as the task has not moved on."""
        task = self.tasks.get(key)
        last = task.settled_by if task is not None else None
        if last is attempt and last.settled is not None:
            return {last.settled}
        answers = {Settled.LATE} | {attempt.settled or Settled.LATE}
        if last is not None and (last.consumer, last.entry) == (attempt.consumer, attempt.entry):
            answers.add(
                last.settled or Settled.LATE
            )  # it was handed out to this worker twice, and that is not told apart
        if task is not None and task.state is State.CANCELLED:
            answers |= {Settled.DONE, Settled.CANCELLED}  # so it has ended as was wished, by somebody else
        return answers
