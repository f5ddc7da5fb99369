"""Every expression of every dashboard and rule, by a real Prometheus, over the run: none errs, all say something."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability import panels
from tests.observability.panels import DASHBOARDS, Query
from tests.observability.programs import Points
from tests.observability.stage import ALONE, PAIR, RULES, SCRAPE, Stage
from tests.observability.story import Story

pytestmark = [pytest.mark.observability, pytest.mark.timeout(400)]

#: Part of an expression -> why a pair of exporters is not compared with one of them by its mean.
INCOMPARABLE = {
    "ALERTS": "is of rules, and not of exporters",
    "penstock_exporter_": "is of each exporter, and meant to be",
    "histogram_quantile": "a quantile of twice as many is the same; the counts below it are compared by other panels",
}
QUERIES = [query for path in DASHBOARDS for query in panels.queries(path)]
RULES_OF = [
    rule for path in RULES for group in yaml.safe_load(path.read_text("utf-8"))["groups"] for rule in group["rules"]
]


def path_of(query: Query) -> Path:
    return next(path for path in DASHBOARDS if path.stem == query.dashboard)


def evaluate(story: Story, query: Query, job: str = PAIR, **given: str) -> Points:
    """Over the whole run, for the first values of its variables for which there is anything."""
    truth, prometheus = story.truth.moments, story.stage.prometheus
    start, end = truth["begin"], truth["calm"]
    given = {**panels.builtin(start, end, SCRAPE), "job": job, "datasource": "prometheus", **given}
    found: Points = {}
    for values in panels.choices(path_of(query), prometheus, given):
        filled = panels.fill(query.expression, values)
        assert "$" not in filled.replace('$"', ""), f"{query}: {filled}"
        found = prometheus.over(filled, start, end, SCRAPE)
        if found:
            break
    return found


def test_all_five_dashboards_are_there() -> None:
    names = ["overview", "queue", "redis", "task", "worker"]
    assert [path.stem for path in DASHBOARDS] == [f"penstock-{name}" for name in names]
    assert len(QUERIES) > 50 and len(RULES_OF) > 20


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_every_query_of_every_dashboard_has_data(story: Story, query: Query) -> None:
    found = evaluate(story, query)
    numbers = [value for points in found.values() for _, value in points]
    assert any(value == value for value in numbers), f"{query}: nothing but NaN in {len(found)} series"


@pytest.mark.parametrize("query", QUERIES, ids=str)
def test_two_exporters_say_what_one_says(story: Story, query: Query) -> None:
    """The pair's figures, and those of one of the two alone, are the same: nothing is counted twice.

    Asked when nothing changes any more, and of counters themselves in place of their rates: two exporters are not
    scraped at the same moments, and a rate hangs on those.
    """
    if why := next((why for part, why in INCOMPARABLE.items() if part in query.expression), None):
        pytest.skip(why)
    ours, theirs = (in_the_calm(story, query, job) for job in (PAIR, ALONE))
    assert ours.keys() == theirs.keys()
    # One of them may have read just before a heartbeat (each 5 s), and the other just after it.
    little = 6.5 if "age_seconds" in query.expression or "time()" in query.expression else 0.5
    for labels, value in ours.items():
        assert value == pytest.approx(theirs[labels], rel=0.35, abs=little), f"{labels}: {value}, not {theirs[labels]}"


def test_what_is_counted_twice_would_be_found(story: Story) -> None:
    naive = Query("penstock-overview", "", 'sum(rate(penstock_tasks_finished_total{job=~"$job"}[$__rate_interval]))')
    [ours], [theirs] = (in_the_calm(story, naive, job).values() for job in (PAIR, ALONE))
    assert ours == pytest.approx(2 * theirs, rel=0.01) and ours != pytest.approx(theirs, rel=0.35, abs=0.5)


def in_the_calm(story: Story, query: Query, job: str) -> dict[Any, float]:
    """When all is over; without the job's label."""
    moment = story.truth.moments["calm"]
    expression = re.sub(r"\b(?:rate|increase)\((\w+\{[^}]*\})\[[^\]]*\]\)", r"\1", query.expression)
    given = {**panels.builtin(moment - 60, moment, SCRAPE), "job": job, "datasource": "prometheus"}
    for values in panels.choices(path_of(query), story.stage.prometheus, given):
        found = story.stage.prometheus.query(panels.fill(expression, values), moment)
        if found:
            numbers = {labels: value for labels, value in found.items() if value == value}
            return {tuple(pair for pair in labels if pair[0] != "job"): value for labels, value in numbers.items()}
    return {}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_variable_has_values(story: Story, path: Path) -> None:
    start, end = story.truth.moments["begin"], story.truth.moments["end"]
    given = panels.builtin(start, end, SCRAPE) | {"datasource": "prometheus"} | panels.fixed(path)
    for variable in panels.variables(path):
        values = panels.values_of(variable, story.stage.prometheus, given)
        assert values and all(values), f"{path.stem}: {variable.name} has no values"
        expected = {"job": PAIR, "queue": "mail", "task": "shop.ok"}.get(variable.name, values[0])
        assert expected in values
        given[variable.name] = expected


@pytest.mark.parametrize("rule", RULES_OF, ids=lambda rule: rule.get("record") or rule["alert"])
def test_every_rule_can_be_evaluated_as_it_stands(story: Story, rule: dict[str, Any]) -> None:
    """With its own windows, of minutes and hours, at moments of the run; a record has values then."""
    moments = story.truth.moments
    found = [story.stage.prometheus.query(str(rule["expr"]), moments[name]) for name in ("height", "calm", "end")]
    if "record" in rule:
        assert any(value == value for vector in found for value in vector.values()), "it records nothing"


def test_prometheus_has_no_complaint_about_any_rule(stage: Stage) -> None:
    rules = [rule for group in stage.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RULES_OF)
    assert {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")} == {}
    assert {rule["name"]: rule["health"] for rule in rules if rule["health"] != "ok"} == {}


@pytest.mark.parametrize("name", [rule["record"] for rule in RULES_OF if "record" in rule])
def test_what_is_recorded_is_there_once_for_each_queue(story: Story, name: str) -> None:
    """Both exporters are one in it."""
    found = story.stage.prometheus.query(f'{{__name__="{name}", job="{PAIR}"}}', story.truth.moments["height"])
    assert found
    for labels in found:
        assert not {"instance", "pod", "endpoint", "container"} & dict(labels).keys()
