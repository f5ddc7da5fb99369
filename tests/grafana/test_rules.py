"""Alerts and recording rules: complete, of metrics that exist, each with a case that fires and one that must not.

What they do is tested by promtool, where it is installed: `grafana/rules/tests/`.
"""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.metrics.catalogue import all_metrics
from tests.source import ROOT

RULES = ROOT / "grafana" / "rules"
RUNBOOK = ROOT / "docs" / "runbook.md"
_OF_HISTOGRAMS = ("_bucket", "_sum", "_count")


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text("utf-8"))


def rules(loaded: Any) -> list[dict[str, Any]]:
    return [rule for group in loaded["groups"] for rule in group["rules"]]


ALERTS = load(RULES / "penstock-alerts.yaml")
RECORDING = load(RULES / "penstock-recording.yaml")
CASES = load(RULES / "tests" / "alerts.yaml")


def faults(alerts: Any, cases: Any, runbook: str) -> Iterator[str]:
    """What is missing of alerts, of their cases and of the runbook."""
    headings = set(re.findall(r"^## (\w+)$", runbook, re.MULTILINE))
    fire: set[str] = set()
    quiet: set[str] = set()
    for case in cases["tests"]:
        for check in case.get("alert_rule_test", ()):
            (fire if check["exp_alerts"] else quiet).add(check["alertname"])
    names = [rule["alert"] for rule in rules(alerts)]
    for rule in rules(alerts):
        name, notes = rule["alert"], rule.get("annotations", {})
        if rule.get("labels", {}).get("severity") not in ("critical", "warning"):
            yield f"{name}: no severity"
        for note in ("summary", "description", "runbook_url", "dashboard"):
            if not notes.get(note):
                yield f"{name}: no {note}"
        if notes.get("runbook_url") != f"docs/runbook.md#{name.lower()}" or name not in headings:
            yield f"{name}: its page of the runbook"
        if name not in fire or name not in quiet:
            yield f"{name}: a case that fires, and one that must not"
        if not (ROOT / "grafana" / "dashboards" / f"{notes.get('dashboard')}.json").exists():
            yield f"{name}: there is no dashboard {notes.get('dashboard')}"
    yield from (f"{name}: no such alert" for name in sorted((headings | fire | quiet) - set(names)))
    yield from (f"{name}: twice" for name in sorted({name for name in names if names.count(name) > 1}))


def unknown_names(expression: str, recorded: set[str]) -> list[str]:
    """Names of metrics that neither the exporter has nor a rule records."""
    known = {metric.name for metric in all_metrics()} | recorded
    known |= {m.name + end for m in all_metrics() if m.kind == "histogram" for end in _OF_HISTOGRAMS}
    found = re.findall(r"[a-zA-Z_:][a-zA-Z0-9_:]*penstock_[a-zA-Z0-9_:]*|penstock_[a-zA-Z0-9_:]*", expression)
    return sorted(set(found) - known)


def doubled(expression: str) -> list[str]:
    """Sums over a metric of which no exporter was taken first: two of them would be added up."""
    return re.findall(r"sum[^(]*(?:by|without) \([^)]*\) \((?:rate\(|increase\()?penstock_\w+", expression)


RECORDED = {rule["record"] for rule in rules(RECORDING)}
ALL = [*rules(RECORDING), *rules(ALERTS)]


def test_alerts_are_complete() -> None:
    assert list(faults(ALERTS, CASES, RUNBOOK.read_text("utf-8"))) == []


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_is_of_metrics_that_there_are_and_doubles_nothing(rule: dict[str, Any]) -> None:
    assert unknown_names(rule["expr"], RECORDED) == []
    assert doubled(rule["expr"]) == []


def test_every_recording_rule_has_its_value_tested() -> None:
    text = (RULES / "tests" / "recording.yaml").read_text("utf-8")
    assert [name for name in RECORDED if name not in text] == []


def test_who_is_woken_has_a_route() -> None:
    found = load(ROOT / "grafana" / "alertmanager.yaml")
    receivers = {receiver["name"] for receiver in found["receivers"]}
    routes = [found["route"], *found["route"]["routes"]]
    assert {route["receiver"] for route in routes} == receivers
    assert any("severity = critical" in route.get("matchers", ()) for route in routes)
    names = {rule["alert"] for rule in rules(ALERTS)}
    said = set(re.findall(r"Penstock\w+", (ROOT / "grafana" / "alertmanager.yaml").read_text("utf-8")))
    assert {name for name in said if name != "PenstockWaitBudgetBurn"} <= names


def test_the_example_of_prometheus_loads_these_rules() -> None:
    found = load(ROOT / "grafana" / "prometheus.yaml")
    assert [(ROOT / "grafana" / name).resolve() for name in found["rule_files"]] == [
        RULES / "penstock-recording.yaml",
        RULES / "penstock-alerts.yaml",
    ]


@pytest.mark.parametrize(
    "command",
    [
        "promtool check rules rules/penstock-recording.yaml rules/penstock-alerts.yaml",
        "promtool test rules rules/tests/alerts.yaml rules/tests/recording.yaml",
        "promtool check config prometheus.yaml",
        "amtool check-config alertmanager.yaml",
    ],
)
def test_prometheus_own_tools_agree(command: str) -> None:
    """`make test-observability` installs them."""
    if shutil.which(command.split()[0]) is None:
        pytest.skip(f"{command.split()[0]} is not installed")
    done = subprocess.run(command.split(), cwd=ROOT / "grafana", capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


# The checks themselves.


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda rule: rule["labels"].clear(), "no severity"),
        (lambda rule: rule["annotations"].pop("summary"), "no summary"),
        (lambda rule: rule["annotations"].update(description=""), "no description"),
        (lambda rule: rule["annotations"].update(runbook_url="docs/runbook.md"), "its page of the runbook"),
        (lambda rule: rule["annotations"].update(dashboard="nothing"), "there is no dashboard nothing"),
        (lambda rule: rule.update(alert="PenstockNew"), "a case that fires"),
        (lambda rule: rule.update(alert="PenstockNew"), "no such alert"),
    ],
)
def test_what_is_missing_is_found(spoil: Any, fault: str) -> None:
    bad = copy.deepcopy(ALERTS)
    spoil(rules(bad)[0])
    assert any(fault in found for found in faults(bad, CASES, RUNBOOK.read_text("utf-8")))


def test_an_alert_that_never_fires_in_a_case_is_found() -> None:
    name = rules(ALERTS)[0]["alert"]
    cases = copy.deepcopy(CASES)
    for case in cases["tests"]:
        case["alert_rule_test"] = [c for c in case["alert_rule_test"] if c["alertname"] != name or not c["exp_alerts"]]
    assert f"{name}: a case that fires, and one that must not" in list(
        faults(ALERTS, cases, RUNBOOK.read_text("utf-8"))
    )


def test_wrong_names_and_sums_are_found() -> None:
    assert unknown_names("rate(penstock_task_finished_total[5m]) > queue:penstock_x:max", set()) == [
        "penstock_task_finished_total",
        "queue:penstock_x:max",
    ]
    assert (
        unknown_names("penstock_task_queue_wait_seconds_bucket + queue:penstock_x:max", {"queue:penstock_x:max"}) == []
    )
    assert doubled("sum by (job, queue) (penstock_queue_ready_tasks)")
    assert doubled("sum by (job) (rate(penstock_tasks_finished_total[5m]))")
    assert not doubled("sum by (job) (max without (instance) (penstock_queue_ready_tasks))")
