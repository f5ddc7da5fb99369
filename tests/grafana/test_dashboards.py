"""Dashboards: as their source makes them, by the rules of Grafana's dashboard linter, of metrics and labels that exist,
and right with any number of exporters.

That each expression returns what is true is tested against a real Prometheus: `tests/observability/`.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from grafana.boards.__main__ import FOLDER, dashboards
from penstock.metrics.catalogue import all_metrics
from tests.grafana.expressions import faults_of, faults_of_variable
from tests.source import ROOT

FILES = sorted(FOLDER.glob("*.json"))
BOARDS: dict[str, Any] = {path.name: json.loads(path.read_text("utf-8")) for path in FILES}
COLUMNS = 24
ALERTS = [
    rule
    for group in yaml.safe_load((ROOT / "grafana" / "rules" / "penstock-alerts.yaml").read_text("utf-8"))["groups"]
    for rule in group["rules"]
]


def panels(board: Any) -> Iterator[Any]:
    """Without the rows that divide them."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def queries(board: Any) -> Iterator[tuple[str, str, str, bool]]:
    """(where, expression, legend, whether it is of one moment) of all panels and annotations."""
    for panel in panels(board):
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"], target["legendFormat"], target["instant"]
    for each in board["annotations"]["list"]:
        yield f"annotation {each['name']}", each["expr"], each["titleFormat"], False


def faults_of_board(board: Any) -> Iterator[str]:
    """Rules of the dashboard linter for the whole."""
    variables = {each["name"]: each for each in board["templating"]["list"]}
    if variables.get("datasource", {}).get("type") != "datasource":
        yield "no variable for the data source"
    job = variables.get("job", {})
    if not (job.get("multi") and job.get("includeAll") and job.get("allValue") == ".+"):
        yield "no variable for the job, of several values and all"
    for name, each in variables.items():
        if each["type"] == "query" and (each["datasource"]["uid"] != "${datasource}" or each["refresh"] != 2):
            yield f"variable {name}: data source, or refresh on time range change"
    if board.get("editable", True) or not board.get("refresh") or not board.get("uid") or len(board["uid"]) > 40:
        yield "editable, or without refresh or uid"
    if "penstock" not in board.get("tags", ()):
        yield "no tag"
    for link in board.get("links", ()):
        if f"{link['url'].removeprefix('/d/')}.json" not in BOARDS or not link["keepTime"] or not link["includeVars"]:
            yield f"link {link['title']}"
    ids = [panel["id"] for panel in board["panels"]]
    if len(set(ids)) != len(ids):
        yield "two panels of one id"
    titles = [panel["title"] for panel in board["panels"]]
    if len(set(titles)) != len(titles):
        yield "two panels of one title"
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        if place["x"] + place["w"] > COLUMNS:
            yield f"{panel['title']}: wider than the grid"
        for cell in [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]:
            if cell in taken:
                yield f"{panel['title']}: over {taken[cell]}"
                break
            taken[cell] = panel["title"]


def faults_of_panel(panel: Any) -> Iterator[str]:
    """Rules of the dashboard linter for one panel."""
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    if not panel.get("title") or len(panel.get("description", "")) < 10:
        yield "no title, or no description"
    if not defaults.get("unit"):
        yield "no unit"
    if panel.get("datasource", {}).get("uid") != "${datasource}" or not panel.get("targets"):
        yield "no data source, or no query"
    refs = [target["refId"] for target in panel.get("targets", ())]
    if not all(refs) or len(set(refs)) != len(refs):
        yield "queries without a name of their own"
    for target in panel.get("targets", ()):
        if target["datasource"]["uid"] != "${datasource}":
            yield "a query with another data source"
    if panel["type"] == "state-timeline" and defaults.get("color", {}).get("mode") != "thresholds":
        yield "limits that colour nothing"
    if panel["type"] == "stat" and [each["options"].get("match") for each in defaults.get("mappings", ())] != [
        "null+nan"
    ]:
        yield "nothing is shown in the colour of the lowest limit"
    if panel["type"] == "table" and not panel["options"].get("sortBy"):
        yield "a table in no order"
    for each in panel.get("fieldConfig", {}).get("overrides", ()):
        for link in [link for p in each["properties"] if p["id"] == "links" for link in p["value"]]:
            if f"{link['url'].removeprefix('/d/').partition('?')[0]}.json" not in BOARDS:
                yield f"a link to {link['url']}"
            if "var-job=" not in link["url"] or "${datasource:queryparam}" not in link["url"]:
                yield "a link that forgets the job or the data source"


def test_they_are_what_their_source_makes() -> None:
    made = dashboards()
    assert sorted(made) == sorted(BOARDS)
    for name, text in made.items():
        assert (FOLDER / name).read_text("utf-8") == text, f"{name}: run `python -m grafana.boards`"


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_by_the_rules_of_the_linter(name: str) -> None:
    board = BOARDS[name]
    assert f"{board['uid']}.json" == name
    assert list(faults_of_board(board)) == []
    assert {panel["title"]: found for panel in panels(board) if (found := list(faults_of_panel(panel)))} == {}


