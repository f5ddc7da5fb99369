"""Structured logs: which task, which attempt and which worker wrote each line, as text or as JSON.

Built on the standard library's logging only, so that users' own handlers and libraries fit in.
"""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

import msgspec

from penstock.cli.printable import printable, printable_json
from penstock.errors import ConfigurationError
from penstock.settings import did_you_mean
from penstock.tasks.context import current_or_none
from penstock.tasks.middleware import log_fields

LogFormat = Literal["text", "json"]

LEVELS = ("debug", "info", "warning", "error", "critical")
#: What the filter puts on each record that a task writes, in the order of the JSON fields.
TASK_FIELDS = ("task_id", "task_name", "attempt", "worker")
#: And what a traced one has besides.
TRACE_FIELDS = ("trace_id", "span_id")

_JSON_FIELDS = frozenset({"ts", "level", "logger", "message", "exc_info", "stack_info"})
#: What every record has. ``taskName`` is asyncio's, since Python 3.12; the other two are set by formatters.
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_COLOURS = {logging.WARNING: "\033[33m", logging.ERROR: "\033[31m", logging.CRITICAL: "\033[1;31m"}
_DIM, _RESET = "\033[2m", "\033[0m"


class Handler(logging.StreamHandler[TextIO]):
    """The handler that `configure` installs; a class of its own, so that it can be found and replaced."""


class TaskFields(logging.Filter):
    """Puts the running task's id, name, attempt and worker on the record, and its trace; drops nothing.

    As a filter of the *handler* it sees the records of all loggers, and it runs in the thread and
    the contextvars context that wrote the line. A field given by ``extra=`` is left as it is.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        context = current_or_none()
        if context is not None:
            fields = record.__dict__
            fields.setdefault("task_id", context.id)
            fields.setdefault("task_name", context.name)
            fields.setdefault("attempt", context.attempt)
            fields.setdefault("worker", context.worker)
        for more in log_fields:
            for name, value in more().items():
                record.__dict__.setdefault(name, value)
        return True


class TextFormatter(logging.Formatter):
    """``HH:MM:SS.mmm LEVEL logger message key=value [name id attempt 1 worker]``, in local time."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        """The line, and below it the traceback if there is one."""
        clock = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03d}"
        level = f"{record.levelname:<8}"
        extras = "".join(f" {name}={_plain(value)}" for name, value in _extras(record).items())
        task = _task_text(record)
        if self._colour:
            clock = f"{_DIM}{clock}{_RESET}"
            task = task and f"{_DIM}{task}{_RESET}"
            tint = _COLOURS.get(record.levelno)
            level = f"{tint}{level}{_RESET}" if tint else level
        line = f"{clock} {level} {record.name} {_harmless(record, _message(record))}{extras}{task}"
        below = (_harmless(record, _exception(self, record)), record.stack_info)
        return "\n".join([line, *(text for text in below if text)])


class JsonFormatter(logging.Formatter):
    """One JSON object per line: ts, level, logger, message, the task's fields, ``extra=``, exc_info."""

    def format(self, record: logging.LogRecord) -> str:
        """The object as text, without a line break in it."""
        written = datetime.fromtimestamp(record.created, UTC)
        fields: dict[str, Any] = {
            "ts": written.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        for name in (*TASK_FIELDS, *TRACE_FIELDS):
            if name in record.__dict__:
                fields[name] = record.__dict__[name]
        for name, value in _extras(record).items():
            fields[f"extra_{name}" if name in _JSON_FIELDS else name] = value
        if exception := _exception(self, record):
            fields["exc_info"] = exception
        if record.stack_info:
            fields["stack_info"] = record.stack_info
        return _to_json(fields)


def configure(level: str = "info", format: LogFormat = "text", stream: TextIO | None = None) -> Handler:
    """Send the logs of the whole process, and Python's warnings, to one stream. May be called again.

    Args:
        level: ``debug``, ``info`` (the default), ``warning``, ``error`` or ``critical``, in any case.
        format: ``text`` (the default; coloured on a terminal, unless NO_COLOR is set) or ``json``.
        stream: where to; default: standard error.

    Returns the handler. Raises `ConfigurationError` for a level or format that there is not.
    """
    name = level.lower()
    if name not in LEVELS:
        raise ConfigurationError(
            f"log level must be one of {', '.join(LEVELS)}, not {level!r}{did_you_mean(name, LEVELS)}"
        )
    if format not in ("text", "json"):
        raise ConfigurationError(f"log format must be text or json, not {format!r}")
    handler = Handler(stream)
    handler.addFilter(TaskFields())
    if format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter(colour=handler.stream.isatty() and not os.environ.get("NO_COLOR")))
    root = logging.getLogger()
    for old in [each for each in root.handlers if isinstance(each, Handler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(name.upper())
    logging.captureWarnings(True)
    return handler


def _extras(record: logging.LogRecord) -> dict[str, Any]:
    """What the caller gave as ``extra=``, without the task's fields."""
    return {
        str(name): value
        for name, value in record.__dict__.items()
        if name not in _STANDARD and name not in TASK_FIELDS and name not in TRACE_FIELDS
    }


def _message(record: logging.LogRecord) -> str:
    """The message; if its arguments do not fit, both as they are: a line with a bug is not lost."""
    try:
        return record.getMessage().rstrip("\n")
    except Exception:
        return f"{_plain(record.msg)} {_plain(record.args)}"


def _harmless(record: logging.LogRecord, text: str) -> str:
    """Our own lines tell of others' names and errors. What users' code logs, colours perhaps, is its own affair."""
    return printable(text) if record.name.partition(".")[0] == "penstock" else text


def _exception(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    if record.exc_info and record.exc_info[0] is not None:
        return formatter.formatException(record.exc_info)
    return record.exc_text or ""


def _task_text(record: logging.LogRecord) -> str:
    trace = record.__dict__.get("trace_id")
    traced = trace and f"trace {trace}"
    if "task_id" not in record.__dict__:
        return f" [{traced}]" if traced else ""
    task_id, name, attempt, worker = (record.__dict__.get(field) for field in TASK_FIELDS)
    words = [name, task_id, attempt and f"attempt {attempt}", worker, traced]
    return f" [{' '.join(str(word) for word in words if word)}]"


def _plain(value: object) -> str:
    """`value` as text, whatever it is: an object whose repr fails must not cost the line."""
    try:
        return value if isinstance(value, str) else repr(value)
    except Exception:
        return f"<{type(value).__name__} without a repr>"


_encode = msgspec.json.Encoder(enc_hook=_plain).encode


def _to_json(fields: dict[str, Any]) -> str:
    try:
        return printable_json(_encode(fields).decode())
    except (TypeError, ValueError, RecursionError):
        # A lone surrogate, or a structure that contains itself.
        return printable_json(_encode({_utf8(name): _encodable(value) for name, value in fields.items()}).decode())


def _encodable(value: object) -> object:
    try:
        _encode(value)
    except (TypeError, ValueError, RecursionError):
        return _utf8(_plain(value))
    return value


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
