"""The verbs. Each is done on the server and in the model, and must be answered the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import redis

from penstock.settings import PRIORITIES
from penstock.streams import consume, keys, produce, settle
from penstock.streams.calls import Call
from penstock.streams.consume import Batch, Sweep
from penstock.streams.produce import Cancellation, Enqueued, Envelope
from penstock.streams.settle import Answers, Settled
from tests.model.bench import Bench, Fault
from tests.model.clock import ClockedClient
from tests.model.words import (
    DEAD_TTL,
    FAILURE,
    GIVE_UP,
    LEASE,
    MAX_DELIVERIES,
    MOST_DEAD,
    QUOTAS,
    RECORD_TTL,
    WINDOW,
    Attempt,
    Send,
)  # fmt: skip


class Settle:
    """A settle that was sent, and may be sent again at any time."""

    def __init__(self, attempt: Attempt, call: Call[Answers], verb: Callable[[], set[Settled]]) -> None:
        self.attempt = attempt
        self.call = call
        self.verb = verb

    def __repr__(self) -> str:
        return f"<settle of {self.attempt}>"


class World(Bench):
    """Producers and workers."""

    def __init__(self, raw: redis.Redis, client: ClockedClient, namespace: str, queue: str) -> None:
        super().__init__(raw, client, namespace, queue)
        #: The last few settles, to be sent again.
        self.settles: list[Settle] = []

    # Producers

    def send(self, sends: Sequence[Send], max_length: int, fault: Fault) -> None:
        envelopes = [
            Envelope(s.key, s.name, s.priority, s.message, f"+{s.delay}" if s.delay else "",
                     "" if s.expires is None else f"+{s.expires}")
            for s in sends
        ]  # fmt: skip
        if fault is Fault.NO_MEMORY:
            max_length = 0  # tasks that were refused for one reason count for the other
        call = produce.enqueue(self.base, envelopes, max_length)
        if fault is Fault.REPLY_LOST:
            self.run(call)
            self.model.enqueue(sends, max_length)
        answers = self.run(call, fault)
        assert answers is not None
        done = [i for i, answer in enumerate(answers) if not _refused(answer.error)]
        expected = self.model.enqueue([sends[i] for i in done], max_length)
        assert [_said(answers[i]) for i in done] == expected

    def cancel(self, task_keys: Sequence[str], fault: Fault) -> None:
        call, number = produce.cancel(self.base, task_keys, RECORD_TTL / 1000), self.number()
        if fault is Fault.REPLY_LOST:
            self.run(call)
            self.model.cancel(task_keys, number)
        answers = self.run(call, fault)
        assert answers is not None
        done = [i for i, answer in enumerate(answers) if not _refused(answer.error)]
        expected = self.model.cancel([task_keys[i] for i in done], number)
        assert [_said(answers[i]) for i in done] == expected

    def redrive(self, task_keys: Sequence[str], limit: int, fault: Fault) -> None:
        call, number = produce.redrive(self.base, task_keys, limit), self.number()
        if fault is Fault.REPLY_LOST:
            self.run(call)
            self.model.redrive(task_keys, limit, number)
        answer = self.run(call, fault)
        if answer is not None:
            assert answer == self.model.redrive(task_keys, limit, number)

    def pause(self, paused: bool, fault: Fault) -> None:
        call = produce.pause(self.base, paused)
        if fault is Fault.REPLY_LOST:
            self.run(call)
            self.model.pause(paused)
        answer = self.run(call, fault)
        assert answer is None or answer == self.model.pause(paused)

    # Workers

    def fetch(self, consumer: str, budget: int, fault: Fault) -> None:
        batch = self.run(consume.fetch(self.base, self.queue, consumer, budget, QUOTAS, RECORD_TTL / 1000), fault)
        if batch is not None:
            self._take_in(batch, *self.model.fetch(consumer, budget), fault)

    def blocking_read(self, consumer: str) -> None:
        """As the reader does it: COUNT 1, which is one of each stream."""
        streams: dict[Any, Any] = {keys.stream(self.base, priority): ">" for priority in PRIORITIES}
        for name in streams:
            try:
                self.raw.xgroup_create(name, keys.GROUP, "0", mkstream=True)
            except redis.ResponseError as error:
                assert "BUSYGROUP" in str(error), error
        reply: Any = self.raw.xreadgroup(keys.GROUP, consumer, streams, count=1)
        found = [entry.decode() for _, entries in reply for entry, _ in entries]
        expected = [entry for priority in PRIORITIES for entry in self.model.read(consumer, priority, 1)]
        self.read.setdefault(consumer, []).extend(zip(expected, found, strict=True))

    def admit(self, consumer: str, fault: Fault) -> None:
        # A worker asks for none that it runs, since a sweep of its own was quicker. To ask is no second start, but
        # one that was cancelled in the meantime counts as one that nobody has begun with.
        here = [a.entry for a in self.running if a.consumer == consumer]
        waiting = [(e, id) for e, id in self.read.pop(consumer) if e not in here or not self._cancelled(e.key)]
        entries = [(entry.priority, id) for entry, id in waiting]
        batch = self.run(consume.admit(self.base, self.queue, consumer, entries, RECORD_TTL / 1000), fault)
        assert batch is not None
        self._take_in(batch, *self.model.admit(consumer, [entry for entry, _ in waiting]), fault)

    def arrive(self, consumer: str) -> None:
        """As `admit`, by the script that goes with the read as far as that finds it."""
        waiting, ids = self.read[consumer], {id for _, id in self.read[consumer]}
        priority = next((p for p in PRIORITIES if self.raw.xlen(keys.stream(self.base, p))), PRIORITIES[0])
        stream = keys.stream(self.base, priority)
        pending: Any = self.raw.xpending_range(stream, keys.GROUP, "-", "+", 4, consumer)
        # Not what a sweep holds back, as a suspect.
        mine = [line["message_id"].decode() for line in pending if line["time_since_delivered"] < LEASE / 3]
        here = {d.entry for a, d in self.running.items() if (a.consumer, d.priority) == (consumer, priority)}
        if not ids.union(here).issuperset(mine):
            # What a lost reply has left over is older than the worker's last fetch, so the script does not look at it.
            self.admit(consumer, Fault.NONE)
            return
        _, batch = self.run(consume.arrived({self.base: self.queue}, consumer, 0, LEASE / 3000, RECORD_TTL / 1000)) or (
            "",
            None,
        )
        assert batch is not None
        found = [(entry, id) for entry, id in waiting if entry.priority == priority and id in mine]
        # What may expire is left to `admit`.
        found = [(entry, id) for entry, id in found if not self._may_expire(entry.key)]
        new = [d for d in batch.deliveries if d.entry in ids and d.priority == priority]
        known = len(batch.deliveries) - len(new)
        self.read[consumer] = [one for one in waiting if one not in found]
        taken, out = self.model.admit(consumer, [entry for entry, _ in found])
        self._take_in(Batch(batch.read - known, new, batch.problem), taken, out, Fault.NONE)
        self.admit(consumer, Fault.NONE)

    def _cancelled(self, key: str | None) -> bool:
        return key is not None and bool(self.raw.hexists(keys.record(self.base, key), "c"))

    def _may_expire(self, key: str | None) -> bool:
        return key is not None and bool(self.raw.hexists(keys.record(self.base, key), "x"))

    def orphans(self, consumer: str, limit: int, fault: Fault) -> None:
        """What a lost reply has brought to this worker."""
        self.read.pop(consumer, None)  # there is no read under way when a worker does this
        for priority in PRIORITIES:
            here = [(a, d) for a, d in self.running.items() if (a.consumer, d.priority) == (consumer, priority)]
            ids, ttl = [d.entry for _, d in here], RECORD_TTL / 1000
            batch = self.run(consume.orphans(self.base, self.queue, consumer, priority, ids, limit, ttl), fault)
            assert batch is not None
            self._take_in(batch, *self.model.orphans(consumer, priority, [a.entry for a, _ in here], limit), fault)

    def reclaim(self, consumer: str, limit: int, scan: int, fault: Fault) -> None:
        """One step in each stream; a worker runs at most one suspect at a time."""
        for priority in PRIORITIES:
            suspects = int(not any(a.consumer == consumer and a.deliveries >= 2 for a in self.running))
            sweep = Sweep(priority, LEASE / 1000, "0-0", limit, suspects, scan)
            answer = self.run(consume.reclaim(self.base, self.queue, consumer, sweep, RECORD_TTL / 1000), fault)
            assert answer is not None
            taken, out, held = self.model.reclaim(consumer, priority, limit, suspects)
            assert answer.held == held
            self._take_in(answer.batch, taken, out, fault)

    def renew(self, consumer: str, fault: Fault) -> None:
        mine = [(a, d) for a, d in self.running.items() if a.consumer == consumer]
        held = [(d.priority, d.entry, d.raw_key) for _, d in mine]
        answer = self.run(consume.renew(self.base, consumer, held), fault)
        assert answer == self.model.renew([a for a, _ in mine])

    def promote(self, limit: int, fault: Fault) -> None:
        call = consume.promote(self.base, limit)
        if fault is Fault.REPLY_LOST:
            self.run(call)
            self.model.promote(limit)
        answer = self.run(call, fault)
        assert answer is not None
        if fault is Fault.NO_MEMORY and "OOM" in answer.problem:
            assert answer.moved == 0
            return
        moved, wait = self.model.promote(limit)
        assert (answer.moved, answer.next, answer.problem) == (moved, None if wait is None else wait / 1000, "")

    def _take_in(self, batch: Batch, read: int, expected: Sequence[Attempt], fault: Fault) -> None:
        """What a worker does first with what was handed out to it."""
        assert (batch.read, batch.problem) == (read, "")
        assert [(d.priority, d.key, d.retries, d.deliveries) for d in batch.deliveries] == [
            (a.entry.priority, a.key, a.retries, a.deliveries) for a in expected
        ]
        if fault is Fault.REPLY_LOST:
            return
        for attempt, delivery in zip(expected, batch.deliveries, strict=True):
            if any(a.consumer == attempt.consumer and a.entry is attempt.entry for a in self.running):
                continue  # it runs here
            assert delivery.message == attempt.entry.message
            self.running[attempt] = delivery
            if not delivery.key or delivery.deliveries > MAX_DELIVERIES:
                self.bury(attempt, False, Fault.NONE)

    # Endings

    def succeed(self, attempts: Sequence[Attempt], ttl: int, size: int, fault: Fault) -> None:
        """Of one worker, in one call."""
        values = [str(self.number()).rjust(size, "0").encode() for _ in attempts]
        items = [(self.running.pop(a), a.name, ttl / 1000, value) for a, value in zip(attempts, values, strict=True)]
        call = settle.succeed(self.base, attempts[0].consumer, WINDOW / 1000, items)
        if fault is Fault.REPLY_LOST:
            self.run(call)
            for attempt, value in zip(attempts, values, strict=True):
                self.model.succeed(attempt, ttl, value)
        answers = self.run(call, fault)
        assert answers is not None
        for attempt, value, answer in zip(attempts, values, answers, strict=True):
            assert answer in self.model.succeed(attempt, ttl, value)
        if len(attempts) == 1:
            self._sent(Settle(attempts[0], call, lambda: self.model.succeed(attempts[0], ttl, values[0])))

    def park(self, attempt: Attempt, delay: int, kind: str, fault: Fault) -> None:
        item = (self.running[attempt], attempt.name, delay / 1000, kind, "")
        call = settle.park(self.base, attempt.consumer, RECORD_TTL / 1000, GIVE_UP / 1000, [item])
        self._end(Settle(attempt, call, lambda: self.model.park(attempt, delay, kind)), fault)

    def bury(self, attempt: Attempt, cancelled: bool, fault: Fault) -> None:
        delivery = self.running[attempt]
        item = (delivery, attempt.name, None if cancelled else FAILURE)
        key = attempt.key or f"undecodable-{delivery.priority}-{delivery.entry}"
        call = settle.bury(self.base, attempt.consumer, RECORD_TTL / 1000, (DEAD_TTL / 1000, MOST_DEAD), [item])
        self._end(Settle(attempt, call, lambda: self.model.bury(attempt, key, cancelled)), fault)
        if fault is Fault.NO_MEMORY:
            self.model.trim()  # it is done in any case

    def resend(self, sent: Settle) -> None:
        """Again, with whatever has happened meanwhile."""
        answers = self.run(sent.call)
        assert answers is not None and answers[0] in sent.verb()

    def _end(self, sent: Settle, fault: Fault) -> None:
        if fault is Fault.REPLY_LOST:
            self.run(sent.call)
            sent.verb()
        answers = self.run(sent.call, fault)
        assert answers is not None
        (answer,) = answers
        if isinstance(answer, str):
            assert fault is Fault.NO_MEMORY and "OOM" in answer  # the worker will try again
            return
        assert answer in sent.verb()
        if answer is Settled.GIVEN_UP:
            self.bury(sent.attempt, False, Fault.NONE)
            return
        del self.running[sent.attempt]
        self._sent(sent)

    def _sent(self, sent: Settle) -> None:
        self.settles = [*self.settles[-4:], sent]

    def drain(self) -> None:
        """All workers die, and another one goes on until nothing is left: then every task has ended, once."""
        self.running, self.read = {}, {}
        self.pause(False, Fault.NONE)
        for _ in range(50):
            if self.model.empty:
                break
            self.advance(LEASE)
            self.promote(100, Fault.NONE)
            self.reclaim("last", 100, 0, Fault.NONE)
            self.fetch("last", 100, Fault.NONE)
            if self.running:
                self.succeed(list(self.running), 0, 1, Fault.NONE)
            self.compare()
        assert self.model.empty, "some tasks never end"
        self.advance(DEAD_TTL)
        self.retire()
        self.compare()
        assert self.left_over() == []


def _refused(error: str | None) -> bool:
    assert error is None or "OOM" in error, error
    return error is not None


def _said(answer: Enqueued | Cancellation) -> str:
    if isinstance(answer, Enqueued):
        return answer.taken_by or ("created" if answer.created else "exists" if answer.exists else "full")
    return "ended" if answer.ended else "requested" if answer.requested else "missing" if answer.missing else "finished"
