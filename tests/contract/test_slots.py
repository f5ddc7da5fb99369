"""Whatever a script or command of a queue touches lies in the queue's own slot, by what the server itself executes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from penstock.streams import consume, keys, produce
from penstock.streams.connector import Connector
from penstock.streams.produce import Envelope
from penstock.streams.scripts import load
from tests.contract.helpers import MESSAGE, NAME, Queue
from tests.contract.test_scripts import NAMES, calls

#: Of one namespace and not of one queue; each touches keys of the namespace's own slot.
OF_NAMESPACE = {"fleet", "heartbeat", "workers"}


class Touched:
    """Keys by the script that touched them; `""`: by a plain command."""

    def __init__(self) -> None:
        self.by_script: defaultdict[str, set[bytes]] = defaultdict(set)
        self.commands: set[str] = set()


@contextmanager
def monitored(raw: redis.Redis) -> Iterator[Touched]:
    """What this server executes meanwhile, also inside scripts."""
    touched, shas = Touched(), {load(name).sha: name for name in NAMES}
    with raw.monitor() as monitor:
        yield touched
        raw.echo("the-end")
        running = ""
        while True:
            line: Any = monitor.next_command()
            words = _words(line["command"])
            if words[0].upper() == b"ECHO" and words[1] == b"the-end":
                return
            if line["client_type"] != "lua":
                running = shas.get(words[1].decode(), "") if words[0] == b"EVALSHA" else ""
            touched.commands.add(words[0].decode().upper())
            touched.by_script[running].update(_keys(raw, words))


def _words(command: Any) -> list[bytes]:
    """redis-py gives the line as it stands in the log, its quoted words split at blanks and unquoted."""
    return [word.encode("latin-1") for word in command.split(" ")]


def _keys(raw: redis.Redis, words: list[bytes]) -> list[bytes]:
    # The server knows which arguments of its commands are keys. Arguments of ours hold no blanks here.
    try:
        found: Any = raw.execute_command("COMMAND GETKEYS", *words)
    except redis.ResponseError:  # "The command has no key arguments", as TIME and PUBLISH
        return []
    return [key if isinstance(key, bytes) else key.encode() for key in found]


def use_everything(q: Queue) -> None:
    """All verbs, so that each takes the ways on which it writes."""
    q.enqueue(*[Envelope(f"e{i}", NAME, p, MESSAGE, expires="+60000") for i, p in enumerate(("high", "low"))])
    q.send("later", "cancelled", due="+60000")
    q.send("waiting")
    q.cancel("cancelled", "waiting", "none")
    first, second, third, fourth = q.start("a", "b", "c", "d")
    q.read("a", "listener")
    q.cancel("b")
    q.run(consume.renew(q.base, "a", [(d.priority, d.entry, d.raw_key) for d in (first, second)]))
    q.succeed("a", first, value=b"x" * 200)
    q.park("a", second, third)
    q.bury("a", fourth)
    q.make_due("later")
    q.promote()
    q.run(produce.redrive(q.base))
    q.admit("a", *q.read_blocking("a"))
    (orphan,) = q.read_blocking("b")
    q.orphans("b")
    q.claim("b", *orphan, idle=1000)
    q.reclaim("a")
    for call in (consume.occupied([q.base]), consume.next_due(q.base), produce.dead_letters(q.base, 1)):
        q.run(call)
    q.run(produce.dead_message(q.base, "d"))
    q.run(consume.retire(q.base, 0))


@pytest.mark.leaks
def test_a_script_never_crosses_slots(q: Queue, connector: Connector) -> None:
    for call in calls(q).values():  # the server knows all scripts from here on
        q.run(call)
    with monitored(q.raw) as touched:
        use_everything(q)
        for call in calls(q).values():
            q.run(call)
    assert set(touched.by_script) >= set(NAMES) | {""}
    assert {"XADD", "XACK", "HSET", "ZADD", "PEXPIRE", "XAUTOCLAIM", "SET", "PUBLISH"} <= touched.commands

    def slot(key: bytes) -> int:
        return int(q.raw.cluster("KEYSLOT", key)) if connector.is_cluster else key_slot(key)

    for name, found in touched.by_script.items():
        assert found, name
        home = keys.workers(q.namespace) if name in OF_NAMESPACE else q.base
        assert {key: slot(key) for key in found} == dict.fromkeys(found, slot(home.encode())), name
