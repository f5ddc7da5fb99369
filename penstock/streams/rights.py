"""The ACL rights that each part of penstock needs, no more: commands, keys and channels.

A script runs with the rights of the user who calls it, so the commands inside it count. Redis 6.2 to
8.2 and Valkey 9.1 understand the same rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from penstock.streams import keys


class Role(msgspec.Struct, frozen=True):
    """One part of penstock. Key and channel patterns are globs; `%n` stands for the namespace."""

    name: str
    commands: tuple[str, ...]
    keys: tuple[str, ...]
    channels: tuple[str, ...] = ()


#: To connect and to run scripts.
_ALL = ("client|setname", "eval", "evalsha")
_QUEUES, _NAMESPACE, _LISTENERS = "{%n:*", "{%n}:*", "{%n}:l:*"

#: Sends tasks, waits for results, cancels.
PRODUCER = Role(
    "producer",
    (
        *_ALL, "del", "get", "hget", "hgetall", "hincrby", "hmget", "hset", "pexpire", "publish", "sadd", "set",
        "subscribe", "time", "xack", "xadd", "xdel", "xlen", "xpending", "zadd", "zrange", "zrem",
    ),
    (_QUEUES, "{%n}:queues"),
    (_QUEUES, _LISTENERS),
)  # fmt: skip

#: Runs tasks. Those that send others need PRODUCER, too.
WORKER = Role(
    "worker",
    (
        *_ALL, "client|id", "client|unblock", "del", "get", "hdel", "hget", "hgetall", "hincrby", "hlen", "hmget",
        "hset", "hsetnx", "mget", "pexpire", "publish", "sadd", "set", "subscribe", "time", "xack", "xadd",
        "xautoclaim", "xclaim", "xdel", "xgroup|create", "xgroup|delconsumer", "xinfo|consumers", "xpending", "xrange",
        "xread", "xreadgroup", "zadd", "zcard", "zrange", "zrangebyscore", "zrem", "zremrangebyscore",
    ),
    (_QUEUES, _NAMESPACE),
    (_QUEUES, _LISTENERS),
)  # fmt: skip

#: Looks: `exporter`, `metrics`, `queues`, `workers`, `info`, `result`, `dead list` and `doctor`. It can change nothing
#: but by a script of its own.
INSPECTOR = Role(
    "inspector",
    (
        *_ALL, "acl|dryrun", "acl|whoami", "command|info", "config|get", "get", "hget", "hgetall", "info", "mget",
        "smembers", "time", "xinfo|groups", "xinfo|stream", "xlen", "xpending", "xrange", "zcard", "zcount", "zrange",
        "zrevrange", "zscore",
    ),
    (_QUEUES, _NAMESPACE),
)  # fmt: skip

#: Sends dead letters again, pauses and resumes queues. Who also looks needs INSPECTOR, too.
OPERATOR = Role(
    "operator",
    (
        *_ALL, "del", "get", "hdel", "hmget", "hset", "hsetnx", "persist", "publish", "set", "smembers", "time", "xadd",
        "zrange", "zrem", "zscore",
    ),
    (_QUEUES, "{%n}:queues"),
    (_QUEUES,),
)  # fmt: skip

#: What redis-py asks a Cluster beside that: where the slots are, and for one that is on its way to another node.
ON_CLUSTER = ("asking", "cluster|slots", "command")

ROLES = {role.name: role for role in (PRODUCER, WORKER, INSPECTOR, OPERATOR)}

#: Arguments with which a command is tried (it is never run): ``ACL DRYRUN`` wants as many as it takes.
_TRY = {
    "acl|dryrun": "default get {t}",
    "acl|whoami": "",
    "client|id": "",
    "client|setname": "x",
    "client|unblock": "1",
    "command|info": "get",
    "config|get": "maxmemory",
    "del": "{p}",
    "eval": "return(1) 1 {base}",
    "evalsha": "0 1 {base}",
    "get": "{p}",
    "hdel": "{t} x",
    "hget": "{t} x",
    "hgetall": "{t}",
    "hincrby": "{m} x 1",
    "hlen": "{t}",
    "hmget": "{t} x",
    "hset": "{t} x x",
    "hsetnx": "{t} x x",
    "info": "",
    "mget": "{p}",
    "persist": "{t}",
    "pexpire": "{t} 1",
    "publish": "{c} x",
    "sadd": "{queues} x",
    "set": "{r} x",
    "smembers": "{queues}",
    "subscribe": "{c}",
    "time": "",
    "xack": "{s} w 1-1",
    "xadd": "{s} * x x",
    "xautoclaim": "{s} w x 1 0",
    "xclaim": "{s} w x 1 1-1",
    "xdel": "{s} 1-1",
    "xgroup|create": "{s} w 0",
    "xgroup|delconsumer": "{s} w x",
    "xinfo|consumers": "{s} w",
    "xinfo|groups": "{s}",
    "xinfo|stream": "{s}",
    "xlen": "{s}",
    "xpending": "{s} w",
    "xrange": "{s} - +",
    "xread": "STREAMS {s} 0",
    "xreadgroup": "GROUP w x STREAMS {s} >",
    "zadd": "{z} 1 x",
    "zcard": "{dead}",
    "zcount": "{z} 0 0",
    "zrange": "{z} 0 0",
    "zrangebyscore": "{z} 0 0",
    "zrem": "{z} x",
    "zremrangebyscore": "{dead} 0 0",
    "zrevrange": "{dead} 0 0",
    "zscore": "{dead} x",
}


def rules(namespace: str, *roles: Role) -> list[str]:
    """The arguments of ``ACL SETUSER`` that give these roles, after the name and password: first what is taken away."""
    commands = sorted({command for role in roles for command in role.commands})
    patterns = dict.fromkeys(f"~{pattern}" for role in roles for pattern in role.keys)
    channels = dict.fromkeys(f"&{pattern}" for role in roles for pattern in role.channels)
    given = [*patterns, *channels]
    return ["resetkeys", "resetchannels", "-@all", *_named(given, namespace), *(f"+{each}" for each in commands)]


def trials(namespace: str, queues: Iterable[str], *roles: Role) -> Iterator[tuple[str, ...]]:
    """Commands as these roles give them, to be tried by ``ACL DRYRUN``: each one, on each queue."""
    commands = sorted({command for role in roles for command in role.commands})
    for queue in queues:
        names = _names(namespace, queue)
        for command in commands:
            yield (*command.upper().split("|"), *_TRY[command].format_map(names).split())
        for role in roles:
            if _LISTENERS in role.channels:
                yield ("PUBLISH", names["l"], "x")
            if _NAMESPACE in role.keys:
                yield ("GET", names["w"])
                yield ("ZRANGE", names["workers"], "0", "0")


def _names(namespace: str, queue: str) -> dict[str, str]:
    base = keys.base(namespace, queue)
    return {
        "base": base,
        "s": keys.stream(base, "default"),
        "t": keys.record(base, "x"),
        "p": keys.parked_message(base, "x"),
        "r": keys.result(base, "x"),
        "z": keys.parked(base),
        "dead": keys.dead(base),
        "m": keys.counters(base),
        "c": keys.control_channel(base),
        "l": keys.listener_channel(namespace, "x"),
        "queues": keys.queues(namespace),
        "workers": keys.workers(namespace),
        "w": keys.worker(namespace, "x"),
    }


def _named(patterns: Iterable[str], namespace: str) -> list[str]:
    return [pattern.replace("%n", namespace) for pattern in patterns]