@pytest.mark.parametrize("name", BOARDS)
def test_queries_of_what_there_is_and_doubling_nothing(name: str) -> None:
    found = {
        where: faults
        for where, expr, legend, instant in queries(BOARDS[name])
        if (faults := faults_of(expr, legend, instant=instant))
    }
    assert found == {}


@pytest.mark.parametrize("name", BOARDS)
def test_variables_of_what_there_is(name: str) -> None:
    asked = [each for each in BOARDS[name]["templating"]["list"] if each["type"] == "query"]
    found = {each["name"]: faults for each in asked if (faults := faults_of_variable(each["query"]["query"]))}
    assert found == {} and asked


def test_each_metric_is_on_some_dashboard() -> None:
    text = "".join(path.read_text("utf-8") for path in FILES)
    names = [metric.name for metric in all_metrics() if not metric.name.startswith("penstock_local_")]
    assert [name for name in names if name not in text] == []


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: str(rule["alert"]))
def test_an_alert_is_named_on_the_dashboard_that_it_leads_to(rule: Any) -> None:
    board = BOARDS[rule["annotations"]["dashboard"] + ".json"]
    assert [panel["title"] for panel in panels(board) if rule["alert"] in panel["description"]]


@pytest.mark.parametrize("name", BOARDS)
def test_figures_and_tables_are_of_this_moment(name: str) -> None:
    """Of a course over time Grafana would show the last value there was, also while Redis is away."""
    asked = [
        target for panel in panels(BOARDS[name]) if panel["type"] in ("stat", "table") for target in panel["targets"]
    ]
    assert asked and all(target["instant"] and not target.get("range") for target in asked)


