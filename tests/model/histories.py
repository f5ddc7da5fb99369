"""The histories: what may happen next, at random, and what must hold after each step."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from penstock.settings import Settings
from penstock.streams.connector import Connector
from penstock.streams.urls import resolve_url
from tests.model.bench import Fault
from tests.model.clock import TICK, ClockedClient
from tests.model.words import KEYS, LARGE, RESULT_TTL, SMALL, Attempt, Send
from tests.model.world import Settle, World
from tests.servers import Server

#: Steps of one history.
STEPS = 50

keys = st.sampled_from(KEYS)
#: Mostly the two tasks' own names; the third is for an id that another task has.
names = st.sampled_from(["mail", "mail", "mail", "crawl"])
priorities = st.sampled_from(["default", "high", "low"])
faults = st.sampled_from([Fault.NONE] * 5 + [Fault.REPLY_LOST] * 2 + [Fault.NO_MEMORY] * 2 + [Fault.FLUSHED])


def chosen(of: Callable[[Any], Any]) -> st.SearchStrategy[Any]:
    """One of what the machine has at this moment."""
    return st.runner().flatmap(lambda machine: st.sampled_from(of(machine.world)))


workers = chosen(lambda world: world.workers)
attempts = chosen(lambda world: list(world.running))
settles = chosen(lambda world: world.settles)


def some(of: Callable[[World], Any]) -> Any:
    """Precondition: there is something to choose from."""
    return precondition(lambda machine: bool(of(machine.world)))


class _All:
    def is_enabled(self, rule: str) -> bool:
        return True


class Histories(RuleBasedStateMachine):
    """Each rule is one verb or one fault. Three workers; one that dies is replaced under another name."""

    def __init__(self, world: World) -> None:
        super().__init__()
        # Hypothesis leaves a random part of the rules out of each history: in most there would be no fetch, or no
        # end of what it brought, and then little happens. No setting turns that off; where this attribute is not
        # known, it does so again.
        self._rules_strategy.enabled_rules_strategy = st.just(_All())  # type: ignore[arg-type]
        self.world = world
        self.sent = 0

    def message(self, name: str) -> bytes:
        self.sent += 1
        return f"{name} {self.sent}".encode()

    # Producers

    @initialize(batch=st.lists(keys, min_size=1, max_size=3), priority=priorities)
    def send_first(self, batch: list[str], priority: str) -> None:
        self.send_all(batch, priority, 0, Fault.NONE)

    @rule(
        key=keys, name=names, priority=priorities, delay=st.sampled_from([0, 0, 1, 2]),
        expires=st.sampled_from([None, None, 1, 3]), max_length=st.sampled_from([0, 0, 0, 2]), fault=faults,
    )  # fmt: skip
    def send(
        self, key: str, name: str, priority: str, delay: int, expires: int | None, max_length: int, fault: Fault
    ) -> None:
        until = None if expires is None else expires * TICK
        send = Send(key, name, priority, self.message(name), delay * TICK, until)
        self.world.send([send], max_length, fault)

    @rule(
        batch=st.lists(keys, min_size=2, max_size=4),
        priority=priorities,
        max_length=st.sampled_from([0, 3]),
        fault=faults,
    )
    def send_all(self, batch: list[str], priority: str, max_length: int, fault: Fault) -> None:
        sends = [Send(key, "mail", priority, self.message("mail")) for key in batch]
        self.world.send(sends, max_length, fault)

    @rule(some_keys=st.lists(keys, min_size=1, max_size=2, unique=True), fault=faults)
    def cancel(self, some_keys: list[str], fault: Fault) -> None:
        self.world.cancel(some_keys, fault)

    @some(lambda world: world.model.dead)
    @rule(key=st.none() | keys, fault=faults)
    def redrive(self, key: str | None, fault: Fault) -> None:
        """None: the two oldest."""
        # Refused for want of memory it may have dropped ids whose record had gone; not so with one.
        self.world.redrive([key] if key else [], 1 if fault is Fault.NO_MEMORY else 2, fault)

    @rule(paused=st.sampled_from([False] * 3 + [True]), fault=faults)
    def pause(self, paused: bool, fault: Fault) -> None:
        self.world.pause(paused, fault)

    # Workers

    @rule(worker=workers, budget=st.sampled_from([5, 2, 1]), fault=faults)
    def fetch(self, worker: str, budget: int, fault: Fault) -> None:
        self.world.fetch(worker, budget, fault)

    @some(lambda world: world.entries(delivered=False))
    @rule(worker=workers)
    def blocking_read(self, worker: str) -> None:
        self.world.blocking_read(worker)

    @some(lambda world: world.read)
    @rule(worker=chosen(lambda world: sorted(world.read)), fault=faults)
    def admit(self, worker: str, fault: Fault) -> None:
        self.world.admit(worker, fault)

    @some(lambda world: world.read)
    @rule(worker=chosen(lambda world: sorted(world.read)))
    def arrive(self, worker: str) -> None:
        self.world.arrive(worker)

    @some(lambda world: world.owners())
    @rule(worker=chosen(lambda world: world.owners()), limit=st.sampled_from([5, 1]), fault=faults)
    def orphans(self, worker: str, limit: int, fault: Fault) -> None:
        self.world.orphans(worker, limit, fault)

    @some(lambda world: world.entries(delivered=True))
    @rule(
        worker=workers,
        after=st.sampled_from([2, 0, 1]),
        limit=st.sampled_from([5, 1]),
        scan=st.sampled_from([20_000, 0]),
        fault=faults,
    )
    def reclaim(self, worker: str, after: int, limit: int, scan: int, fault: Fault) -> None:
        """After so many ticks in which nobody did anything; a lease is two."""
        self.advance(after)
        self.world.reclaim(worker, limit, scan, fault)

    @some(lambda world: world.running)
    @rule(attempt=attempts, fault=faults)
    def renew_all(self, attempt: Attempt, fault: Fault) -> None:
        """Of this one's worker."""
        self.world.renew(attempt.consumer, fault)

    @some(lambda world: world.parked())
    @rule(after=st.sampled_from([1, 0, 2]), limit=st.sampled_from([5, 1]), fault=faults)
    def promote(self, after: int, limit: int, fault: Fault) -> None:
        self.advance(after)
        self.world.promote(limit, fault)

    @some(lambda world: world.running)
    @rule(attempt=attempts, ttl=st.sampled_from([5, 0]), size=st.sampled_from([SMALL, LARGE]), fault=faults)
    def succeed(self, attempt: Attempt, ttl: int, size: int, fault: Fault) -> None:
        self.world.succeed([attempt], ttl * TICK, size, fault)

    @some(lambda world: world.running)
    @rule(attempt=attempts, fault=faults)
    def succeed_all(self, attempt: Attempt, fault: Fault) -> None:
        """With all else that runs in its worker, in one call."""
        others = [a for a in self.world.running if a.consumer == attempt.consumer and a is not attempt]
        self.world.succeed([attempt, *others], RESULT_TTL, SMALL, fault)

    @some(lambda world: world.running)
    @rule(
        attempt=attempts, delay=st.sampled_from([0, 1, 3]), kind=st.sampled_from(["retried", "snoozed"]), fault=faults
    )
    def retry(self, attempt: Attempt, delay: int, kind: str, fault: Fault) -> None:
        self.world.park(attempt, delay * TICK, kind, fault)

    @some(lambda world: world.running)
    @rule(attempt=attempts, kind=st.sampled_from(["released", "unstarted"]), fault=faults)
    def hand_back(self, attempt: Attempt, kind: str, fault: Fault) -> None:
        self.world.park(attempt, 0, kind, fault)

    @some(lambda world: world.running)
    @rule(attempt=attempts, fault=faults)
    def unknown(self, attempt: Attempt, fault: Fault) -> None:
        """No task of this name is known there."""
        self.world.park(attempt, 1000, "unknown", fault)

    @some(lambda world: world.running)
    @rule(attempt=attempts, fault=faults)
    def fail(self, attempt: Attempt, fault: Fault) -> None:
        self.world.bury(attempt, False, fault)

    @some(lambda world: world.running)
    @rule(attempt=attempts, fault=faults)
    def stop(self, attempt: Attempt, fault: Fault) -> None:
        """It has heard that it is cancelled."""
        self.world.bury(attempt, True, fault)

    @some(lambda world: world.overtaken())
    @rule(
        attempt=chosen(lambda world: world.overtaken()), how=st.sampled_from(["succeed", "retry", "fail"]), fault=faults
    )
    def end_late(self, attempt: Attempt, how: str, fault: Fault) -> None:
        """Its worker stood still, and goes on."""
        if how == "succeed":
            self.world.succeed([attempt], RESULT_TTL, SMALL, fault)
        elif how == "retry":
            self.world.park(attempt, 0, "retried", fault)
        else:
            self.world.bury(attempt, False, fault)

    @some(lambda world: world.settles)
    @rule(settle=settles)
    def resend(self, settle: Settle) -> None:
        self.world.resend(settle)

    # What else befalls a queue

    @rule(ticks=st.integers(1, 4))
    def advance(self, ticks: int) -> None:
        self.world.advance(ticks * TICK)

    @rule(worker=workers)
    def crash(self, worker: str) -> None:
        """A worker dies, and its peers forget it; another one begins in its place."""
        self.world.crash(worker)

    @rule(key=chosen(lambda world: [None, *sorted(world.model.tasks)]), priority=priorities)
    def stray_entry(self, key: str | None, priority: str) -> None:
        """None: one that is no message; else a copy of this task's, as a failover may bring one back."""
        self.world.stray(key, priority)

    # What must hold

    @invariant()
    def compare(self) -> None:
        self.world.compare()

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.world.drain()
        finally:
            self.world.clear()


def explore(
    server: Server,
    namespace: str,
    histories: int,
    seed: int,
    client: type[ClockedClient] = ClockedClient,
    shrink: bool = True,
) -> None:
    """Try so many histories, each in a queue of its own. One that fails is shrunk, printed, and raises."""
    connection = client(Connector(resolve_url(server.url, {}), Settings()))
    numbers = itertools.count()
    profile = settings(
        max_examples=histories,
        stateful_step_count=STEPS,
        phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        deadline=None,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    with server.client() as raw:

        @seeded(seed)
        def machine() -> Histories:
            return Histories(World(raw, connection, namespace, f"q{next(numbers)}"))

        try:
            run_state_machine_as_test(machine, settings=profile)  # type: ignore[arg-type]
        except BaseException as error:
            error.add_note(f"SEED={seed} tries the same histories again")
            raise
        finally:
            connection.close()
