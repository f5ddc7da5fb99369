"""Every way to send a task: what arrives, what is refused at the call, and what it costs."""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
import redis
from anyio.lowlevel import checkpoint

from penstock import (
    App,
    ConfigurationError,
    IdTaken,
    InvalidArguments,
    PayloadTooLarge,
    QueueFull,
    State,
    SyncInAsync,
    TaskNotFound,
)
from penstock.events import Sent
from penstock.streams import keys
from penstock.streams.produce import BATCH_TASKS
from tests.integration.support import Seen, calls_of, entries
from tests.servers import Server

MakeApp = Callable[..., App]


def test_a_plain_call_runs_the_function_here(app: App, raw: redis.Redis, namespace: str) -> None:
    @app.task
    def add(a: int, b: int = 2) -> int:
        return a + b

    assert add(1) == 3
    assert list(raw.scan_iter(match=f"{{{namespace}*")) == []


@pytest.mark.anyio
async def test_delay_and_adelay_send_and_give_a_handle(app: App, raw: redis.Redis, namespace: str) -> None:
    @app.task
    async def add(a: int, *, b: int = 2) -> int:
        return a + b

    first = await asyncio.to_thread(add.delay, 1, b=3)
    second = await add.adelay(5)
    assert first.created and second.created
    assert first.id.startswith("default:") and first != second
    assert entries(raw, namespace) == 2
    assert (await second.ainfo()).state is State.QUEUED
    async with app.running():
        assert await first == 4
        assert await second.aget(timeout=10) == 7


def test_a_sync_call_is_one_round_trip(app: App, server: Server, raw: redis.Redis) -> None:
    @app.task
    def nothing() -> None: ...

    nothing.delay()  # connects, registers the queue, loads the script
    before = raw.info("stats")["total_commands_processed"]
    scripts = calls_of(raw, "evalsha")
    for _ in range(10):
        nothing.delay()
    assert calls_of(raw, "evalsha") - scripts == 10
    assert calls_of(raw, "eval", "sadd", "ping", "client|setinfo") >= 0
    # Commands inside a script count, too: TIME, HMGET, XADD, HSET for each.
    assert raw.info("stats")["total_commands_processed"] - before <= 10 * 5 + 3


@pytest.mark.anyio
async def test_options_of_a_call(app: App, raw: redis.Redis, namespace: str) -> None:
    @app.task(queue="mail")
    async def send(n: int) -> int:
        return n

    handle = await send.options(id="receipt-42", priority="low", queue="slow", meta={"who": "me"}).adelay(1)
    assert handle.id == "slow:receipt-42"
    info = await handle.ainfo()
    assert (info.queue, info.priority, info.attempt) == ("slow", "low", 0)
    assert entries(raw, namespace, "slow", "low") == 1
    plain = await send.adelay(1)  # options() has changed nothing for later calls
    assert plain.id.startswith("mail:")


def test_apply_async_is_celerys_spelling(app: App) -> None:
    @app.task
    def add(a: int, b: int = 0) -> int:
        return a + b

    handle = add.apply_async((1,), {"b": 2}, countdown=5, priority="high")
    info = handle.info()
    assert info.state is State.SCHEDULED and info.priority == "high" and info.due_at is not None
    assert info.enqueued_at is not None
    assert timedelta(seconds=4.9) < info.due_at - info.enqueued_at < timedelta(seconds=5.1)
    with app.running():
        assert add.apply_async((1,), {"b": 2}).get(timeout=10) == 3


@pytest.mark.anyio
async def test_signatures_are_checked_when_made_and_can_be_sent_twice(app: App) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    with pytest.raises(InvalidArguments, match="n"):
        double.s("x")  # type: ignore[call-overload]
    signature = double.s(4)
    async with app.running():
        assert await (await signature.adelay()) == 8
        assert await (await signature.options(priority="high").adelay()) == 8
    assert signature.options(id="a").prepare().id == "default:a"


