"""All that the exporter shows, read at one moment: two round trips (on Cluster: one for each queue), reads only."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from penstock.errors import BrokerError
from penstock.settings import Settings
from penstock.streams import examine, inspect, keys, produce
from penstock.streams.calls import Call, command
from penstock.streams.client import SyncClient
from penstock.streams.connector import Connector
from penstock.streams.examine import Node, parse_info
from penstock.streams.inspect import Fleet, QueueStats

#: Seconds since its last heartbeat for which a worker counts as living: as in `consumers.heartbeat`.
LIVING = 20.0


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
        first: list[Call[Any]] = [inspect.fleet(self._namespace, LIVING), produce.queue_names(self._namespace)]
        # On Cluster they are asked of each node: these two name no key that would lead them there.
        server: list[Call[Any]] = [] if self._connector.is_cluster else [_TIME, _INFO]
        answers: list[Any] = self._client.run_all([*server, *first])
        for answer in answers:
            if isinstance(answer, BrokerError):
                raise answer
        fleet, names = answers[-2:]
        found, problems = self._queues(names, max([self._lease, *(worker.lease for worker in fleet.workers)]))
        if server:
            nodes = [Node(self._connector.address.place, answers[1], answers[0] - asked_at)]
        else:
            nodes = examine.nodes(self._connector, [f"{{{self._namespace}}}", *self._bases(names)])
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


def _seconds(reply: Sequence[bytes]) -> float:
    return int(reply[0]) + int(reply[1]) / 1e6


_TIME = command("TIME", read=_seconds)
_INFO = command("INFO", read=parse_info)
