"""What the doctor makes of what it saw: each illness has its verdict, and says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.cli.doctor import verdicts
from penstock.cli.doctor.verdicts import Check, QueueFacts, judge_queues, judge_server, worst
from penstock.streams.examine import FEATURES, Replica, Rights, Server
from penstock.streams.inspect import Lane, QueueStats, Stuck

INFO = {
    "redis_version": "8.2.3", "tcp_port": "6379", "role": "master", "connected_slaves": "0", "aof_enabled": "1",
    "used_memory": "1000000", "maxmemory": "0", "maxmemory_policy": "noeviction",
}  # fmt: skip
CONFIG = {
    "maxmemory": "0", "maxmemory-policy": "noeviction", "save": "", "appendonly": "yes", "appendfsync": "everysec",
    "min-replicas-to-write": "0",
}  # fmt: skip


def server(info: dict[str, str] | None = None, config: dict[str, str] | None = None, **given: Any) -> Server:
    """A server in good health, but for what is given."""
    fields: dict[str, Any] = {
        "queues": ("mail",),
        "refused": (),
        "info": {**INFO, **(info or {})},
        "config": {**CONFIG, **(config or {})},
        "features": FEATURES,
        "replicas": (),
        "clock_ahead": 0.01,
        "clock_error": 0.001,
        "rights": Rights("ACL DRYRUN", "worker", ()),
    }
    return Server(**{**fields, **given})


def queue(ready: int = 0, served: bool = True, **given: Any) -> QueueFacts:
    lane = Lane(priority="default", ready=ready, running=0, oldest=7.0 if ready else None)
    stats = {
        "scheduled": 0,
        "due_in": None,
        "dead": 0,
        "paused": None,
        **{k: v for k, v in given.items() if k != "stuck"},
    }
    return QueueFacts(
        stats=QueueStats(queue="mail", lanes=(lane,), counters={}, **stats),
        stuck=given.get("stuck", ()),
        lease=15.0,
        served=served,
    )


def test_a_server_in_good_health() -> None:
    checks = judge_server(server())
    assert [check.name for check in checks] == [
        "server", "eviction", "persistence", "replication", "memory", "clock", "rights",
    ]  # fmt: skip
    assert {check.verdict for check in checks} == {"ok"} and {check.where for check in checks} == {""}
    assert all(not check.advice for check in checks)
    assert {check.where for check in judge_server(server(), several=True)} == {"port 6379"}


@pytest.mark.parametrize(
    ("ill", "name", "verdict", "word"),
    [
        (server(features=("WAITAOF",)), "server", "fail", "XAUTOCLAIM"),
        (server(features=None), "server", "warn", "unknown"),
        (server(config={"maxmemory-policy": "allkeys-lru"}), "eviction", "fail", "allkeys-lru"),
        (server(config={"maxmemory-policy": "volatile-ttl"}), "eviction", "fail", "dead letters"),
        (server(config={"appendonly": "no"}), "persistence", "warn", "loses all"),
        (server(config={"appendonly": "no", "save": "3600 1"}), "persistence", "warn", "snapshots only"),
        (server(config={"appendfsync": "no"}), "persistence", "warn", "appendfsync no"),
        (server(info={"aof_last_write_status": "err"}), "persistence", "fail", "failed"),
        (server(info={"rdb_last_bgsave_status": "err"}), "persistence", "fail", "failed"),
        (server(info={"role": "slave"}), "replication", "fail", "replica"),
        (server(config={"min-replicas-to-write": "1"}), "replication", "fail", "refused"),
        (server(replicas=(Replica("h:1", "online", 1, 0),)), "replication", "warn", "min-replicas-to-write is 0"),
        (server(replicas=(Replica("h:1", "online", 60, 0),)), "replication", "warn", "silent for 60 s"),
        (server(replicas=(Replica("h:1", "online", 0, 1 << 30),)), "replication", "warn", "behind"),
        (server(replicas=(Replica("h:1", "wait_bgsave", 0, 0),)), "replication", "warn", "wait_bgsave"),
        (server(info={"maxmemory": "1200000"}), "memory", "warn", "83%"),
        (server(info={"maxmemory": "1000000"}), "memory", "fail", "refused"),
        (server(clock_ahead=-3.0), "clock", "warn", "behind this host"),
        (server(clock_ahead=3.0), "clock", "warn", "ahead of this host"),
        (server(rights=Rights("MULTI", "u", ("command xadd", "key {p:q}:z"))), "rights", "fail", "command xadd, key"),
        (server(rights=Rights("", "u", ())), "rights", "warn", "unknown"),
    ],
)
def test_an_ill_server(ill: Server, name: str, verdict: str, word: str) -> None:
    found = [check for check in judge_server(ill) if check.verdict != "ok"]
    assert [(check.name, check.verdict) for check in found] == [(name, verdict)]
    assert word in found[0].seen and found[0].advice


@pytest.mark.parametrize(
    "well",
    [
        server(info={"maxmemory": "1300000"}),
        server(info={"maxmemory": "1000000", "mem_not_counted_for_evict": "500000"}),
        server(clock_ahead=3.0, clock_error=2.5),
        server(replicas=(Replica("h:1", "online", 1, 0),), config={"min-replicas-to-write": "1"}),
        server(config={"appendfsync": "always"}),
    ],
)
def test_what_is_no_illness(well: Server) -> None:
    assert worst(judge_server(well)) == "ok"


def test_without_config_get_info_has_to_do() -> None:
    bare = server(refused=("CONFIG GET",))
    found = {check.name: check for check in judge_server(Server(**{**_fields(bare), "config": {}}))}
    assert found["eviction"] == Check("eviction", "ok", "noeviction") and found["persistence"].verdict == "ok"


def test_a_server_that_says_nothing_is_a_warning_with_the_right_to_give() -> None:
    silent = server(features=None, rights=Rights("", "", ()), refused=("TIME", "INFO", "CONFIG GET"))
    checks = judge_server(Server(**{**_fields(silent), "info": {}, "config": {}}))
    assert {check.verdict for check in checks} == {"warn"}
    assert all("give this user +" in check.advice for check in checks)


def _fields(of: Server) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__struct_fields__}


def test_queues_in_good_health() -> None:
    checks = judge_queues([queue(ready=3), queue(due_in=5.0, scheduled=1), queue(due_in=-5.0, scheduled=1)])
    assert [(check.name, check.verdict, check.where) for check in checks] == [
        (name, "ok", "") for name in ("leases", "workers", "schedule", "dead letters")
    ]
    assert worst(judge_queues([])) == "ok"


@pytest.mark.parametrize(
    ("ill", "name", "word"),
    [
        (queue(stuck=[Stuck("low", 2, 60.0, "a"), Stuck("high", 1, 90.0, "b")]), "leases", "3 tasks"),
        (queue(ready=4, served=False), "workers", "4 tasks are ready, the oldest for 7.0 s"),
        (queue(scheduled=1, due_in=-verdicts.OVERDUE), "schedule", "overdue by 15 s"),
        (queue(dead=2), "dead letters", "2 tasks"),
    ],
)
def test_an_ill_queue(ill: QueueFacts, name: str, word: str) -> None:
    found = [check for check in judge_queues([ill, queue()]) if check.verdict != "ok"]
    assert [(check.name, check.verdict, check.where) for check in found] == [(name, "warn", "mail")]
    assert word in found[0].seen and found[0].advice
    if name == "leases":
        assert "of b for 90 s" in found[0].seen


def test_the_gravest_verdict_counts() -> None:
    ok, warn, fail = (Check("x", verdict, "") for verdict in ("ok", "warn", "fail"))
    assert (worst([]), worst([ok]), worst([warn, ok]), worst([ok, fail, warn])) == ("ok", "ok", "warn", "fail")
