"""Every key name: its type, what it holds, how long it lives. No key is built anywhere else,
except inside the Lua scripts, which append the same suffixes to the base that they are given.

All keys of a queue share the hash tag ``{namespace:queue}``, hence one slot: each script touches
one queue, and Redis Cluster needs no second code path.
"""

from __future__ import annotations

#: The one consumer group of every stream.
GROUP = "w"


def base(namespace: str, queue: str) -> str:
    """Routing key and prefix of a queue's keys. Never stored itself."""
    return f"{{{namespace}:{queue}}}"


def routed(base: str) -> tuple[str, str]:
    """KEYS of a script: the key that routes it, and a name beside it that is never stored either.

    While a slot moves from one node to another (SETSLOT MIGRATING, MIGRATE), a script with one missing
    key is sent to the new node (ASK), which would begin new streams beside those that are still to come:
    MIGRATE then fails, or replaces one by the other. With two missing keys the new node answers
    TRYAGAIN, and the queue stands still for as long as its slot is on the way.
    """
    return base, f"{base}:"


def stream(base: str, priority: str) -> str:
    """Stream, group ``w``: ready work; fields ``k`` (key) and ``m`` (message). Lives with the queue."""
    return f"{base}:s:{priority}"


def record(base: str, key: str) -> str:
    """Small hash: the task's state. No TTL while it lives, then max(result_ttl, resend_window)."""
    return f"{base}:t:{key}"


def parked_message(base: str, key: str) -> str:
    """String: the message while parked (no TTL: owned by ``:z``) or dead (the dead TTL)."""
    return f"{base}:p:{key}"


def result(base: str, key: str) -> str:
    """String: a result over 64 B, or a failure. TTL: the result's, or the dead letter's."""
    return f"{base}:r:{key}"


def parked(base: str) -> str:
    """Sorted set: keys of parked tasks by due time in ms. Lives with the queue."""
    return f"{base}:z"


def dead(base: str) -> str:
    """Sorted set: keys of dead letters by time of death in ms; bounded by dead_ttl and dead_max."""
    return f"{base}:dead"


def counters(base: str) -> str:
    """Hash: outcome counters, ``<outcome>|<task name>`` -> n. Lives with the queue."""
    return f"{base}:m"


def measures(base: str) -> str:
    """Hash: ``<measure>`` or ``<measure>|<task name>`` -> sums of all workers (msgpack). Lives with the queue."""
    return f"{base}:h"


def measured(base: str, consumer: str) -> str:
    """String: number of the last measures that a worker has added, so that none is added twice. TTL: an hour."""
    return f"{base}:f:{consumer}"


def paused(base: str) -> str:
    """String: since when (ms) the queue is paused. Until it is resumed."""
    return f"{base}:paused"


def control_channel(base: str) -> str:
    """Pub/sub: to the queue's workers: ``due <ms>`` (from now: an earlier task), ``cancel <key>``, ``resume``."""
    return f"{base}:c"


def listener_channel(namespace: str, listener: str) -> str:
    """Pub/sub: to one process that waits for results: ``<queue>:<key>``; after a line feed the record as it ended."""
    return f"{{{namespace}}}:l:{listener}"


def queues(namespace: str) -> str:
    """Set: names of all queues ever served or sent to. Lives with the namespace."""
    return f"{{{namespace}}}:queues"


def workers(namespace: str) -> str:
    """Sorted set: consumer names by last heartbeat in ms; dead ones are moved to ``:gone`` by their peers."""
    return f"{{{namespace}}}:workers"


def gone(namespace: str) -> str:
    """Sorted set: workers that were not heard of, by last heartbeat in ms; removed after a while."""
    return f"{{{namespace}}}:gone"


def worker(namespace: str, consumer: str) -> str:
    """String (msgpack): what a worker says of itself. TTL: ten minutes."""
    return f"{{{namespace}}}:w:{consumer}"


#: Suffixes of keys that may live without a TTL while nothing is queued (for the tests' leak check).
PERMANENT = (":s:high", ":s:default", ":s:low", ":z", ":dead", ":m", ":h", ":paused", ":queues", ":workers", ":gone")
