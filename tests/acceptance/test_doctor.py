"""`penstock doctor` against servers that are ill in each of the ways that it knows, and workers on an evicting one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from click.testing import CliRunner

from penstock import App
from penstock.cli.doctor import verdicts
from penstock.cli.root import root
from penstock.settings import Settings
from penstock.streams import keys
from penstock.streams.connector import Connector
from penstock.streams.examine import examine
from penstock.streams.rights import INSPECTOR, PRODUCER, WORKER, rules
from penstock.streams.urls import resolve_url
from tests.access import ACCESS
from tests.commands import Command, Folder
from tests.conftest import binary
from tests.servers import DEFAULT, Server, wait_until
from tests.topologies import cluster

Send = Callable[..., Any]
Checks = dict[str, list[dict[str, str]]]


class Doctor:
    """Runs the command in this process."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.code = -1

    def __call__(self, url: str, *args: str) -> Checks:
        """The checks by name."""
        done = CliRunner().invoke(root, ["doctor", "--url", url, "--namespace", self.namespace, "--json", *args])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.output
        self.code = done.exit_code
        said = json.loads(done.stdout)
        found: Checks = {}
        for check in said["checks"]:
            found.setdefault(check["name"], []).append(check)
        return found

    def one(self, url: str, name: str, *args: str) -> tuple[str, str]:
        """Verdict and what was seen of one check."""
        (check,) = self(url, *args)[name]
        assert (check["verdict"] == "ok") == (check["advice"] == "")
        return check["verdict"], check["seen"]


@pytest.fixture
def doctor(namespace: str) -> Doctor:
    return Doctor(namespace)


