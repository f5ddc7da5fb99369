"""What is fuzzed: every path in Python that reads bytes which somebody else may have written into Redis.

A target takes bytes and raises only if the contract is broken: what is documented is caught here, and
whatever was read must then also be usable: shown, logged, encoded, run. `SEEDS` are real ones.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import logging
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypedDict
from uuid import UUID

import msgspec

from penstock.cli import dead, output, queues, tasks, workers
from penstock.cli.logs import JsonFormatter, TextFormatter
from penstock.cli.printable import printable
from penstock.consumers import heartbeat
from penstock.consumers.attempt import Attempt
from penstock.consumers.intake import _decode as first_look
from penstock.consumers.invoke import Limits
from penstock.consumers.outcome import Unknown, decide
from penstock.consumers.telling import event_of
from penstock.errors import BrokerError, ConfigurationError, InvalidArguments, ResultError, WrongKeyType
from penstock.settings import PRIORITIES
from penstock.streams import consume, control, inspect, produce, settle
from penstock.streams.message import (
    UNDECODABLE,
    Failure,
    Message,
    RetrySpec,
    decode_failure,
    decode_message,
    encode_failure,
    encode_message,
)
from penstock.streams.record import Record, moment
from penstock.streams.redact import safe_url
from penstock.streams.settle import Settled
from penstock.streams.urls import Address, parse
from penstock.tasks.codec import Codec, UntypedCodec
from penstock.tasks.context import Context
from penstock.tasks.deadletters import _assemble as assemble
from penstock.tasks.deadletters import _unreadable as unreadable
from penstock.tasks.handle import Handle
from penstock.tasks.options import TaskOptions
from penstock.tasks.retry import RetryPolicy
from tests.fuzz.feed import Feed

try:
    import pydantic
except ImportError:  # a Python for which it has no wheel
    pydantic = None  # type: ignore[assignment]

Target = Callable[[bytes], None]
BASE, QUEUE, NOW = "{penstock:mail}", "mail", 1_700_000_000_000
log = logging.getLogger("penstock.fuzz")


# Messages


def message(data: bytes) -> None:
    """An entry's field ``m``: decoded, looked at, run into its end, as a worker does."""
    with contextlib.suppress(*UNDECODABLE):
        decode_message(data)
    delivery = consume.delivery(BASE, QUEUE, NOW, (b"default", b"1-1", b"key", data, 0, 1, 0))
    found, error = first_look(delivery)
    if found is None:
        shown(str(error))
        return
    attempt = Attempt(delivery, found, _TASK, "async")
    use(attempt, found)


def use(attempt: Attempt, found: Message) -> None:
    """All that a worker makes of a message beside running its code."""
    assert encode_message(found)
    limits, policy = Limits(attempt), attempt.policy()
    assert limits.timeout is None or 0 < limits.timeout < 1e10
    assert 0 <= attempt.result_ttl(60.0) < 1e10
    d = attempt.delivery
    about = {"id": d.id, "name": found.name, "queue": d.queue, "priority": d.priority, "worker": "w"}
    context = Context(**about, attempt=d.retries + 1, deliveries=d.deliveries, meta=found.meta or {})
    outcome = decide(ValueError(found.name), policy, context.attempt, lambda: 0.5)
    settle.park(BASE, "w", 60.0, 60.0, [(d, attempt.name, getattr(outcome, "delay", 0.0), "retried", found.name)])
    event_of(attempt, outcome, Settled.DONE)
    event_of(attempt, Unknown(found.name), Settled.DONE)
    logged("no task %s: %r %s", found.name, found.meta, context)


def failure(data: bytes) -> None:
    """What is stored of a failed task."""
    with contextlib.suppress(*UNDECODABLE):
        assert encode_failure(decode_failure(data))


# Arguments and results


class Colour(Enum):
    """One of a few values."""

    RED = "red"
    BLUE = "blue"


class Point(msgspec.Struct, tag=True):
    """One side of a union."""

    x: int
    y: float = 0.0


