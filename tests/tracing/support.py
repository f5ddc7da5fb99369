"""Looking at spans."""

from __future__ import annotations

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.servers import wait_until


class Spans:
    """What was recorded."""

    def __init__(self, exporter: InMemorySpanExporter, provider: TracerProvider) -> None:
        self._exporter = exporter
        self.provider = provider

    def named(self, name: str) -> list[ReadableSpan]:
        """Those of this name, in the order of their ends."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def wait(self, name: str, count: int = 1) -> list[ReadableSpan]:
        """The same, once there are `count` of them: a result may be there a moment before its span has ended."""
        wait_until(lambda: len(self.named(name)) >= count)
        return self.named(name)

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.wait(name)
        return span


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return int(span.context.trace_id)


def is_child(span: ReadableSpan, parent: ReadableSpan) -> bool:
    """`span` was made in `parent`, in the same trace."""
    assert span.parent is not None and parent.context is not None
    return span.parent.span_id == parent.context.span_id and trace_of(span) == trace_of(parent)
