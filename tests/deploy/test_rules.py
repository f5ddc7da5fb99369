"""What deploy/ makes of grafana/: the PrometheusRules, the configuration of compose's Prometheus, KEDA's queries.

`python -m tests.deploy.test_rules` writes the PrometheusRules anew.
"""

from __future__ import annotations

import json
import re
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.metrics.catalogue import EXPORTED
from tests.deploy.files import DEPLOY, GRAFANA, read, read_one, strings, tool

RULES = [GRAFANA / "rules" / f"penstock-{name}.yaml" for name in ("recording", "alerts")]
COMPONENTS = DEPLOY / "kubernetes" / "components"
RULE = COMPONENTS / "monitoring" / "prometheusrules.yaml"
SCALED = read_one(COMPONENTS / "keda" / "scaledobject.yaml")
SERVICES = read_one(DEPLOY / "compose.yaml")["services"]
CONFIG = DEPLOY / "prometheus.yaml"
_HEAD = """\
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: {name}
spec:
  groups:
"""


def prometheus_rules() -> str:
    """The rules for the Prometheus operator, with their comments: an object for each file, because a group's name may
    be there once in each."""
    first = "# Written by `python -m tests.deploy.test_rules` from grafana/rules: change them there.\n"
    return first + "---\n".join(_HEAD.format(name=path.stem) + _groups(path) for path in RULES)


def _groups(path: Path) -> str:
    _, found, groups = path.read_text("utf-8").partition("\ngroups:\n")
    assert found, f"{path.name} has no groups"
    return "".join(f"    {line}\n" if line else "\n" for line in textwrap.dedent(groups).splitlines())


def promtool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("promtool"), *map(str, words)], capture_output=True, text=True, timeout=60)


# PrometheusRule


def test_the_rules_for_the_operator_are_those_of_grafana() -> None:
    assert RULE.read_text("utf-8") == prometheus_rules(), "run `python -m tests.deploy.test_rules`"
    found = {each["metadata"]["name"]: each["spec"]["groups"] for each in read(RULE)}
    assert found == {path.stem: read_one(path)["groups"] for path in RULES} and all(found.values())


def test_prometheus_takes_them(tmp_path: Path) -> None:
    for each in read(RULE):
        path = tmp_path / f"{each['metadata']['name']}.json"
        path.write_text(json.dumps(each["spec"]))
        done = promtool("check", "rules", path)
        assert done.returncode == 0, done.stdout + done.stderr


# Compose


def jobs(path: Path) -> list[str]:
    return [job["job_name"] for job in read_one(path)["scrape_configs"] if job["job_name"].startswith("penstock")]