@pytest.mark.anyio
async def test_bulk_takes_few_round_trips_and_keeps_the_order(app: App, raw: redis.Redis) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    @app.task(queue="other")
    async def triple(n: int) -> int:
        return 3 * n

    double.delay(0), triple.delay(0)
    before = calls_of(raw, "evalsha", "eval")
    handles = double.bulk([(i,) for i in range(1000)])
    assert calls_of(raw, "evalsha", "eval") - before == 2
    mixed = app.bulk(task.s(i) for i in range(10) for task in (double, triple))
    more = await double.abulk([(i,) for i in range(10)])
    mixed_async = await app.abulk(task.s(i) for i in range(10) for task in (double, triple))
    assert calls_of(raw, "evalsha", "eval") - before == 2 + 2 + 1 + 2
    async with app.running():
        assert await asyncio.gather(*handles) == [2 * i for i in range(1000)]
        assert await asyncio.gather(*more) == [2 * i for i in range(10)]
        assert sorted(await asyncio.gather(*mixed)) == sorted([2 * i for i in range(10)] + [3 * i for i in range(10)])
        assert sorted(await asyncio.gather(*mixed_async)) == sorted(await asyncio.gather(*mixed))


def test_handles_of_a_mixed_bulk_come_in_the_order_of_the_calls(app: App) -> None:
    @app.task
    def one(n: int) -> int:
        return n

    @app.task(queue="other")
    def two(n: int) -> int:
        return n

    calls = [(one if i % 2 else two).s(i).options(id=f"k{i}") for i in range(6)]
    assert [h.id for h in app.bulk(calls)] == [f"{'default' if i % 2 else 'other'}:k{i}" for i in range(6)]


