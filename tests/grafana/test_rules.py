"""Alerts and recording rules: complete, of metrics that exist, each with a case that fires and one that must not.

What they do is tested by promtool, where it is installed: `grafana/rules/tests/`.
"""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from penstock.metrics.catalogue import all_metrics
from tests.source import ROOT
from tests.test_docs import unknown_words

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
    """Metrics of which no exporter was taken first, by `max` and nothing else: two would be added up, or be two alerts.

    Of what is recorded that has been done. `on` and `by` keep the job, since each namespace is one.
    """
    taken = re.compile(
        r"(?:max by \(job\b[\w, ]*\)|max without \(instance, pod, endpoint, container\)|absent"
        r"|max(?=\(max_over_time)) ?\((?:\w+\()?$"
    )
    plain = re.sub(r"#.*", "", expression)
    names = re.finditer(r"(?<![\w:])penstock_\w+", plain)
    found = [match[0] for match in names if not taken.search(plain[: match.start()])]
    return found + [group for group in re.findall(r"\b(?:on|by) \(\w[\w, ]*\)", plain) if "job" not in group]


def read_by(expression: str) -> set[str]:
    """Metrics that an expression reads, also by what is recorded of them."""
    recorded = {rule["record"]: rule["expr"] for rule in rules(RECORDING)}
    found = set(re.findall(r"(?<![\w:])penstock_\w+", expression))
    for name in set(re.findall(r"\w+:penstock_\w+:\w+", expression)):
        found |= read_by(recorded[name])
    return found


def commands(text: str) -> list[str]:
    """Commands of penstock in running text."""
    return re.findall(r"`(penstock [^`]+)`", text)


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
    tool(command.split()[0])
    done = subprocess.run(command.split(), cwd=ROOT / "grafana", capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_a_case_that_must_not_fire_has_what_the_alert_looks_at() -> None:
    """Where there is nothing, nothing fires: that would be no test."""
    for rule in rules(ALERTS):
        for case in CASES["tests"]:
            if all(check["alertname"] != rule["alert"] for check in case["alert_rule_test"]):
                continue
            given = {re.split(r"[{ ]", each["series"])[0] for each in case["input_series"]}
            known = {"other"} if rule["alert"] == "PenstockExporterDown" else set()
            assert given & (read_by(rule["expr"]) | known), f"{rule['alert']}: {case['name']}"


def test_records_are_made_before_they_are_used() -> None:
    """In the cases. Else promtool takes the groups in any order, and an alert fires a minute later now and then."""
    groups = [group["name"] for file in (RECORDING, ALERTS) for group in file["groups"]]
    assert CASES["group_eval_order"] == groups and len(set(groups)) == len(groups)


def test_the_runbook_says_who_is_woken() -> None:
    said = dict(re.findall(r"^## (\w+)\n\n\*(\w+)\.\*", RUNBOOK.read_text("utf-8"), re.MULTILINE))
    assert said == {rule["alert"]: rule["labels"]["severity"].capitalize() for rule in rules(ALERTS)}


def test_commands_that_are_named_exist() -> None:
    notes = [text for rule in rules(ALERTS) for text in rule["annotations"].values()]
    found = commands(re.sub(r"\{\{.*?\}\}", "mail", "\n".join([RUNBOOK.read_text("utf-8"), *notes])))
    assert len(found) > 20
    assert {line: unknown for line in found if (unknown := unknown_words(shlex.split(line)[1:]))} == {}


def test_links_to_the_runbook_can_be_made_by_the_command_in_the_comment(tmp_path: Path) -> None:
    path = tmp_path / "penstock-alerts.yaml"
    text = (RULES / path.name).read_text("utf-8")
    [command] = re.findall(r"^#.*\b(sed .*)$", text, re.MULTILINE)
    path.write_text(text)
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True)
    links = [rule["annotations"]["runbook_url"] for rule in rules(load(path))]
    assert links == [f"https://example.org/penstock/{each['annotations']['runbook_url']}" for each in rules(ALERTS)]


