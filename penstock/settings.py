"""Every setting of penstock, its unit and its default, in one frozen struct.

A value comes from the argument, else from ``PENSTOCK_<NAME>``, else from the default here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from penstock.errors import ConfigurationError

PRIORITIES = ("high", "default", "low")
Priority = Literal["high", "default", "low"]
SyncInLoop = Literal["error", "warn", "allow"]
Durability = Literal["memory", "replicated", "fsync"]

#: Namespaces and queue names; no ``{``, ``}`` or ``:``, which have a meaning in our keys.
NAME = re.compile(r"[A-Za-z0-9_.-]+")


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All times are in seconds, all sizes in bytes. ``0`` means "none" where it says so."""

    #: Keeps applications, or staging and production, apart on one server.
    namespace: str = "penstock"
    #: How long an entry may stay unrenewed before another worker takes it. Renewed every third.
    lease: float = 15.0
    #: Deliveries that may end in a crash of their worker before the task is buried.
    max_deliveries: int = 5
    #: How long a result is kept; 0 stores none.
    result_ttl: float = 3600.0
    #: How long a finished task's record is kept at least, so that resending its id changes nothing.
    resend_window: float = 60.0
    #: How long a dead letter is kept.
    dead_ttl: float = 7 * 86400.0
    #: Dead letters kept per queue; older ones are trimmed, and counted.
    dead_max: int = 10_000
    #: Largest encoded message.
    max_payload: int = 1024 * 1024
    #: Largest encoded result; a task that returns more fails.
    max_result: int = 16 * 1024 * 1024
    #: Tasks that a queue's streams may hold before ``QueueFull``; 0: no bound.
    max_length: int = 0
    #: How long a task of unknown name, or with arguments that do not fit, is handed round.
    unknown_ttl: float = 86400.0
    #: How long a worker lets running tasks finish after SIGTERM (Kubernetes kills after 30 s).
    grace: float = 20.0
    #: Async tasks that run at the same time in one worker process.
    concurrency: int = 100
    #: Threads for plain functions; 0: as many as Python's own executor, ``min(32, cores + 4)``.
    threads: int = 0
    #: Processes for ``run="process"`` tasks, started when needed; 0: one for each core.
    processes: int = 0
    #: Share of each priority while all have work.
    weight_high: int = 6
    weight_default: int = 3
    weight_low: int = 1
    #: Always empty the higher priority first; ``low`` may then starve.
    strict: bool = False
    #: A worker does not start on a server that evicts keys, or that does not let it ask; else it warns.
    strict_server: bool = False
    #: How long connecting may take.
    connect_timeout: float = 5.0
    #: How long the server may take to answer a command.
    command_timeout: float = 5.0
    #: How long a producer goes on trying while the server is away; 0: one try.
    retry_for: float = 15.0
    #: Where a task must be before its sending returns: the server's memory, also that of `replicas`, or its disk.
    durability: Durability = "memory"
    #: Replicas that must confirm a task sent with ``durability="replicated"``.
    replicas: int = 1
    #: What ``delay`` and ``get`` do when called inside a running event loop.
    sync_in_loop: SyncInLoop = "warn"

    def __post_init__(self) -> None:
        check_name("namespace", self.namespace)
        for name in ("lease", "connect_timeout", "command_timeout"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} must be more than 0 seconds, not {getattr(self, name)!r}")
        for name in ("max_deliveries", "dead_max", "max_payload", "max_result", "concurrency", "replicas", *_WEIGHTS):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, not {getattr(self, name)!r}")
        for name, value in msgspec.structs.asdict(self).items():
            if isinstance(value, float) and not 0 <= value < 1e10:  # NaN fails this, too
                raise ConfigurationError(f"{name} must be between 0 and 1e10 seconds, not {value!r}")
            if isinstance(value, int) and value < 0:
                raise ConfigurationError(f"{name} must not be negative, not {value!r}")
        if self.lease < 0.3:
            raise ConfigurationError(
                f"lease must be at least 0.3 s: it is renewed every third of it, not {self.lease!r}"
            )

    @property
    def record_ttl(self) -> float:
        """How long the record of a task that ended without a result is kept."""
        return max(self.result_ttl, self.resend_window)

    @property
    def weights(self) -> tuple[int, int, int]:
        """Weights in the order of `PRIORITIES`."""
        return self.weight_high, self.weight_default, self.weight_low


