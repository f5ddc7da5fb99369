"""Model checking by random histories: producers, workers, clock and faults against the real scripts.

Hypothesis makes up histories of one queue. After each step the server must show what the model says, and each
verb must have been answered as the model says. At the end all workers die, another one drains the queue, and then
every task has ended once and no key is left over. A history that fails is shrunk and printed as the calls that lead
to it; written out as a test it stands at the end of this file.

What is right says ``model.py``, what may happen ``histories.py``, and how time passes without sleeping ``clock.py``.

A long run, of other histories each time: ``HISTORIES=20000 python -m pytest -m chaos tests/model``.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest
import redis

from penstock.settings import Settings
from penstock.streams.connector import Connector
from penstock.streams.scripts import Script
from penstock.streams.urls import resolve_url
from tests.model.bench import Fault
from tests.model.clock import ClockedClient
from tests.model.histories import explore
from tests.model.words import LEASE, RECORD_TTL, Send
from tests.model.world import World
from tests.servers import DEFAULT, SERVERS, Server

#: Histories on the usual server, and on each other one. Each has its own.
USUAL, OTHER = 200, 60
#: Histories on each server in a long run.
LONG = int(os.environ.get("HISTORIES", 1000))
SEED = int(os.environ.get("SEED", 0))

#: Script, what stands there, and what breaks it.
BROKEN = {
    "a late failure counts": ("bury", "if not owns(me, stream, entry) then", "if false then"),
    "a retry leaves its entry": ("park", "  drop(stream, entry)\n  count(kind", "  count(kind"),
    "a promoted task stays parked": ("promote", "  call('ZREM', DUE, key)\n  return ''", "  return ''"),
    "crashes do not add up": ("fetch", "'d', deliveries + 1)", "'d', 1)"),
}


# Shrinking takes longer than other tests may.
@pytest.mark.timeout(900)
def test_histories(any_server: Server, namespace: str) -> None:
    names = list(SERVERS)
    number = next(i for i, name in enumerate(names) if SERVERS[name] == any_server.binary)
    explore(any_server, namespace, USUAL if names[number] == DEFAULT else OTHER, SEED or number)


@pytest.mark.chaos
@pytest.mark.timeout(0)
def test_many_histories(any_server: Server, namespace: str) -> None:
    explore(any_server, namespace, LONG, SEED or random.randrange(1 << 32))


@pytest.mark.parametrize("broken", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_script_is_found(server: Server, namespace: str, broken: tuple[str, str, str]) -> None:
    name, old, new = broken

    class Broken(ClockedClient):
        def clocked(self, script: Script) -> Script:
            if script.name != name:
                return super().clocked(script)
            assert old in script.text
            return super().clocked(Script(name, script.text.replace(old, new)))

    with pytest.raises(AssertionError):
        explore(server, namespace, USUAL, 1, Broken, shrink=False)


# Histories that found something


@pytest.fixture
def world(any_server: Server, raw: redis.Redis, namespace: str) -> Iterator[World]:
    """A queue, at its beginning."""
    client = ClockedClient(Connector(resolve_url(any_server.url, {}), Settings()))
    world = World(raw, client, namespace, "q")
    yield world
    world.clear()
    client.close()


@pytest.mark.parametrize("paused", [False, True])
def test_a_reclaim_that_overtakes_a_blocking_read_is_one_start(world: World, paused: bool) -> None:
    """It counted as a crash; and if the queue was paused in between, what ran was put back, to run twice."""
    world.send([Send("a", "mail", "default", b"mail 1")], 0, Fault.NONE)
    world.blocking_read("c1.1")
    world.advance(LEASE)
    world.reclaim("c1.1", 5, 20_000, Fault.NONE)
    world.pause(paused, Fault.NONE)
    world.admit("c1.1", Fault.NONE)
    world.compare()
    world.drain()


def test_a_late_settle_is_late_also_when_its_worker_runs_the_task_again(world: World) -> None:
    """It was answered as if it had parked what another worker has: both were asked for by the name of who runs it."""
    world.send([Send("a", "mail", "default", b"mail 1")], 0, Fault.NONE)
    world.fetch("c2.1", 1, Fault.NONE)
    world.advance(LEASE)
    world.reclaim("c1.1", 5, 20_000, Fault.NONE)
    robbed, heir = sorted(world.running, key=lambda attempt: attempt.consumer, reverse=True)
    world.park(robbed, 0, "unknown", Fault.NONE)
    world.park(heir, 0, "retried", Fault.NONE)
    world.fetch("c2.1", 1, Fault.NONE)
    world.resend(world.settles[0])
    world.compare()
    world.drain()


def test_a_copy_that_is_put_back_keeps_its_priority(world: World) -> None:
    """Its record had gone, and the new one did not say in which stream the entry is: so it could not be cancelled."""
    world.send([Send("a", "mail", "high", b"mail 1")], 0, Fault.NONE)
    world.stray("a", "high")
    world.cancel(["a"], Fault.NONE)
    world.advance(RECORD_TTL)
    world.blocking_read("c1.1")
    world.pause(True, Fault.NONE)
    world.admit("c1.1", Fault.NONE)
    world.compare()
    world.cancel(["a"], Fault.NONE)
    world.compare()
    world.drain()
