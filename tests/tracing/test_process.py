"""A task in a process of its own runs in the trace of its call."""

from __future__ import annotations

import importlib
import sys

import pytest
from opentelemetry import trace

from tests.tracing.support import Spans


def test_a_child_process_joins_the_trace(
    url: str, namespace: str, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACED_URL", url)
    monkeypatch.setenv("TRACED_NS", namespace)
    sys.modules.pop("tests.tracing.process_app", None)
    module = importlib.import_module("tests.tracing.process_app")
    request = spans.provider.get_tracer("test").start_as_current_span("request")
    with module.app, module.app.running(processes=1), request as span:
        found = module.work.delay().get(60)
    assert found == trace.format_trace_id(span.get_span_context().trace_id)