class Line(msgspec.Struct, tag=True):
    """The other, which nests."""

    points: list[Point]
    next: Line | None = None


@dataclasses.dataclass
class Order:
    """A dataclass with the types that people use."""

    id: UUID
    lines: dict[str, Decimal]
    when: datetime
    on: date | None = None
    wait: timedelta = timedelta()


class Options(TypedDict, total=False):
    """A TypedDict."""

    copy: bool
    tags: set[str]


class Safe(str):
    """A subclass, which goes through the built-in hook."""


class Chosen(int):
    """One that refuses most values, by whatever it likes."""

    def __new__(cls, value: int) -> Chosen:
        if value > 9:
            raise LookupError(value)
        return super().__new__(cls, value)


def _plain(a: int, b: str = "", *, c: bool = False) -> int:
    raise AssertionError


def _anything(value: Any, *args: Any, **kwargs: Any) -> Any:
    raise AssertionError


def _rich(order: Order, shape: Point | Line, options: Options | None = None) -> Order:
    raise AssertionError


def _narrow(colour: Colour, word: Literal["a", 1], pair: tuple[int, ...], safe: Safe, chosen: Chosen) -> Colour:
    raise AssertionError


def _nested(tree: dict[str, list[dict[int, tuple[bytes, float | None]]]], path: Path, /) -> list[Path]:
    raise AssertionError


def _raw(raw: msgspec.Raw, data: bytes, numbers: frozenset[float]) -> bytes:
    raise AssertionError


SIGNATURES: list[Callable[..., Any]] = [_plain, _anything, _rich, _narrow, _nested, _raw]
if pydantic is not None:

    class Model(pydantic.BaseModel):
        """A model, which goes through the built-in hook."""

        name: str
        size: int = pydantic.Field(default=0, alias="Size")
        inner: Model | None = None

    def _model(model: Model, more: list[Model] | None = None) -> Model:
        raise AssertionError

    SIGNATURES.append(_model)


def arguments(data: bytes) -> None:
    """A message's arguments, by each of some signatures."""
    for codec in _CODECS:
        try:
            args, kwargs = codec.decode_args(data)
        except InvalidArguments as error:
            shown(str(error))
            continue
        codec.binder.bind(*args, **kwargs)  # they fit, or they would have been refused


def result(data: bytes) -> None:
    """A stored result, by each of some annotations and without one."""
    for decode in [*(codec.decode_result for codec in _CODECS), UntypedCodec("?").decode_result]:
        with contextlib.suppress(msgspec.DecodeError):
            decode(data)


# Records


def record(data: bytes) -> None:
    """A record, and what is stored beside it: read by a handle, by ``info``, as a dead letter."""
    feed = Feed(data)
    fields = {feed.pick(_FIELDS): feed.chunk() for _ in feed.count(16)}
    stored = feed.pick((None, feed.chunk(), feed.rest()))
    found = Record("mail:key", fields, stored)
    handle: Any = Handle("mail:key", None, UntypedCodec("?").decode_result, "allow", None)  # type: ignore[arg-type]
    with contextlib.suppress(BrokerError, ResultError, msgspec.DecodeError):
        handle._value(found)
    with contextlib.suppress(BrokerError):
        info = found.info()
        printed(tasks._fields(info))
        printed_json(info)
    try:
        letter = assemble(found, stored or b"", datetime.now(UTC))
    except WrongKeyType as error:
        letter = unreadable(found.id, datetime.now(UTC), error)
    printed_table([dead._row(letter)])
    printed(dead._fields(letter))
    printed_json(dead._as_json(letter))
    shown(letter.traceback)


_FIELDS = [*(name.encode() for name in "snptubfewadxcgvylzj"), b"", b"\xff"]


# Replies: their shape is the script's, the bytes in them may be anybody's.


def replies(data: bytes) -> None:
    """The replies of the scripts that workers and producers run."""
    feed = Feed(data)
    feed.pick(_REPLIES)(feed)


