"""What one worker process tells of itself over HTTP, at ``--metrics-port``: details of the process, and probes.

It is served from a thread of its own, so that a task which blocks the event loop is seen, and not hidden, by it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from penstock.errors import ConfigurationError
from penstock.metrics.catalogue import LOCAL
from penstock.metrics.families import Page
from penstock.metrics.http import Server, Site, listen

log = logging.getLogger("penstock.worker")

#: Seconds for which the event loop may stand still before ``/livez`` says that the process is not well.
STANDSTILL = 60.0
#: Seconds between tries to get the port, which the worker that this one replaces may still have.
_AGAIN = 1.0


class Status(Protocol):
    """What is asked of a worker; see `penstock.consumers.worker.WorkerStatus`."""

    @property
    def ready(self) -> bool: ...
    @property
    def stopping(self) -> bool: ...
    @property
    def connected(self) -> bool: ...
    @property
    def in_flight(self) -> int: ...
    @property
    def unsettled(self) -> int: ...
    @property
    def done(self) -> int: ...
    @property
    def loop_still(self) -> float: ...


class LocalEndpoint(Collector):
    """Serves one worker's ``/metrics``, ``/livez`` and ``/readyz``. `status` is called from its threads."""

    def __init__(self, status: Callable[[], Status], host: str, port: int) -> None:
        self._status = status
        self._host, self._port = host, port
        registry = CollectorRegistry()
        for kind in (ProcessCollector, PlatformCollector, GCCollector):
            kind(registry=registry)
        registry.register(self)
        self._site = Site(registry, {"/livez": self._live, "/readyz": self._ready})
        #: Where it listens; "" while it has no port.
        self.place = ""

    def start(self) -> None:
        """Serve from a thread that ends with the process."""
        threading.Thread(target=self._serve, name="penstock-metrics", daemon=True).start()

    def describe(self) -> Iterable[Family]:
        """All families there may be."""
        return Page(LOCAL).all()

    def collect(self) -> Iterator[Family]:
        """The families of one scrape."""
        status, page = self._status(), Page(LOCAL)
        page.add("penstock_local_connected", int(status.connected))
        page.add("penstock_local_in_flight", status.in_flight)
        page.add("penstock_local_unsettled", status.unsettled)
        page.add("penstock_local_attempts_total", status.done)
        yield from page

    def _serve(self) -> None:
        server = self._listen()
        self.place = server.place
        log.info("metrics of this worker: http://%s/metrics", self.place)
        server.serve_forever(poll_interval=1.0)

    def _listen(self) -> Server:
        level = logging.WARNING
        while True:
            try:
                return listen(self._site, self._host, self._port)
            except ConfigurationError as error:
                log.log(level, "no metrics are served yet: %s", error)
                level = logging.DEBUG  # said once
                time.sleep(_AGAIN)

    def _live(self) -> tuple[bool, Mapping[str, object]]:
        status = self._status()
        return status.loop_still < STANDSTILL, _said(status)

    def _ready(self) -> tuple[bool, Mapping[str, object]]:
        status = self._status()
        return status.ready and status.connected and not status.stopping, _said(status)


def _said(status: Status) -> Mapping[str, object]:
    return {
        "ready": status.ready,
        "stopping": status.stopping,
        "connected": status.connected,
        "in_flight": status.in_flight,
        "unsettled": status.unsettled,
        "loop_still_seconds": round(status.loop_still, 3),
    }
