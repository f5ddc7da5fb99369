"""Fixtures: an app with tasks of all endings, and its exporter."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from penstock import App
from penstock.metrics import Exporter
from tests.acceptance.conftest import folder, penstock, send, worker
from tests.metrics.support import Scrape

__all__ = ["folder", "penstock", "send", "worker"]  # fixtures of theirs that are used here, too


@pytest.fixture
def app(url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """Its workers say what they have measured often."""
    monkeypatch.setattr("penstock.consumers.tally.INTERVAL", 0.05)
    monkeypatch.setattr("penstock.consumers.heartbeat.INTERVAL", 0.1)
    with App("test", url=url, namespace=namespace, sync_in_loop="allow") as app:
        yield app


@pytest.fixture
def exporter(url: str, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Exporter]:
    """Each scrape reads anew, and waits for it however slow this machine is."""
    monkeypatch.setattr("penstock.metrics.exporter.FRESH", 0.0)
    monkeypatch.setattr("penstock.metrics.exporter.PATIENCE", 30.0)
    with Exporter(url, namespace=namespace) as exporter:
        yield exporter


@pytest.fixture
def scrape(exporter: Exporter) -> Callable[[], Scrape]:
    """Scrapes once."""
    return lambda: Scrape(exporter.render().decode())