def _deliveries(feed: Feed) -> None:
    flat: list[bytes | int] = []
    for _ in feed.count(3):
        entry = b"%d-%d" % (feed.number() & (2**64 - 1), feed.number() & (2**64 - 1))
        flat += [
            feed.pick(PRIORITIES).encode(),
            entry,
            feed.chunk(),
            feed.chunk(),
            feed.number(),
            feed.number(),
            feed.number(),
        ]
    head = [NOW, len(flat) // 7, flat, feed.chunk()]
    batch = consume.fetch(BASE, QUEUE, "w", 1, [], 1.0).read(head)
    consume.admit(BASE, QUEUE, "w", [], 1.0).read(head)
    consume.arrived({BASE: QUEUE}, "w", 0, 1.0, 1.0).read(feed.pick(([], [*head, BASE.encode()])))
    sweep = consume.Sweep("high", 1.0, "0-0", 1, 1)
    consume.reclaim(BASE, QUEUE, "w", sweep, 1.0).read([*head, b"0-0", feed.number()])
    for delivery in batch.deliveries:
        logged("%s %r %s", delivery.id, delivery, delivery.ready_at)
        found, error = first_look(delivery)
        attempt = Attempt(delivery, found, _TASK if found else None, "async")
        if found is not None:
            use(attempt, found)
        settle.bury(BASE, "w", 1.0, (1.0, 1), [(delivery, attempt.name, encode_failure(Failure("x", str(error))))])


def _promoted(feed: Feed) -> None:
    consume.promote(BASE, 1).read(
        [feed.number(), feed.number(), feed.pick((b"", b"!" + feed.chunk())), [feed.number() for _ in feed.count(3)]]
    )
    consume.next_due(BASE).read(feed.pick(([], [feed.chunk(), feed.score()], [(feed.chunk(), float(feed.score()))])))


def _answers(feed: Feed) -> None:
    answers: list[Any] = [feed.pick((0, 1, 2, 3, 4, b"!" + feed.chunk())) for _ in feed.count(3)]
    settle.park(BASE, "w", 1.0, 1.0, []).read(answers)
    settle.bury(BASE, "w", 1.0, (1.0, 1), []).read(answers)
    found: list[Any] = [feed.pick((1, 0, -1, feed.chunk(), b"!" + feed.chunk())) for _ in feed.count(3)]
    produce.enqueue(BASE, ()).read(found)
    produce.cancel(BASE, (), 1.0).read([each for each in found if isinstance(each, bytes)])
    produce.redrive(BASE).read([feed.number(), [feed.chunk() for _ in feed.count(3)]])


def _names(feed: Feed) -> None:
    names = [feed.chunk() for _ in feed.count(4)]
    for name in produce.queue_names("penstock").read(list(names)):
        inspect.queue_stats(BASE, name)
        shown(name)
    consume.heartbeat("penstock", "w", b"", 1.0, ()).read(names)
    flat = [each for name in names for each in (name, feed.score())]
    for letter in produce.dead_letters(BASE, 9).read(flat):
        printed([("id", letter.key), ("died", letter.died_at)])
    died = inspect.died_at(BASE, "x").read(feed.score())
    assert died is not None
    printed([("died", moment(died * 1000))])


def _told(feed: Feed) -> None:
    told = control.told(BASE, feed.rest())
    logged("%s", told)


_REPLIES: Sequence[Callable[[Feed], None]] = [_deliveries, _promoted, _answers, _names, _told]


# What the command line looks at


def looked_at(data: bytes) -> None:
    """Queues, workers and stuck entries, as ``penstock queues``, ``workers`` and ``doctor`` show them."""
    feed = Feed(data)

    def counted() -> tuple[str, int]:
        return feed.chunk().decode(errors="replace"), feed.number() % len(names)

    # The script lets numbers through that are whole, and names that are text.
    names = ["", *(feed.chunk().decode(errors="replace") for _ in feed.count(3))]
    counters = [(*counted(), feed.number()) for _ in feed.count(4)]
    found = [(*counted(), [feed.number() for _ in feed.count(25)]) for _ in feed.count(4)]
    numbers = [feed.number() % 10**15 for _ in range(5 + 8 * len(PRIORITIES))]
    stats = inspect.queue_stats(BASE, QUEUE).read(msgspec.msgpack.encode((numbers, counters, found, names)))
    printed_table([queues._row(stats, ("succeeded", *stats.counters))])
    printed_table([[*stats.counters, "x"]], [*stats.counters, "x"])
    printed_json(queues._as_json(stats))
    stuck = inspect.stuck(BASE, 1.0).read([b"low", feed.number(), feed.number(), feed.chunk()])
    logged("%s", stuck)
    for heard in inspect.workers("penstock").read([NOW, feed.chunk(), feed.score(), feed.rest()]):
        info = heartbeat.read_about(heard.about)
        printed_table([workers._row(heard, info)])
        printed_json(workers._as_json(heard, info))
        assert info is None or 0 <= info.lease < 1e10


# URLs


def url(data: bytes) -> None:
    """A URL: refused by `ConfigurationError` alone, and no secret of it is ever shown."""
    feed = Feed(data)
    secret = "s3cr3t" + "".join(chr(33 + each % 90) for each in feed.chunk())
    text = feed.rest().decode(errors="replace").replace("SECRET", secret)
    address = Address(text)
    said = [safe_url(text), repr(address), str(address)]
    try:
        said.append(repr(parse(address)))
    except ConfigurationError as error:
        said.append(str(error))
    # Where no secret belongs one is not looked for: as a scheme, a host, a path, a user's name, a folder.
    places = (f":{secret}@", f"password={secret}")
    if any(place in text for place in places) and text.count(secret) == 1 and not text.startswith("embedded://"):
        for each in said:
            assert "s3cr3t" not in each, each


# Output


def text(data: bytes) -> None:
    """Anybody's text on a terminal and in a log."""
    said = data.decode(errors="surrogateescape")
    printed([(said[:9], said), ("list", [said, said])])
    printed_table([[said, said[::-1]]])
    printed_json({said: [said]})
    shown(said)
    logged("%s [red]%s[/red]", said, said)


def shown(text: str) -> None:
    """It can be written to a terminal, and does nothing there but appear."""
    _harmless(printable(text))


def printed(fields: Sequence[tuple[str, object]]) -> None:
    _harmless(_caught(lambda: output.print_fields(fields)))


def printed_table(rows: Sequence[Sequence[object]], columns: Sequence[str] = ()) -> None:
    columns = columns or [f"c{i}" for i in range(len(rows[0]))]
    _harmless(_caught(lambda: output.print_table(columns, rows, "none")))


def printed_json(value: object) -> None:
    written = _caught(lambda: output.print_json(value))
    _harmless(written)
    msgspec.json.decode(written)


def logged(text: str, *args: object) -> None:
    """One line of both log formats."""
    line = log.makeRecord(log.name, logging.ERROR, "x.py", 1, text, args, None)
    _harmless(TextFormatter(colour=False).format(line))
    written = JsonFormatter().format(line)
    _harmless(written)
    assert "\n" not in written
    msgspec.json.decode(written)


def _caught(act: Callable[[], None]) -> str:
    """What it writes to standard output, as UTF-8."""
    _written.seek(0)
    _written.truncate()
    with contextlib.redirect_stdout(_stdout):
        act()
    return _written.getvalue().decode()


# One for all calls: click keeps each stream that it has ever written to.
_written = io.BytesIO()
_stdout = io.TextIOWrapper(_written, "utf-8", write_through=True)


def _harmless(text: str) -> None:
    text.encode()
    bad = [c for c in text if unicodedata.category(c) == "Cc" and c not in "\n\t"]
    bad += [c for c in text if unicodedata.bidirectional(c) in _TURNING]
    assert not bad, bad


_TURNING = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}


