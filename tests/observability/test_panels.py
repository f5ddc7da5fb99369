"""What an operator reads off the dashboards is what happened: panels by their titles, against the truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.observability import panels
from tests.observability.panels import DASHBOARDS, Query
from tests.observability.programs import Vector
from tests.observability.stage import PAIR, SCRAPE
from tests.observability.story import HELD, OLD, WAITING, Story, Truth

pytestmark = [pytest.mark.observability, pytest.mark.timeout(400)]

QUERIES = {str(query): query for path in DASHBOARDS for query in panels.queries(path)}
Says = Callable[[Truth], float]


def ask(story: Story, moment: str, place: str, **chosen: str) -> Vector:
    """What this panel says then, over the time since the beginning; a variable that is not chosen is "All"."""
    moments = story.truth.moments
    [path] = [path for path in DASHBOARDS if place.startswith(f"{path.stem}/")]
    given = {**panels.builtin(moments["begin"] - 10, moments[moment], SCRAPE), "job": PAIR, **chosen}
    values = next(panels.choices(path, story.stage.prometheus, {**given, "datasource": "prometheus"}))
    return story.stage.prometheus.query(panels.fill(QUERIES[place].expression, values), moments[moment])


def waiting(truth: Truth) -> float:
    """How long the oldest task has waited at the height, but for that of the paused queue."""
    return truth.moments["height"] - truth.sent_at["old"]


FIGURES: list[tuple[str, str, dict[str, str], Says]] = [
    ("calm", "penstock-overview/Ready (A)", {}, lambda truth: WAITING["stalled"]),
    ("one exporter", "penstock-overview/Ready (A)", {}, lambda truth: WAITING["stalled"]),
    ("calm", "penstock-overview/Dead letters (A)", {}, lambda truth: truth.dead.total()),
    ("one exporter", "penstock-overview/Dead letters (A)", {}, lambda truth: truth.dead.total()),
    ("height", "penstock-overview/Overdue leases (A)", {}, lambda truth: HELD["killed"] + HELD["hung"]),
    ("calm", "penstock-overview/Overdue leases (A)", {}, lambda truth: 0),
    ("calm", "penstock-overview/Living workers (A)", {}, lambda truth: 6),  # main 2, narrow, blocked, frozen, rescue
    ("height", "penstock-queue/Ready (A)", {"queue": "old"}, lambda truth: WAITING["old"]),
    ("height", "penstock-queue/Paused (A)", {}, lambda truth: 1),
    ("height", "penstock-queue/Running (A)", {"queue": "killed"}, lambda truth: HELD["killed"]),
    ("height", "penstock-queue/Scheduled (A)", {"queue": "late"}, lambda truth: 3),
    ("calm", "penstock-queue/Dead letters (A)", {"queue": "mail"}, lambda truth: truth.dead["mail"]),
    ("calm", "penstock-worker/Living workers (A)", {}, lambda truth: 6),
    ("calm", "penstock-worker/Silent workers (A)", {}, lambda truth: 4),  # doomed, and storm's three
    ("calm", "penstock-overview/Silent workers (A)", {}, lambda truth: 4),
    ("height", "penstock-overview/Redis answers (A)", {}, lambda truth: 1),
    ("no redis", "penstock-overview/Redis answers (A)", {}, lambda truth: 0),
    ("calm", "penstock-redis/Redis answers (A)", {}, lambda truth: 1),
    ("full", "penstock-redis/Refuses when full (A)", {}, lambda truth: 0),
    ("calm", "penstock-redis/Refuses when full (A)", {}, lambda truth: 1),
    ("full", "penstock-redis/Append-only file (A)", {}, lambda truth: 0),
    ("calm", "penstock-redis/Append-only file (A)", {}, lambda truth: 1),
]


@pytest.mark.parametrize(
    ("moment", "place", "chosen", "says"), FIGURES, ids=lambda each: each if isinstance(each, str) else ""
)
def test_a_figure(story: Story, moment: str, place: str, chosen: dict[str, str], says: Says) -> None:
    assert list(ask(story, moment, place, **chosen).values()) == [says(story.truth)]


@pytest.mark.parametrize("place", ["penstock-overview/Oldest ready (A)", "penstock-queue/Oldest ready (A)"])
def test_the_oldest(story: Story, place: str) -> None:
    """To the second in which a read is shared, and that of the scrape."""
    [found] = ask(story, "height", place).values()
    assert waiting(story.truth) - 2.3 <= found <= waiting(story.truth) + 1.0 and found > OLD


ALL_FIGURES = [query for path in DASHBOARDS for query in panels.queries(path) if query.kind == "stat"]


@pytest.mark.parametrize("query", ALL_FIGURES, ids=str)
def test_what_nobody_knows_is_no_figure(story: Story, query: Query) -> None:
    """Neither 0 nor what was true a while ago: while Redis is away, and while no exporter is there to ask it."""
    place = str(query)
    assert ask(story, "calm", place)
    for moment in ("no redis", "no exporter"):
        found = ask(story, moment, place)
        if "Alerts that fire" in place:  # of them Prometheus knows by itself
            assert all(value > 0 for value in found.values())
        else:
            assert found == ({(): 0.0} if "Redis answers" in place else {}), moment


def test_the_alerts(story: Story) -> None:
    """As many as Prometheus has, the critical ones in another colour than the warnings, and about which queue."""
    moments, prometheus = story.truth.moments, story.stage.prometheus
    firing = f'ALERTS{{alertname=~"Penstock.*", alertstate="firing", job=~"{PAIR}|"}}'
    found = prometheus.query(firing, moments["height"])
    assert list(ask(story, "height", "penstock-overview/Alerts that fire (A)").values()) == [len(found)]
    shown = ask(story, "height", "penstock-overview/Alerts (A)")
    states = {dict(labels)["alertname"]: value for labels, value in shown.items()}
    severity = {dict(labels)["alertname"]: dict(labels)["severity"] for labels in found}
    assert states == {name: {"warning": 1.0, "critical": 2.0}[how] for name, how in severity.items()}
    queues = Counter(dict(labels)["queue"] for labels in found if "queue" in dict(labels))
    assert by(ask(story, "height", "penstock-overview/Queues (A)"), "queue") == dict(queues)


def by(found: Vector, label: str) -> dict[str, float]:
    return {dict(labels)[label]: value for labels, value in found.items() if value}


def test_the_table_of_queues(story: Story) -> None:
    ready = by(ask(story, "height", "penstock-overview/Queues (C)"), "queue")
    assert {queue: ready[queue] for queue in WAITING} == WAITING
    assert by(ask(story, "height", "penstock-overview/Queues (J)"), "queue") == {
        "mail": 2, "paused": 2, "storm": 2, "slept": 2, "busy": 1, "blocks": 1
    }  # fmt: skip
    assert by(ask(story, "calm", "penstock-overview/Queues (I)"), "queue") == dict(story.truth.dead)
    assert by(ask(story, "height", "penstock-overview/Queues (L)"), "queue") == {"paused": 1}


def test_the_table_of_tasks(story: Story) -> None:
    """What Prometheus makes of counters over a time is an estimate, of what it has seen: not exact, and not double."""
    truth, ended, failed = story.truth, Counter[str](), Counter[str]()
    for (task, outcome), number in truth.finished.items():
        ended[task] += number
        failed[task] += number if outcome == "failed" else 0
    for place, expected in (("A", ended), ("B", failed), ("C", truth.retried)):
        found = by(ask(story, "calm", f"penstock-queue/Tasks ({place})"), "task")
        for task in ("shop.ok", "shop.flaky", "shop.thread", "shop.bad", "shop.slow", "shop.refused"):
            # The first of a kind comes with the series, and Prometheus takes that for no increase.
            assert found.get(task, 0) == pytest.approx(expected[task], rel=0.2, abs=4), (place, task)


def test_failures_by_reason(story: Story) -> None:
    """Over all of the time they are as many as there were."""
    moments = story.truth.moments
    span = moments["calm"] - moments["begin"] + 10
    expression = QUERIES["penstock-task/Failures per second, by reason (A)"].expression
    given = {**panels.builtin(0, 0, 1), "__rate_interval": f"{span:.0f}s", "job": PAIR, "queue": ".+", "task": ".+"}
    rates = by(story.stage.prometheus.query(panels.fill(expression, given), moments["calm"]), "reason")
    found = {reason: rate * round(span) for reason, rate in rates.items()}
    reasons = Counter[str]()
    for (_, reason), number in story.truth.failures.items():
        reasons[reason] += number
    assert found == pytest.approx(dict(reasons), rel=0.25, abs=4)
