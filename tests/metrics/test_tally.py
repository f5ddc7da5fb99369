"""Tally: what a worker counts of its attempts, as it is in Redis afterwards."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
import redis

from penstock import App
from penstock.consumers.attempt import Attempt
from penstock.consumers.outcome import Cancelled, Failed, Outcome, Released, Retrying, Snoozed, Succeeded
from penstock.consumers.tally import Tally
from penstock.errors import BrokerUnavailable
from penstock.settings import Settings
from penstock.streams import inspect, keys
from penstock.streams.client import AsyncClient
from penstock.streams.connector import Connector
from penstock.streams.consume import Delivery
from penstock.streams.measures import BOUNDS, Measured
from penstock.streams.message import Failure
from penstock.streams.settle import Settled
from penstock.streams.urls import resolve_url
from penstock.tasks.task import AnyTask
from tests.servers import Server

pytestmark = pytest.mark.anyio

#: Server time, ms.
NOW = 1_700_000_000_000
FAILED = Failed(Failure("ValueError", "no"))


class Book:
    """A tally, and what of it is in Redis."""

    def __init__(self, client: AsyncClient, namespace: str, task: AnyTask) -> None:
        self.tally = Tally(client, "me")
        self.base = keys.base(namespace, "q")
        self._client = client
        self._task = task

    def attempt(
        self, *, ready: float, since: float = 0.0, deliveries: int = 1, ran: float = 0.0, taken_over: bool = False
    ) -> Attempt:
        """One that became ready, and was on its way, so many seconds before it was delivered."""
        entry = f"{NOW - round(ready * 1000)}-0"
        began = NOW - round(since * 1000) if since else 0
        place = (self.base, "default", entry)
        delivery = Delivery(self.base, "q", NOW, "default", entry, "k", b"k", b"", 0, deliveries, began, place)
        attempt = Attempt(delivery, None, self._task, "async")
        attempt.taken_over = taken_over
        attempt.ended = attempt.started + ran
        return attempt

    async def sent(self, base: str = "") -> dict[str, Measured]:
        """What Redis has, by the measure's field."""
        await self.tally.once()
        found = await self._client.run(inspect.queue_stats(base or self.base, "q"))
        return {f"{each.measure.value}|{each.what}".rstrip("|"): each for each in found.measures}


@pytest.fixture
async def book(url: str, namespace: str) -> AsyncIterator[Book]:
    app = App("test", namespace=namespace)
    task = app.task(name="work")(lambda: None)
    client = AsyncClient(Connector(resolve_url(url, {}), Settings()))
    yield Book(client, namespace, task)
    await client.aclose()


async def test_a_wait_lasts_until_the_start_and_not_only_until_the_delivery(book: Book) -> None:
    """Behind others of its batch, or a loop that was blocked."""
    book.tally.started(book.attempt(ready=2), held=1.5)
    assert (await book.sent())["w"].seconds == 3.5


async def test_a_task_that_was_taken_over_has_waited_for_its_first_start_only(book: Book) -> None:
    """After that it ran, on a worker that died."""
    book.tally.started(book.attempt(ready=500, deliveries=2, taken_over=True), held=0)
    assert await book.sent() == {}


async def test_what_was_taken_over_before_its_first_start_has_waited_all_the_time(book: Book) -> None:
    """A blocking read had brought it, and its worker died before it began."""
    book.tally.started(book.attempt(ready=500, deliveries=1, taken_over=True), held=0)
    assert (await book.sent())["w"].seconds == 500.0


async def test_a_retry_of_what_was_once_taken_over_has_waited(book: Book) -> None:
    """Its record remembers the crash."""
    book.tally.started(book.attempt(ready=3, deliveries=2), held=0)
    assert (await book.sent())["w"].seconds == 3.0


@pytest.mark.parametrize("outcome", [Succeeded(), FAILED])
async def test_from_end_to_end(book: Book, outcome: Outcome) -> None:
    attempt = book.attempt(ready=2, since=10, ran=0.25)
    book.tally.started(attempt, held=1)
    book.tally.settled(attempt, outcome, Settled.DONE)
    found = await book.sent()
    # 8 s before it was ready, 2 s until it was delivered, 1 s until it began, and its run.
    assert found["e"].seconds == pytest.approx(11.25, abs=1e-3)
    assert found["r|work"].seconds == pytest.approx(0.25, abs=1e-3)
    assert found["w"].seconds == 3.0


async def test_one_that_was_sent_now_is_on_its_way_since_its_entry(book: Book) -> None:
    attempt = book.attempt(ready=2)
    book.tally.started(attempt, held=0)
    book.tally.settled(attempt, Succeeded(), Settled.DONE)
    assert (await book.sent())["e"].seconds == 2.0


async def test_one_that_ended_without_a_start_was_on_its_way_too(book: Book) -> None:
    """Nobody knew it, it had killed too many workers, or it was stopped while it waited for its turn."""
    book.tally.settled(book.attempt(ready=60, since=90, deliveries=4, ran=5), FAILED, Settled.DONE)
    found = await book.sent()
    assert found["e"].seconds == 90.0
    assert not {"w", "r|work"} & found.keys()


