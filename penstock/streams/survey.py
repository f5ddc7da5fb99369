"""All that the exporter shows, read at one moment: two round trips (on Cluster: one for each queue), reads only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.errors import BrokerError, BrokerUnavailable
from penstock.settings import Settings
from penstock.streams import inspect, keys, produce
from penstock.streams.calls import Call
from penstock.streams.client import SyncClient
from penstock.streams.connector import Connector
from penstock.streams.inspect import LIVING, Fleet, QueueStats

#: Of ``INFO``.
FIELDS = (
    "redis_version", "valkey_version", "role", "maxmemory_policy", "used_memory", "maxmemory", "evicted_keys",
    "rejected_connections", "connected_clients", "maxclients", "blocked_clients", "aof_enabled",
    "rdb_last_bgsave_status", "aof_last_write_status",
)  # fmt: skip


class Node(msgspec.Struct, frozen=True):
    """One server: fields of its ``INFO``, and seconds that its clock is ahead of this host's."""

    name: str
    info: dict[str, str]
    clock_offset: float


class Reading(msgspec.Struct, frozen=True):
    """What was read; a queue or a node that could not be read is in `problems`, and only there."""

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
        home = keys.workers(self._namespace)
        calls: list[Call[Any]] = [
            inspect.server(home, FIELDS),
            inspect.fleet(self._namespace, LIVING),
            produce.queue_names(self._namespace),
        ]
        asked_at = time.time()
        answers: list[Any] = self._client.run_all(calls)
        between = (asked_at + time.time()) / 2
        for answer in answers:
            if isinstance(answer, BrokerError):
                raise answer
        asked, fleet, names = answers
        lease = max([self._lease, *(worker.lease for worker in fleet.workers)])
        if self._connector.is_cluster:
            return self._of_nodes(names, fleet, lease)
        found, problems = self._queues(names, lease)
        node = Node(self._connector.address.place, asked.info, asked.time - between)
        return Reading(tuple(found), fleet, (node,), tuple(problems))

    def _of_nodes(self, names: Sequence[str], fleet: Fleet, lease: float) -> Reading:
        """On Cluster: node by node. One that does not answer is asked once, and not for each of its queues."""
        by_node: dict[str, list[str]] = {self._client.node_of(keys.workers(self._namespace)): []}
        for name in names:
            by_node.setdefault(self._client.node_of(keys.base(self._namespace, name)), []).append(name)
        queues: list[QueueStats] = []
        nodes: list[Node] = []
        problems: list[str] = []
        for node, mine in by_node.items():
            key = keys.base(self._namespace, mine[0]) if mine else keys.workers(self._namespace)
            asked_at = time.time()
            try:
                asked = self._client.run(inspect.server(key, FIELDS))
                nodes.append(Node(node, asked.info, asked.time - (asked_at + time.time()) / 2))
                found, missed = self._queues(mine, lease)
            except BrokerError as error:
                found, missed = [], [f"node {node}: {error}"]
            queues += found
            problems += missed
        return Reading(tuple(sorted(queues, key=lambda each: each.queue)), fleet, tuple(nodes), tuple(problems))

    def _queues(self, names: Sequence[str], lease: float) -> tuple[list[QueueStats], list[str]]:
        """Those that can be read, and what is wrong with the others. Raises if the server is gone, or none can be."""
        bases = [keys.base(self._namespace, name) for name in names]
        calls = [inspect.queue_stats(base, name, lease) for base, name in zip(bases, names, strict=True)]
        found: list[QueueStats] = []
        problems: list[str] = []
        failure: BrokerError | None = None
        for name, answer in zip(names, self._answers(calls), strict=True):
            if isinstance(answer, BrokerError):
                problems.append(f"queue {name}: {answer}")
                failure = answer
            else:
                found.append(answer)
        if failure is not None and not found:
            raise failure
        return found, problems

    def _answers(self, calls: Sequence[Call[QueueStats]]) -> list[QueueStats | BrokerError]:
        if not self._connector.is_cluster:
            return self._client.run_all(calls) if calls else []
        answers: list[QueueStats | BrokerError] = []
        for call in calls:
            gone = answers and isinstance(answers[-1], BrokerUnavailable)
            answers += [answers[-1]] if gone else self._client.run_all([call])
        return answers

    def close(self) -> None:
        """Close the connections; the next read opens new ones."""
        self._client.close()
