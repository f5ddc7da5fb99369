"""The commands of the deployment as they are deployed: probes, rights, what systemd hears of the exporter."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

from penstock.streams.rights import INSPECTOR, WORKER, rules
from tests.commands import Command
from tests.deploy.files import DEPLOY, read, read_one
from tests.deploy.manager import Manager
from tests.rights.conftest import Login, any_server, login, raw
from tests.servers import Server, free_port, wait_until

__all__ = ["any_server", "login", "raw"]

Penstock = Callable[..., Command]
COMPOSE = read_one(DEPLOY / "compose.yaml")["services"]
[WORKER_POD] = [
    document["spec"]["template"]["spec"]["containers"][0]
    for document in read(DEPLOY / "kubernetes" / "base" / "worker.yaml")
    if document["kind"] == "Deployment"
]


def health_of(port: int) -> int:
    """The exit code of the exporter's health check in compose.yaml, on this port."""
    _, program, option, code = COMPOSE["exporter"]["healthcheck"]["test"]
    assert (program, option) == ("python", "-c") and ":9808/" in code
    command = [sys.executable, "-c", code.replace(":9808/", f":{port}/")]
    return subprocess.run(command, stderr=subprocess.DEVNULL, timeout=30).returncode


def exporter_port(command: Command) -> int:
    return int(command.logged(r"http://127\.0\.0\.1:(\d+)/metrics")[0])


def test_the_exporter_is_healthy_also_while_redis_is_away(penstock: Penstock, own_server: Server) -> None:
    command = penstock("exporter", "--host", "127.0.0.1", "--port", 0)
    port = exporter_port(command)
    assert health_of(port) == 0
    own_server.pause()
    assert health_of(port) == 0
    own_server.resume()
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    assert health_of(port) != 0


def test_systemd_hears_of_the_exporter(penstock: Penstock, manager: Manager, own_server: Server) -> None:
    own_server.stop()  # ready all the same: to say so is its work
    command = penstock("exporter", "--host", "127.0.0.1", "--port", 0, env=manager.variables(watchdog=4))
    manager.wait("READY=1")
    assert health_of(exporter_port(command)) == 0
    manager.wait("WATCHDOG=1", count=3)
    command.signal(signal.SIGTERM)
    manager.wait("STOPPING=1")
    assert command.wait() == 0


def test_the_probe_of_the_worker_needs_no_more_rights_than_the_worker(
    penstock: Penstock, login: Login, namespace: str
) -> None:
    # PENSTOCK_STRICT_SERVER, as deployed, needs +info beside the worker's rights.
    url = login(given=[*rules(namespace, WORKER), "+info"])
    variables = {"PENSTOCK_URL": url, "PENSTOCK_STRICT_SERVER": "1"}
    probe = WORKER_POD["livenessProbe"]["exec"]["command"][1:]

    def check() -> int:
        return penstock(*probe, env=variables).wait()

    assert check() == 1  # none has lived here yet
    command = penstock("-A", "tests.apps.chores:app", "worker", env=variables)
    command.ready()
    assert wait_until(lambda: check() == 0, 60)
    command.signal(signal.SIGTERM)
    assert command.wait() == 0
    assert check() == 1


def test_the_exporter_needs_no_more_rights_than_an_inspector(penstock: Penstock, login: Login, namespace: str) -> None:
    command = penstock("metrics", env={"PENSTOCK_URL": login(INSPECTOR)})
    assert command.process.stdout is not None
    assert b"\npenstock_redis_up 1.0\n" in command.process.stdout.read()
    assert command.wait() == 0


def test_the_probe_does_not_fail_because_redis_is_away(penstock: Penstock, own_server: Server) -> None:
    own_server.stop()
    assert penstock(*WORKER_POD["livenessProbe"]["exec"]["command"][1:]).wait() == 0


def test_a_worker_answers_the_readiness_probe(penstock: Penstock, own_server: Server) -> None:
    probe = WORKER_POD["readinessProbe"]["httpGet"]
    port = free_port()
    words = [str(port) if word == "9810" else word for word in WORKER_POD["command"][1:]]
    assert str(port) in words

    def status() -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{probe['path']}", timeout=5) as reply:
                return int(reply.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    command = penstock("-A", "tests.apps.chores:app", *words)
    command.ready()
    wait_until(lambda: status() == 200, 30)