@pytest.fixture
def ill(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers with these options."""
    started: list[Server] = []

    def start(*options: str, name: str = DEFAULT) -> Server:
        server = Server(binary(name), tmp_path / f"ill{len(started)}", *options)
        started.append(server)
        return server.start()

    yield start
    for server in started:
        server.kill()


def test_a_server_in_good_health(doctor: Doctor, own_server: Server) -> None:
    checks = doctor(own_server.url, "--strict")
    assert {name: [check["verdict"] for check in found] for name, found in checks.items()} == {
        name: ["ok"]
        for name in (
            "server", "eviction", "persistence", "replication", "memory", "clock", "rights", "leases", "workers",
            "schedule", "dead letters",
        )
    }  # fmt: skip
    assert doctor.code == 0 and "AOF on" in checks["persistence"][0]["seen"]


def test_every_server_says_what_it_is(doctor: Doctor, any_server: Server) -> None:
    verdict, seen = doctor.one(any_server.url, "server")
    assert verdict == "ok" and seen.partition(" ")[0] in ("redis", "valkey")
    assert doctor.one(any_server.url, "rights")[0] == "ok"


def test_the_table(doctor: Doctor, own_server: Server, namespace: str) -> None:
    done = CliRunner().invoke(root, ["doctor", "--url", own_server.url, "--namespace", namespace])
    assert done.exit_code == 0 and "noeviction" in done.stdout and "what to do" in done.stdout


def test_nobody_answers(doctor: Doctor) -> None:
    assert doctor.one("redis://127.0.0.1:1", "connection")[0] == "fail"
    assert doctor.code == 1


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_an_evicting_policy(doctor: Doctor, ill: Callable[..., Server], policy: str) -> None:
    verdict, seen = doctor.one(ill("--maxmemory-policy", policy).url, "eviction")
    assert (verdict, doctor.code) == ("fail", 1) and policy in seen


def test_persistence_off(doctor: Doctor, ill: Callable[..., Server]) -> None:
    server = ill()
    assert doctor.one(server.url, "persistence") == ("warn", "AOF off, no snapshots: a restart loses all tasks")
    assert doctor.code == 0
    doctor(server.url, "--strict")
    assert doctor.code == 1
    with server.client() as client:
        client.config_set("save", "3600 1")
        assert "snapshots only" in doctor.one(server.url, "persistence")[1]
        client.config_set("appendonly", "yes")
        client.config_set("appendfsync", "no")
        assert doctor.one(server.url, "persistence")[0] == "warn"


def test_memory_near_its_limit(doctor: Doctor, own_server: Server, raw: redis.Redis) -> None:
    raw.setrange("ballast", 20_000_000, b"x")  # beside which a connection more or less is nothing
    used: Any = raw.info("memory")
    raw.config_set("maxmemory", int(used["used_memory"] * 1.1))
    verdict, seen = doctor.one(own_server.url, "memory")
    assert verdict == "warn" and "%" in seen
    raw.config_set("maxmemory", 1)
    assert doctor.one(own_server.url, "memory")[0] == "fail"
    assert doctor.code == 1


def test_replicas(doctor: Doctor, ill: Callable[..., Server]) -> None:
    primary = ill()
    replica = ill("--replicaof", "127.0.0.1", str(primary.port))
    with primary.client() as client:
        wait_until(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
        wait_until(lambda: client.wait(1, 100) == 1)
        verdict, seen = doctor.one(primary.url, "replication")
        assert verdict == "warn" and "1 replicas" in seen and "min-replicas-to-write is 0" in seen
        client.config_set("min-replicas-to-write", 1)
        assert doctor.one(primary.url, "replication")[0] == "ok"
        assert doctor.one(replica.url, "replication")[0] == "fail"
        client.config_set("min-replicas-to-write", 2)
        verdict, seen = doctor.one(primary.url, "replication")
        assert (verdict, doctor.code) == ("fail", 1) and "refused" in seen


def test_a_replica_that_is_silent(doctor: Doctor, ill: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verdicts, "LAG_MOST", 1.0)
    primary = ill()
    replica = ill("--replicaof", "127.0.0.1", str(primary.port))
    with primary.client() as client:
        client.config_set("min-replicas-to-write", 1)
        wait_until(lambda: client.info("replication").get("slave0", {}).get("state") == "online")
        assert doctor.one(primary.url, "replication")[0] == "ok"
        client.config_set("min-replicas-to-write", 0)
        replica.pause()
        wait_until(lambda: client.info("replication")["slave0"]["lag"] > 1)
        verdict, seen = doctor.one(primary.url, "replication")
        assert verdict == "warn" and str(replica.port) in seen and "silent" in seen


def test_clocks_that_differ(doctor: Doctor, own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    for ahead in (-100, 100):
        monkeypatch.setattr(time, "time", lambda ahead=ahead: now() - ahead)
        verdict, seen = doctor.one(own_server.url, "clock")
        assert verdict == "warn" and "100.0 s " + ("ahead" if ahead > 0 else "behind") in seen


@pytest.mark.parametrize("name", ["redis-6.2", "redis-8.2", DEFAULT])
def test_each_missing_right_is_named(doctor: Doctor, ill: Callable[..., Server], name: str, namespace: str) -> None:
    server = ill(name=name)
    dryrun = ["+acl|whoami", "+acl|dryrun"] if name != "redis-6.2" else ["+acl|whoami", "+multi", "+discard"]
    taken = ("+xautoclaim", "+client|unblock", "+publish")
    given = [rule for rule in rules(namespace, PRODUCER, WORKER, INSPECTOR) if rule not in (*taken, *dryrun)]
    with server.client() as client:
        client.execute_command("ACL", "SETUSER", "short", "on", ">pw", *given, *dryrun)
        verdict, seen = doctor.one(server.url_for("short:pw@"), "rights")
        assert (verdict, doctor.code) == ("fail", 1)
        assert [word for word in ("xautoclaim", "client|unblock", "publish") if f"command {word}" in seen] == [
            "xautoclaim", "client|unblock", "publish",
        ] or name == "redis-6.2"  # fmt: skip
        assert "command xautoclaim" in seen and "command publish" in seen and "xadd" not in seen

        others = [rule.replace(namespace, "other") for rule in rules(namespace, WORKER)]
        client.execute_command("ACL", "SETUSER", "strange", "on", ">pw", *others, *dryrun)
        seen = doctor.one(server.url_for("strange:pw@"), "rights", "--role", "worker")[1]
        base = keys.base(namespace, "default")
        for what in (f"key {base}:s:default", f"key {{{namespace}}}:workers", f"channel {base}:c"):
            assert what in seen
        assert "command" not in seen


def test_what_may_not_be_asked_is_said_and_the_rest_goes_on(
    doctor: Doctor, own_server: Server, raw: redis.Redis, namespace: str
) -> None:
    raw.execute_command("ACL", "SETUSER", "worker", "on", ">pw", *rules(namespace, WORKER))
    checks = doctor(own_server.url_for("worker:pw@"), "--role", "worker")
    (rights,) = checks["rights"]
    assert rights["verdict"] == "warn" and "+acl|dryrun" in rights["advice"]
    assert checks["eviction"][0]["verdict"] == "warn" and "+info" in checks["eviction"][0]["advice"]
    assert "SMEMBERS".lower() in checks["queues"][0]["seen"].lower()
    assert checks["clock"][0]["verdict"] == "ok"
    assert doctor.code == 0


def test_ill_queues(doctor: Doctor, url: str, raw: redis.Redis, namespace: str, send: Send) -> None:
    """Leases that nobody renews, work without a worker, an overdue task, a dead letter."""
    base = keys.base(namespace, "mail")
    send("add", 1, queue="mail", id="held")
    raw.xgroup_create(keys.stream(base, "default"), keys.GROUP, "0")
    raw.xreadgroup(keys.GROUP, "somebody", {keys.stream(base, "default"): ">"})
    ((entry, _),) = cast("Any", raw.xrange(keys.stream(base, "default")))
    later = send("add", 1, queue="mail", delay=3600, id="later")
    send("add", 1, queue="mail", id="ready")
    assert {doctor(url)[name][0]["verdict"] for name in ("leases", "schedule", "dead letters")} == {"ok"}

    raw.xclaim(keys.stream(base, "default"), keys.GROUP, "somebody", 0, [entry], idle=46_000, justid=True)
    raw.zadd(keys.parked(base), {"later": 1})
    raw.zadd(keys.dead(base), {"gone": 1})
    checks = doctor(url)

    assert doctor.code == 0
    ill = {name: found[0]["verdict"] for name, found in checks.items() if found[0]["where"] == "mail"}
    assert ill == dict.fromkeys(("leases", "workers", "schedule", "dead letters"), "warn")
    assert "1 tasks" in checks["leases"][0]["seen"] and "somebody" in checks["leases"][0]["seen"]
    raw.zrem(keys.dead(base), "gone")
    assert later.cancel()


def test_a_live_worker_is_seen(
    doctor: Doctor, url: str, worker: Callable[..., Command], send: Send, folder: Folder
) -> None:
    """What is ready waits for a worker's slot, not for a worker."""
    held = [send("hold", str(folder), f"held{i}", queue="mail") for i in range(2)]
    assert doctor.one(url, "workers")[0] == "warn"
    worker("-Q", "mail", "-c", "1").ready()
    folder.wait("begin")
    assert doctor.one(url, "workers")[0] == "ok"
    folder.release("held0", "held1")
    assert [each.get(timeout=30) for each in held] == ["held0", "held1"]


def test_trying_the_rights_changes_nothing(doctor: Doctor, ill: Callable[..., Server], namespace: str) -> None:
    """Not even where the user may neither ask nor try, but may do."""
    for name in ("redis-6.2", DEFAULT):
        server = ill(name=name)
        with server.client() as client:
            for user, more in (("none", []), ("multi", ["+multi"]), ("both", ["+multi", "+discard"])):
                given = rules(namespace, PRODUCER, WORKER)
                client.execute_command("ACL", "SETUSER", user, "on", ">pw", *given, *more)
                doctor(server.url_for(f"{user}:pw@"))
            assert client.dbsize() == 0


@pytest.mark.leaks
def test_each_server_of_a_cluster(tmp_path: Path, namespace: str) -> None:
    with cluster(binary(DEFAULT), tmp_path) as nodes:
        url = ACCESS.url("redis+cluster", nodes[0].address)
        names = [f"q{i}" for i in range(12)]
        with nodes[1].client() as client:
            client.config_set("maxmemory-policy", "allkeys-lru")
        connector = Connector(resolve_url(url, {}), Settings())
        found = examine(connector, namespace, names, [PRODUCER, WORKER])
        assert len(found) == 3 and sorted(name for server in found for name in server.queues) == sorted(names)
        assert [server.policy for server in found].count("allkeys-lru") == 1

        with App("producer", url=url, namespace=namespace) as app:
            for name in names:
                app.task_named("x", queue=name).delay()
        doctor = Doctor(namespace)
        found_by = {check["where"]: check["verdict"] for check in doctor(url)["eviction"]}
        assert found_by == {f"port {node.port}": "fail" if node is nodes[1] else "ok" for node in nodes}


# Workers at their start


def test_a_worker_warns_of_an_evicting_server(
    worker: Callable[..., Command], own_server: Server, raw: redis.Redis, namespace: str
) -> None:
    command = worker()
    command.ready()
    assert "maxmemory-policy" not in command.text
    raw.config_set("maxmemory-policy", "allkeys-lru")
    command = worker()
    command.ready()
    command.logged(r"deletes tasks when its memory is full: its maxmemory-policy is allkeys-lru")


def test_with_strict_server_it_does_not_start(
    worker: Callable[..., Command], own_server: Server, raw: redis.Redis, namespace: str
) -> None:
    worker("--strict-server").ready()
    raw.config_set("maxmemory-policy", "allkeys-lru")
    command = worker("--strict-server")
    assert command.wait() == 2
    command.logged("maxmemory-policy is allkeys-lru")
    command = worker(PENSTOCK_STRICT_SERVER="1")
    assert command.wait() == 2


def test_with_strict_server_it_must_be_allowed_to_ask(
    worker: Callable[..., Command], own_server: Server, raw: redis.Redis, namespace: str
) -> None:
    for name, more in (("may", ["+info"]), ("may-not", [])):
        raw.execute_command("ACL", "SETUSER", name, "on", ">pw", *rules(namespace, WORKER), *more)
    url = own_server.url_for("{}:pw@")
    worker("--strict-server", PENSTOCK_URL=url.format("may")).ready()
    worker(PENSTOCK_URL=url.format("may-not")).ready()
    command = worker("--strict-server", PENSTOCK_URL=url.format("may-not"))
    assert command.wait() == 2
    command.logged("may not run INFO")
