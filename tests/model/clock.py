"""A clock that tests set, for the real scripts on a real server.

A queue knows three times, all of them the server's. Each is moved by what Redis itself offers:

- `TIME`, which the scripts ask in one place (``_prelude.lua``). The scripts that run here are the package's own
  texts with that one call replaced by a look at a key, and it is checked that there was one such call. So this
  time stands still unless it is advanced, and what falls due at a moment does so exactly.
- How long a delivered entry has been idle: set back with ``XCLAIM .. IDLE .. JUSTID``, entry by entry, which
  leaves owner and delivery counter alone.
- The TTL of keys: shortened with PEXPIRE, and the key deleted when it has run out.

The last two go on by themselves: by the milliseconds that a history takes. Every duration in a history is a
multiple of `TICK`, which is far longer, so that never decides anything. Two things stay outside: the time in an
entry's id (only shown to people) and the idle time of a *consumer* (`retire` is called with 0).
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import redis

from penstock.settings import PRIORITIES
from penstock.streams import keys
from penstock.streams.calls import Call
from penstock.streams.client import SyncClient
from penstock.streams.scripts import Script

T = TypeVar("T")

#: The unit of every duration, in ms: much longer than a whole history takes.
TICK = 100_000

_TIME = "call('TIME')"


@cache
def clocked(script: Script) -> Script:
    """The script, with the clock's key instead of TIME."""
    assert script.text.count("'TIME'") == script.text.count(_TIME) == 1, f"{script} asks for the time in another way"
    return Script(script.name, script.text.replace(_TIME, "{ call('GET', KEYS[1] .. ':clock'), 0 }"))


class ClockedClient(SyncClient):
    """Runs the verbs by the clock of their queue."""

    def run(self, call: Call[T], retry_for: float = 0.0) -> T:
        assert call.script is not None
        return super().run(Call(self.clocked(call.script), call.keys, call.args, call.read), retry_for)

    def clocked(self, script: Script) -> Script:
        """What is run in its place."""
        return clocked(script)


class Clock:
    """The time of one queue."""

    def __init__(self, raw: redis.Redis, base: str, now: int) -> None:
        self._raw = raw
        self._base = base
        self.key = f"{base}:clock"
        self._set(now)

    def _set(self, now: int) -> None:
        assert now % 1000 == 0
        self._now = now
        self._raw.set(self.key, now // 1000)

    def advance(self, ms: int) -> None:
        """Later by `ms`, a multiple of `TICK`."""
        self._set(self._now + ms)
        self._age_entries(ms)
        self._age_keys(ms)

    def _age_entries(self, ms: int) -> None:
        names = [keys.stream(self._base, priority) for priority in PRIORITIES]
        asked = self._raw.pipeline(transaction=False)
        for name in names:
            asked.xpending_range(name, keys.GROUP, "-", "+", 1000)
        aged = self._raw.pipeline(transaction=False)
        for name, reply in zip(names, asked.execute(raise_on_error=False), strict=True):
            for entry, owner, idle in delivered(reply):
                aged.xclaim(name, keys.GROUP, owner, 0, [entry], idle=idle + ms, justid=True)
        aged.execute()

    def _age_keys(self, ms: int) -> None:
        names: list[bytes] = list(self._raw.scan_iter(match=f"{self._base}*", count=1000))
        asked = self._raw.pipeline(transaction=False)
        for name in names:
            asked.pttl(name)
        aged = self._raw.pipeline(transaction=False)
        for name, left in zip(names, asked.execute(), strict=True):
            if left > ms:
                aged.pexpire(name, left - ms)
            elif left >= 0:
                aged.delete(name)
        aged.execute()


def delivered(reply: Any) -> list[tuple[bytes, bytes, int]]:
    """Entry, owner and ms idle of each line of an `xpending_range`; none before the first read of a stream."""
    if isinstance(reply, redis.ResponseError):
        assert "NOGROUP" in str(reply), reply
        return []
    return [(line["message_id"], line["consumer"], line["time_since_delivered"]) for line in reply]
