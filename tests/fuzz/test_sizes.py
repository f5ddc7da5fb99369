"""Whatever is stored, sent or logged is bounded, also where users' code makes it as large and as odd as it can."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import redis

from penstock import App, ConfigurationError, InvalidTask, PayloadTooLarge, TaskFailed
from penstock.consumers.outcome import MESSAGE_MAX, TRACEBACK_MAX, describe
from penstock.streams import keys
from tests.integration.support import PATIENCE
from tests.servers import await_until

MIB = 2**20


class Rude(type):
    """A class whose names raise, and what would end a worker."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__qualname__", "__module__", "__name__"):
            raise SystemExit("no name")
        return super().__getattribute__(name)


class Nameless(Exception, metaclass=Rude):
    """Raised by tasks, too."""


class Odd(Exception):
    """Its text and its notes are no text."""

    __notes__ = 5  # type: ignore[assignment]

    def __str__(self) -> str:
        return 5  # type: ignore[return-value]

    def __repr__(self) -> str:
        raise KeyboardInterrupt


class Loud(Exception):
    """Each of its texts raises what is no Exception."""

    def __str__(self) -> str:
        raise SystemExit("no text")

    @property
    def __notes__(self) -> list[str]:  # type: ignore[override]
        raise GeneratorExit


def _named(name: str) -> type[Exception]:
    return type(name, (Exception,), {"__module__": "\x1b[2J"})


ERRORS: list[Callable[[], BaseException]] = [
    lambda: ValueError("x" * 20 * MIB),
    lambda: ValueError("\ud800" * MIB),
    lambda: _named("N" * MIB)("x"),
    lambda: _named("\x1b]0;owned\x07\n")("x"),
    lambda: Nameless("x"),
    lambda: Odd(),
    lambda: Loud(),
    lambda: ExceptionGroup("g" * MIB, [ValueError("x" * MIB), Odd()]),
    lambda: _noted("n" * MIB),
    lambda: _chain(2000),
]


def _noted(note: str) -> Exception:
    error = ValueError("x")
    for _ in range(5):
        error.add_note(note)
    return error


def _chain(length: int) -> Exception:
    error = ValueError("first")
    for _ in range(length):
        error, cause = ValueError("next"), error
        error.__cause__ = cause
    return error


def raised(make: Callable[[], BaseException]) -> BaseException:
    """With a traceback that has this function in it."""
    try:
        raise make()
    except BaseException as error:
        return error


@pytest.mark.parametrize("number", range(len(ERRORS)))
def test_an_error_is_described_within_bounds_whatever_it_is(number: int) -> None:
    failure = describe(raised(ERRORS[number]))
    for text, most in ((failure.type, MESSAGE_MAX), (failure.message, MESSAGE_MAX), (failure.traceback, TRACEBACK_MAX)):
        assert len(text.encode()) <= most + 10
    assert failure.type and failure.message is not None


def test_a_long_message_does_not_push_the_frames_out() -> None:
    failure = describe(raised(lambda: ValueError("x" * MIB)))
    assert "in raised" in failure.traceback and "xxx" in failure.traceback


@pytest.mark.anyio
@pytest.mark.parametrize("run", ["async", "thread"])
async def test_a_worker_lives_through_all_of_them(app: App, run: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "penstock")

    async def fails(n: int) -> None:
        raise ERRORS[n]()

    def fails_in_thread(n: int) -> None:
        raise ERRORS[n]()

    task: Any = app.task(name="fails")(fails if run == "async" else fails_in_thread)

    @app.task(name="fine")
    async def fine() -> int:
        return 1

    async with app.running():
        handles = await task.abulk([(n,) for n in range(len(ERRORS))])
        for handle in handles:
            with pytest.raises(TaskFailed) as caught:
                await handle.aget(PATIENCE)
            assert len(str(caught.value)) < 3 * MESSAGE_MAX + TRACEBACK_MAX
        assert await (await fine.adelay()).aget(PATIENCE) == 1
    assert max(len(record.getMessage()) for record in caplog.records) < 3 * MESSAGE_MAX + TRACEBACK_MAX


def test_what_is_sent_is_bounded(app: App) -> None:
    @app.task
    def work(value: Any = None) -> None: ...

    with pytest.raises(PayloadTooLarge, match="max_payload"):
        work.delay("x" * MIB)
    with pytest.raises(PayloadTooLarge, match="max_payload"):
        work.options(meta={"x": "x" * MIB}).delay()
    with pytest.raises(ConfigurationError, match="id"):
        work.options(id="x" * 201)
    with pytest.raises(InvalidTask, match="200"):
        app.task(name="x" * 201)(lambda: None)


@pytest.mark.anyio
async def test_the_longest_id_of_the_widest_characters_runs(app: App) -> None:
    @app.task
    async def work() -> int:
        return 1

    async with app.running():
        for character in ("x", "ü", "€", "😀"):
            assert await (await work.options(id=character * 200).adelay()).aget(PATIENCE) == 1


@pytest.mark.anyio
async def test_a_huge_entry_of_somebody_else_becomes_a_dead_letter(
    app: App, raw: redis.Redis, namespace: str, cli: Any
) -> None:
    @app.task(name="work")
    async def work(n: int) -> int:
        return n

    base = keys.base(namespace, "default")
    raw.xadd(keys.stream(base, "default"), {"k": "huge", "m": b"\xc1" * 32 * MIB})
    handle = await work.adelay(1)
    async with app.running():
        assert await handle.aget(PATIENCE) == 1
        await await_until(lambda: raw.zcard(keys.dead(base)) == 1, PATIENCE)
    assert raw.strlen(keys.parked_message(base, "huge")) == 32 * MIB
    assert len(cli("dead", "list")) < 2000 and len(cli("dead", "show", "default:huge", "--json")) < 20


@pytest.mark.anyio
async def test_many_large_tasks_at_once(app: App) -> None:
    """As many as there are slots come in one reply: slots x max_payload is the most that it can be."""

    @app.task(name="work")
    async def work(data: bytes) -> int:
        return len(data)

    size = MIB // 2
    handles = await work.abulk([(b"x" * size,) for _ in range(40)])
    async with app.running(concurrency=40):
        assert {await handle.aget(PATIENCE) for handle in handles} == {size}
