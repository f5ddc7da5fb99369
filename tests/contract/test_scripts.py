"""Every script on every server, also when the server has forgotten it: after SCRIPT FLUSH, a restart, a failover."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.errors import BrokerError, WrongKeyType
from penstock.streams import consume, inspect, measures, produce, settle
from penstock.streams.calls import Call
from penstock.streams.client import AsyncClient
from penstock.streams.connector import Connector
from penstock.streams.consume import Sweep, delivery
from penstock.streams.produce import Envelope
from penstock.streams.scripts import load
from tests.contract.helpers import FAILURE, MESSAGE, NAME, QUOTAS, Queue
from tests.source import PACKAGE

NAMES = sorted(path.stem for path in (PACKAGE / "streams" / "lua").glob("[!_]*.lua"))


def calls(q: Queue) -> dict[str, Call[Any]]:
    """One call of each script. On an empty queue each changes next to nothing."""
    base, name = q.base, q.name
    gone = delivery(base, name, 1, (b"default", b"1-1", b"gone", b"", 0, 1, 0))
    made = [
        produce.enqueue(base, [Envelope("k", NAME, "default", MESSAGE, "+60000")]),
        produce.read_record(base, "q:none", "none"),
        produce.cancel(base, ["none"], 1),
        produce.redrive(base),
        produce.pause(base, False),
        consume.fetch(base, name, "a", 1, QUOTAS, 1),
        consume.admit(base, name, "a", [("default", "1-1")], 1),
        consume.arrived({base: name}, "a", 0, 1, 1),
        consume.orphans(base, name, "a", "default", [], 1, 1),
        consume.renew(base, "a", [("default", "1-1", b"gone")]),
        consume.reclaim(base, name, "a", Sweep("default", 1, "0-0", 1, 1), 1),
        consume.clock(base),
        consume.promote(base, 1),
        consume.retire(base, 1),
        inspect.queue_stats(base, name),
        inspect.stuck(base, 1),
        inspect.workers(q.namespace),
        inspect.fleet(q.namespace, 20),
        inspect.server(base, ["redis_version"]),
        measures.add(base, "a", 1, {"t": [1]}),
        consume.heartbeat(q.namespace, "a", b"", 1, [name]),
        settle.succeed(base, "a", 1, [(gone, NAME, 1, b"")]),
        settle.park(base, "a", 1, 1, [(gone, NAME, 1, "retried", "")]),
        settle.bury(base, "a", 1, (1, 1), [(gone, NAME, FAILURE)]),
    ]
    return {call.script.name: call for call in made if call.script is not None}


def known(q: Queue, call: Call[Any]) -> bool:
    assert call.script is not None
    return bool(q.raw.script_exists(call.script.sha)[0])


def test_there_is_a_call_for_every_script(q: Queue) -> None:
    assert sorted(calls(q)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_the_server_makes_the_same_sha(q: Queue, name: str) -> None:
    script = load(name)
    assert q.raw.script_load(script.text) in (script.sha, script.sha.encode())


def test_a_forgotten_script_is_sent_again(q: Queue) -> None:
    for name, call in calls(q).items():
        q.raw.script_flush()
        q.run(call)
        assert known(q, call), name
        q.run(call)


@pytest.mark.anyio
async def test_a_forgotten_script_is_sent_again_async(q: Queue, connector: Connector) -> None:
    client = AsyncClient(connector)
    for name, call in calls(q).items():
        q.raw.script_flush()
        await client.run(call)
        assert known(q, call), name
    await client.aclose()


@pytest.mark.anyio
async def test_forgotten_scripts_are_sent_again_in_a_pipeline(q: Queue, connector: Connector) -> None:
    client = AsyncClient(connector)
    made = calls(q)
    q.raw.script_flush()
    replies = await client.run_all(list(made.values()))
    assert not [reply for reply in replies if isinstance(reply, BrokerError)]
    assert all(known(q, call) for call in made.values())
    assert (await client.run_all([made["enqueue"], made["read"]])) == [[produce.Enqueued(exists=True)], None]
    assert await client.run_all([made["read"]]) == [None]
    await client.aclose()


@pytest.mark.anyio
async def test_an_error_in_a_pipeline_is_its_own(q: Queue, connector: Connector) -> None:
    client = AsyncClient(connector)
    q.break_record("bad")
    bad, good = produce.read_record(q.base, "q:bad", "bad"), produce.read_record(q.base, "q:none", "none")
    replies = await client.run_all([good, bad, good])
    assert replies[0] is None and isinstance(replies[1], WrongKeyType) and replies[2] is None
    await client.aclose()


@pytest.mark.anyio
async def test_plain_commands_read_alike_in_both_clients(q: Queue, connector: Connector) -> None:
    """redis-py turns replies of plain commands into other things, not always the same ones."""
    q.send("parked", due="+60000")
    q.bury("a", *q.start("dead-1", "dead-2"))
    q.start_one("running")
    q.run(produce.register_queue(q.namespace, "q"))
    client = AsyncClient(connector)
    made: list[Call[Any]] = [
        consume.next_due(q.base),
        consume.occupied([q.base]),
        produce.dead_letters(q.base, 10),
        produce.dead_message(q.base, "dead-1"),
        produce.queue_names(q.namespace),
    ]
    in_turn = [await client.run(call) for call in made]
    assert in_turn == [q.run(call) for call in made] == await client.run_all(made)
    assert in_turn[0] == q.parked()["parked"] and in_turn[1] == {q.base}
    assert [letter.key for letter in in_turn[2]] == ["dead-2", "dead-1"]
    assert in_turn[3:] == [MESSAGE, ["q"]]
    await client.aclose()
