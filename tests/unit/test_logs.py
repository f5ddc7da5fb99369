"""Each line says which task wrote it, and no line is lost, whatever is in it."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from penstock.cli import logs
from penstock.errors import ConfigurationError

log = logging.getLogger("tests.logs")


@dataclass(frozen=True)
class Running:
    """What `current_or_none` gives inside a task, as far as logs look at it."""

    id: str = "mail:receipt-42"
    name: str = "shop.send_receipt"
    attempt: int = 2
    worker: str = "host-7-abc"


_running: contextvars.ContextVar[Running | None] = contextvars.ContextVar("_running", default=None)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logs, "current_or_none", _running.get)
    monkeypatch.delenv("NO_COLOR", raising=False)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    token = _running.set(None)
    yield
    _running.reset(token)
    logging.captureWarnings(False)
    root.handlers[:] = handlers
    root.setLevel(level)


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().split("\n") if line]


def one(stream: io.StringIO) -> dict[str, Any]:
    (line,) = written(stream)
    return line


@pytest.fixture
def stream() -> io.StringIO:
    stream = io.StringIO()
    logs.configure("debug", "json", stream)
    return stream


def test_json_has_time_level_logger_and_message(stream: io.StringIO) -> None:
    before = datetime.now(UTC)
    log.info("sent %d of %s", 3, "four")
    line = one(stream)
    assert list(line) == ["ts", "level", "logger", "message"]
    assert line["ts"].endswith("Z") and len(line["ts"]) == len("2026-01-01T00:00:00.000Z")
    assert abs((datetime.fromisoformat(line["ts"]) - before).total_seconds()) < 5
    assert (line["level"], line["logger"], line["message"]) == ("info", "tests.logs", "sent 3 of four")


def test_a_tasks_line_carries_id_name_attempt_and_worker(stream: io.StringIO) -> None:
    _running.set(Running())
    logging.getLogger("some.library").warning("hello")
    line = one(stream)
    assert line["task_id"] == "mail:receipt-42"
    assert line["task_name"] == "shop.send_receipt"
    assert line["attempt"] == 2
    assert line["worker"] == "host-7-abc"


def test_each_thread_writes_under_its_own_task(stream: io.StringIO) -> None:
    barrier = threading.Barrier(3)

    def task(number: int) -> None:
        _running.set(Running(id=f"q:{number}"))
        barrier.wait(10)
        log.info("%d", number)

    threads = [threading.Thread(target=task, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    log.info("outside")
    assert {line["message"]: line.get("task_id") for line in written(stream)} == {
        "0": "q:0", "1": "q:1", "2": "q:2", "outside": None,
    }  # fmt: skip


def test_extra_is_written_and_wins_over_the_context(stream: io.StringIO) -> None:
    _running.set(Running())
    log.info("settled", extra={"task_id": "q:other", "delay": 1.5, "tags": ["a", "b"], "level": 9})
    line = one(stream)
    assert line["task_id"] == "q:other"
    assert (line["delay"], line["tags"]) == (1.5, ["a", "b"])
    assert (line["level"], line["extra_level"]) == ("info", 9)


def test_an_exception_is_one_line_of_json(stream: io.StringIO) -> None:
    try:
        raise ValueError("no\nsuch thing")
    except ValueError:
        log.exception("failed", stack_info=True)
    line = one(stream)
    assert line["level"] == "error"
    assert line["exc_info"].startswith("Traceback") and line["exc_info"].endswith("ValueError: no\nsuch thing")
    assert line["stack_info"].startswith("Stack")


class NoRepr:
    def __repr__(self) -> str:
        raise RuntimeError("not even that")


_circular: list[Any] = []
_circular.append(_circular)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (object, repr(object)),
        (NoRepr(), "<NoRepr without a repr>"),
        ({"nested": NoRepr()}, {"nested": "<NoRepr without a repr>"}),
        ("half a \udc80 character", "half a \\udc80 character"),
        ({(1, 2): 3}, {"(1, 2)": 3}),
        (_circular, "[[...]]"),
        (b"\xff", "/w=="),
        (2**70, 2**70),
        (float("nan"), None),
        ({1}, [1]),
    ],
    ids=["class", "no-repr", "nested", "surrogate", "tuple-key", "circular", "bytes", "big", "nan", "set"],
)
def test_odd_extras_do_not_cost_the_line(stream: io.StringIO, value: object, expected: object) -> None:
    log.info("odd", extra={"value": value, "plain": 1})
    line = one(stream)
    assert (line["message"], line["plain"], line["value"]) == ("odd", 1, expected)


def test_arguments_that_do_not_fit_do_not_cost_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    handler = logs.configure("info", "json", stream)
    # Handed to the handler itself: pytest's own handlers raise on such a record.
    handler.handle(logging.makeLogRecord({"msg": "%d tasks", "args": ("many",), "name": "x"}))
    assert one(stream)["message"] == "%d tasks ('many',)"
    assert capsys.readouterr().err == ""


def test_warnings_are_captured(stream: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)  # catch_warnings has put back what it found: capture anew
        logging.captureWarnings(True)
        warnings.warn("old spelling", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(False)
    line = one(stream)
    assert (line["logger"], line["level"]) == ("py.warnings", "warning")
    assert "DeprecationWarning: old spelling" in line["message"]


def test_the_level_holds() -> None:
    stream = io.StringIO()
    logs.configure("WARNING", "json", stream)
    log.info("no")
    log.warning("yes")
    assert one(stream)["message"] == "yes"


def test_configuring_again_replaces() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure("info", "json", first)
    logs.configure("info", "json", second)
    log.info("once")
    assert first.getvalue() == ""
    assert one(second)["message"] == "once"


def test_the_default_stream_is_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure()
    log.info("here")
    out, err = capsys.readouterr()
    assert out == "" and err.endswith("INFO     tests.logs here\n")


def test_text_has_the_task_at_its_end() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    log.info("outside", extra={"count": 3})
    _running.set(Running())
    log.warning("inside")
    outside, inside = stream.getvalue().splitlines()
    clock, _, rest = outside.partition(" ")
    datetime.strptime(clock, "%H:%M:%S.%f").replace(tzinfo=UTC)
    assert rest == "INFO     tests.logs outside count=3"
    assert inside.endswith(" WARNING  tests.logs inside [shop.send_receipt mail:receipt-42 attempt 2 host-7-abc]")


def test_text_has_the_traceback_below() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("tests.logs failed")
    assert rest[0].startswith("Traceback") and rest[-1] == "ValueError: no"


def test_colours_are_for_terminals_only(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    logs.configure("info", "text", terminal)
    log.error("red")
    assert "\033[31mERROR   \033[0m" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    for stream in (Terminal(), io.StringIO()):
        logs.configure("info", "text", stream)
        log.error("plain")
        assert "\033" not in stream.getvalue() and "plain" in stream.getvalue()


@pytest.mark.parametrize(("level", "hint"), [("warn", "did you mean 'warning'"), ("loud", "debug, info")])
def test_an_unknown_level_is_an_error(level: str, hint: str) -> None:
    with pytest.raises(ConfigurationError, match=hint):
        logs.configure(level)


def test_an_unknown_format_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="text or json"):
        logs.configure("info", "yaml")  # type: ignore[arg-type]