def test_a_bulk_that_is_refused_in_part_says_what_was_sent(make_app: MakeApp) -> None:
    app = make_app(max_length=3)

    @app.task
    def nothing(n: int) -> None: ...

    with pytest.raises(QueueFull) as caught:
        nothing.bulk([(i,) for i in range(5)])
    assert len(caught.value.sent) == 3
    assert all(app.handle(id).state() is State.QUEUED for id in caught.value.sent)


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["bulk", "abulk"])
async def test_a_call_that_cannot_be_made_leaves_those_before_it_sent(
    app: App, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    """`abulk` makes the next batch while the server works on the one before."""

    @app.task
    def nothing(n: int) -> None: ...

    def calls() -> Iterator[tuple[Any]]:
        yield from ((i,) for i in range(2 * BATCH_TASKS))
        yield ("no number",)

    send: Any = nothing.abulk if how == "abulk" else lambda made: asyncio.to_thread(nothing.bulk, made)
    with pytest.raises(InvalidArguments):
        await send(calls())
    found: Any = raw.xrange(keys.stream(keys.base(namespace, "default"), "default"))
    sent = [app.handle(f"default:{fields[b'k'].decode()}") for _, fields in found]
    assert len(sent) == 2 * BATCH_TASKS and not caplog.records


@pytest.mark.anyio
async def test_the_batches_of_a_bulk_stay_in_order(app: App, raw: redis.Redis, namespace: str) -> None:
    @app.task
    async def nothing(n: int) -> None: ...

    handles = await nothing.abulk([(i,) for i in range(5 * BATCH_TASKS)])
    found: Any = raw.xrange(keys.stream(keys.base(namespace, "default"), "default"))
    assert [f"default:{fields[b'k'].decode()}" for _, fields in found] == [handle.id for handle in handles]


@pytest.mark.anyio
async def test_a_bulk_that_is_cancelled_leaves_nothing_running(app: App) -> None:
    @app.task
    async def nothing(n: int) -> None: ...

    await nothing.adelay(0)
    before = asyncio.all_tasks()
    sending = asyncio.create_task(nothing.abulk([(i,) for i in range(20 * BATCH_TASKS)]))
    await checkpoint()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    await checkpoint()
    assert asyncio.all_tasks() == before


@pytest.mark.anyio
async def test_send_by_name_for_a_producer_without_the_code(app: App, make_app: MakeApp) -> None:
    @app.task(name="mail.send")
    async def send(to: str, *, copy: bool = False) -> list[Any]:
        return [to, copy]

    producer = make_app("producer")
    first = producer.send("mail.send", "ann", copy=True)
    second = await producer.asend("mail.send", "bob")
    third = producer.task_named("mail.send", id="x", meta={"a": 1}).options(priority="high").delay(to="cy")
    async with app.running():
        assert await first == ["ann", True]
        assert await second == ["bob", False]
        assert await third == ["cy", False]
    assert third.id == "default:x"


@pytest.mark.anyio
async def test_a_handle_from_an_id_alone(app: App, make_app: MakeApp) -> None:
    @app.task(queue="mail")
    async def send(when: datetime) -> datetime:
        return when

    when = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    await send.options(id="a:b").adelay(when)
    async with app.running():
        assert await send.handle("a:b") == when
        assert await make_app("other-process").handle("mail:a:b").aget(timeout=10) == when
    assert send.handle("a:b").created is None
    with pytest.raises(TaskNotFound, match="mail:nobody"):
        send.handle("nobody").state()
    with pytest.raises(ConfigurationError, match="queue:key"):
        app.handle("no-queue")


@pytest.mark.anyio
async def test_the_same_id_twice_changes_nothing_and_says_so(app: App, raw: redis.Redis, namespace: str) -> None:
    @app.task
    async def add(a: int) -> int:
        return a + 1

    seen = Seen(app)
    once = add.options(id="same")
    assert (await once.adelay(1)).created is True
    again = await once.adelay(99)
    assert again.created is False
    assert once.delay(99).created is False
    assert [h.created for h in app.bulk([once.s(5), once.s(6)])] == [False, False]
    assert entries(raw, namespace) == 1
    assert [event.created for event in seen.of(Sent)] == [True, False, False, False, False]
    async with app.running():
        assert await again == 2  # the first one's arguments
    assert (await once.adelay(1)).created is False  # also once it has ended
    assert entries(raw, namespace) == 0


def test_another_tasks_id_is_refused(app: App) -> None:
    @app.task
    def one() -> None: ...

    @app.task
    def two() -> None: ...

    one.options(id="mine").delay()
    with pytest.raises(IdTaken, match=r"default:mine.*one") as caught:
        two.options(id="mine").delay()
    assert isinstance(caught.value, ValueError)


@pytest.mark.anyio
async def test_a_full_queue_refuses(make_app: MakeApp) -> None:
    app = make_app(max_length=2)

    @app.task
    async def nothing() -> None: ...

    await nothing.options(priority="low").adelay()
    later = await nothing.options(delay=60).adelay()  # parked tasks do not count
    await nothing.adelay()
    with pytest.raises(QueueFull, match="'default' holds max_length = 2"):
        await nothing.adelay()
    with pytest.raises(QueueFull):
        nothing.delay()
    assert (await later.astate()) is State.SCHEDULED
    await nothing.options(queue="other").adelay()  # each queue has its own bound


def test_too_large_a_message_is_refused(make_app: MakeApp, raw: redis.Redis, namespace: str) -> None:
    app = make_app(max_payload=1000)

    @app.task
    def store(data: bytes) -> int:
        return len(data)

    store.delay(bytes(900))
    with pytest.raises(PayloadTooLarge, match=r"store.* bytes, and max_payload is 1,000") as caught:
        store.delay(bytes(1001))
    assert isinstance(caught.value, ValueError)
    assert entries(raw, namespace) == 1


def test_the_default_limit_is_one_mebibyte(app: App) -> None:
    @app.task
    def store(data: bytes) -> int:
        return len(data)

    store.delay(bytes(1024 * 1024 - 200))
    with pytest.raises(PayloadTooLarge):
        store.delay(bytes(1024 * 1024))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda t: t.delay(), "user"),
        (lambda t: t.delay("x"), "user"),
        (lambda t: t.delay(1, 2, 3), "positional"),
        (lambda t: t.delay(1, nme="x"), "nme"),
        (lambda t: t.delay(1, tags=["a", 5]), "tags"),
        (lambda t: t.delay(1, tags=[object()]), "tags"),
        (lambda t: t.s(1.5), "user"),
        (lambda t: t.bulk([(1,), ("x",)]), "user"),
        (lambda t: t.apply_async((1,), {"user": 2}), "user"),
    ],
)
def test_arguments_are_checked_at_the_call(
    app: App, raw: redis.Redis, namespace: str, call: Callable[[Any], Any], named: str
) -> None:
    @app.task
    def greet(user: int, *, name: str = "", tags: list[str] = []) -> None: ...  # noqa: B006

    with pytest.raises(InvalidArguments, match=named) as caught:
        call(greet)
    assert isinstance(caught.value, TypeError)
    assert entries(raw, namespace) == 0


