"""The exporter: reads Redis when it is asked for metrics, at most once a second, and waits for it for a second at most.

Everything that is counted lives in Redis, so it needs no worker, any number of exporters show the same, and one that
was restarted goes on where it was.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric as Family
from prometheus_client.registry import Collector

from penstock.errors import BrokerError
from penstock.metrics.families import Page, add_reading
from penstock.metrics.names import Names
from penstock.settings import Settings, load_settings
from penstock.streams.connector import Connector
from penstock.streams.survey import Reading, Survey
from penstock.streams.urls import Address, resolve_url
from penstock.version import installed_version

log = logging.getLogger("penstock.exporter")

#: Seconds for which a read serves all scrapes; and within which one is answered, whatever the server does.
FRESH, PATIENCE = 1.0, 0.9
#: Seconds that one step of a read may take. With a server that is silent it ends a little before `PATIENCE`.
_STEP = 0.8


_exporters: weakref.WeakSet[Exporter] = weakref.WeakSet()


def _begin_anew() -> None:
    """A forked child has each lock as it was, and no thread."""
    for exporter in _exporters:
        exporter._begin()


os.register_at_fork(after_in_child=_begin_anew)


class _App(Protocol):
    """What an `App` has."""

    @property
    def connector(self) -> Connector: ...
    @property
    def settings(self) -> Settings: ...


class Answer(msgspec.Struct, frozen=True):
    """What became of one read: `reading`, or `error`."""

    reading: Reading | None
    error: str
    #: Seconds that it took.
    took: float


class Exporter(Collector):
    """The metrics of one namespace. A collector of prometheus_client; safe for threads.

    Args:
        url: the server; default: as for an app (PENSTOCK_URL, REDIS_URL, ..., else localhost).
        namespace: default: PENSTOCK_NAMESPACE, else ``penstock``.
        workers: report each worker by name, too.
        max_tasks: task names reported for each queue; the others are reported as ``other``.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        workers: bool = True,
        max_tasks: int = 200,
    ) -> None:
        settings = load_settings({} if namespace is None else {"namespace": namespace})
        self._set_up(resolve_url(url), settings, workers, max_tasks)

    @classmethod
    def for_app(cls, app: _App, *, workers: bool = True, max_tasks: int = 200) -> Exporter:
        """An exporter for the server and the namespace of an app."""
        made = cls.__new__(cls)
        made._set_up(app.connector.address, app.settings, workers, max_tasks)
        return made

    def _set_up(self, address: Address, settings: Settings, workers: bool, max_tasks: int) -> None:
        quick = msgspec.structs.replace(
            settings,
            connect_timeout=min(settings.connect_timeout, _STEP),
            command_timeout=min(settings.command_timeout, _STEP),
        )
        connector = Connector(address, quick)
        self.display = connector.display
        self.namespace = settings.namespace
        self._survey = Survey(connector, quick)
        self._workers = workers
        self._names = Names(max_tasks)
        self._version = installed_version()
        self._errors = 0
        self._is_up = True
        self._begin()
        _exporters.add(self)
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(self)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="penstock-exporter")
        self._asked: Future[Answer] | None = None
        self._asked_at = 0.0

    def collect(self) -> Iterator[Family]:
        """The families of one scrape."""
        answer = self.refresh()
        page = Page()
        page.add("penstock_redis_up", int(answer.reading is not None))
        page.add("penstock_exporter_build_info", 1, self._version)
        page.add("penstock_exporter_scrape_duration_seconds", answer.took)
        page.add("penstock_exporter_scrape_errors_total", self._errors)
        if answer.reading is not None:
            with self._lock:
                add_reading(page, answer.reading, self._names, workers=self._workers)
        yield from page

    def describe(self) -> Iterable[Family]:
        """All families there may be; nothing is asked of Redis when it is registered."""
        return Page().all()

    def render(self) -> bytes:
        """One scrape, in Prometheus's text format."""
        return generate_latest(self.registry)

    def refresh(self) -> Answer:
        """The read of this second: made now, or shared with others who ask. Returns within `PATIENCE` seconds."""
        with self._lock:
            asked = self._asked
            if asked is None or (asked.done() and time.monotonic() - self._asked_at > FRESH):
                asked = self._asked = self._thread.submit(self._read)
                self._asked_at = time.monotonic()
        try:
            return asked.result(PATIENCE)
        except TimeoutError:
            # It goes on, and ends by the connection's own timeouts; who asks meanwhile waits for the same one.
            return Answer(None, f"no answer within {PATIENCE} s", time.monotonic() - self._asked_at)

    def _read(self) -> Answer:
        since = time.monotonic()
        try:
            reading = self._survey.read()
        except BrokerError as error:
            return self._failed(str(error), since)
        except Exception as error:  # hostile keys: a scrape must be answered all the same
            log.exception("the metrics of %s could not be read", self.namespace)
            return self._failed(f"{type(error).__name__}: {error}", since)
        self._errors += len(reading.problems)
        for problem in reading.problems:
            log.warning("left out: %s", problem)
        if not self._is_up:
            self._is_up = True
            log.warning("%s answers again", self.display)
        return Answer(reading, "; ".join(reading.problems), time.monotonic() - since)

    def _failed(self, error: str, since: float) -> Answer:
        self._errors += 1
        if self._is_up:  # told once for each outage
            self._is_up = False
            log.warning("%s cannot be read: %s", self.display, error)
        return Answer(None, error, time.monotonic() - since)

    def close(self) -> None:
        """Close the connections and end the thread."""
        self._thread.shutdown(wait=True)
        self._survey.close()

    def __enter__(self) -> Exporter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
