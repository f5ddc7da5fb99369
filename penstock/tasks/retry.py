"""When a task that raised runs again, and after how long."""

from __future__ import annotations

import logging
import math
import random as _random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

import msgspec

from penstock.errors import ConfigurationError
from penstock.settings import seconds
from penstock.streams.message import RetrySpec

log = logging.getLogger("penstock")

#: An exception class, several of them (tuples may be nested), or a function that says yes or no.
ErrorFilter: TypeAlias = "type[BaseException] | tuple[ErrorFilter, ...] | Callable[[BaseException], bool]"

#: ``max_retries=None`` on the wire.
_FOREVER = -1


class RetryPolicy(msgspec.Struct, frozen=True):
    """Which errors are tried again, how often, and the waits in between.

    The wait after attempt *n* is ``min(max_delay, delay * backoff ** (n - 1))`` seconds, of which
    the share `jitter` is random: 1.0 is uniform between 0 and all of it ("full jitter"), 0 is exact.

    Args:
        max_retries: runs after the first one; 0: none; None: for ever.
        delay: seconds or timedelta.
        backoff: factor from one wait to the next, at least 1.
        max_delay: longest wait, seconds or timedelta.
        jitter: 0..1.
        on: errors to retry: exception class, tuple of them, or ``callable(error) -> bool``.
        never: errors not to retry, even if `on` matches.

    Raises:
        ConfigurationError: one of them makes no sense.
    """

    max_retries: int | None = 3
    delay: float | timedelta = 1.0
    backoff: float = 2.0
    max_delay: float | timedelta = 3600.0
    jitter: float = 1.0
    on: ErrorFilter = (Exception,)
    never: ErrorFilter = ()

    def __post_init__(self) -> None:
        if self.max_retries is not None and (not _is(int, self.max_retries) or not 0 <= self.max_retries < 2**31):
            raise ConfigurationError(f"max_retries must be None (for ever) or an int >= 0, not {self.max_retries!r}")
        if not _is(float, self.backoff) or not 1 <= self.backoff < math.inf:
            raise ConfigurationError(f"backoff must be a number of at least 1, not {self.backoff!r}")
        if not _is(float, self.jitter) or not 0 <= self.jitter <= 1:
            raise ConfigurationError(f"jitter must be between 0 and 1, not {self.jitter!r}")
        delay, max_delay = seconds("delay", self.delay), seconds("max_delay", self.max_delay)
        if delay > max_delay:
            raise ConfigurationError(f"delay ({delay:g} s) is more than max_delay ({max_delay:g} s)")
        _check_filter("on", self.on)
        _check_filter("never", self.never)
        force = msgspec.structs.force_setattr
        force(self, "delay", delay)
        force(self, "max_delay", max_delay)
        # An int's power does not overflow, it takes for ever.
        force(self, "backoff", float(self.backoff))
        force(self, "jitter", float(self.jitter))

    def wants(self, error: BaseException, attempt: int) -> bool:
        """Whether to run again after attempt number `attempt` (from 1) has raised `error`.

        A filter function that itself raises counts as "no", and is logged.
        """
        if self.max_retries is not None and attempt > self.max_retries:
            return False
        try:
            return _matches(self.on, error) and not _matches(self.never, error)
        except BaseException:  # users' code may raise SystemExit, which would end the worker
            log.exception("retry filter failed for %r: not retried", error)
            return False

    def wait(self, attempt: int, random: Callable[[], float] = _random.random) -> float:
        """Seconds until the next attempt, after attempt number `attempt` (from 1); `random` gives 0..1."""
        delay, longest = float(self.delay), float(self.max_delay)  # type: ignore[arg-type]
        try:
            longest = min(longest, delay * self.backoff ** (attempt - 1))
        except OverflowError:
            longest = longest if delay else 0.0
        return longest * (1.0 - self.jitter * random())

    def spec(self) -> RetrySpec:
        """What of it travels with a message: the numbers; `on` and `never` are code."""
        return RetrySpec(
            max_retries=_FOREVER if self.max_retries is None else self.max_retries,
            delay=float(self.delay),  # type: ignore[arg-type]
            backoff=self.backoff,
            max_delay=float(self.max_delay),  # type: ignore[arg-type]
            jitter=self.jitter,
        )

    @classmethod
    def from_spec(cls, spec: RetrySpec, filters: RetryPolicy | None = None) -> RetryPolicy:
        """The policy that a message asks for, with `on` and `never` of `filters` (the task's own policy)."""
        return cls(
            None if spec.max_retries == _FOREVER else spec.max_retries,
            spec.delay,
            spec.backoff,
            max(spec.delay, spec.max_delay),  # an error about somebody else's message would come too late
            spec.jitter,
            filters.on if filters else (Exception,),
            filters.never if filters else (),
        )

    @property
    def has_filters(self) -> bool:
        """Whether `on` or `never` differ from the default; such a policy cannot travel whole."""
        return self.on not in (Exception, (Exception,)) or self.never != ()


def _is(kind: type, value: Any) -> bool:
    wanted = (int, float) if kind is float else kind
    return isinstance(value, wanted) and not isinstance(value, bool)


def _is_error_class(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def _check_filter(what: str, value: Any) -> None:
    if isinstance(value, tuple):
        for item in value:
            _check_filter(what, item)
    elif not _is_error_class(value) and (isinstance(value, type) or not callable(value)):
        raise ConfigurationError(
            f"{what} must be exception classes, a tuple of them, or a function of the error, not {value!r}"
        )


def _matches(wanted: Any, error: BaseException) -> bool:
    if isinstance(wanted, tuple):
        return any(_matches(item, error) for item in wanted)
    return isinstance(error, wanted) if _is_error_class(wanted) else bool(wanted(error))
