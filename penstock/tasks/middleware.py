"""Code of others around sends and attempts: traces, error reports, and what else must see them from inside.

An event (`penstock.events`) tells what has happened. A middleware takes part: it may send headers along with a call,
and runs in the context variables of the attempt, so that what it sets there is what the task's code sees.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Literal

from penstock.tasks.context import Context

log = logging.getLogger("penstock.middleware")

#: How an attempt ended: as the task's outcome, or (``stopped``) because the worker had to give it up.
Ending = Literal["succeeded", "retried", "snoozed", "failed", "stopped"]
End = Callable[[Ending, BaseException | None], object]

#: Headers of one message, and characters of each name and value: they are stored with every task.
MOST_HEADERS, LONGEST_HEADER = 16, 4096


class Middleware:
    """Base class; override what is needed. What it raises is logged, and harms no task."""

    def bulk(self) -> AbstractContextManager[object]:
        """Around a bulk send, whose calls `sending` is told of one by one."""
        return nullcontext()

    def sending(self, name: str, queue: str, headers: MutableMapping[str, str]) -> None:
        """A call is about to be sent; what is put into `headers` goes with it, through all its attempts."""

    def attempt(self, context: Context, headers: Mapping[str, str]) -> End | None:
        """An attempt begins. Returns what is called when it has ended, in the same context variables."""


#: What else belongs on a line of a log that is written now, such as a trace's id; asked by the command line's logs.
log_fields: list[Callable[[], Mapping[str, str]]] = []


class Middlewares:
    """Those of one app, in the order in which they were added; the last one is nearest to the task's code."""

    def __init__(self) -> None:
        self._all: list[Middleware] = []

    def __bool__(self) -> bool:
        return bool(self._all)

    def add(self, middleware: Middleware) -> None:
        self._all.append(middleware)

    @contextmanager
    def bulk(self) -> Iterator[None]:
        """Around a bulk send."""
        with ExitStack() as stack:
            for each in self._all:
                try:
                    stack.enter_context(each.bulk())
                except Exception:
                    log.exception("%s.bulk failed", type(each).__name__)
            yield

    def headers(self, name: str, queue: str) -> dict[str, str] | None:
        """The headers of a call that is about to be sent; None: none."""
        found: dict[str, str] = {}
        for each in self._all:
            try:
                each.sending(name, queue, found)
            except Exception:
                log.exception("%s.sending failed", type(each).__name__)
        fit = {k: v for k, v in found.items() if len(k) <= LONGEST_HEADER and len(v) <= LONGEST_HEADER}
        return dict(list(fit.items())[:MOST_HEADERS]) or None

    def begin(self, context: Context, headers: Mapping[str, str] | None, variables: contextvars.Context) -> Endings:
        """Begin an attempt that runs in `variables`."""
        ends: list[tuple[Middleware, End]] = []
        for each in self._all:
            try:
                end = variables.run(each.attempt, context, headers or {})
            except Exception:
                log.exception("%s.attempt failed", type(each).__name__)
            else:
                if end is not None:
                    ends.append((each, end))
        return Endings(ends, variables)


class Endings:
    """What is to be told of the end of one attempt."""

    def __init__(self, ends: Sequence[tuple[Middleware, End]], variables: contextvars.Context) -> None:
        self._ends = ends
        #: The attempt's own context variables.
        self.variables = variables

    def tell(self, ending: Ending, error: BaseException | None) -> None:
        """The attempt has ended; the one that began last hears it first."""
        for middleware, end in reversed(self._ends):
            try:
                self._run(end, ending, error)
            except Exception:
                log.exception("the end of an attempt could not be told to %s", type(middleware).__name__)

    def _run(self, end: End, ending: Ending, error: BaseException | None) -> None:
        try:
            self.variables.run(end, ending, error)
        except RuntimeError:
            if not self._is_entered():
                raise
            end(ending, error)  # a thread that ignores its timeout is still in there

    def _is_entered(self) -> bool:
        try:
            self.variables.run(bool)
        except RuntimeError:
            return True
        return False