# Seeds


def _feed(*parts: bytes | int) -> bytes:
    return b"".join(bytes([p]) if isinstance(p, int) else bytes([len(p)]) + p for p in parts)


_encode = msgspec.msgpack.encode
_MESSAGE = encode_message(
    Message("shop.mail", msgspec.Raw(_encode({"a": 1})), 1, 5.0, 60.0, RetryPolicy(max_retries=3).spec(), {"k": [1]})
)
_RECORD = b"".join(
    bytes([_FIELDS.index(name)]) + _feed(value)
    for name, value in [(b"s", b"f"), (b"n", b"shop.mail"), (b"b", b"1700000000000"), (b"a", b"2"), (b"e", b"17-1")]
)
_ABOUT = heartbeat.WorkerInfo("w", "host", 7, 1.7e9, ("mail",), 1, 2, 15.0)
_CALLS: Sequence[Mapping[str, Any]] = [
    {"a": 1, "b": "x", "c": True},
    {"value": [None, {"x": datetime(2026, 1, 2, tzinfo=UTC)}], "args": [1], "kwargs": {"k": 1.5}},
    {"*": [1, "x"]},
    {"order": {"id": UUID(int=1), "lines": {"a": Decimal("1.5")}, "when": datetime(2026, 1, 2)},
     "shape": {"type": "Line", "points": [{"type": "Point", "x": 1}]}, "options": {"copy": True, "tags": ["a"]}},
    {"colour": "red", "word": "a", "pair": [1, 2], "safe": "x", "chosen": 3},
    {"tree": {"a": [{1: [b"x", 1.5]}]}, "path": "/a"},
    {"raw": 1, "data": b"x", "numbers": [1.0, float("nan")]},
    {"model": {"name": "x", "Size": 3, "inner": {"name": "y"}}, "more": []},
]  # fmt: skip