_WEIGHTS = ("weight_high", "weight_default", "weight_low")
_TYPES = get_type_hints(Settings)
ENV_PREFIX = "PENSTOCK_"
#: Variables of the same prefix that are not settings: connection, command line, supervisor.
ENV_OTHERS = frozenset(
    {
        "URL",
        "APP",
        "QUEUES",
        "WORKERS",
        "LOG_LEVEL",
        "LOG_FORMAT",
        "MAX_TASKS",
        "MAX_RSS",
        "METRICS_PORT",
        "METRICS_HOST",
    }
)


#: What Kubernetes tells every pod of a service that is called ``penstock-...``: no setting, and not the user's doing.
_SERVICE = re.compile(
    r"PENSTOCK_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


def load_settings(given: Mapping[str, Any], env: Mapping[str, str] | None = None) -> Settings:
    """Settings from `given` (an App's keyword arguments), else `env`, else the defaults.

    Raises `ConfigurationError` for an unknown name or a value that does not convert; a
    misspelt ``PENSTOCK_*`` variable is an error too, because it would be ignored in silence.
    """
    env = os.environ if env is None else env
    values: dict[str, Any] = {}
    for variable, text in env.items():
        if not variable.startswith(ENV_PREFIX):
            continue
        name = variable.removeprefix(ENV_PREFIX).lower()
        if variable.removeprefix(ENV_PREFIX) in ENV_OTHERS or name.startswith("_") or _SERVICE.fullmatch(variable):
            continue
        if name not in _TYPES:
            raise ConfigurationError(f"{variable}: no such setting{did_you_mean(variable, _variables())}")
        values[name] = _convert(variable, text, _TYPES[name], from_text=True)
    for name, value in given.items():
        if name not in _TYPES:
            raise ConfigurationError(f"no such setting: {name!r}{did_you_mean(name, _TYPES)}")
        values[name] = _convert(name, value, _TYPES[name], from_text=False)
    return Settings(**values)


def is_name(name: object) -> bool:
    """Whether a namespace or a queue may have this name."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None and len(name) <= 100


def check_name(what: str, name: object) -> str:
    """`name`, if it may be used in a key; else a ConfigurationError that says what may."""
    if not isinstance(name, str) or not is_name(name):
        raise ConfigurationError(f"{what} must be 1 to 100 letters, digits, '_', '.' or '-', not {name!r}")
    return name


def check_priority(priority: object) -> Priority:
    """`priority`, if it is one; else a ConfigurationError that names them."""
    if priority not in PRIORITIES:
        hint = did_you_mean(str(priority), PRIORITIES)
        raise ConfigurationError(f"priority must be one of {', '.join(PRIORITIES)}, not {priority!r}{hint}")
    return priority  # type: ignore[return-value]


def seconds(what: str, value: float | timedelta) -> float:
    """A duration given as seconds or timedelta, in seconds; ConfigurationError if it makes no sense."""
    if isinstance(value, bool) or not isinstance(value, int | float | timedelta):
        raise ConfigurationError(f"{what} must be seconds or a timedelta, not {value!r}")
    number = value.total_seconds() if isinstance(value, timedelta) else float(value)
    if not 0 <= number < 1e10:
        raise ConfigurationError(f"{what} must be between 0 and 1e10 seconds, not {value!r}")
    return number


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'lease'?"``, or nothing when no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _variables() -> list[str]:
    return [ENV_PREFIX + name.upper() for name in _TYPES] + [ENV_PREFIX + name for name in ENV_OTHERS]


def _convert(name: str, value: Any, wanted: Any, *, from_text: bool) -> Any:
    if isinstance(value, timedelta) and wanted is float:
        value = value.total_seconds()
    if from_text and wanted is bool:
        value = {"1": True, "true": True, "yes": True, "on": True, "": False}.get(
            value.lower(), False if value.lower() in ("0", "false", "no", "off") else value
        )
    try:
        return msgspec.convert(value, wanted, strict=not from_text)
    except msgspec.ValidationError:
        kind = " or ".join(get_args(wanted)) or wanted.__name__
        raise ConfigurationError(f"{name} must be {kind}, not {value!r}") from None
