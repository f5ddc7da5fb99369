"""One trace from the call to the end, whatever happens on the way."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis
from opentelemetry import propagate, trace
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode

from penstock import App, Context, Reject, RetryPolicy, Snooze, TaskCancelled, TaskFailed, current
from penstock.cli import logs
from penstock.streams import keys
from penstock.streams.message import Message, decode_message, encode_message
from penstock.tasks.middleware import LONGEST_HEADER, MOST_HEADERS, End, Ending, Middleware
from tests.servers import await_until, wait_until
from tests.tracing.support import Spans, is_child, trace_of

pytestmark = pytest.mark.anyio


async def test_an_async_task(app: App, spans: Spans) -> None:
    tracer = spans.provider.get_tracer("test")

    @app.task(name="work", queue="mail")
    async def work(n: int) -> int:
        with tracer.start_as_current_span("inside"):
            return n

    with tracer.start_as_current_span("request"):
        handle = await work.options(priority="high").adelay(1)
    async with app.running():
        assert await handle == 1
    request, send, run, inside = (spans.one(name) for name in ("request", "send mail", "run work", "inside"))
    assert is_child(send, request) and is_child(run, send) and is_child(inside, run)
    assert (send.kind, run.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert run.attributes is not None and send.attributes is not None
    assert dict(run.attributes) == {
        "messaging.system": "redis",
        "messaging.destination.name": "mail",
        "messaging.operation.type": "process",
        "messaging.operation.name": "run",
        "messaging.message.id": handle.id,
        "messaging.client.id": run.attributes["messaging.client.id"],
        "penstock.task": "work",
        "penstock.attempt": 1,
        "penstock.deliveries": 1,
        "penstock.priority": "high",
        "penstock.outcome": "succeeded",
    }
    assert send.attributes["messaging.destination.name"] == "mail" and send.attributes["penstock.task"] == "work"
    assert run.status.status_code is StatusCode.UNSET


def test_a_plain_function_and_a_sync_producer(app: App, spans: Spans) -> None:
    tracer = spans.provider.get_tracer("test")

    @app.task(name="work")
    def work() -> None:
        with tracer.start_as_current_span("inside"):
            pass

    with app.running():
        work.delay().get(60)
    run = spans.one("run work")
    assert is_child(run, spans.one("send default")) and is_child(spans.one("inside"), run)


async def test_retries_until_it_succeeds(app: App, spans: Spans) -> None:
    @app.task(name="work", retry=RetryPolicy(max_retries=2, delay=0.01))
    async def work() -> int:
        if current().attempt < 3:
            raise ValueError(f"attempt {current().attempt}")
        return 1

    async with app.running():
        assert await (await work.adelay()) == 1
    runs = spans.wait("run work", 3)
    send = spans.one("send default")
    assert all(is_child(run, send) for run in runs)
    assert [run.attributes["penstock.outcome"] for run in runs if run.attributes] == ["retried", "retried", "succeeded"]
    assert [run.attributes["penstock.attempt"] for run in runs if run.attributes] == [1, 2, 3]
    assert [run.status.status_code for run in runs] == [StatusCode.ERROR, StatusCode.ERROR, StatusCode.UNSET]
    assert {event.name for event in runs[0].events} == {"retry", "exception"}
    assert runs[0].attributes is not None and runs[0].attributes["error.type"] == "builtins.ValueError"


async def test_a_dead_letter_and_its_redrive(app: App, spans: Spans) -> None:
    failing = [True]

    @app.task(name="work")
    async def work() -> None:
        if failing.pop() if failing else False:
            raise Reject("not now")

    async with app.running():
        handle = await work.adelay()
        with pytest.raises(TaskFailed):
            await handle
        assert await asyncio.to_thread(app.redrive, handle.id) == 1
        await handle
    first, second = spans.wait("run work", 2)
    assert trace_of(first) == trace_of(second) == trace_of(spans.one("send default"))
    assert first.attributes and first.attributes["penstock.outcome"] == "failed"


async def test_scheduled_and_snoozed(app: App, spans: Spans) -> None:
    @app.task(name="work")
    async def work(seen: bool = False) -> None:
        if not woken:
            woken.append(1)
            raise Snooze(0.01)

    woken: list[int] = []
    async with app.running():
        await (await work.options(delay=0.05).adelay())
    runs = spans.wait("run work", 2)
    assert {trace_of(run) for run in runs} == {trace_of(spans.one("send default"))}
    assert [run.attributes["penstock.outcome"] for run in runs if run.attributes] == ["snoozed", "succeeded"]
    assert runs[0].status.status_code is StatusCode.UNSET  # nothing is wrong


async def test_a_task_that_sends_tasks(app: App, spans: Spans) -> None:
    @app.task(name="leaf", queue="leaves")
    async def leaf() -> None: ...

    @app.task(name="root")
    async def root() -> None:
        await leaf.adelay()

    @app.task(name="thread-root")
    def thread_root() -> None:
        leaf.delay()

    async with app.running():
        await (await root.adelay())
        await (await thread_root.adelay())
        await asyncio.to_thread(spans.wait, "run leaf", 2)
    sent = spans.wait("send leaves", 2)
    for name, send in zip(("run root", "run thread-root"), sent, strict=True):
        run = spans.one(name)
        assert is_child(send, run)
        assert sum(is_child(each, send) for each in spans.named("run leaf")) == 1


async def test_a_bulk_is_one_span(app: App, spans: Spans) -> None:
    @app.task(name="work")
    async def work(n: int) -> None: ...

    with spans.provider.get_tracer("test").start_as_current_span("request"):
        handles = await work.abulk([(n,) for n in range(20)])
        handles += await asyncio.to_thread(app.bulk, [work.s(n) for n in range(5)])
    async with app.running():
        await asyncio.gather(*handles)
    first, second = spans.wait("send bulk", 2)
    assert is_child(first, spans.one("request")) and not spans.named("send default")
    assert sum(is_child(run, first) for run in spans.wait("run work", 25)) == 20
    assert sum(is_child(run, second) for run in spans.named("run work")) == 5


async def test_cancelled_and_out_of_time(app: App, spans: Spans) -> None:
    @app.task(name="work")
    async def work() -> None:
        await asyncio.sleep(60)

    async with app.running():
        handle = await work.adelay()
        await await_until(lambda: str(handle.state()) == "running")
        await handle.acancel()
        with pytest.raises(TaskCancelled):
            await handle
        with pytest.raises(TaskFailed):
            await (await work.options(timeout=0.05).adelay())
    cancelled, late = spans.wait("run work", 2)
    assert cancelled.attributes and late.attributes
    assert cancelled.attributes["penstock.outcome"] == "stopped"
    assert late.attributes["penstock.outcome"] == "failed"
    assert late.attributes["error.type"] == "penstock.errors.HardTimeout"


async def test_attempts_beside_each_other_do_not_mix(app: App, spans: Spans) -> None:
    tracer = spans.provider.get_tracer("test")
    turn = asyncio.Event()
    waiting: list[int] = []

    @app.task(name="work")
    async def work(n: int) -> str:
        waiting.append(n)
        if len(waiting) == 3:
            turn.set()
        await turn.wait()
        with tracer.start_as_current_span(f"inside {n}"):
            await asyncio.sleep(0)
            return trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)

    async with app.running():
        handles = [await work.adelay(n) for n in range(3)]
        traces = await asyncio.gather(*handles)
    assert len(set(traces)) == 3
    for n in range(3):
        (run,) = [run for run in spans.wait("run work", 3) if trace_of(run) == trace_of(spans.one(f"inside {n}"))]
        assert is_child(spans.one(f"inside {n}"), run)
    assert not trace.get_current_span().get_span_context().is_valid  # nothing is left behind here


async def test_what_is_delivered_again_keeps_its_trace(
    app: App, spans: Spans, raw: redis.Redis, namespace: str
) -> None:
    """A worker has died with it."""

    @app.task(name="work")
    async def work() -> None: ...

    handle = await work.adelay()
    stream = keys.stream(keys.base(namespace, "default"), "default")
    raw.xgroup_create(stream, keys.GROUP, "0")
    raw.xreadgroup(keys.GROUP, "dead", {stream: ">"})
    async with app.running(lease=0.5):
        await handle
    assert is_child(spans.one("run work"), spans.one("send default"))


async def test_a_worker_without_tracing(app: App, plain_app: App, spans: Spans) -> None:
    """What it does not know it passes on."""

    @plain_app.task(name="work", retry=RetryPolicy(max_retries=1, delay=0.01))
    async def work() -> int:
        if current().attempt == 1:
            raise ValueError
        return 1

    handle = await app.task_named("work").adelay()
    async with plain_app.running():
        assert await handle == 1
    assert len(spans.wait("send default")) == 1 and not spans.named("run work")


async def test_a_producer_without_tracing(app: App, plain_app: App, spans: Spans) -> None:
    @app.task(name="work")
    async def work() -> int:
        return 1

    handle = await plain_app.task_named("work").adelay()
    async with app.running():
        assert await handle == 1
    assert spans.one("run work").parent is None


@pytest.mark.parametrize(
    "headers",
    [{"traceparent": "00-zz-yy-01"}, {"traceparent": "\x00" * 300, "tracestate": "=,="}, {"x" * 4000: "y" * 4000}],
)
async def test_headers_that_are_none(
    app: App, spans: Spans, raw: redis.Redis, namespace: str, headers: dict[str, str]
) -> None:
    @app.task(name="work")
    async def work() -> int:
        return 1

    stream = keys.stream(keys.base(namespace, "default"), "default")
    raw.xadd(stream, {"k": "forged", "m": encode_message(Message("work", headers=headers))})
    async with app.running():
        await asyncio.to_thread(spans.wait, "run work")
    assert spans.one("run work").parent is None


def test_headers_are_bounded() -> None:
    long = msgspec.msgpack.encode({"n": "work", "x": {"a": "b" * 5000}})
    with pytest.raises(msgspec.ValidationError):
        decode_message(long)
    assert decode_message(encode_message(Message("work", headers={"a": "b"}))).headers == {"a": "b"}
    assert b"x" not in encode_message(Message("work")).replace(b"work", b"")


async def test_a_fault_in_tracing_fails_no_task(app: App, spans: Spans, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(SpanProcessor):
        def on_start(self, span: Any, parent_context: Any = None) -> None:
            raise RuntimeError("no disk")

        def on_end(self, span: Any) -> None:
            raise RuntimeError("no disk")

    spans.provider.add_span_processor(Broken())

    @app.task(name="work")
    async def work() -> int:
        return 1

    async with app.running():
        assert await (await work.adelay()) == 1
        assert [await handle for handle in await work.abulk([(), ()])] == [1, 1]
    assert "no disk" in caplog.text


# Middlewares of any kind


class Noting(Middleware):
    """Notes all that it is told."""

    def __init__(self, notes: list[Any], name: str = "") -> None:
        self.notes, self.name = notes, name

    @contextmanager
    def bulk(self) -> Iterator[None]:
        self.notes.append(f"{self.name}bulk")
        yield

    def sending(self, name: str, queue: str, headers: MutableMapping[str, str]) -> None:
        self.notes.append((f"{self.name}sending", name, queue))
        headers[f"{self.name}from"] = name

    def attempt(self, context: Context, headers: Mapping[str, str]) -> End:
        self.notes.append((f"{self.name}attempt", context.attempt, headers[f"{self.name}from"]))

        def end(ending: Ending, error: BaseException | None) -> None:
            self.notes.append((f"{self.name}end", ending, repr(error)))

        return end


async def test_the_order_of_middlewares(plain_app: App) -> None:
    notes: list[Any] = []
    plain_app.use(Noting(notes, "a "))
    plain_app.use(Noting(notes, "b "))

    @plain_app.task(name="work")
    async def work() -> None:
        notes.append("work")

    async with plain_app.running():
        await (await work.adelay())
    assert notes == [
        ("a sending", "work", "default"),
        ("b sending", "work", "default"),
        ("a attempt", 1, "work"),
        ("b attempt", 1, "work"),
        "work",
        ("b end", "succeeded", "None"),
        ("a end", "succeeded", "None"),
    ]


async def test_a_broken_middleware_harms_nobody(plain_app: App, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Middleware):
        def bulk(self) -> Any:
            raise ValueError("bulk")

        def sending(self, name: str, queue: str, headers: MutableMapping[str, str]) -> None:
            raise ValueError("sending")

        def attempt(self, context: Context, headers: Mapping[str, str]) -> End:
            if not bad:
                raise ValueError("attempt")

            def end(ending: Ending, error: BaseException | None) -> None:
                raise ValueError("end")

            return end

    bad: list[int] = []
    notes: list[Any] = []
    plain_app.use(Broken())
    plain_app.use(Noting(notes))

    @plain_app.task(name="work")
    async def work() -> int:
        return 1

    async with plain_app.running():
        assert [await handle for handle in await work.abulk([()])] == [1]
        bad.append(1)
        assert await (await work.adelay()) == 1
    assert [note[1] for note in notes if note[0] == "end"] == ["succeeded", "succeeded"]
    assert all(f"ValueError: {where}" in caplog.text for where in ("bulk", "sending", "attempt", "end"))


async def test_headers_that_are_too_many_or_too_long_stay_behind(plain_app: App) -> None:
    class Greedy(Middleware):
        def sending(self, name: str, queue: str, headers: MutableMapping[str, str]) -> None:
            headers["long"] = "x" * (LONGEST_HEADER + 1)
            headers.update({f"h{i:03d}": "v" for i in range(100)})

        def attempt(self, context: Context, headers: Mapping[str, str]) -> None:
            seen.append(dict(headers))

    seen: list[dict[str, str]] = []
    plain_app.use(Greedy())

    @plain_app.task(name="work")
    async def work() -> None: ...

    async with plain_app.running():
        await (await work.adelay())
    assert len(seen[0]) == MOST_HEADERS and "long" not in seen[0]


# Logs


async def test_log_lines_carry_the_trace(app: App, spans: Spans) -> None:
    lines: list[dict[str, Any]] = []
    handler = logging.Handler()
    handler.addFilter(logs.TaskFields())
    formatter = logs.JsonFormatter()
    handler.emit = lambda record: lines.append(msgspec.json.decode(formatter.format(record)))  # type: ignore[method-assign]
    log = logging.getLogger("shop")

    @app.task(name="work")
    async def work() -> None:
        log.error("from the task")
        raise ValueError("no")

    root = logging.getLogger()
    root.addHandler(handler)
    try:
        async with app.running():
            with pytest.raises(TaskFailed):
                await (await work.adelay())
    finally:
        root.removeHandler(handler)
    run = spans.one("run work")
    assert run.context is not None
    expected = (trace.format_trace_id(run.context.trace_id), trace.format_span_id(run.context.span_id))
    own = [line for line in lines if line["logger"] in ("shop", "penstock.task")]
    assert len(own) == 2 and {(line["trace_id"], line["span_id"]) for line in own} == {expected}
    record = logging.makeLogRecord({"name": "shop", "msg": "x", "trace_id": expected[0], "span_id": expected[1]})
    assert logs.TextFormatter(colour=False).format(record).endswith(f"x [trace {expected[0]}]")


def test_propagators_are_the_programs_own(app: App, spans: Spans, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever OpenTelemetry is told to use (B3, baggage, ..) goes with the message."""
    carried: list[Mapping[str, str]] = []
    inject: Callable[..., None] = propagate.inject

    def noted(carrier: MutableMapping[str, str], *rest: Any) -> None:
        inject(carrier, *rest)
        carried.append(carrier)

    monkeypatch.setattr(propagate, "inject", noted)
    app.task(name="work")(lambda: None).delay()
    wait_until(lambda: bool(carried))
    assert "traceparent" in carried[0]
