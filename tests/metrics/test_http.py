"""Metrics and probes over HTTP: mounted in others' apps, served by `penstock exporter`, and by a worker itself."""

from __future__ import annotations

import gzip
import http.client
import json
import logging
import signal
import socket
import struct
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any

import pytest

from penstock import App, ConfigurationError
from penstock.metrics import Exporter, asgi_app, wsgi_app
from penstock.metrics.http import Site, health, listen
from penstock.metrics.local import LocalEndpoint
from tests.commands import Command
from tests.metrics.support import Scrape, get
from tests.servers import Server, wait_until

Start = Callable[..., Command]


def fetch(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def served(exporter: Exporter) -> Iterator[str]:
    """The exporter's site on a port of its own."""
    server = listen(Site(exporter.registry, {"/health": health(exporter)}), "127.0.0.1", 0)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://{server.place}"
    server.shutdown()
    thread.join()
    server.server_close()


# Mounted


def test_as_a_wsgi_app(exporter: Exporter) -> None:
    status, headers, body = get(wsgi_app(exporter), "/anywhere")
    assert status == "200 OK" and headers["Content-Type"].startswith("text/plain; version=")
    assert Scrape(body.decode()).value("penstock_redis_up") == 1


@pytest.mark.anyio
async def test_as_an_asgi_app(exporter: Exporter) -> None:
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    async def answer(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/metrics", "query_string": b"", "headers": []}
    await asgi_app(exporter)(scope, receive, answer)
    assert sent[0]["status"] == 200
    assert Scrape(sent[1]["body"].decode()).value("penstock_redis_up") == 1


@pytest.mark.anyio
async def test_an_asgi_app_holds_up_no_event_loop(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Redis is read in another thread, and the text is made there, too."""
    threads: list[int] = []
    collect = exporter.collect

    def told() -> Iterator[Any]:
        threads.append(threading.get_ident())
        return collect()

    monkeypatch.setattr(exporter, "collect", told)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request"}

    sent: list[MutableMapping[str, Any]] = []

    async def answer(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    headers = [(b"Accept-Encoding", b"gzip")]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"name[]=penstock_redis_up",
        "headers": headers,
    }
    await asgi_app(exporter)(scope, receive, answer)
    assert threads and threading.get_ident() not in threads
    assert (b"Content-Encoding", b"gzip") in sent[0]["headers"]
    assert Scrape(gzip.decompress(sent[1]["body"]).decode()).families.keys() == {"penstock_redis_up"}


def test_of_an_app(url: str, namespace: str) -> None:
    with App("shop", url=url, namespace=namespace) as app, Exporter.for_app(app) as exporter:
        app.task_named("work", queue="mail").delay()
        assert Scrape(exporter.render().decode()).value("penstock_queue_ready_tasks", queue="mail") == 1


# The site


def test_pages(served: str) -> None:
    status, text = fetch(f"{served}/metrics")
    assert status == 200 and Scrape(text).value("penstock_redis_up") == 1
    status, text = fetch(f"{served}/health")
    assert status == 200 and json.loads(text)["redis_up"] is True
    assert "/metrics" in fetch(f"{served}/")[1]
    status, text = fetch(f"{served}/metric")
    assert status == 404 and "/metrics" in text


def test_head_is_answered_as_get_is_without_the_body(served: str) -> None:
    """Load balancers and uptime checks ask like this."""
    for path, status in (("/metrics", 200), ("/health", 200), ("/", 200), ("/nothing", 404)):
        host, _, port = served.removeprefix("http://").partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=30)
        connection.request("HEAD", path)
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (status, b"")
        connection.close()


def test_one_family_can_be_asked_for(served: str) -> None:
    """``name[]``, as prometheus_client has it: by the names that a collector describes."""
    status, text = fetch(f"{served}/metrics?name[]=penstock_redis_up&name[]=penstock_exporter_scrape_errors_total")
    assert status == 200
    assert Scrape(text).families.keys() == {"penstock_redis_up", "penstock_exporter_scrape_errors"}


def test_a_client_that_breaks_off_is_no_matter_of_the_log(
    served: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    host, _, port = served.removeprefix("http://").partition(":")
    with caplog.at_level(logging.DEBUG, "penstock.exporter"):
        with socket.create_connection((host, int(port))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed by a reset
            client.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert wait_until(lambda: [r for r in caplog.records if "was not answered" in r.getMessage()])
    assert {record.levelname for record in caplog.records if record.name == "penstock.exporter"} == {"DEBUG"}
    assert "Traceback" not in capfd.readouterr().err


def test_a_fault_of_ours_is_a_matter_of_the_log(exporter: Exporter, caplog: pytest.LogCaptureFixture) -> None:
    """A host that starts no more threads, say."""
    server = listen(Site(exporter.registry, {}), "127.0.0.1", 0)
    fault = RuntimeError("can't start new thread")
    try:
        raise fault
    except RuntimeError:
        server.handle_error(None, ("127.0.0.1", 1))
    server.server_close()
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.exc_info is not None and record.exc_info[1] is fault


def test_only_reading_is_answered(exporter: Exporter) -> None:
    assert get(Site(exporter.registry, {}), method="POST")[0].startswith("405")


def test_health_is_well_while_redis_is_not(own_server: Server, served: str) -> None:
    """To start the exporter anew would not bring Redis back."""
    own_server.kill()
    status, text = fetch(f"{served}/health")
    assert status == 200 and json.loads(text)["redis_up"] is False and json.loads(text)["error"]
    assert Scrape(fetch(f"{served}/metrics")[1]).value("penstock_redis_up") == 0
    own_server.start()


def test_a_client_that_says_nothing_keeps_nobody_waiting(served: str) -> None:
    host, _, port = served.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port))):
        assert fetch(f"{served}/health")[0] == 200


def test_a_port_that_is_taken(served: str, exporter: Exporter) -> None:
    host, _, port = served.removeprefix("http://").partition(":")
    with pytest.raises(ConfigurationError, match=f"cannot listen on {host}:{port}"):
        listen(Site(exporter.registry, {}), host, int(port))
    for name in ("no.such.host.invalid", "x" * 64):  # the second is no name at all
        with pytest.raises(ConfigurationError, match=f"cannot listen on {name}"):
            listen(Site(exporter.registry, {}), name, 0)


# One worker


class Status:
    """A worker as it might be."""

    ready, stopping, connected = True, False, True
    in_flight, unsettled, done, loop_still = 3, 2, 100, 0.5


@pytest.mark.parametrize(
    ("changed", "live", "ready"),
    [
        ({}, 200, 200),
        ({"ready": False}, 200, 503),
        ({"connected": False}, 200, 503),
        ({"stopping": True}, 200, 503),
        ({"loop_still": 61.0}, 503, 200),
    ],
)
def test_probes(changed: dict[str, Any], live: int, ready: int) -> None:
    """A server that is away makes no worker unwell: it goes on when it is back."""
    status = Status()
    for name, value in changed.items():
        setattr(status, name, value)
    site = LocalEndpoint(lambda: status, "127.0.0.1", 0)._site
    for path, code in (("/livez", live), ("/readyz", ready)):
        answer, _, body = get(site, path)
        assert answer.startswith(str(code)), path
        assert json.loads(body)["in_flight"] == 3
    text = get(site)[2].decode()
    assert Scrape(text).value("penstock_local_unsettled") == 2 and "python_gc_objects_collected_total" in text


def test_registries_are_not_shared() -> None:
    """Two in one process, as in tests, do not get into each other's way."""
    first, second = (LocalEndpoint(Status, "127.0.0.1", 0) for _ in range(2))
    assert get(first._site)[0] == get(second._site)[0] == "200 OK"


def test_a_worker_serves_its_own(worker: Start, send: Any, port: int) -> None:
    command = worker("--metrics-port", port, "--metrics-host", "127.0.0.1")
    command.ready()
    assert send("add", 1).get(60) == 3
    wait_until(lambda: "penstock_local_attempts_total 1.0" in fetch(f"http://127.0.0.1:{port}/metrics")[1])
    assert fetch(f"http://127.0.0.1:{port}/livez")[0] == fetch(f"http://127.0.0.1:{port}/readyz")[0] == 200
    command.signal(signal.SIGTERM)
    assert command.wait() == 0


# The commands


def test_the_exporter_as_a_process(penstock: Start, send: Any, port: int) -> None:
    send("add", 1, queue="mail")
    command = penstock("exporter", "--port", port, "--host", "127.0.0.1", "--log-level", "info")
    command.logged(r"http://127.0.0.1:\d+/metrics")
    assert Scrape(fetch(f"http://127.0.0.1:{port}/metrics")[1]).value("penstock_queue_ready_tasks", queue="mail") == 1
    command.signal(signal.SIGTERM)
    assert command.wait() == 0


def test_the_exporter_loads_no_app(penstock: Start, port: int) -> None:
    command = penstock("exporter", "--port", port, "--host", "127.0.0.1", env={"PENSTOCK_APP": "tests.apps.broken:app"})
    command.logged(r"http://127.0.0.1:\d+/metrics")
    command.signal(signal.SIGINT)
    assert command.wait() == 0


def test_one_scrape_to_standard_output(penstock: Start, send: Any) -> None:
    send("add", 1, queue="mail")
    command = penstock("metrics")
    assert command.process.stdout is not None
    assert Scrape(command.process.stdout.read().decode()).value("penstock_queue_ready_tasks", queue="mail") == 1
    assert command.wait() == 0


def test_one_scrape_of_a_server_that_is_not_there(penstock: Start, port: int) -> None:
    command = penstock("metrics", "--url", f"redis://127.0.0.1:{port}/0")
    assert command.process.stdout is not None
    assert Scrape(command.process.stdout.read().decode()).value("penstock_redis_up") == 0
    assert command.wait() == 1 and "no answer from" in command.text


def test_check(penstock: Start, worker: Start, port: int) -> None:
    def check(*args: object, **env: str) -> tuple[int, str]:
        command = penstock("check", *args, env=env)
        assert command.process.stdout is not None
        said = command.process.stdout.read().decode()
        return command.wait(), said + command.text

    code, text = check()
    assert code == 1 and "0 of 1 workers" in text and "none was heard of" in text
    running = worker("--workers", 2)
    running.ready(2)
    wait_until(lambda: check("--workers", 2)[0] == 0)
    assert check("--workers", 3)[0] == 1 and check("--host", "elsewhere")[0] == 1
    code, text = check("--json", PENSTOCK_APP="tests.apps.broken:app")  # it loads no code
    assert code == 0 and json.loads(text)["alive"] == 2
    gone = ("--url", f"redis://127.0.0.1:{port}/0")
    assert check(*gone)[0] == 0 and "cannot tell" in check(*gone)[1]
    assert check(*gone, "--strict")[0] == 1
    running.signal(signal.SIGTERM)
    assert running.wait() == 0
    assert check()[0] == 1
