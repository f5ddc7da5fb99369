"""Traces by OpenTelemetry: one from the call through retries, and through the tasks that a task sends, to the end.

Names are those of OpenTelemetry's semantic conventions for messaging. Where spans go, and how many, is set up by the
program itself, with OpenTelemetry's SDK; without it nothing is recorded, and contexts are passed on all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar

from opentelemetry import context as otel_context
from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind, Status, StatusCode, TracerProvider

from penstock.tasks.context import Context
from penstock.tasks.middleware import End, Ending, Middleware, log_fields
from penstock.version import installed_version

_in_bulk: ContextVar[bool] = ContextVar("penstock_otel_in_bulk", default=False)


class OpenTelemetry(Middleware):
    """``app.use(OpenTelemetry())``, where the app is made.

    Args:
        tracer_provider: default: the global one, also if it is set later.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None) -> None:
        self._tracer = trace.get_tracer("penstock", installed_version(), tracer_provider)
        if log_field not in log_fields:
            log_fields.append(log_field)

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """One span for all calls of a bulk: they are its children, and have none of their own."""
        attributes = {
            "messaging.system": "redis",
            "messaging.operation.type": "send",
            "messaging.operation.name": "bulk",
        }
        with self._tracer.start_as_current_span("send bulk", kind=SpanKind.PRODUCER, attributes=attributes):
            token = _in_bulk.set(True)
            try:
                yield
            finally:
                _in_bulk.reset(token)

    def sending(self, name: str, queue: str, headers: MutableMapping[str, str]) -> None:
        """A span for the call, and the context that makes the attempts its children."""
        if _in_bulk.get():
            propagate.inject(headers)
            return
        attributes = {
            "messaging.system": "redis",
            "messaging.destination.name": queue,
            "messaging.operation.type": "create",
            "messaging.operation.name": "send",
            "penstock.task": name,
        }
        span = self._tracer.start_span(f"send {queue}", kind=SpanKind.PRODUCER, attributes=attributes)
        propagate.inject(headers, trace.set_span_in_context(span))
        span.end()

    def attempt(self, context: Context, headers: Mapping[str, str]) -> End:
        """A span for the attempt, current while its code runs."""
        attributes: dict[str, str | int] = {
            "messaging.system": "redis",
            "messaging.destination.name": context.queue,
            "messaging.operation.type": "process",
            "messaging.operation.name": "run",
            "messaging.message.id": context.id,
            "messaging.client.id": context.worker,
            "penstock.task": context.name,
            "penstock.attempt": context.attempt,
            "penstock.deliveries": context.deliveries,
            "penstock.priority": context.priority,
        }
        parent = propagate.extract(headers)
        span = self._tracer.start_span(f"run {context.name}", parent, kind=SpanKind.CONSUMER, attributes=attributes)
        # Not detached: these context variables end with the attempt.
        otel_context.attach(trace.set_span_in_context(span, parent))

        def end(ending: Ending, error: BaseException | None) -> None:
            span.set_attribute("penstock.outcome", ending)
            if ending == "retried":
                span.add_event("retry", {"penstock.attempt": context.attempt})
            if error is not None and ending in ("retried", "failed"):
                span.record_exception(error)
                span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}: {error}"))
                span.set_attribute("error.type", f"{type(error).__module__}.{type(error).__qualname__}")
            span.end()

        return end


def log_field() -> Mapping[str, str]:
    """The ids of the span that is current, as logs carry them."""
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(found.trace_id), "span_id": trace.format_span_id(found.span_id)}