def test_prometheus_understands_its_configuration(tmp_path: Path) -> None:
    text = CONFIG.read_text("utf-8").replace("/etc/prometheus/rules/", f"{GRAFANA / 'rules'}/")
    path = tmp_path / "prometheus.yaml"
    path.write_text(text)
    done = promtool("check", "config", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == len(RULES)


def test_it_scrapes_the_jobs_that_grafanas_example_does() -> None:
    assert jobs(CONFIG) == jobs(GRAFANA / "prometheus.yaml") == ["penstock", "penstock-worker"]
    ours, theirs = read_one(CONFIG)["global"], read_one(GRAFANA / "prometheus.yaml")["global"]
    assert ours["scrape_interval"] == theirs["scrape_interval"]


def test_the_targets_are_services_with_these_ports() -> None:
    configuration = read_one(CONFIG)
    [exporter, worker] = configuration["scrape_configs"]
    assert exporter["static_configs"] == [{"targets": ["exporter:9808"]}]
    assert "9808" in SERVICES["exporter"]["command"]
    [discovered] = worker["dns_sd_configs"]
    assert discovered["names"] == ["worker"] and str(discovered["port"]) in SERVICES["worker"]["command"]
    [[alertmanager]] = [
        each["targets"] for found in configuration["alerting"]["alertmanagers"] for each in found["static_configs"]
    ]
    assert alertmanager == "alertmanager:9093" and "127.0.0.1:9093:9093" in SERVICES["alertmanager"]["ports"]


def mounted(service: str, source: str) -> str:
    """Where a service sees a path of this repository."""
    [target] = [volume.split(":")[1] for volume in SERVICES[service]["volumes"] if volume.startswith(f"{source}:")]
    return str(target)


def test_the_files_are_where_the_programs_look() -> None:
    assert f"--config.file={mounted('prometheus', './prometheus.yaml')}" in SERVICES["prometheus"]["command"]
    [pattern] = read_one(CONFIG)["rule_files"]
    assert pattern == f"{mounted('prometheus', '../grafana/rules')}/penstock-*.yaml"
    assert sorted(path.name for path in (GRAFANA / "rules").glob("penstock-*.yaml")) == sorted(p.name for p in RULES)
    assert (
        f"--config.file={mounted('alertmanager', '../grafana/alertmanager.yaml')}"
        in SERVICES["alertmanager"]["command"]
    )
    providers = read_one(GRAFANA / "provisioning" / "dashboards" / "penstock.yaml")["providers"]
    assert {each["options"]["path"] for each in providers} == {mounted("grafana", "../grafana/dashboards")}
    assert mounted("grafana", "../grafana/provisioning") == "/etc/grafana/provisioning"


def test_grafana_finds_prometheus() -> None:
    [source] = read_one(GRAFANA / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    url = re.sub(r"\$\{?(\w+)\}?", lambda match: SERVICES["grafana"]["environment"][match[1]], source["url"])
    assert url == "http://prometheus:9090"


def test_alertmanager_understands_its_configuration() -> None:
    done = subprocess.run(
        [tool("amtool"), "check-config", str(GRAFANA / "alertmanager.yaml")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


# KEDA


def queries() -> dict[str, str]:
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in SCALED["spec"]["triggers"]}


def test_the_triggers_ask_prometheus_for_our_metrics_and_never_for_the_lag() -> None:
    triggers = SCALED["spec"]["triggers"]
    assert {trigger["type"] for trigger in triggers} == {"prometheus"}
    assert {trigger["metricType"] for trigger in triggers} == {"AverageValue"}  # else there is no fallback
    manifests = [each for path in (DEPLOY / "kubernetes").rglob("*.yaml") for each in read(path)]
    texts = [text for each in manifests for text in strings(each)]
    assert not [text for text in texts if re.search(r"\blag\b|lagcount|redis-streams", text, re.IGNORECASE)]
    rules = [rule for path in RULES for group in read_one(path)["groups"] for rule in group["rules"]]
    known = {metric.name for metric in EXPORTED} | {rule["record"] for rule in rules if "record" in rule}
    for query in queries().values():
        names = set(re.findall(r"[a-z_:]*penstock_[a-z_:0-9]+", query))
        assert names and names <= known
    assert "queue:penstock_queue_ready_tasks:max" in queries()["waiting"]
    assert "queue:penstock_queue_oldest_ready_age_seconds:max" in queries()["age"]


def test_nothing_known_is_no_zero() -> None:
    for trigger in SCALED["spec"]["triggers"]:
        assert trigger["metadata"]["ignoreNullValues"] == "false"
        assert float(trigger["metadata"]["threshold"]) > float(trigger["metadata"]["activationThreshold"])
    spec = SCALED["spec"]
    assert 1 <= spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    # Prometheus has had two chances to scrape, and the rules to run.
    assert spec["pollingInterval"] * spec["fallback"]["failureThreshold"] >= 60


def series(name: str, value: str, **labels: str) -> Iterator[dict[str, str]]:
    """One of two exporters side by side, each."""
    for instance in ("a", "b"):
        given = {"job": "penstock", "instance": instance, **labels}
        matchers = ",".join(f'{key}="{each}"' for key, each in given.items())
        yield {"series": f"{name}{{{matchers}}}", "values": f"{value}x20"}


def queue(name: str, **values: float) -> Iterator[dict[str, str]]:
    """What is reported of one queue."""
    given = {"ready": 0.0, "age": 0.0, "overdue": 0.0, "leases": 0.0, "paused": 0.0, "busy": 0.0, **values}
    for priority, share in (("high", 0.0), ("default", 1.0), ("low", 0.0)):
        labels = {"queue": name, "priority": priority}
        yield from series("penstock_queue_ready_tasks", str(given["ready"] * share), **labels)
        yield from series("penstock_queue_oldest_ready_age_seconds", str(given["age"] * share), **labels)
    for metric, key in (
        ("overdue_scheduled_tasks", "overdue"),
        ("overdue_leases", "leases"),
        ("paused", "paused"),
        ("busy_slots", "busy"),
    ):
        yield from series(f"penstock_queue_{metric}", str(given[key]), queue=name)


UP = list(series("penstock_redis_up", "1"))
DOWN = list(series("penstock_redis_up", "0"))
#: What is reported, and what KEDA gets to know then: of two exporters, once. None: no answer, hence the fallback.
CASES: dict[str, tuple[list[dict[str, str]], dict[str, float | None]]] = {
    "idle": ([*UP, *queue("mail"), *queue("pdf")], {"waiting": 0, "age": 0, "busy": 0}),
    "work": (
        [*UP, *queue("mail", ready=300, age=40, busy=90), *queue("pdf", ready=100, age=90, busy=90)],
        {"waiting": 400, "age": 90, "busy": 90},
    ),
    "paused": (
        [*UP, *queue("mail", ready=300, age=4000, paused=1), *queue("pdf", ready=7, age=3)],
        {"waiting": 7, "age": 3, "busy": 0},
    ),
    "all paused": ([*UP, *queue("mail", ready=300, age=4000, paused=1)], {"waiting": 0, "age": 0, "busy": 0}),
    "no workers, and all that is due needs one": (
        [*UP, *queue("mail", overdue=5, leases=2)],
        {"waiting": 7, "age": 0, "busy": 0},
    ),
    "no queue yet": (UP, {"waiting": 0, "age": 0, "busy": 0}),
    "redis away": (DOWN, {"waiting": None, "age": None, "busy": None}),
    "exporters away": ([], {"waiting": None, "age": None, "busy": None}),
}


@pytest.mark.parametrize("case", CASES)
def test_what_keda_gets_to_know(case: str, tmp_path: Path) -> None:
    given, expected = CASES[case]
    tests = [
        {
            "expr": queries()[name],
            "eval_time": "5m",
            "exp_samples": [] if value is None else [{"labels": "{}", "value": value}],
        }
        for name, value in expected.items()
    ]
    # Other namespaces of penstock are other jobs, and none of these workers' business.
    other = [{**each, "series": each["series"].replace('"penstock"', '"other"')} for each in given]
    path = tmp_path / "test.json"
    path.write_text(
        json.dumps(
            {
                "rule_files": [str(RULES[0])],
                "evaluation_interval": "15s",
                "tests": [{"interval": "15s", "input_series": given + other, "promql_expr_test": tests}],
            }
        )
    )
    done = promtool("test", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr


def main() -> None:
    """Write the PrometheusRules anew."""
    RULE.write_text(prometheus_rules(), "utf-8")


if __name__ == "__main__":
    main()
