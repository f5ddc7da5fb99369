"""`penstock exporter` and `penstock metrics`."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from penstock.cli import logs
from penstock.cli.invocation import NO_SUCCESS, Fault
from penstock.cli.server import server_options
from penstock.consumers.notify import Notify
from penstock.metrics import Exporter
from penstock.metrics.http import Site, health, listen

log = logging.getLogger("penstock.exporter")


def with_exporter(function: Callable[..., None]) -> Callable[..., None]:
    """Options that say what is exported; the function's first argument becomes the `Exporter`."""

    @wraps(function)
    def command(*, url: str | None, namespace: str | None, workers: bool, max_tasks: int, **rest: Any) -> None:
        with Exporter(url, namespace=namespace, workers=workers, max_tasks=max_tasks) as exporter:
            function(exporter, **rest)

    for option in (
        click.option(
            "--max-tasks", type=click.IntRange(1), default=200, show_default=True, metavar="N",
            help='Task names reported for each queue; those beyond are counted together as "other".',
        ),
        click.option("--workers/--no-workers", default=True, help="Report each worker by name, too. Default: yes."),
    ):  # fmt: skip
        command = option(command)
    return server_options(command)


@click.command("exporter")
@with_exporter
@click.option("--host", default="0.0.0.0", show_default=True, metavar="HOST", help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=9808, show_default=True, metavar="PORT")
@click.option("--log-level", type=click.Choice(logs.LEVELS, case_sensitive=False), default="info", show_default=True)
@click.option("--log-format", type=click.Choice(("text", "json")), default="text", show_default=True)
def exporter(exporter: Exporter, host: str, port: int, log_level: str, log_format: logs.LogFormat) -> None:
    """Serve the metrics of a namespace to Prometheus, at /metrics.

    It reads Redis and nothing else: it loads no code of yours (so a namespace that only your app knows must be named),
    and goes on when all workers are dead. Any number of exporters may run; one read of Redis serves all scrapes
    within a second. /health says whether Redis answers.

    \b
    Examples:
      penstock exporter --url redis://redis:6379/0
      penstock exporter --host 127.0.0.1 --port 9809 --namespace shop
    """
    logs.configure(log_level, log_format)
    notify = Notify.from_environment()
    server = listen(Site(exporter.registry, {"/health": health(exporter)}), host, port)
    log.info("metrics of %s at %s: http://%s/metrics", exporter.namespace, exporter.display, server.place)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
    thread.start()
    notify.ready(f"serving {server.place}")
    while not stop.wait(timeout=1.0 if notify.next_alive() is not None else None):
        if thread.is_alive():
            notify.alive()
    notify.stopping(1.0)
    server.shutdown()
    server.server_close()
    log.info("stopped")


@click.command("metrics")
@with_exporter
def metrics(exporter: Exporter) -> None:
    """Print what the exporter would answer now.

    Exit code 1 if Redis does not answer; the metrics that say so are printed all the same.
    """
    text = exporter.render().decode()
    click.echo(text, nl=False)
    answer = exporter.refresh()
    if answer.reading is None:
        raise Fault(answer.error, NO_SUCCESS)