@pytest.mark.parametrize("outcome", [Retrying(1, FAILED.failure), Snoozed(1), Released(), Cancelled()])
async def test_what_has_not_reached_its_end_is_not_counted_from_end_to_end(book: Book, outcome: Outcome) -> None:
    attempt = book.attempt(ready=1, ran=0.5)
    book.tally.started(attempt, held=0)
    book.tally.settled(attempt, outcome, Settled.DONE)
    assert (await book.sent()).keys() == {"w", "r|work"}


@pytest.mark.parametrize(("answer", "measured"), [(Settled.CANCELLED, {"r|work"}), (Settled.LATE, set())])
async def test_ends_that_were_not_its_own(book: Book, answer: Settled, measured: set[str]) -> None:
    """A cancel came first; or another worker has ended it, and counts it."""
    attempt = book.attempt(ready=1, ran=0.5)
    book.tally.started(attempt, held=0)
    book.tally.settled(attempt, FAILED, answer)
    assert (await book.sent()).keys() - {"w"} == measured


async def test_failures_are_counted_by_reason_and_only_of_tasks_that_there_are(book: Book) -> None:
    known, unknown = book.attempt(ready=1), book.attempt(ready=1)
    unknown.task = None
    for attempt, reason in ((known, "error"), (known, "timeout"), (known, "error"), (unknown, "unknown_task")):
        book.tally.settled(attempt, Failed(Failure("E", "no", reason=reason)), Settled.DONE)
    found = await book.sent()
    assert {name: each.count for name, each in found.items() if name.startswith("f")} == {
        "f|error|work": 2,
        "f|timeout|work": 1,
        "f|unknown_task|?": 1,
    }


async def test_a_bound_belongs_to_the_bucket_below_it(book: Book) -> None:
    """As Prometheus's ``le``."""
    book.tally.promoted(book.base, BOUNDS)
    assert (await book.sent())["d"].buckets == (*[1] * len(BOUNDS), 0)
    book.tally.promoted(book.base, [bound + 1e-6 for bound in BOUNDS])
    assert (await book.sent())["d"].buckets == (1, *[2] * (len(BOUNDS) - 1), 1)


async def test_a_clock_that_was_set_back_takes_nothing_from_a_sum(book: Book) -> None:
    book.tally.promoted(book.base, [-5.0, 0.0, 3.0])
    found = (await book.sent())["d"]
    assert (found.seconds, found.count, found.buckets[0]) == (3.0, 3, 2)


async def test_counts(book: Book) -> None:
    book.tally.redelivered(book.base, 3)
    book.tally.redelivered(book.base, 2)
    book.tally.lost(book.base)
    found = await book.sent()
    assert (found["t"].count, found["l"].count) == (5, 1)


async def test_sums_that_grow_for_years_stay_sums(book: Book) -> None:
    """Microseconds: 2**53 of them are over after a month of a queue in which 3,000 tasks wait."""
    days = 400
    for _ in range(40):
        book.tally.promoted(book.base, [86_400.0 * days] * 10)
        await book.tally.once()
    found = await book.sent()
    assert found["d"].seconds == pytest.approx(86_400.0 * days * 400, rel=1e-9)
    assert found["d"].numbers[0] > 2**53


async def test_no_sum_is_too_large_to_be_sent(book: Book) -> None:
    """A clock that was thousands of years off must not keep all other measures from being sent."""
    book.tally.promoted(book.base, [1e15] * 3)
    book.tally.lost(book.base)
    found = await book.sent()
    assert found["d"].count == 3 and found["l"].count == 1
    book.tally.promoted(book.base, [1e15])
    assert (await book.sent())["d"].count == 4


async def test_a_queue_that_takes_nothing_keeps_nobody_waiting(
    book: Book, raw: redis.Redis, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody else's key is in the way of one queue: the others' measures arrive, and its own when it is gone."""
    bad = keys.base(namespace, "bad")
    raw.set(keys.measures(bad), "x", ex=100)
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            book.tally.lost(bad)
            book.tally.lost(book.base)
            await book.tally.once()
    assert (await book.sent())["l"].count == 3
    assert caplog.text.count("cannot be added") == 1
    raw.delete(keys.measures(bad))
    await book.tally.once()
    assert (await book.sent(bad))["l"].count == 3
    await book.tally.finish()
    raw.delete(keys.measures(bad), keys.measures(book.base))


async def test_what_a_server_that_is_away_did_not_get_is_kept(own_server: Server, book: Book) -> None:
    book.tally.lost(book.base)
    own_server.kill()
    with pytest.raises(BrokerUnavailable):
        await book.tally.once()
    book.tally.lost(book.base)
    own_server.start()
    await book.tally.once()
    assert (await book.sent())["l"].count == 2


def test_buckets_grow() -> None:
    assert all(lower < upper for lower, upper in pairwise(BOUNDS))
