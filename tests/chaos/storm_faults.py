"""The faults of the storm. Each returns what shows that it took place."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import redis

from penstock.consumers.heartbeat import WorkerInfo
from penstock.settings import PRIORITIES
from penstock.streams import keys
from tests.chaos.storm_tasks import LEASE
from tests.servers import wait_until

#: Seconds for which a worker is stopped at least: the others must have taken over what it held.
STOPPED = 2 * LEASE + 1.5
#: ``maxclients`` of the server.
MAX_CLIENTS = 300
#: Seconds for which a flood of connections stays.
FLOOD = 1.0


class Struck(msgspec.Struct, frozen=True):
    """One fault that took place."""

    kind: str
    #: Seconds since the start.
    at: float
    #: Deliveries that the worker held when it was killed or stopped: so many tasks may run twice.
    in_flight: int = 0
    #: How many clients were killed, connections refused, deliveries taken over from a stopped worker.
    effect: int = 0


class Faults:
    """Strikes at random, each kind about as often as the others."""

    KINDS = ("SIGKILL", "SIGSTOP", "SIGTERM", "SCRIPT FLUSH", "CLIENT KILL", "flood")

    def __init__(self, raw: redis.Redis, namespace: str, seed: int) -> None:
        self._raw = raw
        self._namespace = namespace
        self._chance = random.Random(seed)
        self._since = time.monotonic()
        self._deck: list[str] = []
        self._address: Any = raw.connection_pool.connection_kwargs
        #: Workers that are stopped: pid -> (consumer, held when it was stopped, since when).
        self._stopped: dict[int, tuple[str, int, float]] = {}
        self.struck: list[Struck] = []
        self._do: dict[str, Callable[[], Struck | None]] = {
            "SIGKILL": self._kill,
            "SIGSTOP": self._stop,
            "SIGTERM": self._terminate,
            "SCRIPT FLUSH": self._flush,
            "CLIENT KILL": self._kill_clients,
            "flood": self._flood,
        }

    def strike(self) -> str | None:
        """One fault; its name, or None if it could not be done now."""
        if not self._deck:
            self._deck = [*self.KINDS, "SIGKILL", "SIGKILL", "SIGSTOP"]
            self._chance.shuffle(self._deck)
        kind = self._deck.pop()
        struck = self._do[kind]()
        if struck is None:
            self._deck.insert(0, kind)  # its turn comes again
            return None
        self.struck.append(struck)
        return kind

    def wake(self, now: bool = False) -> None:
        """Let workers go on (SIGCONT) that were stopped for long enough, or all."""
        for pid, (consumer, held, since) in list(self._stopped.items()):
            if now or time.monotonic() - since > STOPPED:
                taken = held - self.held(consumer)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
                    self.struck.append(Struck("SIGCONT", self._at(), effect=taken))
                del self._stopped[pid]

    def held(self, consumer: str) -> int:
        """Deliveries that a consumer owns."""
        total = 0
        for priority in PRIORITIES:
            with suppress(redis.ResponseError):  # no group yet
                found: Any = self._raw.xpending(keys.stream(keys.base(self._namespace, "default"), priority), "w")
                of = {each["name"].decode(): int(each["pending"]) for each in found["consumers"]}
                total += of.get(consumer, 0)
        return total

    def workers(self) -> dict[int, str]:
        """pid -> consumer of the worker processes that live and are not stopped."""
        found = {}
        names: Any = self._raw.zrange(keys.workers(self._namespace), 0, -1)
        for name in names:
            about: Any = self._raw.get(keys.worker(self._namespace, name.decode()))
            if about is not None:
                info = msgspec.msgpack.decode(about, type=WorkerInfo)
                if _lives(info.pid) and info.pid not in self._stopped:
                    found[info.pid] = info.consumer
        return found

    def _victim(self) -> tuple[int, str] | None:
        """A worker to strike; one at least stays."""
        workers = sorted(self.workers().items())
        return self._chance.choice(workers) if len(workers) > 1 else None

    def _at(self) -> float:
        return round(time.monotonic() - self._since, 2)

    def _kill(self) -> Struck | None:
        if (victim := self._victim()) is None:
            return None
        pid, consumer = victim
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not _lives(pid), 10)  # its supervisor has reaped it
        return Struck("SIGKILL", self._at(), in_flight=self.held(consumer))

    def _stop(self) -> Struck | None:
        if self._stopped or (victim := self._victim()) is None:
            return None
        pid, consumer = victim
        os.kill(pid, signal.SIGSTOP)
        held = self.held(consumer)
        self._stopped[pid] = consumer, held, time.monotonic()
        return Struck("SIGSTOP", self._at(), in_flight=held)

    def _terminate(self) -> Struck | None:
        """A warm stop: what runs ends, the rest goes back. Nothing may run twice because of it."""
        if (victim := self._victim()) is None:
            return None
        os.kill(victim[0], signal.SIGTERM)
        return Struck("SIGTERM", self._at())

    def _flush(self) -> Struck:
        self._raw.script_flush()
        return Struck("SCRIPT FLUSH", self._at())

    def _kill_clients(self) -> Struck:
        killed = 0
        for kind in ("normal", "pubsub"):
            killed += int(self._raw.client_kill_filter(_type=kind, skipme=True))
        return Struck("CLIENT KILL", self._at(), effect=killed)

    def _flood(self) -> Struck:
        """Connections until the server refuses more; everybody who connects meanwhile is refused, too."""
        before = self._rejected()
        opened: list[socket.socket] = []
        try:
            for _ in range(MAX_CLIENTS + 50):
                with suppress(OSError):
                    opened.append(socket.create_connection((self._address["host"], self._address["port"]), 1))
            # Whoever is connected is cut off, and has to come back through the flood.
            self._raw.client_kill_filter(_type="pubsub", skipme=True)
            time.sleep(FLOOD)  # work: the fault itself
        finally:
            for one in opened:
                one.close()
        return Struck("flood", self._at(), effect=self._rejected() - before)

    def _rejected(self) -> int:
        stats: Any = self._raw.info("stats")
        return int(stats["rejected_connections"])


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
