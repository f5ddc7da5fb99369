"""A worker among keys that somebody hostile has written: it lives, the good tasks run, all can be looked at."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import redis

from penstock import App, State, TaskFailed
from penstock.consumers.heartbeat import read_about
from penstock.events import BrokerDown, EntryStuck, Succeeded
from penstock.streams import keys
from tests.integration.support import PATIENCE, Seen, pending
from tests.servers import await_until

pytestmark = pytest.mark.anyio

ESCAPE = "\x1b]0;owned\x07\x1b[2J[red]\u202e"
encode = msgspec.msgpack.encode


def message(**fields: Any) -> bytes:
    """A message with these fields, beside the two that it needs."""
    return encode({"n": "work", "a": {"n": 1}, **fields})


#: What it is -> the fields of the entry. All end as dead letters, with what they held.
UNDECODABLE: dict[str, dict[bytes, bytes]] = {
    "no key": {b"m": message()},
    "no message": {b"k": b"x"},
    "other fields": {b"some": b"thing", b"else": b"\xff\x00"},
    "one field more": {b"k": b"more", b"m": message(), b"x": b""},
    "other order": {b"m": message(), b"k": b"order"},
    "empty names": {b"": b""},
    "empty key": {b"k": b"", b"m": message()},
    "long key": {b"k": b"k" * 801, b"m": message()},
    "key that is no text": {b"k": b"\xff\xfe", b"m": message()},
    "key for a terminal": {b"k": ESCAPE.encode(), b"m": message()},
    "empty message": {b"k": b"empty", b"m": b""},
    "no msgpack": {b"k": b"nomsgpack", b"m": b"\xc1"},
    "pickle": {b"k": b"pickle", b"m": b"cos\nsystem\n(S'touch /tmp/penstock-owned'\ntR."},
    "nothing but a list": {b"k": b"list", b"m": encode([1, 2])},
    "declared to be huge": {b"k": b"huge", b"m": b"\xdd\xff\xff\xff\xff"},
    "map declared to be huge": {b"k": b"hugemap", b"m": b"\xdf\xff\xff\xff\xff\xa1n"},
    "nested": {b"k": b"nested", b"m": b"\x82\xa1n\xa1x\xa1z" + b"\x91" * 100_000},
    "text that is no text": {b"k": b"notext", b"m": b"\x81\xa1n\xa2\xff\xfe"},
    "no name": {b"k": b"noname", b"m": encode({"a": {}})},
    "empty name": {b"k": b"emptyname", b"m": message(n="")},
    "long name": {b"k": b"longname", b"m": message(n="n" * 100_000)},
    "name of another type": {b"k": b"name", b"m": message(n=5)},
    "version of another type": {b"k": b"version", b"m": message(v="new")},
    "timeout below zero": {b"k": b"timeout-1", b"m": message(o=-1)},
    "timeout NaN": {b"k": b"timeout-nan", b"m": message(o=float("nan"))},
    "timeout 1e308": {b"k": b"timeout-1e308", b"m": message(o=1e308)},
    "result_ttl inf": {b"k": b"ttl-inf", b"m": message(t=float("inf"))},
    "retry of another type": {b"k": b"retry", b"m": message(r={"max": 1})},
    "meta of another type": {b"k": b"meta", b"m": message(h=[1])},
    "a mebibyte": {b"k": b"mebibyte", b"m": b"\xc1" * 2**20},
}
#: Well-formed, and not to be run here: they end as `unknown_task`.
UNKNOWN = {
    "another name": {b"k": b"unknown", b"m": message(n=f"os.system{ESCAPE}")},
    "a module": {b"k": b"module", b"m": message(n="tests.fuzz.trap.spring")},
    "a version to come": {b"k": b"tocome", b"m": message(v=2**63)},
    "a version below zero": {b"k": b"args", b"m": encode({"n": "work", "v": -5, "a": "no map"})},
    "arguments that nest": {b"k": b"argsnest", b"m": b"\x82\xa1n\xa4work\xa1a" + b"\x91" * 900 + b"\xc0"},
    "arguments that do not fit": {b"k": b"misfit", b"m": message(a={"n": ESCAPE, ESCAPE: 1})},
    "arguments that are no text": {b"k": b"argtext", b"m": b"\x82\xa1n\xa4work\xa1a\x81\xa2\xff\xfe\x01"},
}


async def test_hostile_entries_end_as_dead_letters_and_good_ones_run(
    make_app: Callable[..., App], raw: redis.Redis, namespace: str, cli: Any, any_server: object
) -> None:
    app = make_app(unknown_ttl=0, lease=2.0)
    seen = Seen(app)

    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    hostile = {**UNDECODABLE, **UNKNOWN}
    base = keys.base(namespace, "default")
    handles = []
    for number, fields in enumerate(hostile.values()):
        raw.xadd(keys.stream(base, ("high", "default", "low")[number % 3]), fields)  # type: ignore[arg-type]
        handles.append(await work.adelay(number))
    async with app.running():
        assert await asyncio.gather(*[h.aget(PATIENCE) for h in handles]) == list(range(len(hostile)))
        await await_until(lambda: raw.zcard(keys.dead(base)) == len(hostile), PATIENCE)
        assert await (await work.adelay(7)).aget(PATIENCE) == 7
    assert not seen.of(EntryStuck) and not seen.of(BrokerDown)
    assert not any(pending(raw, namespace, priority=each) for each in ("high", "default", "low"))

    letters = app.dead_letters().list()
    assert len(letters) == len(hostile)
    assert sorted(letter.reason for letter in letters) == ["undecodable"] * len(UNDECODABLE) + ["unknown_task"] * len(
        UNKNOWN
    )
    held = [letter.message for letter in letters]
    for what, fields in hostile.items():
        assert any(all(value in each for value in fields.values() if value not in (b"", b"k")) for each in held) or any(
            fields.get(b"m") == each for each in held
        ), what
    _look_at_all(cli, [letter.id for letter in letters])
    assert len(cli("dead", "list", "--json", "--limit", "100")) == len(hostile)


def _look_at_all(cli: Any, ids: list[str]) -> None:
    """Every command that looks, as a table and as JSON: no traceback, and nothing that a terminal obeys."""
    commands = [("queues",), ("workers",), ("dead", "list")]
    commands += [(*command, id) for id in ids for command in (("info",), ("dead", "show"))]
    for command in commands:
        cli(*command, "--json")
        shown = re.sub(r"\x1b\[[0-9;]*m", "", cli(*command))  # our own colours
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", shown), (command, shown)
    for id in ids:
        assert "\x1b]" not in cli("result", id, code=1)


async def test_hostile_records_results_and_registries(
    make_app: Callable[..., App], raw: redis.Redis, namespace: str, cli: Any, any_server: object
) -> None:
    app = make_app(lease=2.0)

    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    base = keys.base(namespace, "default")
    records: dict[str, dict[str, bytes]] = {
        "state": {"s": b"X", "n": b"\xff"},
        "none": {"x": b""},
        "numbers": {"s": b"r", "a": b"9" * 5000, "d": b"nan", "b": b"1e308", "t": b"-1", "f": b"inf", "w": b"\xff"},
        "times": {"s": b"s", "u": b"9" * 19, "t": b"99999999999999999", "n": ESCAPE.encode(), "p": b"\xff"},
        "failed": {"s": b"f", "e": b"x", "y": ESCAPE.encode()},
        "result": {"s": b"o", "v": b"\xa2\xff\xfe"},
        "nested": {"s": b"o", "v": b"\x91" * 100_000},
        "entry": {"s": b"f", "e": b"18446744073709551615-18446744073709551615", "z": b"\0"},
    }
    for key, fields in records.items():
        raw.hset(keys.record(base, key), mapping=fields)  # type: ignore[arg-type]
        raw.set(keys.result(base, key), b"\xc1", ex=1000)
        raw.set(keys.parked_message(base, key), b"\x91" * 5000, ex=1000)
    raw.rpush(keys.record(base, "otherwise"), "a list")
    scores: dict[Any, float] = dict.fromkeys([*records, "otherwise", b"\xff", ESCAPE, "", "k" * 100_000], 1e300)
    raw.zadd(keys.dead(base), {**scores, "failed": float("inf"), "entry": float("-inf"), "missing": 1})
    parked: dict[Any, float] = {b"\xff": 1, "": 2, ESCAPE: float("-inf"), "later": float("inf"), "k" * 10_000: 3}
    raw.zadd(keys.parked(base), parked)
    counters: dict[Any, Any] = {"failed|x": "many", b"\xff|\xff": 1, ESCAPE: 1, "succeeded|": b"9" * 99}
    raw.hset(keys.counters(base), mapping=counters)
    raw.sadd(keys.queues(namespace), b"\xff", ESCAPE, "default", "{x}", "")
    workers = _hostile_workers()
    for name, about in workers.items():
        raw.zadd(keys.workers(namespace), {name: 1e18})
        raw.set(keys.worker(namespace, "").encode() + name, about, ex=1000)

    seen = Seen(app)
    async with app.running():
        assert await asyncio.gather(*[(await work.adelay(n)).aget(PATIENCE) for n in range(20)]) == list(range(20))
        await await_until(lambda: raw.zcard(keys.parked(base)) == 1, PATIENCE)
        _look_at_all(cli, [])
    assert not seen.of(BrokerDown)
    assert not seen.of(EntryStuck)
    for key in records:
        handle = app.handle(f"default:{key}")
        with pytest.raises(Exception) as caught:
            await handle.aget(0.1)
        assert type(caught.value).__module__ in ("penstock.errors", "msgspec"), (key, caught.value)
    assert cli("info", "default:state", code=1).startswith("Error: ")
    for key in ("none", "numbers", "times", "failed", "result", "nested", "entry"):
        assert cli("info", f"default:{key}", "--json")["id"] == f"default:{key}"
        cli("info", f"default:{key}")
    listed = {letter["id"] for letter in cli("dead", "list", "--json")}
    assert {f"default:{key}" for key in [*records, "otherwise"]} - {"default:numbers"} <= listed
    cli("dead", "list")
    for key in ("otherwise", "state", "failed"):
        cli("dead", "show", f"default:{key}")
    raw.delete(keys.record(base, "otherwise"), *[keys.record(base, key) for key in records], keys.parked(base))
    for name in workers:
        raw.zrem(keys.workers(namespace), name)


def _hostile_workers() -> dict[bytes, bytes]:
    info = {"consumer": "w", "host": "h", "pid": 1, "started_at": 1.0, "queues": [], "lease": 1.0}
    strange: list[dict[str, Any]] = [
        {"consumer": ESCAPE, "host": ESCAPE, "pid": -1, "started_at": 0, "queues": [ESCAPE], "lease": 1e9},
        {"started_at": float("nan")},
        {"started_at": 1e300},
        {"lease": float("inf")},
        {"lease": float("nan")},
        {"lease": -5},
    ]
    said = [b"", b"\xc1", b"\x91" * 100_000, encode(["w", "h"]), *(encode({**info, **each}) for each in strange)]
    return dict(zip([b"\xff", ESCAPE.encode(), *(b"w%d" % i for i in range(9))], said, strict=False))


@pytest.mark.parametrize("field", ["lease", "started_at"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1e300, -5, "1"])
def test_a_heartbeat_with_a_time_that_is_none_is_not_believed(field: str, value: Any) -> None:
    """A lease without end would keep every worker from taking over for ever."""
    info: dict[str, Any] = {"consumer": "w", "host": "h", "pid": 1, "started_at": 1.0, "queues": [], "lease": 1.0}
    assert read_about(encode(info)) is not None
    assert read_about(encode({**info, field: value})) is None


async def test_the_highest_id_in_a_stream_breaks_no_other_task(
    app: App, raw: redis.Redis, namespace: str, cli: Any
) -> None:
    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    stream = keys.stream(keys.base(namespace, "default"), "default")
    raw.xadd(stream, {"k": "hostile", "m": b"\xc1"}, id="18446744073709551614-0")
    handle = await work.adelay(1)  # its entry's id is later still
    assert cli("info", handle.id, "--json")["enqueued_at"].startswith("9999-12-31")
    cli("queues")
    async with app.running():
        assert await handle.aget(PATIENCE) == 1
        with pytest.raises(TaskFailed, match="undecodable"):
            await app.handle("default:hostile").aget(PATIENCE)


async def test_an_entry_under_the_key_of_a_living_task_changes_nothing(
    app: App, seen: Seen, raw: redis.Redis, namespace: str
) -> None:
    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    handle = await work.options(id="mine").adelay(1)
    stream = keys.stream(keys.base(namespace, "default"), "high")
    raw.xadd(stream, {"k": "mine", "m": message(a={"n": 666})}, id="5-5")
    async with app.running():
        assert await handle.aget(PATIENCE) == 1
        assert await (await work.adelay(2)).aget(PATIENCE) == 2
    assert len(seen.of(Succeeded, id=handle.id)) == 1
    assert await handle.astate() is State.SUCCEEDED
