"""What a decorator says of a task, and what one call says of itself.

Both are frozen and validated when made; every error is a `ConfigurationError` that names the
option. Durations may be given as seconds or timedelta and are kept as seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, ClassVar, Literal, Self, TypeAlias, TypedDict, get_args

import msgspec

from penstock.errors import ConfigurationError
from penstock.settings import Durability, Priority, check_name, check_priority, did_you_mean, seconds
from penstock.tasks.retry import RetryPolicy

RunIn = Literal["async", "thread", "process"]
Seconds: TypeAlias = float | timedelta

_DURABILITIES = get_args(Durability)
_RUNS = ("async", "thread", "process")
_LONGEST_ID = 200
_unset: Any = msgspec.UNSET


class TaskOptionsDict(TypedDict, total=False):
    """Keywords of ``App.task`` (beside ``name`` and ``bind``); see `TaskOptions`."""

    queue: str
    priority: Priority
    run: RunIn | None
    retry: RetryPolicy | None
    timeout: Seconds | None
    soft_timeout: Seconds | None
    expires: Seconds | None
    result_ttl: Seconds | None
    max_deliveries: int | None


class CallOptionsDict(TypedDict, total=False):
    """Keywords of ``Task.options`` and ``Task.apply_async``; see `CallOptions`."""

    id: str | None
    queue: str | None
    priority: Priority | None
    delay: Seconds | None
    eta: datetime | None
    countdown: Seconds | None
    expires: Seconds | datetime | None
    timeout: Seconds | None
    retry: RetryPolicy | None
    result_ttl: Seconds | None
    meta: Mapping[str, Any] | None
    durability: Durability | None


class _Options(msgspec.Struct, frozen=True, kw_only=True):
    @classmethod
    def from_keywords(cls, keywords: Mapping[str, Any]) -> Self:
        """Options from a decorator's or a call's keywords; ConfigurationError for an unknown one."""
        for name in keywords:
            if name not in cls.__struct_fields__ or name == "given":
                raise ConfigurationError(f"no such option: {name!r}{did_you_mean(name, cls._names())}")
        return cls(**keywords)

    @classmethod
    def _names(cls) -> list[str]:
        return [name for name in cls.__struct_fields__ if name != "given"]

    def _apply(self, checks: Mapping[str, Callable[[str, Any], Any]]) -> None:
        for name, check in checks.items():
            value = getattr(self, name)
            if value is not None:
                msgspec.structs.force_setattr(self, name, check(name, value))


class TaskOptions(_Options, frozen=True, kw_only=True):
    """What a decorator says, or ``App(defaults=...)`` of all tasks.

    Options that are left out come from the app's defaults (see `over`); one that is given counts,
    None too.
    """

    #: Queue that calls go to.
    queue: str = _unset
    #: ``"high"``, ``"default"`` or ``"low"``.
    priority: Priority = _unset
    #: Where it runs; None: ``async def`` on the loop, ``def`` in a thread.
    run: RunIn | None = _unset
    #: None: an exception is final.
    retry: RetryPolicy | None = _unset
    #: Seconds until an attempt is stopped; None or 0: no limit.
    timeout: float | None = _unset
    #: Seconds until `SoftTimeout` is raised in it; less than `timeout`. None or 0: never.
    soft_timeout: float | None = _unset
    #: Seconds after sending within which it must start; None or 0: for ever.
    expires: float | None = _unset
    #: Seconds that a result is kept; 0: none is stored. None: the setting ``result_ttl``.
    result_ttl: float | None = _unset
    #: Deliveries that may end in a worker's crash. None: the setting ``max_deliveries``.
    max_deliveries: int | None = _unset
    #: The first parameter is the `Context`.
    bind: bool = _unset
    #: Names of the options that were given. Filled in; not an option.
    given: frozenset[str] = frozenset()

    _unless_given: ClassVar[dict[str, Any]] = {"queue": "default", "priority": "default", "bind": False}

    def __post_init__(self) -> None:
        force = msgspec.structs.force_setattr
        given = [name for name in self._names() if getattr(self, name) is not msgspec.UNSET]
        for name in self._names():
            if name not in given:
                force(self, name, self._unless_given.get(name))
        force(self, "given", frozenset(given))
        check_name("queue", self.queue)
        check_priority(self.priority)
        self._apply(_TASK_CHECKS)
        _check_soft_timeout(self.timeout, self.soft_timeout)

    def over(self, defaults: TaskOptions) -> TaskOptions:
        """These options, and those of `defaults` where nothing is given here. `bind` is the task's own."""
        values = {name: getattr(defaults, name) for name in defaults.given if name != "bind"}
        values.update((name, getattr(self, name)) for name in self.given)
        return TaskOptions(**values)


