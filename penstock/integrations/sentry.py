"""Errors of tasks in Sentry, with the task they belong to, and its trace.

``sentry_sdk.init(...)`` is the program's own affair; it has to be called in each process, as where the app is made.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from contextlib import ExitStack

import sentry_sdk
from sentry_sdk.tracing import SENTRY_TRACE_HEADER_NAME

from penstock.tasks.context import Context
from penstock.tasks.middleware import End, Ending, Middleware

_BAGGAGE = "baggage"


class Sentry(Middleware):
    """``app.use(Sentry())``.

    Args:
        retries: report also what a retry follows; default: only what fails for good.
    """

    def __init__(self, *, retries: bool = False) -> None:
        self._reported = ("failed", "retried") if retries else ("failed",)

    def sending(self, name: str, queue: str, headers: MutableMapping[str, str]) -> None:
        """The trace that the caller is in goes with the call."""
        if traceparent := sentry_sdk.get_traceparent():
            headers[SENTRY_TRACE_HEADER_NAME] = traceparent
        if baggage := sentry_sdk.get_baggage():
            headers.setdefault(_BAGGAGE, baggage)

    def attempt(self, context: Context, headers: Mapping[str, str]) -> End:
        """A scope and a transaction of its own for each attempt, in the trace of the call."""
        stack = ExitStack()
        scope = stack.enter_context(sentry_sdk.isolation_scope())
        scope.set_tag("penstock.task", context.name)
        scope.set_tag("penstock.queue", context.queue)
        scope.set_tag("penstock.id", context.id)
        scope.set_context("penstock", {
            "task": context.name,
            "id": context.id,
            "queue": context.queue,
            "attempt": context.attempt,
            "deliveries": context.deliveries,
            "worker": context.worker,
        })  # fmt: skip
        transaction = sentry_sdk.continue_trace(
            dict(headers), op="queue.task.penstock", name=context.name, source="task"
        )
        stack.enter_context(sentry_sdk.start_transaction(transaction))

        def end(ending: Ending, error: BaseException | None) -> None:
            if error is not None and ending in self._reported:
                sentry_sdk.capture_exception(error)
            transaction.set_status("ok" if ending in ("succeeded", "snoozed") else "internal_error")
            stack.close()

        return end
