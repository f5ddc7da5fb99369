"""What is on the server, read with plain commands and shown as the model shows itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import redis

from penstock.settings import PRIORITIES
from penstock.streams import keys
from penstock.streams.record import STATES, State
from tests.model.clock import TICK, delivered
from tests.model.places import View
from tests.model.words import JUNK

#: What a record without a result has.
NIL = b"\xc0".decode(errors="surrogateescape")
#: Replies for each task: record, message, result, and the TTL of each.
_PER_TASK = 6


def look(raw: redis.Redis, base: str, task_keys: Sequence[str]) -> View:
    """The queue's streams, parked tasks, dead letters and counters, and the records of these tasks."""
    asked: Any = raw.pipeline(transaction=False)
    for priority in PRIORITIES:
        asked.xrange(keys.stream(base, priority))
        asked.xpending_range(keys.stream(base, priority), keys.GROUP, "-", "+", 1000)
    asked.zrange(keys.parked(base), 0, -1, withscores=True)
    asked.zrange(keys.dead(base), 0, -1, withscores=True)
    asked.hgetall(keys.counters(base)).get(keys.paused(base))
    for key in task_keys:
        asked.hgetall(keys.record(base, key)).pttl(keys.record(base, key))
        for name in (keys.parked_message(base, key), keys.result(base, key)):
            asked.get(name).pttl(name)
    replies: list[Any] = asked.execute(raise_on_error=False)  # XPENDING fails while there is no group
    streams, (parked, dead, counters, paused), tasks = replies[:6], replies[6:10], replies[10:]
    records = {key: _text(tasks[i * _PER_TASK]) for i, key in enumerate(task_keys)}
    seen: View = {}
    for i, priority in enumerate(PRIORITIES):
        seen[f"stream {priority}"] = _stream(streams[2 * i], streams[2 * i + 1], records)
    seen["parked"] = {key.decode(): int(due) for key, due in parked}
    seen["dead letters"] = {key.decode(): int(died) for key, died in dead}
    seen["paused"] = paused and int(paused)
    seen["counters"] = {name: int(n) for name, n in _text(counters).items()}
    for i, key in enumerate(task_keys):
        _, goes_in, *beside = tasks[i * _PER_TASK : (i + 1) * _PER_TASK]
        if records[key] or any(beside[::2]):
            seen[f"task {key}"] = _task(records[key], goes_in, beside)
    return seen


def _stream(entries: Any, pending: Any, records: dict[str, dict[str, str]]) -> list[View]:
    owners = {entry: (owner.decode(), idle // TICK) for entry, owner, idle in delivered(pending)}
    assert owners.keys() <= {entry for entry, _ in entries}, "a delivered entry is no longer in its stream"
    shown = []
    for entry, fields in entries:
        key = fields[b"k"].decode() if b"k" in fields else None
        owner, idle = owners.get(entry, (None, None))
        record = records.get(key, {}) if key is not None else {}
        current = record.get("s") in ("q", "r") and record.get("e") == entry.decode()
        message = fields[b"m"] if key is not None else JUNK
        shown.append({"key": key, "message": message, "owner": owner, "idle": idle, "current": current})
    return shown


def _task(record: dict[str, str], goes_in: int, beside: Sequence[Any]) -> View:
    message, message_goes_in, result, result_goes_in = beside
    state = STATES[record["s"].encode()] if "s" in record else None
    if small := state is State.SUCCEEDED and record.get("v", NIL):
        assert result is None, "a result in two places"
        result, result_goes_in = small.encode(errors="surrogateescape"), goes_in
    return {
        "state": state and state.value,
        "name": record.get("n"),
        "priority": record.get("p", "default"),
        "due": _number(record, "u") if state is State.SCHEDULED else None,
        "ended_at": _time(record, "f"),
        "goes in": _ticks(goes_in),
        "message": None if message is None else (message, _ticks(message_goes_in)),
        "result": None if result is None else (result, _ticks(result_goes_in)),
        "expires": _number(record, "x"),
        "retries": _number(record, "a") or 0,
        "deliveries": int(record.get("d", "b" in record)),
        "worker": record.get("w"),
        "started_at": _time(record, "b"),
        "unknown_since": _number(record, "g"),
        "cancel": "c" in record,
    }


def _text(fields: dict[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): value.decode(errors="surrogateescape") for name, value in fields.items()}


def _number(record: dict[str, str], name: str) -> int | None:
    return int(record[name]) if name in record else None


def _time(record: dict[str, str], name: str) -> int | None:
    """What the scripts' `from_entry` has made of a time."""
    found = _number(record, name)
    return found if found is None or abs(found) >= 1e11 else found + int(record["e"].partition("-")[0])


def _ticks(ttl: int) -> int | None:
    """Whole ticks that were left at the last tick; a few ms have gone since."""
    return math.ceil(ttl / TICK) if ttl >= 0 else None


def differences(seen: View, expected: View) -> list[str]:
    """One line for each thing that is not as it should be."""
    return [
        f"{name}:\n    the server shows {_short(seen.get(name), expected.get(name))}"
        f"\n    the model says   {_short(expected.get(name), seen.get(name))}"
        for name in sorted(seen.keys() | expected.keys())
        if seen.get(name) != expected.get(name)
    ]


def _short(one: object, other: object) -> object:
    """Of two dicts only that in which they differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return {name: value for name, value in one.items() if value != other.get(name, ...)}
    return one
