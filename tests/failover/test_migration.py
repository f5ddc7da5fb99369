"""A slot moves to another primary while its queue is in use: it stands still for that time, and nothing is lost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import redis
from redis.crc import key_slot

from tests.access import ACCESS, ADMIN
from tests.failover.conftest import MakeApp
from tests.failover.load import Load
from tests.failover.topology import Behind
from tests.servers import Server, wait_until

TASKS = 50


@pytest.fixture
def behind(shared_cluster: Behind) -> Behind:
    return shared_cluster


@pytest.fixture
def server(behind: Behind) -> Server:
    """What `namespace` asks."""
    return behind.primaries[0]


class Migration:
    """Moves a slot from one primary to another by the commands that every version has, and back."""

    def __init__(self, slot: int, source: redis.Redis, target: redis.Redis, other: redis.Redis) -> None:
        self.slot = slot
        self.source = source
        self.target = target
        self.other = other

    def begin(self) -> None:
        self._set(self.target, "IMPORTING", self._id(self.source))
        self._set(self.source, "MIGRATING", self._id(self.target))

    def move_keys(self, most: int = 1_000_000) -> int:
        """How many keys were moved; raises if one is on both sides."""
        login = ("AUTH", ADMIN) if ACCESS.closed else ()
        port, moved = self.target.connection_pool.connection_kwargs["port"], 0
        while moved < most and (found := self.source.cluster("GETKEYSINSLOT", self.slot, 20)):
            self.source.execute_command("MIGRATE", "127.0.0.1", port, "", 0, 5000, *login, "KEYS", *found)
            moved += len(found)
        return moved

    def refusals(self) -> int:
        """How often one of the two sides has sent a client away."""
        stats = [node.info("errorstats") for node in (self.source, self.target)]
        return sum(each.get(f"errorstat_{word}", {}).get("count", 0) for each in stats for word in ("ASK", "TRYAGAIN"))

    def keys(self, node: redis.Redis) -> int:
        return int(node.cluster("COUNTKEYSINSLOT", self.slot))

    def end(self) -> None:
        owner = self._id(self.target)
        for node in (self.target, self.source, self.other):
            self._set(node, "NODE", owner)

    def _set(self, node: redis.Redis, state: str, id: str) -> None:
        node.execute_command("CLUSTER", "SETSLOT", self.slot, state, id)

    def _id(self, node: redis.Redis) -> str:
        return str(node.execute_command("CLUSTER", "MYID").decode())


@contextmanager
def migration(behind: Behind, slot: int) -> Iterator[Migration]:
    first, second, third = clients = [node.client() for node in behind.primaries]
    yield Migration(slot, first, second, third)
    back = Migration(slot, second, first, third)
    back.begin()
    back.move_keys()
    back.end()
    for client in clients:
        client.close()


def test_a_slot_moves_while_its_queue_is_in_use(
    behind: Behind, namespace: str, make_app: MakeApp, record_property: Callable[[str, object], None]
) -> None:
    queue = behind.queue_on(0, namespace)
    app = make_app(behind.url, lease=2.0)
    load = Load(app, [queue])
    with (
        migration(behind, key_slot(f"{namespace}:{queue}".encode())) as moving,
        app.running([queue]),
        app.running([queue]),
    ):
        with load.going():
            wait_until(lambda: load.since(0.0, queue, True) >= TASKS or load.errors)
            begun = time.monotonic()
            moving.begin()
            before = moving.refusals()
            wait_until(lambda: moving.refusals() >= before + 40)
            assert moving.keys(moving.target) == 0, "written on the other side, beside what is still here"
            moved = moving.move_keys(20)
            before = moving.refusals()
            wait_until(lambda: moving.refusals() >= before + 40)
            moved += moving.move_keys()
            moving.end()
            ended = time.monotonic()
            wait_until(lambda: load.since(ended, queue, True) >= TASKS or load.errors, 30)
        assert not load.errors
        assert moved > TASKS, "nothing was there to move"
        assert moving.keys(moving.source) == 0
        wait_until(lambda: load.runs.keys() >= load.accepted.keys(), 20)
        assert load.task.options(queue=queue).delay("last").get(timeout=20) == "last"
    assert all(len(runs) == 1 for runs in load.runs.values())
    record_property(
        "service",
        f"{moved} keys moved in {ended - begun:.2f} s; nothing accepted for {load.gap(begun, queue, False):.2f} s, "
        f"nothing ran for {load.gap(begun, queue, True):.2f} s; {len(load.accepted)} tasks, none lost",
    )