class CallOptions(_Options, frozen=True, kw_only=True):
    """What one call says. None, of any option: as the task's own options say."""

    #: Sending the same id twice changes nothing. Default: a new one.
    id: str | None = None
    queue: str | None = None
    priority: Priority | None = None
    #: Seconds from now until it may start.
    delay: float | None = None
    #: When it may start: an aware datetime.
    eta: datetime | None = None
    #: Celery's word for `delay`; kept as `delay`.
    countdown: float | None = None
    #: Seconds after sending, or an aware datetime, until which it must have started; 0: no limit.
    expires: float | datetime | None = None
    #: Seconds until an attempt is stopped; 0: no limit.
    timeout: float | None = None
    #: Numbers only: `on` and `never` are code, and stay those of the task.
    retry: RetryPolicy | None = None
    #: Seconds that the result is kept; 0: none is stored.
    result_ttl: float | None = None
    #: Plain data that the task sees as ``ctx.meta``; copied.
    meta: dict[str, Any] | None = None
    #: Where it must be before its sending returns: ``"memory"``, ``"replicated"`` or ``"fsync"``. Default: the setting.
    durability: Durability | None = None

    def __post_init__(self) -> None:
        _check_one_start(name for name in _STARTS if getattr(self, name) is not None)
        self._apply(_CALL_CHECKS)
        if self.countdown is not None:
            msgspec.structs.force_setattr(self, "delay", self.countdown)
            msgspec.structs.force_setattr(self, "countdown", None)
        self._check_expires()

    def merge(self, keywords: Mapping[str, Any]) -> CallOptions:
        """These options changed by `keywords`: each replaces its predecessor (None: takes it back).

        `delay`, `eta` and `countdown` replace one another.
        """
        values = {name: value for name in self._names() if (value := getattr(self, name)) is not None}
        if any(name in keywords for name in _STARTS):
            values = {name: value for name, value in values.items() if name not in _STARTS}
        return self.from_keywords({**values, **keywords})

    def _check_expires(self) -> None:
        """Refuse a call that has expired before it may start, as far as it can be known without a clock."""
        start: Any = self.delay if self.eta is None else self.eta
        if start is None or not self.expires or isinstance(start, datetime) is not isinstance(self.expires, datetime):
            return
        if self.expires <= start:
            named = "delay" if self.eta is None else "eta"
            raise ConfigurationError(
                f"expires ({self.expires}) is not after {named} ({start}): it counts from sending, so this never starts"
            )


_STARTS = ("delay", "eta", "countdown")


def check_id(what: str, value: object) -> str:
    """`value`, if it may be a task's id: 1 to 200 printable characters without spaces, ``{`` and ``}``."""
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= _LONGEST_ID
        or not value.isprintable()
        or any(c.isspace() or c in "{}" for c in value)
    ):
        raise ConfigurationError(
            f"{what} must be 1 to {_LONGEST_ID} printable characters without spaces, '{{' or '}}', not {value!r}"
        )
    return value


def _check_one_start(given: Any) -> None:
    names = list(given)
    if len(names) > 1:
        raise ConfigurationError(f"give one of {', '.join(_STARTS)}, not {' and '.join(names)}")


def _check_soft_timeout(timeout: float | None, soft_timeout: float | None) -> None:
    if timeout is not None and soft_timeout is not None and soft_timeout >= timeout:
        raise ConfigurationError(f"soft_timeout ({soft_timeout:g} s) must be less than timeout ({timeout:g} s)")


def _limit(what: str, value: Any) -> float | None:
    return seconds(what, value) or None


def _aware(what: str, value: Any) -> datetime:
    if not isinstance(value, datetime):
        raise ConfigurationError(f"{what} must be a datetime with a time zone, not {value!r}")
    if value.utcoffset() is None:
        raise ConfigurationError(f"{what} has no time zone: {value!r}; give one, as in datetime.now(timezone.utc)")
    return value


def _expires(what: str, value: Any) -> float | datetime:
    return _aware(what, value) if isinstance(value, datetime) else seconds(what, value)


def _retry(what: str, value: Any) -> RetryPolicy:
    if isinstance(value, RetryPolicy):
        return value
    hint = f"; did you mean RetryPolicy(max_retries={value})?" if type(value) is int else ""
    raise ConfigurationError(f"{what} must be a RetryPolicy, not {value!r}{hint}")


def _call_retry(what: str, value: Any) -> RetryPolicy:
    if _retry(what, value).has_filters:
        raise ConfigurationError(f"{what}: `on` and `never` cannot be sent with a call: give them to the decorator")
    return value  # type: ignore[no-any-return]


def _run(what: str, value: Any) -> str:
    if value not in _RUNS:
        raise ConfigurationError(f"{what} must be one of {', '.join(_RUNS)}, not {value!r}")
    return str(value)


def _durability(what: str, value: Any) -> str:
    if value not in _DURABILITIES:
        hint = did_you_mean(str(value), _DURABILITIES)
        raise ConfigurationError(f"{what} must be one of {', '.join(_DURABILITIES)}, not {value!r}{hint}")
    return str(value)


def _count(what: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise ConfigurationError(f"{what} must be an int of at least 1, not {value!r}")
    return value


def _flag(what: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{what} must be True or False, not {value!r}")
    return value


def _plain(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ConfigurationError(f"{what} must be a dict with str keys, not {value!r}")
    try:  # the copy is as deep as the data, so that the caller's later changes do not reach it
        copy: dict[str, Any] = msgspec.msgpack.decode(msgspec.msgpack.encode(dict(value)))
    except Exception as error:
        raise ConfigurationError(f"{what} must be plain data: {error}") from error
    return copy


_TASK_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "run": _run, "retry": _retry, "timeout": _limit, "soft_timeout": _limit, "expires": _limit,
    "result_ttl": seconds, "max_deliveries": _count, "bind": _flag,
}  # fmt: skip
_CALL_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "id": check_id, "queue": check_name, "priority": lambda _, value: check_priority(value),
    "delay": seconds, "eta": _aware, "countdown": seconds, "expires": _expires, "timeout": seconds,
    "retry": _call_retry, "result_ttl": seconds, "meta": _plain,
    "durability": _durability,
}  # fmt: skip
