"""Prometheus and Alertmanager as processes of the test's own, on free ports of the loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from tests.access import HOST
from tests.commands import ROOT
from tests.servers import die_with_parent, free_port, wait_until

T = TypeVar("T")
#: Name -> what it may be called on PATH.
_NAMES = {
    "prometheus": ("prometheus",),
    "alertmanager": ("prometheus-alertmanager", "alertmanager"),
    "promtool": ("promtool",),
    "amtool": ("amtool",),
}
#: Seconds between two looks over HTTP.
_TICK = 0.2
#: Labels (without a name) -> value.
Vector = dict[tuple[tuple[str, str], ...], float]
#: The same -> (time, value) of each point.
Points = dict[tuple[tuple[str, str], ...], list[tuple[float, float]]]


def find(name: str) -> str | None:
    """The program, if it is installed."""
    return next((found for each in _NAMES[name] if (found := shutil.which(each))), None)


def missing() -> list[str]:
    """Those of the programs that are not installed."""
    return [name for name in _NAMES if find(name) is None]


def poll(predicate: Callable[[], T], timeout: float, what: str = "") -> T:
    """As `wait_until`, a few times each second: the two cores have other things to do."""
    tick = threading.Event()

    def slowly() -> T:
        found = predicate()
        if not found:
            tick.wait(_TICK)
        return found

    try:
        return wait_until(slowly, timeout)
    except TimeoutError:
        raise TimeoutError(f"not within {timeout} s: {what or predicate}") from None


def fetch(url: str, **parameters: str) -> str:
    """The body of an answer; of one that is an error too, as the APIs say there what is wrong."""
    if parameters:
        url = f"{url}?{urllib.parse.urlencode(parameters)}"
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            text: str = answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            text = error.read().decode()
    return text


class Program:
    """A process with an HTTP port, which `command` gets; it is ready when it answers 200 at the path `ready`."""

    def __init__(self, folder: Path, name: str, command: Callable[[int], Sequence[str]], ready: str) -> None:
        self.name = name
        #: Variables of its environment.
        self.env: dict[str, str] = {}
        self._log = folder / f"{name}.log"
        self._command = command
        self._ready = ready
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def start(self) -> None:
        """On the port that it had before, else on a free one, which another process may take first: hence the tries."""
        for _ in range(1 if self.port else 5):
            self.port = self.port or free_port()
            with open(self._log, "ab") as log:
                self._process = subprocess.Popen(
                    self._command(self.port),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self.env},
                    cwd=ROOT,
                    preexec_fn=die_with_parent,
                )
            if poll(lambda: self._is_ready() or self._has_ended(), 60, f"{self.name} is ready") and self._is_ready():
                return
            self.port = 0
        raise RuntimeError(f"{self.name} does not start: {self._log.read_text(errors='replace')[-2000:]}")

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + self._ready, timeout=5) as answer:
                return bool(answer.status == 200) and not self._has_ended()
        except OSError:
            return False

    def stop(self) -> None:
        """SIGTERM, and after a while SIGKILL."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")


class Prometheus(Program):
    """With a configuration; it also answers."""

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        path = folder / "prometheus.json"
        path.write_text(json.dumps(configuration))
        super().__init__(folder, "prometheus", lambda port: _prometheus(folder, path, port), "/-/ready")

    def ask(self, what: str, **parameters: str) -> Any:
        """The data of an answer of the API; AssertionError with its own words if it is an error."""
        answer = json.loads(fetch(f"{self.url}/api/v1/{what}", **parameters))
        assert answer["status"] == "success", f"{parameters.get('query', what)}: {answer.get('error')}"
        return answer["data"]

    def query(self, expression: str, time: float | None = None) -> Vector:
        """An instant query: what each series says."""
        at = {} if time is None else {"time": str(time)}
        data = self.ask("query", query=expression, **at)
        if data["resultType"] == "scalar":
            return {(): float(data["result"][1])}
        return {_key(each["metric"]): float(each["value"][1]) for each in data["result"]}

    def samples(self, selector: str, time: float) -> list[tuple[dict[str, str], float, float]]:
        """A query for a range of raw samples: labels, time, value."""
        data = self.ask("query", query=selector, time=str(time))
        return [(each["metric"], float(at), float(value)) for each in data["result"] for at, value in each["values"]]

    def over(
        self, expression: str, start: float, end: float, step: float = 1.0
    ) -> dict[Any, list[tuple[float, float]]]:
        """A query over a time: each series' points."""
        data = self.ask("query_range", query=expression, start=str(start), end=str(end), step=str(step))
        return {_key(each["metric"]): [(float(t), float(v)) for t, v in each["values"]] for each in data["result"]}

    def label_values(self, label: str, selector: str = "") -> list[str]:
        """The values of a label."""
        match = {"match[]": selector} if selector else {}
        return list(self.ask(f"label/{label}/values", **match))

    def total(self, expression: str, time: float | None = None) -> float:
        """The one value of an expression."""
        found = self.query(expression, time)
        assert len(found) == 1, f"{expression}: {found}"
        return next(iter(found.values()))


def _key(labels: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, value) for name, value in labels.items() if name != "__name__"))


def _prometheus(folder: Path, configuration: Path, port: int) -> list[str]:
    found = find("prometheus")
    assert found
    return [
        found,
        f"--config.file={configuration}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address={HOST}:{port}",
        "--web.page-title=test",
        "--log.level=warn",
    ]


class Alertmanager(Program):
    """With a configuration."""

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        path = folder / "alertmanager.json"
        path.write_text(json.dumps(configuration))
        super().__init__(folder, "alertmanager", lambda port: _alertmanager(folder, path, port), "/-/ready")

    def alerts(self) -> list[dict[str, Any]]:
        """Those that it knows now, also silenced and inhibited ones."""
        return list(json.loads(fetch(f"{self.url}/api/v2/alerts")))


def _alertmanager(folder: Path, configuration: Path, port: int) -> list[str]:
    found = find("alertmanager")
    assert found
    return [
        found,
        f"--config.file={configuration}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={HOST}:{port}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]


class Pager:
    """Receives Alertmanager's webhooks: whoever is woken."""

    def __init__(self) -> None:
        #: (receiver, status, labels, annotations) in the order of arrival.
        self.pages: list[tuple[str, str, dict[str, str], dict[str, str]]] = []
        pages = self.pages

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                told = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for each in told["alerts"]:
                    pages.append((told["receiver"], each["status"], each["labels"], each["annotations"]))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None: ...

        self._server = ThreadingHTTPServer((HOST, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._server.server_port}/"

    def told(self, status: str) -> set[str]:
        """The names of the alerts that were said to be ``firing`` or ``resolved``."""
        return {labels["alertname"] for _, found, labels, _ in list(self.pages) if found == status}

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
