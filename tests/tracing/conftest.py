"""Fixtures: spans that are kept in memory, and an app that makes them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from penstock import App
from penstock.integrations.otel import OpenTelemetry
from tests.tracing.support import Spans


@pytest.fixture
def spans() -> Iterator[Spans]:
    """All spans of the test, once they have ended."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Spans(exporter, provider)
    provider.shutdown()


@pytest.fixture
def plain_app(url: str, namespace: str) -> Iterator[App]:
    """An app without middlewares."""
    with App("plain", url=url, namespace=namespace, sync_in_loop="allow") as app:
        yield app


@pytest.fixture
def app(url: str, namespace: str, spans: Spans) -> Iterator[App]:
    """An app that is traced."""
    with App("traced", url=url, namespace=namespace, sync_in_loop="allow") as app:
        app.use(OpenTelemetry(spans.provider))
        yield app
