"""What the exporter says is what happened: on real servers, by real workers."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from penstock import App, Reject, RetryPolicy, Snooze, TaskFailed
from penstock.consumers.tally import Tally
from penstock.metrics import Exporter
from penstock.metrics.catalogue import EXPORTED
from penstock.metrics.exporter import PATIENCE
from penstock.streams import keys, measures
from penstock.streams.measures import BOUNDS
from tests.metrics.support import Scrape, histogram
from tests.processes import in_child
from tests.servers import Server, await_until, wait_until

pytestmark = pytest.mark.anyio

TakeScrape = Callable[[], Scrape]


async def test_a_namespace_where_nothing_is(scrape: TakeScrape) -> None:
    found = await asyncio.to_thread(scrape)
    assert found.value("penstock_redis_up") == 1
    assert not found.has("penstock_queue_ready_tasks") and not found.has("penstock_worker_info")


async def test_how_tasks_ended(app: App, scrape: TakeScrape) -> None:
    @app.task(name="good")
    async def good() -> None: ...

    @app.task(name="bad", retry=RetryPolicy(max_retries=1, delay=0.01))
    async def bad() -> None:
        raise ValueError("no")

    @app.task(name="refused")
    async def refused() -> None:
        raise Reject("no")

    @app.task(name="slow", timeout=0.05)
    async def slow() -> None:
        await asyncio.sleep(60)

    snoozed: list[int] = []

    @app.task(name="sleepy")
    async def sleepy() -> None:
        if not snoozed:
            snoozed.append(1)
            raise Snooze(0.01)

    async with app.running():
        handles = [*await good.abulk([()] * 7), await bad.adelay(), await refused.adelay(), await slow.adelay()]
        handles.append(await sleepy.adelay())
        cancelled = await good.options(delay=600).adelay()
        await cancelled.acancel()
        expired = await good.options(delay=0.05, expires=0.06).adelay()
        await asyncio.gather(*(handle.aget(60) for handle in [*handles, expired]), return_exceptions=True)
    found = await asyncio.to_thread(scrape)

    def finished(**labels: str) -> float:
        return found.value("penstock_tasks_finished_total", queue="default", **labels)

    ran = 7 + int(finished(task="good", outcome="succeeded") - 7)  # the one that expires may be quick enough
    assert ran in (7, 8) and finished(task="sleepy", outcome="succeeded") == 1
    assert finished(outcome="cancelled", task="good") == 1
    assert finished(outcome="failed") == 3 and {
        finished(outcome="failed", task=t) for t in ("bad", "refused", "slow")
    } == {1}
    assert ran == 8 or finished(outcome="expired", task="good") == 1
    assert found.value("penstock_tasks_retried_total", task="bad") == 1
    assert found.value("penstock_tasks_retried_total", task="good") == 0  # a rate needs a value before the first
    assert finished(task="refused", outcome="succeeded") == 0
    assert found.value("penstock_tasks_returned_total", task="sleepy", reason="snoozed") == 1
    reasons = found.values("penstock_task_failures_total")
    assert {(dict(key)["task"], dict(key)["reason"]): value for key, value in reasons.items()} == {
        ("bad", "error"): 1,
        ("refused", "rejected"): 1,
        ("slow", "timeout"): 1,
    }
    assert found.value("penstock_queue_dead_tasks", queue="default") == 3


async def test_how_long_it_took(app: App, scrape: TakeScrape) -> None:
    begin = asyncio.Event()

    @app.task(name="quick")
    async def quick() -> None: ...

    @app.task(name="held")
    async def held() -> None:
        await begin.wait()
        await asyncio.sleep(0.3)

    @app.task(name="twice", retry=RetryPolicy(max_retries=1, delay=0.5, jitter=0))
    async def twice(seen: list[int]) -> None:
        raise ValueError

    async with app.running():
        first = await held.adelay()
        begin.set()
        await first
        await asyncio.gather(*await quick.abulk([()] * 20))
        with pytest.raises(TaskFailed):
            await (await twice.adelay([]))
        await (await quick.options(delay=0.2).adelay())
    found = await asyncio.to_thread(scrape)
    run = "penstock_task_run_duration_seconds"
    assert list(histogram(found, run, task="quick")) == [
        *(f"{bound:g}" if bound % 1 else f"{bound:.1f}" for bound in BOUNDS),
        "+Inf",
    ]
    assert found.value(f"{run}_count", task="quick") == 21 and found.value(f"{run}_count", task="twice") == 2
    assert 0.3 <= found.value(f"{run}_sum", task="held") < 30
    assert histogram(found, run, task="held")["0.25"] == 0 and histogram(found, run, task="held")["+Inf"] == 1
    # Each attempt has waited once, and each task has one way to its end, which holds the pause before its retry.
    assert found.value("penstock_task_queue_wait_seconds_count", queue="default") == 24
    end_to_end = histogram(found, "penstock_task_end_to_end_seconds", queue="default")
    assert end_to_end["+Inf"] == 23 and end_to_end["0.25"] <= 21  # 'held' and 'twice' took longer
    assert found.value("penstock_task_end_to_end_seconds_sum") >= 0.3 + 0.5
    # A task that was scheduled counts from its due time on, and the retry was scheduled, too.
    assert found.value("penstock_schedule_delay_seconds_count", queue="default") == 2


async def test_a_task_that_was_scheduled_is_not_slow(
    app: App, scrape: TakeScrape, raw: redis.Redis, namespace: str
) -> None:
    """Its time from end to end begins when it is due, also after a retry."""

    @app.task(name="again", retry=RetryPolicy(max_retries=1, delay=0.01, jitter=0))
    async def again() -> None:
        raise ValueError

    handle = await again.options(delay=3600).adelay()
    base = keys.base(namespace, "default")
    key = handle.id.partition(":")[2]
    now = int(raw.time()[0]) * 1000
    raw.hset(keys.record(base, key), mapping={"t": now - 7_200_000, "u": now - 1000})  # as if it had waited since long
    raw.zadd(keys.parked(base), {key: now - 1000})
    async with app.running():
        with pytest.raises(TaskFailed):
            await handle.aget(60)
    found = await asyncio.to_thread(scrape)
    assert found.value("penstock_task_end_to_end_seconds_count") == 1
    assert 1 <= found.value("penstock_task_end_to_end_seconds_sum") < 600


async def test_what_waits_and_who_works(app: App, scrape: TakeScrape) -> None:
    go = asyncio.Event()

    @app.task(name="hold", queue="mail")
    async def hold() -> None:
        await go.wait()

    async with app.running(concurrency=2) as worker:
        handles = [await hold.options(priority="high").adelay() for _ in range(3)]
        handles += [await hold.options(priority="low").adelay(), await hold.options(delay=500).adelay()]
        queue = {"queue": "mail"}

        def all_busy() -> Scrape | None:
            found = scrape()
            busy = found.values("penstock_queue_busy_slots", **queue)
            return found if sum(busy.values()) == 2 else None

        scraped = await asyncio.to_thread(wait_until, all_busy)
        assert scraped is not None
        ready, pending = "penstock_queue_ready_tasks", "penstock_queue_pending_tasks"
        assert [scraped.value(name, **queue) for name in (ready, pending)] == [2, 2]
        assert scraped.value(ready, priority="low") + scraped.value(pending, priority="low") == 1
        assert scraped.value("penstock_queue_scheduled_tasks", **queue) == 1
        assert scraped.value("penstock_queue_slots", **queue) == 2
        assert scraped.value("penstock_queue_live_workers", **queue) == 1
        assert scraped.value("penstock_queue_consumers", **queue) == 1
        assert scraped.value("penstock_queue_oldest_pending_age_seconds", **queue) > 0
        assert scraped.value("penstock_worker_busy_slots", worker=worker.name) == 2
        assert scraped.value("penstock_worker_resident_memory_bytes", worker=worker.name) > 1e6
        assert abs(scraped.value("penstock_worker_start_time_seconds", worker=worker.name) - time.time()) < 600
        info = dict(next(iter(scraped.values("penstock_worker_info", worker=worker.name))))
        assert info["pid"].isdecimal() and info["version"] and info["python"].startswith("3.")
        go.set()
        await asyncio.gather(*handles[:4])
    left = await asyncio.to_thread(scrape)
    assert not left.has("penstock_worker_info")  # it has ended in order
    assert left.value("penstock_queue_live_workers", **queue) == 0


async def test_the_ages_of_what_nobody_does(app: App, scrape: TakeScrape, raw: redis.Redis, namespace: str) -> None:
    """All workers are dead: every figure of the queues goes on."""

    @app.task(name="work")
    async def work() -> None: ...

    await work.adelay()
    base = keys.base(namespace, "default")
    now = int(raw.time()[0]) * 1000
    raw.xadd(keys.stream(base, "high"), {"k": "old", "m": b"x"}, id=f"{now - 300_000}-0")
    raw.zadd(keys.parked(base), {"late": now - 50_000})
    raw.set(keys.paused(base), now - 10_000)
    found = await asyncio.to_thread(scrape)
    assert 300 <= found.value("penstock_queue_oldest_ready_age_seconds", priority="high") < 400
    assert found.value("penstock_queue_oldest_ready_age_seconds", priority="low") == 0
    assert 50 <= found.value("penstock_queue_oldest_due_age_seconds") < 150
    assert found.value("penstock_queue_overdue_scheduled_tasks") == 1
    assert found.value("penstock_queue_paused") == 1 and found.value("penstock_queue_live_workers") == 0
    raw.delete(keys.parked(base), keys.paused(base))


def test_every_metric_is_in_the_catalogue_and_comes(app: App, scrape: TakeScrape) -> None:
    """All but those that one server, or this little run, does not have."""

    @app.task(name="work", retry=RetryPolicy(max_retries=1, delay=0.01))
    def work() -> None:
        seen.append(1)
        raise Snooze(0.01) if len(seen) == 1 else ValueError

    seen: list[int] = []

    with app.running() as worker:
        with pytest.raises(TaskFailed):
            work.delay().get(60)
        wait_until(lambda: scrape().has("penstock_worker_info", worker=worker.name))
        wait_until(lambda: scrape().has("penstock_task_failures_total"))
        found = scrape()
    names = {metric.name.removesuffix("_total") for metric in EXPORTED}
    assert found.families.keys() <= names
    assert names - found.families.keys() <= {"penstock_queue_entries_added"}  # Redis 6.2
    for metric in EXPORTED:
        family = found.families.get(metric.name.removesuffix("_total"))
        if family is not None:
            assert (family.type, family.documentation) == (metric.kind, metric.help)
            extra = {"le"} if metric.kind == "histogram" else set()
            assert {frozenset(sample.labels) - extra for sample in family.samples} == {frozenset(metric.labels)}


# Reads


def test_scrapes_of_one_second_share_a_read(
    url: str, namespace: str, raw: redis.Redis, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.metrics.exporter.FRESH", 600.0)
    reads: list[int] = []
    with Exporter(url, namespace=namespace) as exporter:
        read = exporter._survey.read

        def count() -> object:
            reads.append(1)
            return read()

        monkeypatch.setattr(exporter._survey, "read", count)
        threads = [threading.Thread(target=exporter.render) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(reads) == 1
        monkeypatch.setattr("penstock.metrics.exporter.FRESH", 0.0)
        exporter.render()
        assert len(reads) == 2


@pytest.mark.parametrize("fault", ["pause", "kill"])
def test_a_server_that_is_gone(
    own_server: Server,
    namespace: str,
    exporter: Exporter,
    scrape: TakeScrape,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert scrape().value("penstock_redis_up") == 1
    getattr(own_server, fault)()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            found = scrape()
            assert found.value("penstock_redis_up") == 0
            assert {name for name in found.families if not name.startswith("penstock_exporter_")} == {
                "penstock_redis_up"
            }
        wait_until(lambda: scrape().value("penstock_exporter_scrape_errors_total") >= 1)
    assert caplog.text.count("cannot be read") == 1  # one line for an outage
    own_server.resume() if fault == "pause" else own_server.start()
    wait_until(lambda: scrape().value("penstock_redis_up") == 1)
    assert "answers again" in caplog.text


def test_a_silent_server_holds_no_scrape_for_longer_than_a_second(
    own_server: Server, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock is the test's: what counts is what is waited for."""
    waited: list[float] = []
    exporter.refresh()
    monkeypatch.setattr("penstock.metrics.exporter.PATIENCE", PATIENCE)
    own_server.pause()
    result = type(exporter._asked).result  # type: ignore[union-attr]

    def count(future: object, timeout: float | None = None) -> object:
        waited.append(timeout or 0.0)
        return result(future, timeout)  # type: ignore[arg-type]

    monkeypatch.setattr(type(exporter._asked), "result", count)
    assert exporter.refresh().reading is None
    assert waited == [PATIENCE] and PATIENCE < 1
    own_server.resume()


