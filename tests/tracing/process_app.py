"""A traced app whose task runs in a child process, which imports this module."""

from __future__ import annotations

import os

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from penstock import App
from penstock.integrations.otel import OpenTelemetry

app = App(
    "traced", url=os.environ.get("TRACED_URL", "redis://localhost:1/0"), namespace=os.environ.get("TRACED_NS", "x")
)
app.use(OpenTelemetry(TracerProvider()))


@app.task(name="work", run="process")
def work() -> str:
    """The trace that it runs in."""
    return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
