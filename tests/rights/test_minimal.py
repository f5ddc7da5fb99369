"""The rules of each role are enough for all that it does, and none of them is one too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import redis

from penstock.errors import BrokerError
from penstock.settings import Settings
from penstock.streams import consume, inspect, keys, measures, produce, settle
from penstock.streams.calls import Call
from penstock.streams.client import AsyncClient, SyncClient
from penstock.streams.connector import Connector
from penstock.streams.control import listen
from penstock.streams.examine import examine
from penstock.streams.produce import Envelope
from penstock.streams.reader import Reader
from penstock.streams.rights import INSPECTOR, OPERATOR, PRODUCER, ROLES, WORKER, Role, rules
from penstock.streams.urls import resolve_url
from tests.access import ACCESS
from tests.access_run import OPTIONAL
from tests.contract.helpers import FAILURE, LEASE, MESSAGE, NAME, QUOTAS, TTL, Queue
from tests.rights.conftest import Denied, Login
from tests.servers import Server

pytestmark = [pytest.mark.anyio, pytest.mark.leaks]

LONG = b"\xd9\x50" + b"x" * 80


class Part:
    """One role's connections, and the calls that it makes."""

    def __init__(self, url: str, q: Queue) -> None:
        self.connector = Connector(resolve_url(url, {}), Settings())
        self.client = AsyncClient(self.connector)
        #: The same queue with all rights, for what others do.
        self.q = q

    async def run(self, *calls: Call[Any]) -> list[Any]:
        return [await self.client.run(call) for call in calls]

    async def close(self) -> None:
        await self.client.aclose()


async def produces(part: Part) -> None:
    """Send, wait, cancel what waits, is scheduled and runs."""
    q, base = part.q, part.q.base
    envelopes = [
        Envelope("now", NAME, "high", MESSAGE),
        Envelope("wanted", NAME, "default", MESSAGE),
        Envelope("later", NAME, "default", MESSAGE, "+60000", "+90000"),
        Envelope("runs", NAME, "low", MESSAGE),
    ]
    twice = [produce.enqueue(base, envelopes, 100) for _ in range(2)]
    await part.run(*twice, produce.register_queue(q.namespace, q.name))
    q.fetch(budget=1, quotas=[("low", 1)])
    q.read("now", "somebody")
    await part.run(produce.read_record(base, "q:runs", "runs", "me"))
    answers = await part.run(produce.cancel(base, ["now", "later", "runs"], TTL))
    assert [answer.error for answer in answers[0]] == [None] * 3
    with part.connector.pubsub_client() as client, client.pubsub() as pubsub:
        pubsub.subscribe(keys.listener_channel(q.namespace, "me"))
        assert await asyncio.to_thread(pubsub.get_message, timeout=5)


async def works(part: Part) -> None:
    """Everything a worker asks for, in any order that makes each script take each of its ways."""
    q, base, me = part.q, part.q.base, "me"
    stream = q.stream()

    def fetch(budget: int = 100) -> Call[consume.Batch]:
        return consume.fetch(base, q.name, me, budget, QUOTAS, TTL)

    reader = Reader(part.connector, base, me, 5)
    try:
        await part.run(fetch())  # makes the groups
        q.send("a", "b", "c", "d", "e", "long")
        arrivals, _ = await reader.read([(base, "default")])
        assert arrivals is not None and len(arrivals) == 1
        await part.run(consume.admit(base, q.name, me, [(p, entry) for _, p, entry in arrivals], TTL))
        reading: Any = asyncio.ensure_future(reader.read([(base, "high")]))
        await asyncio.wait([reading], timeout=0.05)  # until the read is under way: UNBLOCK is what is tried
        await reader.unblock()
        assert await reading == (None, None)
        q.send("f")
        _, started = await reader.read([(base, "default")], consume.arrived({base: q.name}, me, 0, 20, TTL))
        assert started is not None and "b" in [d.key for d in started[1].deliveries]
    finally:
        await reader.aclose()
    await part.run(fetch(), consume.orphans(base, q.name, me, "default", [], 100, TTL))
    held = {d.key: d for d in q.orphans(me).deliveries}
    await part.run(consume.renew(base, me, [(d.priority, d.entry, d.raw_key) for d in held.values()]))
    q.read("a", "listener")
    results = [(held["a"], NAME, 60.0, b"\x01"), (held["long"], NAME, 60.0, LONG)]
    parks = [(held["b"], NAME, 50.0, "unknown", ""), (held["c"], NAME, 0.0, "retried", "boom")]
    done = await part.run(
        settle.succeed(base, me, 60.0, results),
        settle.park(base, me, TTL, 1000.0, parks),
        settle.bury(base, me, TTL, (500.0, 1), [(held["d"], NAME, FAILURE), (held["e"], NAME, FAILURE)]),
    )
    assert [answer for answers in done for answer in answers] == [settle.Settled.DONE] * 6, done
    q.make_due("b")
    assert await part.run(consume.next_due(base)) != [None]
    await part.run(consume.promote(base, 10), consume.clock(base), consume.occupied([base]))

    # Others' work: one that crashed once, one that crashed twice, one whose entry is gone.
    q.raw.delete(stream)
    q.fetch("dead")
    first, suspect, ghost = q.start("first", "suspect", "ghost", consumer="dead")
    q.raw.hset(q.record_key("suspect"), "d", 2)
    q.raw.xdel(stream, ghost.entry)
    q.age(first, suspect, ghost, consumer="dead")
    (swept,) = await part.run(consume.reclaim(base, q.name, me, consume.Sweep("default", LEASE, "0-0", 10, 0), TTL))
    assert ([d.key for d in swept.batch.deliveries], swept.held) == (["first"], 1)
    await part.run(
        consume.retire(base, 0.0),
        consume.heartbeat(q.namespace, me, b"", 10.0, [q.name]),
        inspect.workers(q.namespace),
        *consume.forget_worker(q.namespace, me),
        measures.add(base, me, 1, {"t": [1]}),
    )
    q.raw.zadd(keys.workers(q.namespace), {"gone": 1})
    await part.run(consume.heartbeat(q.namespace, me, b"", 10.0, [q.name]))
    async for _ in listen(part.connector, [base]):
        break