def test_a_forked_child_reads_for_itself(app: App, exporter: Exporter, scrape: TakeScrape) -> None:
    """As a web server that mounts it and forks its workers: the thread that reads is not there any more."""
    app.task_named("work", queue="mail").delay()
    assert scrape().value("penstock_redis_up") == 1

    def read() -> None:
        assert scrape().value("penstock_queue_ready_tasks", queue="mail") == 1

    with exporter._lock:  # as when it is forked in the midst of a scrape
        assert in_child(read) == 0
    assert scrape().value("penstock_queue_ready_tasks", queue="mail") == 1


def test_scripts_that_the_server_has_forgotten(
    own_server: Server, exporter: Exporter, scrape: TakeScrape, raw: redis.Redis
) -> None:
    assert scrape().value("penstock_redis_up") == 1
    raw.script_flush()
    assert scrape().value("penstock_redis_up") == 1


def test_a_queue_that_cannot_be_read_is_left_out_and_counted(
    app: App, scrape: TakeScrape, raw: redis.Redis, namespace: str
) -> None:
    for queue in ("good", "bad"):
        app.task_named("work", queue=queue).delay()
    stream = keys.stream(keys.base(namespace, "bad"), "high")
    raw.set(stream, "x", ex=100)
    found = scrape()
    assert found.value("penstock_redis_up") == 1 and found.value("penstock_exporter_scrape_errors_total") == 1
    assert found.has("penstock_queue_ready_tasks", queue="good") and not found.has(
        "penstock_queue_ready_tasks", queue="bad"
    )
    raw.delete(stream)
    assert scrape().value("penstock_queue_ready_tasks", queue="bad") == 1


