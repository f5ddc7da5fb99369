"""compose.yaml and the Dockerfile: well formed, of one mind with the code and with each other, and the server in it
is one that `penstock doctor` has nothing against."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.access import HOST
from tests.commands import Command
from tests.conftest import binary
from tests.deploy.files import DEPLOY, END, module, parse, read, read_one, seconds, settings
from tests.servers import SERVERS, Server, die_with_parent, free_port, wait_until
from tests.source import ROOT

COMPOSE = DEPLOY / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = read_one(COMPOSE)["services"]
OURS = ["worker", "exporter"]


def check_schema(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module("check_jsonschema"), "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_it_fits_the_compose_specification() -> None:
    done = check_schema(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_misspelt_key_would_be_found(tmp_path: Path) -> None:
    wrong = tmp_path / "compose.yaml"
    wrong.write_text(COMPOSE.read_text().replace("stop_signal:", "stop_sginal:"))
    assert check_schema(wrong).returncode == 1


def mounts() -> Iterator[tuple[str, Path, str]]:
    """Service, what of this repository it sees, and where."""
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                assert volume.endswith(":ro")
                yield name, (DEPLOY / source).resolve(), target


def test_what_is_mounted_is_there() -> None:
    found = list(mounts())
    assert {name for name, _, _ in found} == {"prometheus", "alertmanager", "grafana"}
    assert [str(path) for _, path, _ in found if not path.exists()] == []
    volumes = read_one(COMPOSE)["volumes"]
    named = [volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())]
    assert {name for name in named if not name.startswith(".")} == set(volumes)


@pytest.mark.parametrize("name", [name for name in SERVICES if name not in OURS])
def test_images_are_pinned(name: str) -> None:
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert image and re.fullmatch(r"v?\d+\.\d+\.\d+(-alpine)?", tag)


def test_only_this_machine_can_reach_the_ports_and_nobody_redis() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(ports) == 3 and all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in SERVICES["redis"]


@pytest.mark.parametrize("name", OURS)
def test_commands_and_variables_are_ours(name: str) -> None:
    service = SERVICES[name]
    command, options = parse(service["command"])
    assert command == name
    found = settings(service["environment"])
    assert found.namespace == SERVICES["exporter"]["environment"]["PENSTOCK_NAMESPACE"]
    # Unlike the image's own default, these are seen from the other containers.
    if name == "exporter":
        assert (options["host"], options["port"]) == ("0.0.0.0", 9808)


def test_the_worker_has_time_to_end_and_a_probe() -> None:
    worker = SERVICES["worker"]
    assert seconds(worker["stop_grace_period"]) >= settings(worker["environment"]).grace + END
    assert worker["stop_signal"] == "SIGTERM" and worker["deploy"]["replicas"] == 2
    probe = worker["healthcheck"]
    assert probe["test"][:2] == ["CMD", "penstock"] and parse(probe["test"][2:])[0] == "check"
    waits = settings(worker["environment"])
    assert waits.connect_timeout + waits.command_timeout + 2 <= seconds(probe["timeout"]) < seconds(probe["interval"])


def test_the_app_is_there() -> None:
    module_name, _, attribute = SERVICES["worker"]["environment"]["PENSTOCK_APP"].partition(":")
    [folder] = [words[0] for words in instructions("COPY") if words[-1] == "/app"]
    code = (
        f"from {module_name} import {attribute}; print({attribute}.settings.namespace, {attribute}.connector.display)"
    )
    environment = SERVICES["worker"]["environment"]
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT / folder, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == ["shop", "redis://redis:6379/0"], done.stderr
    assert instructions("WORKDIR")[-1] == ["/app"]


def test_grafana_wants_a_login() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ENABLED"] == "false"
    assert environment["GF_SECURITY_ADMIN_PASSWORD"].startswith("${GRAFANA_ADMIN_PASSWORD:?")  # no default


# The Dockerfile


def instructions(name: str) -> list[list[str]]:
    """The words after each such instruction; of what is copied, what comes from the build context."""
    lines = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ").splitlines()
    found = [line.split()[1:] for line in lines if line.split()[:1] == [name]]
    return [words for words in found if not words[0].startswith("--from")]


def test_what_is_copied_is_there_and_not_ignored() -> None:
    sources = [source for *sources, _ in instructions("COPY") for source in sources]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert ignored[1] == "*"  # nothing else
    assert {line[1:] for line in ignored if line.startswith("!")} == set(sources)


def test_penstock_can_be_built_from_what_is_copied() -> None:
    sources = {source for *sources, _ in instructions("COPY") for source in sources}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    needed = {project["project"]["readme"], *project["project"]["license-files"], "pyproject.toml"}
    assert needed | set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= sources


def test_python_is_pinned_and_one_that_we_support() -> None:
    [[pinned]] = instructions("ARG")
    name, _, version = pinned.partition("=")
    assert re.fullmatch(r"3\.\d+\.\d+", version) and int(version.split(".")[1]) >= 11
    assert [words[0] for words in instructions("FROM")] == [f"python:${{{name}}}-slim-bookworm"] * 2


def test_the_supervisor_is_process_1_and_not_root() -> None:
    [entry], [command] = instructions("ENTRYPOINT"), instructions("CMD")
    assert json.loads(" ".join(entry)) == ["penstock"]  # a list: no shell
    assert parse(json.loads(" ".join(command)))[0] == "worker"
    [[user]] = instructions("USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert {SERVICES[name]["user"] for name in OURS} == {user}
    pods = [each for path in (DEPLOY / "kubernetes" / "base").glob("*.yaml") for each in read(path)]
    contexts = [each["spec"]["template"]["spec"]["securityContext"] for each in pods if each["kind"] == "Deployment"]
    assert {f"{each['runAsUser']}:{each['runAsGroup']}" for each in contexts} == {user}
    assert instructions("STOPSIGNAL") == [["SIGTERM"]]


# Redis


class Deployed:
    """A real server, started with the command that stands in compose.yaml, and a port of its own."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        folder.mkdir()

    def start(self) -> Server:
        program, *options = SERVICES["redis"]["command"]
        assert program == "redis-server"
        for _ in range(20):
            server = self._try(options)
            if server.running:
                return server
        raise RuntimeError(f"{self._binary} does not start")

    def _try(self, options: list[str]) -> Server:
        port = free_port()
        command = [self._binary, *options, "--port", str(port), "--bind", HOST, "--dir", str(self._folder)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
        server = Server(self._binary, self._folder)
        server.adopt(process, port)
        wait_until(lambda: not server.running or self._answers(server), 20)
        return server

    def _answers(self, server: Server) -> bool:
        try:
            with server.client() as client:
                return client.info("server")["process_id"] == server.pid and bool(client.ping())
        except redis.RedisError:
            return False


@pytest.fixture(params=[name for name in SERVERS if name != "path"])
def deployed(request: pytest.FixtureRequest, tmp_path: Path) -> Deployed:
    return Deployed(binary(request.param), tmp_path / "server")


def test_the_server_keeps_what_it_is_given(deployed: Deployed) -> None:
    server = deployed.start()
    with server.client() as client:
        found = client.config_get("*")
        assert (found["appendonly"], found["appendfsync"], found["save"]) == ("yes", "everysec", "")
        assert (found["maxmemory"], found["maxmemory-policy"]) == (str(512 * 1024**2), "noeviction")
        client.set("kept", "yes")
    server.stop()
    server = deployed.start()
    with server.client() as client:
        assert client.get("kept") == b"yes"
    server.stop()


def test_the_doctor_has_no_complaint(deployed: Deployed, penstock: Callable[..., Command]) -> None:
    server = deployed.start()
    command = penstock("doctor", "--strict", "--json", env={"PENSTOCK_URL": f"redis://{HOST}:{server.port}/0"})
    assert command.process.stdout is not None
    answer = json.loads(command.process.stdout.read())
    server.stop()
    assert [check for check in answer["checks"] if check["verdict"] != "ok"] == []
    assert command.wait() == 0
