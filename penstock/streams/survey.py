"""All that the exporter shows, read at one moment: two round trips (on Cluster: one for each queue), reads only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.errors import BrokerError
from penstock.settings import Settings
from penstock.streams import examine, inspect, keys, produce
from penstock.streams.calls import Call
from penstock.streams.client import SyncClient
from penstock.streams.connector import Connector
from penstock.streams.examine import Node
from penstock.streams.inspect import Fleet, QueueStats

#: Seconds since its last heartbeat for which a worker counts as living: as in `consumers.heartbeat`.
LIVING = 20.0
#: Of ``INFO``.
FIELDS = (
    "redis_version", "valkey_version", "role", "maxmemory_policy", "used_memory", "maxmemory", "evicted_keys",
    "rejected_connections", "connected_clients", "maxclients", "blocked_clients", "aof_enabled",
    "rdb_last_bgsave_status", "aof_last_write_status",
)  # fmt: skip


class Reading(msgspec.Struct, frozen=True):
    """What was read; a queue that could not be read is in `problems`, and only there."""

    queues: tuple[QueueStats, ...]
    fleet: Fleet
    nodes: tuple[Node, ...]
    problems: tuple[str, ...]


class Survey:
    """Reads one namespace, again and again, over connections of its own. For one thread at a time."""

    def __init__(self, connector: Connector, settings: Settings) -> None:
        self._connector = connector
        self._namespace = settings.namespace
        self._lease = settings.lease
        self._client = SyncClient(connector)

    def read(self) -> Reading:
        """Raises `BrokerError` if the server does not answer or refuses, or if no queue can be read."""
        asked_at = time.time()
        namespace = self._namespace
        calls: list[Call[Any]] = [
            inspect.server(keys.workers(namespace), FIELDS),
            inspect.fleet(namespace, LIVING),
            produce.queue_names(namespace),
        ]
        answers: list[Any] = self._client.run_all(calls)
        for answer in answers:
            if isinstance(answer, BrokerError):
                raise answer
        asked, fleet, names = answers
        found, problems = self._queues(names, max([self._lease, *(worker.lease for worker in fleet.workers)]))
        if self._connector.is_cluster:
            nodes = examine.nodes(self._connector, [f"{{{namespace}}}", *self._bases(names)])
        else:
            nodes = [Node(self._connector.address.place, asked.info, asked.time - asked_at)]
        return Reading(tuple(found), fleet, tuple(nodes), tuple(problems))

    def _queues(self, names: Sequence[str], lease: float) -> tuple[list[QueueStats], list[str]]:
        found: list[QueueStats] = []
        problems: list[str] = []
        failure: BrokerError | None = None
        calls = [inspect.queue_stats(base, name, lease) for base, name in zip(self._bases(names), names, strict=True)]
        for name, answer in zip(names, self._client.run_all(calls) if calls else [], strict=True):
            if isinstance(answer, BrokerError):
                problems.append(f"queue {name}: {answer}")
                failure = answer
            else:
                found.append(answer)
        if failure is not None and not found:
            raise failure
        return found, problems

    def _bases(self, names: Sequence[str]) -> list[str]:
        return [keys.base(self._namespace, name) for name in names]

    def close(self) -> None:
        """Close the connections; the next read opens new ones."""
        self._client.close()