@pytest.mark.parametrize("name", BOARDS)
def test_prometheus_can_read_the_queries(name: str, tmp_path: Path) -> None:
    """`make test-observability` installs promtool."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    rules = [{"record": "a:b:c", "expr": substituted(expr)} for _, expr, _, _ in queries(BOARDS[name])]
    file = tmp_path / "rules.yaml"
    file.write_text(json.dumps({"groups": [{"name": f"g{i}", "rules": [rule]} for i, rule in enumerate(rules)]}))
    done = subprocess.run(["promtool", "check", "rules", str(file)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def substituted(expr: str) -> str:
    for name, value in {"$__rate_interval": "1m", "$__range": "1h", "$__interval_ms": "15000"}.items():
        expr = expr.replace(name, value)
    return re.sub(r"\$\w+", ".+", expr)


def test_provisioning_leads_to_the_dashboards() -> None:
    text = (ROOT / "grafana" / "provisioning" / "dashboards" / "penstock.yaml").read_text("utf-8")
    assert "path: /var/lib/grafana/dashboards" in text
    assert "uid: prometheus" in (ROOT / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text(
        "utf-8"
    )


# The checks themselves.


def spoilt(change: Callable[[Any], object]) -> Any:
    board = copy.deepcopy(BOARDS["penstock-overview.json"])
    change(board)
    return board


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda b: b["templating"]["list"].pop(0), "no variable for the data source"),
        (lambda b: b["templating"]["list"].pop(1), "no variable for the job"),
        (lambda b: b["templating"]["list"][1].update(refresh=1), "refresh on time range change"),
        (lambda b: b.update(editable=True), "editable"),
        (lambda b: b.update(tags=[]), "no tag"),
        (lambda b: b["links"][0].update(url="/d/none"), "link"),
        (lambda b: b["panels"][1].update(id=b["panels"][0]["id"]), "two panels of one id"),
        (lambda b: b["panels"][1].update(gridPos=b["panels"][0]["gridPos"]), "over"),
        (lambda b: b["panels"][0]["gridPos"].update(w=30), "wider than the grid"),
        (lambda b: b["panels"][1].update(title=b["panels"][0]["title"]), "two panels of one title"),
    ],
)
def test_a_fault_of_a_dashboard_is_found(change: Callable[[Any], object], fault: str) -> None:
    assert any(fault in found for found in faults_of_board(spoilt(change)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda p: p.update(description=""), "no description"),
        (lambda p: p["fieldConfig"]["defaults"].pop("unit"), "no unit"),
        (lambda p: p["fieldConfig"]["defaults"].pop("mappings"), "in the colour of the lowest limit"),
        (lambda p: p.update(type="state-timeline"), "limits that colour nothing"),
        (lambda p: p.update(type="table"), "a table in no order"),
        (lambda p: p.update(datasource={"uid": "prometheus"}), "no data source"),
        (lambda p: p["targets"][0].update(refId=""), "without a name of their own"),
        (lambda p: p["targets"][0].update(datasource={"uid": "x"}), "another data source"),
        (
            lambda p: p["fieldConfig"].update(
                overrides=[{"properties": [{"id": "links", "value": [{"url": "/d/x?a=b"}]}]}]
            ),
            "a link to /d/x",
        ),
        (
            lambda p: p["fieldConfig"].update(
                overrides=[{"properties": [{"id": "links", "value": [{"url": "/d/penstock-queue?var-queue=a"}]}]}]
            ),
            "a link that forgets the job",
        ),
    ],
)
def test_a_fault_of_a_panel_is_found(change: Callable[[Any], object], fault: str) -> None:
    panel = copy.deepcopy(next(panels(BOARDS["penstock-overview.json"])))
    change(panel)
    assert any(fault in found for found in faults_of_panel(panel))


_RETRIED = 'penstock_tasks_retried_total{job=~"$job"}'
_WAITED = 'penstock_task_queue_wait_seconds_bucket{job=~"$job"}'
_READY = 'penstock_queue_ready_tasks{job=~"$job"}'


@pytest.mark.parametrize(
    ("expr", "fault"),
    [
        ("sum(", "no PromQL"),
        ('max by (job) (penstock_no_such_thing{job=~"$job"})', "no metric"),
        ("max by (job) (penstock_redis_up)", "any job"),
        ('max by (job) (penstock_redis_up{job=~"$job", queue="x"})', "no label queue of penstock_redis_up"),
        (f"max by (job) (rate({_RETRIED}[5m]))", "a window of"),
        ('max by (colour) (penstock_redis_up{job=~"$job"})', "no label colour to group by"),
        (f"sum({_READY})", "doubled"),
        (f"sum without (queue) ({_READY})", "doubled"),
        (f"sum by (job, instance) ({_READY})", "doubled"),
        (f"avg by (queue) ({_READY})", "doubled"),
        (f"count({_READY} > 0)", "doubled"),
        (f"topk(3, {_READY})", "doubled"),
        (f"sum by (queue) (rate({_RETRIED}[$__rate_interval]))", "doubled"),
        (f"histogram_quantile(0.9, rate({_WAITED}[$__rate_interval]))", "each exporter has a series of its own"),
        (f"histogram_quantile(0.9, sum by (le) (rate({_WAITED}[$__rate_interval])))", "doubled"),
        (f"histogram_quantile(0.9, max by (job) (rate({_WAITED}[$__rate_interval])))", "no label le"),
        (_READY, "each exporter has a series of its own"),
        (f"max without (instance) ({_READY})", "each exporter has a series of its own"),
        (f"max by (queue) ({_RETRIED})", "a counter without its rate"),
        (f"sum(max by (queue) ({_RETRIED}))", "a counter without its rate"),
        (f"max by (queue) (rate({_READY}[$__rate_interval]))", "of what is no counter"),
        (f"max by (queue) ({_READY}) or vector(0)", "of which nothing is known"),
        (f"max by (queue) (rate({_RETRIED}[5m]))", "a window of"),
        (f"max by (queue) ({_READY}) or 0 * max({_READY})", "always added"),
        (f"max by (queue) ({_READY}) / max by (job) ({_READY})", "never matches"),
        (f"max by (queue) ({_READY}) / on (job) max by (job) ({_READY})", "no label job on both sides"),
    ],
)
def test_a_fault_of_a_query_is_found(expr: str, fault: str) -> None:
    assert any(fault in found for found in faults_of(expr)), faults_of(expr)


@pytest.mark.parametrize(
    "expr",
    [
        f"max by (job, queue) ({_READY})",
        f"sum by (queue) (max without (instance, pod, endpoint, container) ({_READY}))",
        f"topk(3, max by (queue) ({_READY}))",
        'count by (version) (penstock_exporter_build_info{job=~"$job"})',
        f'max by (job, queue) ({_READY}) * on (job) group_left () max by (job) (penstock_redis_up{{job=~"$job"}})',
    ],
)
def test_a_query_without_fault_has_none(expr: str) -> None:
    assert faults_of(expr) == []


def test_what_is_of_one_moment_has_no_step_to_go_by() -> None:
    assert faults_of(f"max by (queue) (rate({_RETRIED}[5m]))", instant=True) == []
    found = faults_of(f"max by (queue) (rate({_RETRIED}[$__rate_interval]))", instant=True)
    assert found == ["a window of 0:01:01"]


@pytest.mark.parametrize(
    ("expr", "legend", "fault"),
    [
        ('max by (job) (penstock_redis_up{job=~"$job"})', "{{job}} {{queue}}", "no label queue for the legend"),
        # The metric has it; the grouping drops it.
        (f"max by (job) ({_READY})", "{{queue}}", "no label queue for the legend"),
    ],
)
def test_a_legend_without_its_label_is_found(expr: str, legend: str, fault: str) -> None:
    assert faults_of(expr, legend) == [fault]


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("label_values(job)", "no label_values()"),
        ("label_values(penstock_redis_up, node)", "any job"),
        ('label_values(penstock_redis_up{job=~"$job"}, node)', "no label node"),
        ('label_values(penstock_nothing{job=~"$job"}, job)', "no metric"),
    ],
)
def test_a_fault_of_a_variable_is_found(query: str, fault: str) -> None:
    assert any(fault in found for found in faults_of_variable(query))
