"""All that takes part in the run, as processes: a server, two exporters, workers, Prometheus, Alertmanager."""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import yaml

from penstock import App
from tests.access import HOST
from tests.commands import Command
from tests.conftest import binary
from tests.observability import compress
from tests.observability.programs import Alertmanager, Pager, Program, Prometheus, fetch, poll
from tests.servers import DEFAULT, Server
from tests.source import ROOT

GRAFANA = ROOT / "grafana"
RULES = sorted((GRAFANA / "rules").glob("*.yaml"))
NAMESPACE, LEASE = "observed", 4.0
#: Seconds between two scrapes, and between two evaluations of rules; and how much quicker than in production time runs
#: for rules and routes (`compress`): five minutes are 10 s.
SCRAPE, FACTOR = 1, 30
FIRING = 'ALERTS{alertstate="firing"}'
#: The job of the two exporters; of their first one alone, once more; of the workers' own endpoints.
PAIR, ALONE, WORKERS = "penstock", "alone", "penstock-worker"


class Stage:
    """`folder` gets all files, and goes with the test."""

    def __init__(self, folder: Path, scrape: int = SCRAPE, factor: float = FACTOR) -> None:
        self.folder = folder
        self.scrape, self.factor = scrape, factor
        self.server = Server(binary(DEFAULT), folder / "server", durable=True)
        self.pager = Pager()
        self.workers: dict[str, Command] = {}
        self.metrics_port = _two_ports()
        self._stack = ExitStack()
        (folder / "notes").mkdir()

    def open(self) -> None:
        """Start all but the workers."""
        self._stack.callback(self.pager.close)
        self._stack.callback(self.server.kill)
        self.server.start()
        self.app = App("producer", url=self.server.url, namespace=NAMESPACE, sync_in_loop="allow")
        self._stack.callback(self.app.close)
        self.exporters = [self._exporter(f"exporter{number}") for number in (1, 2)]
        self.alertmanager = Alertmanager(self.folder, self._routes())
        self._run(self.alertmanager)
        self.prometheus = Prometheus(self.folder, self._configuration())
        self._run(self.prometheus)

    def close(self) -> None:
        """End every process, the last one first."""
        for command in self.workers.values():
            for pid in (command.process.pid, *map(int, re.findall(r"worker (\d+) ready", command.text))):
                _signal(pid, signal.SIGCONT)
            command.close()
        self._stack.close()

    def _run(self, program: Program) -> None:
        self._stack.callback(program.stop)
        program.start()

    def _exporter(self, name: str) -> Program:
        words = (sys.executable, "-m", "penstock", "exporter", "--host", HOST, "--port")
        program = Program(self.folder, name, lambda port: [*words, str(port)], "/health")
        program.env = self._environment()
        self._run(program)
        return program

    def _environment(self) -> dict[str, str]:
        return {
            "PENSTOCK_URL": self.server.url,
            "PENSTOCK_NAMESPACE": NAMESPACE,
            "PENSTOCK_LEASE": f"{LEASE}",
            "TEST_FOLDER": str(self.folder / "notes"),
        }

    # Workers

    def start_worker(self, name: str, *words: str, app: str = "tests.observability.tasks:app") -> Command:
        """`penstock worker` with these options, in place of one of this name; it is not waited for."""
        if name in self.workers:
            self.workers.pop(name).close()
        command = Command(["-A", app, "worker", *words], self._environment(), self.folder / f"{name}.log")
        self.workers[name] = command
        return command

    def pids(self, name: str) -> list[int]:
        """The processes of this worker: its supervisor, and those that run tasks."""
        command = self.workers[name]
        return [command.process.pid, *command.ready()]

    def kill_worker(self, name: str) -> None:
        """As when its host loses power: nobody restarts or hands back anything."""
        self.freeze_worker(name)
        for pid in self.pids(name):
            _signal(pid, signal.SIGKILL)
        self.workers[name].wait()

    def freeze_worker(self, name: str) -> None:
        """It stands still, as a virtual machine that is moved."""
        for pid in self.pids(name):
            _signal(pid, signal.SIGSTOP)

    def thaw_worker(self, name: str) -> None:
        """It goes on, as if nothing had been."""
        for pid in reversed(self.pids(name)):
            _signal(pid, signal.SIGCONT)

    def release(self, name: str) -> None:
        """Let the `hold` tasks of this name end, in their second delivery."""
        (self.folder / "notes" / f"{name}.2").touch()

    def began(self, name: str) -> bool:
        """Whether a `hold` task of this name runs."""
        return (self.folder / "notes" / f"{name}.began").exists()

    # What is configured

    def _configuration(self) -> dict[str, Any]:
        """The project's own example, with the addresses of this run and its rules in compressed time."""
        made: dict[str, Any] = yaml.safe_load((GRAFANA / "prometheus.yaml").read_text("utf-8"))
        made["global"] |= {
            "scrape_interval": f"{self.scrape}s",
            "scrape_timeout": f"{self.scrape}s",
            "evaluation_interval": f"{self.scrape}s",
        }
        made["rule_files"] = [str(self._compressed(path)) for path in RULES]
        exporters = [f"{HOST}:{exporter.port}" for exporter in self.exporters]
        workers = [f"{HOST}:{self.metrics_port + number}" for number in (0, 1)]
        targets = {PAIR: exporters, WORKERS: workers}
        jobs = [_aimed(job, targets[job["job_name"]]) for job in made["scrape_configs"] if job["job_name"] in targets]
        [pair] = [job for job in jobs if job["job_name"] == PAIR]
        made["scrape_configs"] = [*jobs, {**_aimed(pair, exporters[:1]), "job_name": ALONE}]
        made["alerting"] = {"alertmanagers": [_aimed({}, [f"{HOST}:{self.alertmanager.port}"])]}
        return made

    def _compressed(self, path: Path) -> Path:
        made = self.folder / path.name
        made.write_text(yaml.safe_dump(compress.document(yaml.safe_load(path.read_text("utf-8")), self.factor)))
        return made

    def _routes(self) -> dict[str, Any]:
        """The project's own example; whoever it would tell is told here, and a little sooner."""
        made: dict[str, Any] = compress.document(
            yaml.safe_load((GRAFANA / "alertmanager.yaml").read_text("utf-8")), 3 * self.factor
        )
        hook = {"url": self.pager.url, "send_resolved": True}
        made["receivers"] = [{"name": each["name"], "webhook_configs": [hook]} for each in made["receivers"]]
        made.get("global", {}).clear()  # addresses of mail servers and the like
        return made

    # What is seen

    def page(self, program: Program | int) -> str:
        """What an exporter, or a worker by its number, answers to Prometheus."""
        port = self.metrics_port + program if isinstance(program, int) else program.port
        return fetch(f"http://{HOST}:{port}/metrics")

    def alerts(self, of: str = FIRING, time: float | None = None) -> set[tuple[str, str]]:
        """The alerts that fire now, or did then, but those of the job `ALONE`: each with what it is about."""
        found = [dict(labels) for labels in self.prometheus.query(of, time)]
        return {about(labels) for labels in found if labels.get("job") != ALONE}

    def wait_fired(self, names: set[str], timeout: float) -> None:
        """Until each of these alerts has fired at some time."""
        past = f"last_over_time({FIRING}[1h])"
        self._wait(lambda: names - {name for name, _ in self.alerts(past)}, timeout, "have fired")

    def wait_firing(self, names: set[str], timeout: float) -> None:
        """Until all of these alerts fire."""
        self._wait(lambda: names - {name for name, _ in self.alerts()}, timeout, "fire")

    def wait_quiet(self, names: set[str], timeout: float) -> None:
        """Until none of these alerts fires."""
        self._wait(lambda: names & {name for name, _ in self.alerts()}, timeout, "are resolved")

    def _wait(self, left: Callable[[], set[str]], timeout: float, what: str) -> None:
        missing: set[str] = set()

        def done() -> bool:
            nonlocal missing
            missing = left()
            return not missing

        try:
            poll(done, timeout)
        except TimeoutError:
            raise TimeoutError(f"not within {timeout} s {what}: {sorted(missing)}") from None


def about(labels: Mapping[str, str]) -> tuple[str, str]:
    """An alert's name, and what it is about: a queue, a worker, a node."""
    return labels["alertname"], labels.get("queue") or labels.get("worker") or labels.get("node") or ""


def _aimed(job: Mapping[str, Any], targets: list[str]) -> dict[str, Any]:
    kept = {key: value for key, value in job.items() if not key.endswith("_sd_configs")}
    return {**kept, "static_configs": [{"targets": targets}]}


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _two_ports() -> int:
    """The first of two free ports side by side, below those that outgoing connections take: nobody has asked for the
    second one yet when somebody else connects."""
    for _ in range(100):
        port = random.randrange(15_000, 32_000)
        try:
            for each in (port, port + 1):
                with closing(socket.socket()) as probe:
                    probe.bind((HOST, each))
        except OSError:
            continue
        return port
    raise RuntimeError("no two free ports side by side")
