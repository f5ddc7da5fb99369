"""What Prometheus says of the run is what happened in it."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.observability.programs import Vector
from tests.observability.stage import PAIR
from tests.observability.story import HELD, NAPS, OLD, WAITING, Story

pytestmark = [pytest.mark.observability, pytest.mark.timeout(400)]

_ONE = "max without (instance, pod, endpoint, container)"


def at(story: Story, moment: str, expression: str) -> Vector:
    """What it says then."""
    return story.stage.prometheus.query(expression, story.truth.moments[moment])


def by(found: Vector, *names: str) -> Counter[object]:
    """Sums by these labels, without zeros."""
    sums: Counter[object] = Counter()
    for labels, value in found.items():
        key = tuple(dict(labels)[name] for name in names)
        sums[key if len(names) > 1 else key[0]] += round(value)
    return +sums


def figures(story: Story, moment: str, metric: str, *names: str) -> Counter[object]:
    """A metric of the pair, summed by these labels."""
    return by(at(story, moment, f'{_ONE} ({metric}{{job="{PAIR}"}})'), *names)


def test_how_all_tasks_ended(story: Story) -> None:
    found = figures(story, "calm", "penstock_tasks_finished_total", "task", "outcome")
    naps = Counter({key: found.pop(key) for key in [("shop.nap", "succeeded"), ("shop.nap", "cancelled")]})
    assert found == story.truth.finished
    assert naps.total() == NAPS and min(naps.values()) > 20


def test_what_was_tried_again(story: Story) -> None:
    truth = story.truth
    assert figures(story, "calm", "penstock_tasks_retried_total", "task") == truth.retried
    assert figures(story, "calm", "penstock_tasks_returned_total", "task", "reason") == truth.returned
    assert figures(story, "calm", "penstock_tasks_redelivered_total", "queue") == truth.redelivered
    assert figures(story, "calm", "penstock_tasks_lease_lost_total", "queue") == Counter(hung=1)


def test_what_failed_for_good(story: Story) -> None:
    assert figures(story, "calm", "penstock_task_failures_total", "task", "reason") == story.truth.failures
    assert figures(story, "calm", "penstock_queue_dead_tasks", "queue") == story.truth.dead
    assert story.truth.dead["mail"] > 20


def test_how_long_tasks_took_is_known_of_each(story: Story) -> None:
    """One time from end to end for each task that succeeded or failed, whatever happened on its way."""
    count = figures(story, "calm", "penstock_task_end_to_end_seconds_count", "queue")
    finished = at(story, "calm", f'{_ONE} (penstock_tasks_finished_total{{job="{PAIR}",outcome=~"succeeded|failed"}})')
    expected = by(finished, "queue")
    assert {queue: count[queue] for queue in ("mail", "old", "slept", "killed", "hung", "storm", "blocks")} == {
        queue: expected[queue] for queue in ("mail", "old", "slept", "killed", "hung", "storm", "blocks")
    }


@pytest.mark.parametrize("moment", ["height", "calm", "one exporter"])
def test_what_waits(story: Story, moment: str) -> None:
    expected = Counter(WAITING) if moment == "height" else Counter(stalled=WAITING["stalled"])
    found = figures(story, moment, "penstock_queue_ready_tasks", "queue")
    assert {queue: found[queue] for queue in WAITING} == {queue: expected[queue] for queue in WAITING}
    recorded = at(story, moment, f'queue:penstock_queue_ready_tasks:max{{job="{PAIR}"}}')
    assert by(recorded, "queue")["stalled"] == WAITING["stalled"]


def errors(story: Story, metric: str, queue: str) -> list[float]:
    """By how many seconds each sample of the pair fell short of the truth, in the 20 s before the height."""
    selector = f'{metric}{{job="{PAIR}", queue="{queue}", priority=~"default|"}}[20s]'
    found = story.stage.prometheus.samples(selector, story.truth.moments["height"])
    assert len(found) >= 30 and len({labels["instance"] for labels, _, _ in found}) == 2
    return [moment - story.truth.sent_at[queue] - value for labels, moment, value in found]


@pytest.mark.parametrize("queue", ["stalled", "old"])
def test_the_age_of_the_oldest_is_true_to_a_second(story: Story, queue: str) -> None:
    """A scrape may be answered by a read that is a second old, and takes a moment itself."""
    found = errors(story, "penstock_queue_oldest_ready_age_seconds", queue)
    assert min(found) >= -1.0 and max(found) <= 1.0 + 0.2
    recorded = f'queue:penstock_queue_oldest_ready_age_seconds:max{{job="{PAIR}", queue="{queue}"}}'
    age = story.stage.prometheus.total(recorded, story.truth.moments["height"])
    assert age == pytest.approx(story.truth.moments["height"] - story.truth.sent_at[queue], abs=3.5)
    assert queue != "old" or age > OLD


def test_a_task_that_is_due_and_not_started_is_late_by_the_truth(story: Story) -> None:
    found = errors(story, "penstock_queue_oldest_due_age_seconds", "late")
    assert min(found) >= -1.0 and max(found) <= 1.0 + 0.2
    assert figures(story, "height", "penstock_queue_overdue_scheduled_tasks", "queue") == Counter(late=3)


def test_what_is_held_by_workers_that_do_not_answer(story: Story) -> None:
    assert figures(story, "height", "penstock_queue_overdue_leases", "queue") == Counter(
        {queue: HELD[queue] for queue in ("killed", "hung")}
    )
    assert figures(story, "calm", "penstock_queue_overdue_leases", "queue") == Counter()
    live = figures(story, "height", "penstock_queue_live_workers", "queue")
    assert live == Counter(mail=2, paused=2, storm=2, slept=2, busy=1, blocks=1)
    assert figures(story, "height", "penstock_queue_paused", "queue") == Counter(paused=1)


def test_workers_by_name(story: Story) -> None:
    """Those that are gone are seen to be, and those that live beat."""
    ages = at(story, "height", f'max by (worker) (penstock_worker_heartbeat_age_seconds{{job="{PAIR}"}})')
    info = at(story, "height", f'max by (worker, pid) (penstock_worker_info{{job="{PAIR}"}})')
    pids = {dict(labels)["worker"]: int(dict(labels)["pid"]) for labels in info}
    age = {pids[dict(labels)["worker"]]: value for labels, value in ages.items()}
    stage, since = story.stage, story.truth.moments["height"] - story.truth.moments["killed"]
    for name in ("doomed", "frozen"):
        [pid] = stage.pids(name)[1:]
        assert since - 2 <= age.pop(pid) <= since + 6.5
    for pid in stage.pids("storm")[1:]:  # killed one after the other
        assert 10 < age.pop(pid) <= since + 6.5
    living = {pid for name in ("main", "narrow", "blocked") for pid in stage.pids(name)[1:]}
    assert age.keys() == living and max(age.values()) < 10
    total = at(story, "height", f'sum({_ONE} (penstock_worker_slots{{job="{PAIR}"}}))')
    assert total


def test_rates_of_a_pair_are_the_rate_of_what_happened(story: Story) -> None:
    """Over the whole run: tasks a second, by both exporters, times the seconds, is the number of tasks."""
    moments = story.truth.moments
    span = round(moments["calm"] - moments["begin"]) + 10
    expression = f'sum({_ONE} (increase(penstock_tasks_finished_total{{job="{PAIR}", task="shop.ok"}}[{span}s])))'
    truth = sum(number for (task, _), number in story.truth.finished.items() if task == "shop.ok")
    assert story.stage.prometheus.total(expression, moments["calm"]) == pytest.approx(truth, rel=0.15)
