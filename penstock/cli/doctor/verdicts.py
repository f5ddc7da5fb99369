"""From what was seen to verdicts, and what to do. Pure functions: each takes what it judges, and asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from penstock.cli.output import ago
from penstock.streams.examine import FEATURES, Server
from penstock.streams.inspect import QueueStats, Stuck

Verdict = Literal["ok", "warn", "fail"]
_ORDER: tuple[Verdict, ...] = ("ok", "warn", "fail")

#: Leases without renewal after which somebody should have taken over.
STUCK_LEASES = 3
#: Seconds past its time after which a parked task waits for a promoter: they look every 10 s at least.
OVERDUE = 15.0
#: Share of maxmemory.
MEMORY_NEAR = 0.8
#: Seconds that clocks may differ, and that a replica may be silent.
CLOCK_MOST, LAG_MOST = 1.0, 10.0
#: Bytes that a replica may be behind.
BEHIND_MOST = 16 << 20


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    #: What was seen.
    seen: str
    #: What to do about it; "" if nothing is.
    advice: str = ""
    #: The queue, or on Cluster the server; "" for all.
    where: str = ""


class QueueFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A queue, as far as it can be ill."""

    stats: QueueStats
    stuck: Sequence[Stuck]
    #: The longest lease of those who might hold an entry, s.
    lease: float
    #: A worker that lives says that it serves this queue.
    served: bool


def worst(checks: Iterable[Check]) -> Verdict:
    """The gravest of the verdicts."""
    return max((check.verdict for check in checks), key=_ORDER.index, default="ok")


def judge_server(server: Server, several: bool = False) -> list[Check]:
    """All checks of one server; with `several` each says which one it is about."""
    judges = (features, eviction, persistence, replication, memory, clock, rights)
    where = f"port {server.info.get('tcp_port', '?')}" if several else ""
    return [msgspec.structs.replace(judge(server), where=where) for judge in judges]


def features(server: Server) -> Check:
    """The commands that we need, and those that we could use."""
    if server.features is None:
        return Check("server", "warn", f"{server.name}; its commands are unknown", _allow("+command|info"))
    if "XAUTOCLAIM" not in server.features:
        return Check("server", "fail", f"{server.name}, without XAUTOCLAIM", "use Redis 6.2 or later, or Valkey")
    lacks = [name for name in FEATURES if name not in server.features]
    return Check(
        "server", "ok", server.name + (f"; without {', '.join(lacks)}, which it can do without" if lacks else "")
    )


def eviction(server: Server) -> Check:
    """A server that deletes keys when its memory is full deletes tasks."""
    name, policy = "eviction", server.policy
    if policy is None:
        return Check(name, "warn", "maxmemory-policy is unknown", _allow("+info"))
    if policy == "noeviction":
        return Check(name, "ok", policy)
    what = "results, records and dead letters" if policy.startswith("volatile") else "tasks, also unfinished ones,"
    return Check(
        name, "fail", f"maxmemory-policy is {policy}: {what} are deleted when memory is full",
        "CONFIG SET maxmemory-policy noeviction; keep caches on another server",
    )  # fmt: skip


def persistence(server: Server) -> Check:
    """What a restart leaves over."""
    name, info, config = "persistence", server.info, server.config
    aof = config["appendonly"] == "yes" if "appendonly" in config else info.get("aof_enabled") == "1"
    if not info and "appendonly" not in config:
        return Check(name, "warn", "unknown", _allow("+info +config|get"))
    if info.get("aof_last_write_status") == "err" or info.get("rdb_last_bgsave_status") == "err":
        return Check(name, "fail", "the last write to disk failed", "look into the server's log; is the disk full?")
    if aof and config.get("appendfsync") == "no":
        return Check(name, "warn", "AOF on, appendfsync no: the system writes when it likes", "appendfsync everysec")
    if aof:
        return Check(name, "ok", f"AOF on, appendfsync {config.get('appendfsync', 'unknown')}")
    if "save" not in config:
        return Check(name, "warn", "AOF off, snapshots unknown", "appendonly yes; " + _allow("+config|get"))
    if config["save"]:
        seen = "AOF off, snapshots only: what came after the last one is lost in a crash"
    else:
        seen = "AOF off, no snapshots: a restart loses all tasks"
    return Check(name, "warn", seen, "appendonly yes")


def replication(server: Server) -> Check:
    """Whether this is the primary, and what a failover would lose."""
    name, info = "replication", server.info
    role = info.get("role")
    if role is None:
        return Check(name, "warn", "unknown", _allow("+info"))
    if role != "master":
        return Check(
            name, "fail", "this is a replica: it takes no writes", "name the primary, or use redis+sentinel://"
        )
    least = int(server.config.get("min-replicas-to-write", -1))
    good = [r for r in server.replicas if r.state == "online" and r.lag <= LAG_MOST and r.behind <= BEHIND_MOST]
    if least > len(good):
        seen = f"min-replicas-to-write is {least}, and good replicas are {len(good)}: writes are refused"
        return Check(name, "fail", seen, "bring the replicas back")
    bad = [
        f"{r.address} ({r.state}, silent for {ago(r.lag)}, {r.behind} bytes behind)"
        for r in server.replicas
        if r not in good
    ]
    if bad:
        return Check(name, "warn", f"a failover would lose much: {', '.join(bad)}", "look into the replica's log")
    if not server.replicas:
        return Check(name, "ok", "no replicas")
    lag = f"{len(good)} replicas, at most {max(r.behind for r in good)} bytes behind"
    if least == 0:
        return Check(
            name, "warn", f"{lag}; min-replicas-to-write is 0: a primary that was cut off goes on accepting tasks",
            "CONFIG SET min-replicas-to-write 1",
        )  # fmt: skip
    return Check(name, "ok", lag + (f"; min-replicas-to-write is {least}" if least > 0 else ""))