def test_prometheus_takes_the_rule_that_the_runbook_proposes(tmp_path: Path) -> None:
    tool("promtool")
    [block] = re.findall(r"^```yaml\n(.*?)^```$", RUNBOOK.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    (tmp_path / "shop.yaml").write_text(block)
    done = subprocess.run(["promtool", "check", "rules", "shop.yaml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [rule] = rules(yaml.safe_load(block))
    assert read_by(rule["expr"]), "of what is recorded"


# Whether the cases would notice that a rule is another one.

_COMPARED = re.compile(r"(>|<|==) *([\d.]+)( \* 0\.01)?(?=\s|$)", re.MULTILINE)
#: A guard against a division by zero, whose result is never above anything: it cannot be noticed.
_EQUAL = "(avg_over_time(penstock_queue_slots[15m])) > 0"


def mutants(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rule with one thing changed: without its wait, a condition that always holds, half and twice a threshold."""
    for key in ("for", "keep_firing_for"):
        if key in rule:
            yield f"no {key}", {name: each for name, each in rule.items() if name != key}
    text = rule["expr"]
    for match in _COMPARED.finditer(text):
        before, after = text[: match.start()], text[match.end() :]
        if f"{before}{match[0]}".endswith(_EQUAL):
            continue
        always = {">": "> -1e9", "<": "< 1e9", "==": "!= 1e9"}[match[1]]
        number = float(match[2]) * (0.01 if match[3] else 1)
        near = [f"{match[1]} {number * 2:g}", f"{match[1]} {number / 2:g}"] if number not in (0, 1) else []
        for other in (always, *near):
            yield f"..{before[-60:]}{other}", {**rule, "expr": before + other + after}


@pytest.mark.parametrize("rule", rules(ALERTS), ids=lambda rule: rule["alert"])
def test_the_cases_notice_each_change_of_a_rule(rule: dict[str, Any], tmp_path: Path) -> None:
    tool("promtool")
    tried = [("as it is", rule), *mutants(rule)]
    passed = unnoticed(rule["alert"], [each for _, each in tried], tmp_path)
    assert [tried[n][0] for n in sorted(passed)] == ["as it is"]


def unnoticed(name: str, each: list[dict[str, Any]], folder: Path) -> set[int]:
    """Which of these rules pass the cases of the alert `name`: all of them in one run, under names of their own."""
    names = [f"{name}Number{n}" for n in range(len(each))]
    cases = copy.deepcopy(CASES)
    for case in cases["tests"]:
        checks = [check for check in case["alert_rule_test"] if check["alertname"] == name]
        case["alert_rule_test"] = [{**check, "alertname": other} for other in names for check in checks]
    cases["tests"] = [case for case in cases["tests"] if case["alert_rule_test"]]
    cases["rule_files"] = [str(RULES / "penstock-recording.yaml"), "rules.json"]
    cases["group_eval_order"] = [*(group["name"] for group in RECORDING["groups"]), "alerts"]
    made = [{**rule, "alert": other} for rule, other in zip(each, names, strict=True)]
    (folder / "rules.json").write_text(json.dumps({"groups": [{"name": "alerts", "rules": made}]}))
    (folder / "cases.json").write_text(json.dumps(cases))
    words = ["promtool", "test", "rules", "cases.json"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=100)
    failed = set(re.findall(r"^ *alertname: (\w+), time:", done.stdout + done.stderr, re.MULTILINE))
    assert bool(failed) == bool(done.returncode) and failed <= set(names), done.stderr
    return {n for n, other in enumerate(names) if other not in failed}


def tool(name: str) -> None:
    """`make test-observability` installs them."""
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")


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


@pytest.mark.parametrize(
    "expression",
    [
        "sum by (job, queue) (penstock_queue_ready_tasks)",
        "sum by (job) (rate(penstock_tasks_finished_total[5m]))",
        "penstock_redis_up == 0",
        "max by (queue) (penstock_queue_paused)",
        "max without (instance) (penstock_queue_paused)",
        "queue:penstock_queue_ready_tasks:max > 0 unless on (queue) max by (job, queue) (penstock_queue_paused)",
    ],
)
def test_what_two_exporters_would_double_is_found(expression: str) -> None:
    assert doubled(expression)
    taken = "max without (instance, pod, endpoint, container) (rate(penstock_tasks_finished_total[5m]))"
    assert not doubled(f"sum by (job) ({taken}) # penstock_redis_up")


def test_what_a_rule_reads_is_found() -> None:
    assert read_by("queue:penstock_tasks_finished_error:ratio_rate5m > penstock_redis_up") == {
        "penstock_tasks_finished_total",
        "penstock_redis_up",
    }


def test_a_wrong_command_is_found() -> None:
    [found] = commands("Look at `penstock dead lsit -Q mail` and at `penstock_queue_dead_tasks`.")
    assert unknown_words(shlex.split(found)[1:]) == ["lsit"]


def test_each_part_of_a_rule_has_mutants() -> None:
    rule = {"expr": "a > 2 * 0.01\nand b == 0 and c < 0.5", "for": "5m"}
    assert [each.get("for", "") + " " + str(each["expr"]).replace("\n", " ") for _, each in mutants(rule)] == [
        " a > 2 * 0.01 and b == 0 and c < 0.5",
        "5m a > -1e9 and b == 0 and c < 0.5",
        "5m a > 0.04 and b == 0 and c < 0.5",
        "5m a > 0.01 and b == 0 and c < 0.5",
        "5m a > 2 * 0.01 and b != 1e9 and c < 0.5",
        "5m a > 2 * 0.01 and b == 0 and c < 1e9",
        "5m a > 2 * 0.01 and b == 0 and c < 1",
        "5m a > 2 * 0.01 and b == 0 and c < 0.25",
    ]
