"""A primary dies under load: producers and workers ride it out, and nothing is lost that its replica had."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import pytest

from penstock import TaskNotFound
from tests import access_run
from tests.failover.conftest import MakeApp
from tests.failover.load import Load
from tests.failover.topology import Behind
from tests.servers import wait_until

#: Tasks of each queue before and after the fault.
QUICK, LONG = 50, 3000
#: Seconds within which there must be service again: the servers need 2 to 4 of them.
SERVICE = 15.0


@pytest.fixture
def namespace() -> str:
    """Nobody cleans up in it: its servers die with the test, and its keys with them."""
    name = f"t-{secrets.token_hex(6)}"
    access_run.enter(name)
    return name


@pytest.mark.parametrize("tasks", [QUICK, pytest.param(LONG, marks=pytest.mark.failover)])
def test_a_primary_is_killed_under_load(
    behind: Behind, namespace: str, make_app: MakeApp, tasks: int, record_property: Callable[[str, object], None]
) -> None:
    queues = [behind.queue_on(i, namespace) for i in range(min(2, len(behind.primaries)))]
    app = make_app(behind.url, lease=2.0, command_timeout=1.0)
    load = Load(app, queues)
    with app.running(queues), app.running(queues):
        with load.going():
            wait_until(lambda: all(load.since(0.0, queue, True) >= tasks for queue in queues) or load.errors, 60)
            killed = time.monotonic()
            behind.fail()
            wait_until(lambda: behind.successor() is not None, 30)
            if len(behind.heirs) == 1:  # else nobody could confirm any more what is sent to its successor
                behind.restore()
            wait_until(
                lambda: (
                    all(load.since(killed + 1, q, r) >= tasks for q in queues for r in (False, True)) or load.errors
                ),
                90,
            )
        assert not load.errors
        wait_until(lambda: not [id for id in load.accepted if id not in load.runs and known(load, id)], 30)
        last = load.task.options(queue=queues[0]).delay("last")
        assert last.get(timeout=20) == "last"
    lost = [id for id in load.accepted if id not in load.runs]
    assert not load.safe & set(lost), "a replica had confirmed them"
    # What the replica had not got was sent just before the end of the old primary.
    assert all(killed - 1 < load.accepted[id] < killed + 1 for id in lost)
    gaps = {word: max(load.gap(killed, q, ran) for q in queues) for word, ran in (("accepted", False), ("ran", True))}
    assert all(0.5 < gap < SERVICE for gap in gaps.values()), gaps
    again = sum(len(runs) > 1 for runs in load.runs.values())
    record_property(
        "service",
        f"nothing accepted for {gaps['accepted']:.1f} s, nothing ran for {gaps['ran']:.1f} s; {len(load.accepted)} "
        f"tasks accepted, {len(lost)} of them lost with the primary, {again} ran twice, "
        f"{len(load.unconfirmed)} told as not durable",
    )


def known(load: Load, id: str) -> bool:
    """False if the server that is primary now has never had it."""
    try:
        load.app.handle(id).state()
    except TaskNotFound:
        return False
    return True