def memory(server: Server) -> Check:
    """How near the server is to refusing tasks."""
    name, info = "memory", server.info
    if "used_memory" not in info:
        return Check(name, "warn", "unknown", _allow("+info"))
    # Buffers of replicas and of the AOF do not count towards the limit.
    used = int(info["used_memory"]) - int(info.get("mem_not_counted_for_evict", 0))
    most = int(info.get("maxmemory", server.config.get("maxmemory", 0)))
    if not most:
        return Check(name, "ok", f"{_mb(used)}, no limit")
    seen = f"{_mb(used)} of {_mb(most)} ({used / most:.0%})"
    advice = "raise maxmemory, shorten result_ttl, or add workers"
    if used >= most:
        return Check(name, "fail", f"{seen}: new tasks are refused", advice)
    return Check(name, "warn", seen, advice) if used > MEMORY_NEAR * most else Check(name, "ok", seen)


def clock(server: Server) -> Check:
    """An `eta` is by the producer's clock, and comes by the server's."""
    name, ahead = "clock", server.clock_ahead
    if "TIME" in server.refused:
        return Check(name, "warn", "unknown", _allow("+time"))
    if abs(ahead) - server.clock_error <= CLOCK_MOST:
        return Check(name, "ok", f"the server's and this host's differ by {abs(ahead):.2f} s")
    seen = f"the server is {abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} this host: so much is an eta off"
    return Check(name, "warn", seen, "run NTP on both")


def rights(server: Server) -> Check:
    """What the user may not do."""
    name, found = "rights", server.rights
    user = f"user {found.user or '?'}"
    if not found.how:
        return Check(
            name, "warn", f"{user}: unknown", _allow("+acl|whoami +acl|dryrun, before Redis 7.0 +multi +discard")
        )
    if found.missing:
        return Check(name, "fail", f"{user} lacks: {', '.join(found.missing)}", "ACL SETUSER, see docs/security.md")
    return Check(name, "ok", f"{user} may do all that is needed (by {found.how})")


def judge_queues(queues: Sequence[QueueFacts]) -> list[Check]:
    """All checks of the queues: a line for each ill one, or one that says that there is none."""
    checks: list[Check] = []
    for name, judge, well in _OF_QUEUES:
        found = [(facts.stats.queue, judge(facts)) for facts in queues]
        ill = [msgspec.structs.replace(check, where=queue) for queue, check in found if check is not None]
        checks += ill or [Check(name, "ok", f"{well} ({len(queues)} queues)")]
    return checks


def leases(queue: QueueFacts) -> Check | None:
    """Entries that no worker renews, and none takes over."""
    if not queue.stuck:
        return None
    longest = max(queue.stuck, key=lambda each: each.idle)
    seen = (
        f"{sum(each.count for each in queue.stuck)} tasks were not renewed for more than {STUCK_LEASES} leases, one of "
        f"{longest.consumer} for {ago(longest.idle)}"
    )
    advice = "have all workers no free slot? See their logs" if queue.served else "start a worker for this queue"
    return Check("leases", "warn", seen, advice)


def workers(queue: QueueFacts) -> Check | None:
    """Work that nobody does."""
    if queue.served or not queue.stats.ready:
        return None
    seen = f"{queue.stats.ready} tasks are ready, the oldest for {ago(queue.stats.oldest)}, and no worker lives"
    return Check("workers", "warn", seen, "start a worker for this queue; `penstock workers` shows which live")


def schedule(queue: QueueFacts) -> Check | None:
    """Parked tasks whose time is over: workers move them."""
    due = queue.stats.due_in
    if due is None or due > -OVERDUE:
        return None
    advice = "see the workers' logs" if queue.served else "start a worker for this queue"
    return Check("schedule", "warn", f"a parked task is overdue by {ago(-due)}", advice)


def dead_letters(queue: QueueFacts) -> Check | None:
    """Tasks that failed for good, and wait for somebody to look."""
    if not queue.stats.dead:
        return None
    advice = f"penstock dead list -Q {queue.stats.queue}; then redrive"
    return Check("dead letters", "warn", f"{queue.stats.dead} tasks have failed for good", advice)


#: Name, judge, and what is so when all is well.
_OF_QUEUES = (
    ("leases", leases, "each is renewed"),
    ("workers", workers, "no work without a worker"),
    ("schedule", schedule, "nothing is overdue"),
    ("dead letters", dead_letters, "none"),
)


def _allow(rule: str) -> str:
    return f"to see it, give this user {rule}"


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