async def inspects(part: Part) -> None:
    """What the commands that look ask for."""
    q, base = part.q, part.q.base
    q.send("k", "waits")
    d = q.fetch(budget=1).deliveries[0]
    q.bury("a", d)
    q.run(consume.heartbeat(q.namespace, "somebody", b"", 10.0, [q.name]))
    await part.run(
        produce.queue_names(q.namespace),
        inspect.queue_stats(base, q.name),
        inspect.stuck(base, 0.0),
        inspect.workers(q.namespace),
        inspect.fleet(q.namespace, 20.0),
        inspect.server(base, ["redis_version"]),
        produce.read_record(base, "q:k", "k"),
        produce.dead_letters(base, 10),
        inspect.died_at(base, "k"),
        produce.dead_message(base, "k"),
    )
    (found,) = await asyncio.to_thread(examine, part.connector, q.namespace, [q.name], [INSPECTOR])
    has_dryrun = found.features is not None and "ACL|DRYRUN" in found.features
    assert found.refused == (() if has_dryrun else ("ACL",)) and found.rights.missing == ()


async def operates(part: Part) -> None:
    """Dead letters are sent again, queues are paused and resumed."""
    q = part.q
    q.bury("a", *q.start("k", "l"))
    await part.run(
        produce.queue_names(q.namespace),
        produce.redrive(q.base, ["k"]),
        produce.redrive(q.base),
        produce.pause(q.base, True),
        produce.pause(q.base, False),
    )


DOES: dict[str, Callable[[Part], Coroutine[Any, Any, None]]] = {
    PRODUCER.name: produces,
    WORKER.name: works,
    INSPECTOR.name: inspects,
    OPERATOR.name: operates,
}


async def act(role: Role, url: str, server: Server, namespace: str) -> None:
    """All that the role does, in an empty namespace and with scripts that the server does not know yet."""
    with server.client() as raw:
        for key in raw.scan_iter(match=f"{{{namespace}*", count=1000):
            raw.unlink(key)
        raw.script_flush()
        client = SyncClient(Connector(resolve_url(server.url_for(ACCESS.admin), {}), Settings()))
        part = Part(url, Queue(raw, client, namespace))
        try:
            await DOES[role.name](part)
        finally:
            await part.close()
            client.close()


@pytest.mark.parametrize("role", ROLES.values(), ids=lambda role: role.name)
async def test_the_rules_are_enough(
    role: Role, login: Login, denied: Denied, any_server: Server, namespace: str
) -> None:
    await act(role, login(role), any_server, namespace)
    assert denied() - OPTIONAL == set()


@pytest.mark.parametrize("role", ROLES.values(), ids=lambda role: role.name)
async def test_no_rule_is_one_too_many(
    role: Role, login: Login, denied: Denied, any_server: Server, raw: redis.Redis, namespace: str
) -> None:
    """Without any one of them something is refused; the server's own log says so, whoever swallows the error."""
    given = rules(namespace, role)
    await act(role, login(role), any_server, namespace)
    as_ever, needless = denied(), []
    for rule in given:
        if rule[0] not in "+~&":
            continue
        raw.execute_command("ACL", "LOG", "RESET")
        with suppress(BrokerError, redis.RedisError, AssertionError):
            await act(role, login(given=[each for each in given if each != rule]), any_server, namespace)
        if denied() <= as_ever:
            needless.append(rule)
    assert needless == []