# Names


def test_task_names_are_bounded_and_the_rest_is_visible(
    url: str, namespace: str, raw: redis.Redis, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.metrics.exporter.FRESH", 0.0)
    app.task_named("work").delay()
    counters = keys.counters(keys.base(namespace, "default"))
    raw.hset(counters, mapping={f"succeeded|task-{i:03d}": 100 + i for i in range(10)})
    with Exporter(url, namespace=namespace, max_tasks=3) as exporter:

        def counts() -> dict[str, float]:
            found = Scrape(exporter.render().decode()).values("penstock_tasks_finished_total", outcome="succeeded")
            return {dict(key)["task"]: value for key, value in found.items()}

        assert counts() == {"task-007": 107, "task-008": 108, "task-009": 109, "other": sum(range(100, 107))}
        folded = Scrape(exporter.render().decode()).value("penstock_exporter_folded_tasks", queue="default")
        assert folded == 7
        # A new name, however busy, takes nobody's place: no series goes back.
        raw.hset(counters, "succeeded|task-new", 10_000)
        assert counts() == {"task-007": 107, "task-008": 108, "task-009": 109, "other": 10_000 + sum(range(100, 107))}


def test_hostile_names_harm_nobody(app: App, scrape: TakeScrape, raw: redis.Redis, namespace: str) -> None:
    app.task_named("work").delay()
    base = keys.base(namespace, "default")
    longest = "x" * 200
    names = ['a"b\\c{}', "new\nline", "\x1b[31m", "é", longest, "x" * 500, ""]
    raw.hset(keys.counters(base), mapping={f"succeeded|{name}": 1 for name in names} | {b"succeeded|\xff": 1})  # type: ignore[arg-type]
    raw.hset(keys.counters(base), mapping={"succeeded|a": "nan", "succeeded|b": "inf", "succeeded|c": "-inf"})
    raw.sadd(keys.queues(namespace), b"\xff", "a b")
    found = {dict(key)["task"] for key in scrape().values("penstock_tasks_finished_total")}
    assert found == {'a"b\\c{}', "é", longest, "", "b"}


def test_workers_by_name_can_be_left_out(app: App, url: str, namespace: str) -> None:
    app.task(name="work")(lambda: None)
    with app.running(), Exporter(url, namespace=namespace, workers=False) as exporter:
        wait_until(lambda: "penstock_queue_live_workers" in exporter.render().decode())
        text = exporter.render().decode()
        assert "penstock_worker_" not in text


# What workers say


async def test_measures_are_said_at_the_end_also_of_a_short_life(
    app: App, scrape: TakeScrape, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("penstock.consumers.tally.INTERVAL", 600.0)

    @app.task(name="work")
    async def work() -> None: ...

    for _ in range(2):
        await work.abulk([()] * 5)
        await app.adrain()
    found = await asyncio.to_thread(scrape)
    assert found.value("penstock_task_run_duration_seconds_count", task="work") == 10


async def test_what_could_not_be_said_is_said_later_and_once(
    app: App, own_server: Server, scrape: TakeScrape, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The server has added it, and the reply is lost."""
    lost: list[int] = []
    call = Tally._call

    def lose(self: Tally, base: str) -> object:
        made = call(self, base)
        if not lost:
            lost.append(1)
            read = made.read

            def broken(reply: object) -> bool:
                read(reply)
                raise redis.ConnectionError("the reply is lost")

            made.read = broken
        return made

    monkeypatch.setattr(Tally, "_call", lose)

    @app.task(name="work")
    async def work() -> None: ...

    async with app.running():
        await asyncio.gather(*await work.abulk([()] * 3))
        await await_until(lambda: bool(lost))
        await asyncio.gather(*await work.abulk([()] * 4))
    found = await asyncio.to_thread(scrape)
    assert lost and found.value("penstock_task_run_duration_seconds_count", task="work") == 7


def test_counts_of_a_worker_that_goes_on_are_not_lost_while_the_server_is_away(
    app: App, own_server: Server, scrape: TakeScrape
) -> None:
    @app.task(name="work")
    def work() -> None: ...

    with app.running():
        [handle.get(60) for handle in work.bulk([()] * 3)]
        own_server.kill()
        own_server.start()
        [handle.get(60) for handle in work.bulk([()] * 4)]
    assert scrape().value("penstock_tasks_finished_total", task="work") == 7
    assert scrape().value("penstock_task_run_duration_seconds_count", task="work") == 7


async def test_a_blocked_loop_is_told(app: App, scrape: TakeScrape) -> None:
    @app.task(name="block")
    async def block() -> None:
        time.sleep(2.5)  # noqa: ASYNC251 - the fault that is looked for

    async with app.running() as worker:
        await (await block.adelay())

        def told() -> bool:
            found = scrape()
            name = "penstock_worker_event_loop_blocked_seconds_total"
            return found.has(name, worker=worker.name) and 1.0 < found.value(name, worker=worker.name) < 60

        await asyncio.to_thread(wait_until, told)


def test_a_worker_that_died_is_seen(app: App, scrape: TakeScrape, raw: redis.Redis, namespace: str) -> None:
    """For ten minutes, with the age of its heartbeat growing; it does not count as a worker of its queues."""
    app.task(name="work")(lambda: None)
    with app.running() as worker:
        wait_until(lambda: scrape().has("penstock_worker_info", worker=worker.name))
        saved = raw.get(keys.worker(namespace, worker.name))
    raw.set(keys.worker(namespace, "dead"), saved, ex=60)  # type: ignore[arg-type]
    now = int(raw.time()[0]) * 1000
    raw.zadd(keys.gone(namespace), {"dead": now - 100_000})
    found = scrape()
    assert 100 <= found.value("penstock_worker_heartbeat_age_seconds", worker="dead") < 200
    assert found.value("penstock_queue_live_workers", queue="default") == 0


def test_the_hash_of_measures_is_small(app: App, raw: redis.Redis, namespace: str) -> None:
    app.task(name="work")(lambda: None)
    app.task_named("work").delay()
    app.drain()
    assert int(raw.memory_usage(keys.measures(keys.base(namespace, "default"))) or 0) < 2000
    assert len(measures.trimmed([5, 1, 0, 0])) == 2 and measures.trimmed([0]) == [0]