@pytest.mark.anyio
async def test_concurrent_adelay_calls_coalesce(app: App, raw: redis.Redis) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    await double.adelay(0)
    before = calls_of(raw, "evalsha", "eval")
    handles = await asyncio.gather(*[double.adelay(i) for i in range(100)])
    assert calls_of(raw, "evalsha", "eval") - before <= 2
    async with app.running():
        assert await asyncio.gather(*handles) == [2 * i for i in range(100)]


@pytest.mark.anyio
async def test_one_refused_call_does_not_harm_those_it_was_joined_with(make_app: MakeApp) -> None:
    app = make_app(max_length=50)

    @app.task
    async def double(n: int) -> int:
        return 2 * n

    answers = await asyncio.gather(*[double.adelay(i) for i in range(60)], return_exceptions=True)
    assert sum(isinstance(answer, QueueFull) for answer in answers) == 10
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 50


@pytest.mark.anyio
async def test_cancelling_one_adelay_harms_no_other(app: App) -> None:
    @app.task
    async def double(n: int) -> int:
        return 2 * n

    sending = [asyncio.create_task(double.options(id=f"k{i}").adelay(i)) for i in range(10)]
    await asyncio.sleep(0)  # work: the calls have been handed over
    sending[3].cancel()
    answers = await asyncio.gather(*sending, return_exceptions=True)
    assert isinstance(answers[3], asyncio.CancelledError)
    assert [h.created for i, h in enumerate(answers) if i != 3] == [True] * 9  # type: ignore[union-attr]


def test_many_threads_share_an_app(app: App) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    results: dict[int, int] = {}
    errors: list[BaseException] = []

    def work(first: int) -> None:
        try:
            handles = {n: double.delay(n) for n in range(first, first + 10)}
            results.update({n: handle.get(timeout=60) for n, handle in handles.items()})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(10 * i,)) for i in range(20)]
    with app.running():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert errors == []
    assert results == {n: 2 * n for n in range(200)}


@pytest.mark.anyio
async def test_delay_in_a_running_loop_warns_once(make_app: MakeApp) -> None:
    app = make_app(sync_in_loop="warn")

    @app.task
    async def nothing() -> None: ...

    with pytest.warns(RuntimeWarning, match="adelay") as caught:
        handle = nothing.delay()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nothing.delay()
        await asyncio.to_thread(nothing.delay)
    with pytest.raises(SyncInAsync, match="aget"):
        handle.get(timeout=1)


@pytest.mark.anyio
async def test_sync_calls_in_a_loop_can_be_forbidden_or_allowed(make_app: MakeApp) -> None:
    strict, lax = make_app(sync_in_loop="error"), make_app(sync_in_loop="allow")

    def make(app: App) -> Any:
        @app.task(name=f"work-{uuid.uuid4()}")
        def nothing() -> int:
            return 1

        return nothing

    with pytest.raises(SyncInAsync, match="adelay"):
        make(strict).delay()
    with pytest.raises(SyncInAsync, match="aget"):
        strict.handle("default:x").get()
    with pytest.raises(SyncInAsync, match="adrain"):
        strict.drain()
    task = make(lax)
    handle = task.delay()
    with lax.running():  # in a thread: this loop is blocked by get
        assert handle.get(timeout=10) == 1


@pytest.mark.anyio
async def test_a_notebook_may_block_its_loop(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: object()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    app = make_app(sync_in_loop="warn")

    @app.task
    async def work() -> int:
        return 1

    with app.running():
        assert work.delay().get(timeout=10) == 1
        assert app.send(work.name).get(timeout=10) == 1


def test_a_call_whose_reply_was_lost_is_sent_again_and_still_new(app: App) -> None:
    """What the retry after a lost reply does: the same envelope, sent twice."""

    @app.task(name="once")
    def once() -> None: ...

    producer = once._sender.producer
    fresh = producer.prepare("once", b"\x80", once.config, None)
    assert [producer.send(fresh), producer.send(fresh)] == [True, True]
    named = once.options(id="mine").s().prepare()
    assert [producer.send(named), producer.send(named)] == [True, False]
    assert len(app.queues()) == 1 and app.handle(fresh.id).state() is State.QUEUED
