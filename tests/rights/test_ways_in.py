"""A producer and a worker end to end through TLS, on a Cluster under the documented rules, and on one queue only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from penstock import App
from penstock.errors import BrokerError, PermissionDenied
from penstock.settings import Settings
from penstock.streams.connector import Connector
from penstock.streams.examine import examine
from penstock.streams.rights import INSPECTOR, ON_CLUSTER, PRODUCER, WORKER, rules
from penstock.streams.urls import resolve_url
from tests.acceptance.conftest import folder, penstock
from tests.access import ACCESS
from tests.access_run import OPTIONAL, refusals
from tests.certificates import make_certificates
from tests.commands import Command
from tests.conftest import binary
from tests.proxies import tls_proxy
from tests.rights.conftest import Denied, Login
from tests.servers import DEFAULT, Server
from tests.topologies import cluster

__all__ = ["folder", "penstock"]

CLUSTER = [f"+{command}" for command in ON_CLUSTER]


def test_producer_and_worker_through_tls(
    penstock: Callable[..., Command], login: Login, any_server: Server, namespace: str, tmp_path: Path
) -> None:
    """Both sides verify the other's certificate; each has its own user."""
    if not make_certificates(tmp_path):
        pytest.skip("there is no openssl")
    query = f"ssl_ca_certs={tmp_path}/ca.pem"
    client = f"{query}&ssl_certfile={tmp_path}/client.pem&ssl_keyfile={tmp_path}/client.key"
    with tls_proxy(any_server.port, tmp_path, client_certificate=True) as port:

        def secure(url: str, query: str) -> str:
            return f"rediss://{_login(url)}@localhost:{port}/0?{query}"

        worker, producer = login(WORKER), login(PRODUCER)
        command = penstock(
            "-A", "tests.apps.chores:app", "worker", "-Q", "mail", env={"PENSTOCK_URL": secure(worker, client)}
        )
        command.ready()
        with App("producer", url=secure(producer, client), namespace=namespace) as app:
            handles = [app.task_named("tests.apps.chores.add", queue="mail").delay(n) for n in range(20)]
            assert [handle.get(timeout=30) for handle in handles] == [n + 2 for n in range(20)]
        assert "rediss://" in command.text and ":pw@" not in command.text

        # It was TLS, and both sides were checked.
        plain = f"redis://{_login(producer)}@localhost:{port}/0"
        without_certificate = secure(producer, query)
        other = tmp_path / "other"
        other.mkdir()
        make_certificates(other)
        another_authority = secure(producer, client.replace(f"{tmp_path}/ca.pem", f"{other}/ca.pem"))
        for url in (plain, without_certificate, another_authority):
            with pytest.raises(BrokerError), App("refused", url=url, namespace=namespace, retry_for=0) as app:
                app.task_named("x", queue="mail").delay()


def _login(url: str) -> str:
    return url.partition("://")[2].partition("@")[0]


def test_a_cluster_under_the_rules(tmp_path: Path, namespace: str) -> None:
    """The same rules, and what redis-py needs to find the slots."""
    with cluster(binary(DEFAULT), tmp_path) as nodes:
        for node in nodes:
            with node.client() as client:
                client.execute_command(
                    "ACL", "SETUSER", "both", "on", ">pw", *rules(namespace, PRODUCER, WORKER), *CLUSTER
                )
        url = ACCESS.url("redis+cluster", nodes[0].address, login="both:pw@")
        with App("cluster", url=url, namespace=namespace, sync_in_loop="allow") as app:

            def add(a: int, b: int) -> int:
                return a + b

            tasks = [app.task(name=f"add{i}", queue=f"q{i}")(add) for i in range(6)]
            with app.running():
                handles = [task.options(delay=delay).delay(1, 2) for task in tasks for delay in (0, 0.05)]
                assert [handle.get(timeout=30) for handle in handles] == [3] * 12
        for node in nodes:
            with node.client() as client:
                assert refusals(client, "both") - OPTIONAL == set()


def test_the_doctor_of_a_cluster_under_the_rules(tmp_path: Path, namespace: str) -> None:
    """Each server is found once, by what an inspector may ask."""
    with cluster(binary(DEFAULT), tmp_path) as nodes:
        for node in nodes:
            with node.client() as client:
                client.execute_command("ACL", "SETUSER", "looks", "on", ">pw", *rules(namespace, INSPECTOR), *CLUSTER)
        url = ACCESS.url("redis+cluster", nodes[0].address, login="looks:pw@")
        names = [f"q{i}" for i in range(12)]
        found = examine(Connector(resolve_url(url, {}), Settings()), namespace, names, [INSPECTOR])
        assert len(found) == 3 and sorted(name for server in found for name in server.queues) == sorted(names)
        assert [server.rights.missing for server in found] == [()] * 3
        for node in nodes:
            with node.client() as client:
                assert refusals(client, "looks") == set()


def test_a_producer_for_one_queue(login: Login, namespace: str, raw: redis.Redis, denied: Denied) -> None:
    """As docs/security.md says: only its patterns are narrower."""
    wide = f"{{{namespace}:*"
    given = [rule.replace(wide, f"{{{namespace}:mail}}*") for rule in rules(namespace, PRODUCER)]
    with App("producer", url=login(given=given), namespace=namespace) as app:
        handle = app.task_named("x", queue="mail", delay=60).delay()
        assert denied() == set()
        assert handle.cancel()
        assert denied() == set()
        with pytest.raises(PermissionDenied):
            app.task_named("x", queue="mailer").delay()
