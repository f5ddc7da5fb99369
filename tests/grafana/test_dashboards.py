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

from grafana.boards.__main__ import FOLDER, dashboards
from penstock.metrics.catalogue import all_metrics
from tests.source import ROOT

FILES = sorted(FOLDER.glob("*.json"))
BOARDS: dict[str, Any] = {path.name: json.loads(path.read_text("utf-8")) for path in FILES}
COLUMNS = 24
#: Labels that a metric has beside its own: from Prometheus, of a histogram, of alerts.
_ALWAYS = {"job", "instance", "pod", "endpoint", "container"}
_OF_ALERTS = {"alertname", "alertstate", "queue", "worker", "node", "severity"}
_METRICS = {metric.name: set(metric.labels) for metric in all_metrics()}
_LABELS = {
    **_METRICS,
    **{name + end: {*labels, "le"} for name, labels in _METRICS.items() for end in ("_bucket", "_sum", "_count")},
    "ALERTS": _OF_ALERTS,
}


def panels(board: Any) -> Iterator[Any]:
    """Without the rows that divide them."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def queries(board: Any) -> Iterator[tuple[str, str, str]]:
    """(where, expression, legend) of all panels and annotations."""
    for panel in panels(board):
        for target in panel.get("targets", ()):
            yield f"{panel['title']} {target['refId']}", target["expr"], target.get("legendFormat", "")
    for each in board["annotations"]["list"]:
        yield f"annotation {each['name']}", each["expr"], each["titleFormat"]


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
    for each in panel.get("fieldConfig", {}).get("overrides", ()):
        for link in [link for p in each["properties"] if p["id"] == "links" for link in p["value"]]:
            if f"{link['url'].removeprefix('/d/').partition('?')[0]}.json" not in BOARDS:
                yield f"a link to {link['url']}"


def faults_of_query(expr: str) -> Iterator[str]:
    """What is wrong with one expression."""
    for name, selector in re.findall(r"\b(penstock_\w+|ALERTS)\s*(\{[^}]*\})?", expr):
        if name not in _LABELS:
            yield f"no metric {name}"
            continue
        used = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector))
        if "job" not in used:
            yield f"{name}: any job"
        if used - _LABELS[name] - _ALWAYS:
            yield f"{name}: has no label {', '.join(sorted(used - _LABELS[name] - _ALWAYS))}"
    for window in re.findall(r"(?:rate|increase|delta)\([^\[]*\[([^\]]*)\]", expr):
        if window not in ("$__rate_interval", "$__range"):
            yield f"a window of {window}"
    known = (
        set().union(*(_LABELS.get(name, set()) for name in re.findall(r"\b(?:penstock_\w+|ALERTS)\b", expr))) | _ALWAYS
    )
    for labels in re.findall(r"(?:by|on|group_left) \(([^)]*)\)", expr):
        for label in filter(None, (each.strip() for each in labels.split(","))):
            if label not in known:
                yield f"no label {label}"
    yield from (f"doubled by a second exporter: {found}" for found in doubled(expr))


def doubled(expr: str) -> list[str]:
    """What adds up or counts series of which no exporter was taken first; by `instance` they are told apart."""
    found = re.findall(
        r"(?:sum|avg|count)(?: by \([^)]*\))?\s?\((?:rate\(|increase\()?penstock_\w+", expr
    ) + re.findall(r"histogram_quantile\([\d.]+, (?:rate\(|penstock_)", expr)
    return [each for each in found if "instance" not in each and "by (version)" not in each]


def faults_of_legend(expr: str, legend: str) -> Iterator[str]:
    known = (
        set().union(*(_LABELS.get(name, set()) for name in re.findall(r"\b(?:penstock_\w+|ALERTS)\b", expr))) | _ALWAYS
    )
    yield from (
        f"no label {label} for the legend" for label in re.findall(r"\{\{(\w+)\}\}", legend) if label not in known
    )


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
        for where, expr, legend in queries(BOARDS[name])
        if (faults := [*faults_of_query(expr), *faults_of_legend(expr, legend)])
    }
    assert found == {}


def test_each_metric_is_on_some_dashboard() -> None:
    text = "".join(path.read_text("utf-8") for path in FILES)
    missing = [name for name in _METRICS if name not in text and not name.startswith("penstock_local_")]
    assert missing == []


@pytest.mark.parametrize("name", BOARDS)
def test_prometheus_can_read_the_queries(name: str, tmp_path: Path) -> None:
    """`make test-observability` installs promtool."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    rules = [{"record": "a:b:c", "expr": substituted(expr)} for _, expr, _ in queries(BOARDS[name])]
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


_ASTRAY = {"url": "/d/x?a=b"}


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
    ],
)
def test_a_fault_of_a_dashboard_is_found(change: Callable[[Any], object], fault: str) -> None:
    assert any(fault in found for found in faults_of_board(spoilt(change)))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda p: p.update(description=""), "no description"),
        (lambda p: p["fieldConfig"]["defaults"].pop("unit"), "no unit"),
        (lambda p: p.update(datasource={"uid": "prometheus"}), "no data source"),
        (lambda p: p["targets"][0].update(refId=""), "without a name of their own"),
        (lambda p: p["targets"][0].update(datasource={"uid": "x"}), "another data source"),
        (
            lambda p: p["fieldConfig"].update(
                overrides=[{"properties": [{"id": "links", "value": [{"url": "/d/x?a=b"}]}]}]
            ),
            "a link to /d/x",
        ),
    ],
)
def test_a_fault_of_a_panel_is_found(change: Callable[[Any], object], fault: str) -> None:
    panel = copy.deepcopy(next(panels(BOARDS["penstock-overview.json"])))
    change(panel)
    assert any(fault in found for found in faults_of_panel(panel))


@pytest.mark.parametrize(
    ("expr", "fault"),
    [
        ('penstock_no_such_thing{job=~"$job"}', "no metric"),
        ("penstock_redis_up", "any job"),
        ('penstock_redis_up{job=~"$job", queue="x"}', "has no label queue"),
        ('max by (job) (rate(penstock_tasks_retried_total{job=~"$job"}[5m]))', "a window of 5m"),
        ('max by (colour) (penstock_redis_up{job=~"$job"})', "no label colour"),
        ('sum(penstock_queue_dead_tasks{job=~"$job"})', "doubled"),
        ('sum by (queue) (rate(penstock_tasks_retried_total{job=~"$job"}[$__rate_interval]))', "doubled"),
        (
            'histogram_quantile(0.9, rate(penstock_task_queue_wait_seconds_bucket{job=~"$job"}[$__rate_interval]))',
            "doubled",
        ),
    ],
)
def test_a_fault_of_a_query_is_found(expr: str, fault: str) -> None:
    assert any(fault in found for found in faults_of_query(expr))


def test_a_legend_without_its_label_is_found() -> None:
    assert list(faults_of_legend('max by (job) (penstock_redis_up{job=~"$job"})', "{{job}} {{queue}}")) == [
        "no label queue for the legend"
    ]