#: By name: the target, and inputs as they really are.
TARGETS: dict[str, tuple[Target, Sequence[bytes]]] = {
    "message": (message, [_MESSAGE, encode_message(Message("x")), encode_message(Message("x", retry=RetrySpec(-1)))]),
    "failure": (failure, [encode_failure(Failure("ValueError", "no", "Traceback", "error"))]),
    "arguments": (arguments, [_encode(call) for call in _CALLS]),
    "result": (result, [_encode(call) for call in _CALLS] + [_encode(each) for each in (None, 1, "red", [b"x"])]),
    "record": (record, [bytes([5]) + _RECORD + _feed(2, encode_failure(Failure("ValueError", "no")))]),
    "replies": (
        replies,
        [bytes([0, 1, 1]) + _feed(130, b"\x01" * 7, 130, b"\x02" * 7, b"key", _MESSAGE)]
        + [bytes([kind]) + _feed(2, b"mail", b"shop", b"\xff", b"cancel key") for kind in range(1, 5)],
    ),
    "looked_at": (
        looked_at,
        [
            _feed(1, b"shop.mail", 1, b"succeeded", 1, 40, 2, 1, b"r", 1, 2, 1, 1)  # a name, a count, a measure
            + bytes(5 + 8 * len(PRIORITIES) + 5)  # the queue's numbers, a stuck entry, a worker's name and heartbeat
            + _encode(_ABOUT)
        ],
    ),
    "url": (
        url,
        [
            _feed(b"x") + each
            for each in (
                b"redis://user:SECRET@localhost:6379/0",
                b"rediss://:SECRET@[::1]/1?ssl_cert_reqs=none",
                b"redis+sentinel://:SECRET@a:1,b:2/primary/0?sentinel_password=x",
                b"redis+cluster://a:1,b:2?ssl=true&password=SECRET",
                b"unix:///run/redis.sock?db=0&password=SECRET",
                b"embedded://./data",
                b"localhost:6379",
            )
        ],
    ),
    "text": (text, [b"plain", "ünï\u202ecode\x1b[31m".encode(), b"[red]x[/red]\r\n\x07\x9b1m\xff"]),
}


class _Task:
    """As much of a task as an attempt asks of it."""

    name = "shop.mail"
    config = TaskOptions(retry=RetryPolicy(max_retries=2), timeout=30, soft_timeout=20, result_ttl=5)


_TASK: Any = _Task()
_CODECS = [Codec(function) for function in SIGNATURES]
