"""All that the exporter shows, read at one moment, by reads only: two round trips (on Cluster one for each queue, with
all nodes at the same time)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import msgspec

from penstock.errors import BrokerError
from penstock.settings import Settings
from penstock.streams import inspect, keys, produce
from penstock.streams.calls import Call
from penstock.streams.client import SyncClient
from penstock.streams.connector import Connector
from penstock.streams.faults import is_away
from penstock.streams.inspect import LIVING, Asked, Fleet, QueueStats

#: Of ``INFO``.
FIELDS = (
    "redis_version", "valkey_version", "role", "maxmemory_policy", "used_memory", "maxmemory", "evicted_keys",
    "rejected_connections", "connected_clients", "maxclients", "blocked_clients", "aof_enabled",
    "rdb_last_bgsave_status", "aof_last_write_status",
)  # fmt: skip


#: Nodes of a Cluster that are asked at the same time.
NODES_AT_ONCE = 32


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


@dataclass
class _Part:
    """What was read of one server."""

    nodes: list[Node] = field(default_factory=list)
    queues: list[QueueStats] = field(default_factory=list)
    #: What could not be read, and why.
    missed: list[tuple[str, BrokerError]] = field(default_factory=list)

    def add(self, other: _Part) -> None:
        self.nodes += other.nodes
        self.queues += other.queues
        self.missed += other.missed


class Survey:
    """Reads one namespace, again and again, over connections of its own. For one thread at a time."""

    def __init__(self, connector: Connector, settings: Settings) -> None:
        self._connector = connector
        self._namespace = settings.namespace
        self._lease = settings.lease
        self._client = SyncClient(connector)

    def read(self) -> Reading:
        """Raises `BrokerError` if the server does not answer or refuses, or if no queue can be read."""
        part, fleet, names = self._home()
        lease = max([self._lease, *(worker.lease for worker in fleet.workers)])
        part.add(self._all_nodes(names, lease) if self._connector.is_cluster else self._queues(names, lease))
        if names and not part.queues:
            raise part.missed[-1][1]
        queues = sorted(part.queues, key=lambda each: each.queue)
        problems = [f"{what}: {error}" for what, error in part.missed]
        return Reading(tuple(queues), fleet, tuple(part.nodes), tuple(problems))

    def _home(self) -> tuple[_Part, Fleet, list[str]]:
        """What belongs to the whole namespace; and about the server, if there is but one."""
        fleet, names = inspect.fleet(self._namespace, LIVING), produce.queue_names(self._namespace)
        if self._connector.is_cluster:
            return _Part(), self._client.run(fleet), self._client.run(names)
        calls: list[Call[Any]] = [inspect.server(keys.workers(self._namespace), FIELDS), fleet, names]
        asked_at = time.time()
        answers: list[Any] = self._client.run_all(calls)
        for answer in answers:
            if isinstance(answer, BrokerError):
                raise answer
        said, *rest = answers
        return _Part([_node(self._connector.address.place, said, asked_at)]), *rest

    def _all_nodes(self, names: Sequence[str], lease: float) -> _Part:
        """On Cluster: all nodes at the same time, since one that is silent takes as long as it may."""
        whole = _Part()
        by_node: dict[str, list[str]] = {self._client.node_of(keys.workers(self._namespace)): []}
        for name in names:
            try:
                by_node.setdefault(self._client.node_of(keys.base(self._namespace, name)), []).append(name)
            except BrokerError as error:  # nobody has its slot
                whole.missed.append((f"queue {name}", error))
        with ThreadPoolExecutor(min(len(by_node), NODES_AT_ONCE), "penstock-survey") as threads:
            for part in threads.map(lambda node: self._node(node, by_node[node], lease), by_node):
                whole.add(part)
        return whole

    def _node(self, node: str, names: Sequence[str], lease: float) -> _Part:
        """One node of a Cluster, and its queues. If it does not answer it is asked once, and not for each of them."""
        key = keys.base(self._namespace, names[0]) if names else keys.workers(self._namespace)
        part = _Part()
        asked_at = time.time()
        try:
            found = _node(node, self._client.run(inspect.server(key, FIELDS)), asked_at)
            if self._client.node_of(key) == node:  # else the key has moved, and another one has answered
                part.nodes.append(found)
        except BrokerError as error:
            part.missed.append((f"node {node}", error))
            if is_away(error):
                return part
        part.add(self._queues(names, lease))
        return part

    def _queues(self, names: Sequence[str], lease: float) -> _Part:
        """Those that can be read, and what is wrong with the others."""
        bases = [keys.base(self._namespace, name) for name in names]
        calls = [inspect.queue_stats(base, name, lease) for base, name in zip(bases, names, strict=True)]
        part = _Part()
        for name, answer in zip(names, self._answers(calls), strict=True):
            if isinstance(answer, BrokerError):
                part.missed.append((f"queue {name}", answer))
            else:
                part.queues.append(answer)
        return part

    def _answers(self, calls: Sequence[Call[QueueStats]]) -> list[QueueStats | BrokerError]:
        if not self._connector.is_cluster:
            return self._client.run_all(calls) if calls else []
        answers: list[QueueStats | BrokerError] = []
        for call in calls:
            before = answers[-1:]
            gone = [each for each in before if isinstance(each, BrokerError) and is_away(each)]
            answers += gone or self._client.run_all([call])
        return answers

    def close(self) -> None:
        """Close the connections; the next read opens new ones."""
        self._client.close()


def _node(name: str, said: Asked, asked_at: float) -> Node:
    """What a server has just said of itself, asked at `asked_at`: its clock is compared with the middle of the way."""
    return Node(name, said.info, said.time - (asked_at + time.time()) / 2)
