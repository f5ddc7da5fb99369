"""Compressing time changes durations, and nothing else."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.observability import compress
from tests.source import ROOT

RULES = sorted((ROOT / "grafana" / "rules").glob("*.yaml"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [("5m", "10000ms"), ("1m", "2000ms"), ("1h30m", "180000ms"), ("15s", "500ms"), ("7d", "20160000ms"), ("0s", "0s")],
)
def test_durations(given: str, expected: str) -> None:
    assert compress.shorter(given, 30) == expected
    assert compress.milliseconds(compress.shorter(given, 1)) == compress.milliseconds(given)


@pytest.mark.parametrize("wrong", ["", "5", "m", "5 m", "5x", "-5m", "5m "])
def test_what_is_no_duration(wrong: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        compress.milliseconds(wrong)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("rate(a_total[5m]) > 0.05", "rate(a_total[10000ms]) > 0.05"),
        ("max_over_time(a[1h:1m])", "max_over_time(a[120000ms:2000ms])"),
        ("max_over_time(a[1h:])", "max_over_time(a[120000ms:])"),
        ("a > 120 and a offset 5m", "a > 120 and a offset 10000ms"),
        ("a offset -1m", "a offset -2000ms"),
        ('rate(a{b=~"x[5m]|y"}[1m])', 'rate(a{b=~"x[5m]|y"}[2000ms])'),
        ('a{b="offset 5m \\" [5m]"}', 'a{b="offset 5m \\" [5m]"}'),
        ('sum(increase(a:b_total{c="d"}[5m])) > 15', 'sum((rate(a:b_total{c="d"}[10000ms]) * 300)) > 15'),
        ("queue:a:rate5m > 5", "queue:a:rate5m > 5"),
        ('a{le="30.0"} / 3600', 'a{le="30.0"} / 3600'),
    ],
)
def test_expressions(given: str, expected: str) -> None:
    assert compress.expression(given, 30) == expected
    assert compress.expression(given.replace("\n", " "), 1).count("ms") == expected.count("ms")


def test_documents() -> None:
    rule = {"alert": "A", "expr": "rate(a[5m]) > 1", "for": "1m", "labels": {"for": 3}, "annotations": {"x": "5m [5m]"}}
    given = {"groups": [{"name": "5m", "interval": "30s", "rules": [rule]}]}
    [group] = compress.document(given, 30)["groups"]
    assert group["name"] == "5m" and group["interval"] == "1000ms"
    [made] = group["rules"]
    assert made == {**rule, "expr": "rate(a[10000ms]) > 1", "for": "2000ms"}
    route = {"route": {"group_wait": "30s", "routes": [{"repeat_interval": "4h", "matchers": ['severity="critical"']}]}}
    assert compress.document(route, 30) == {
        "route": {
            "group_wait": "1000ms",
            "routes": [{"repeat_interval": "480000ms", "matchers": ['severity="critical"']}],
        }
    }


@pytest.mark.parametrize("path", RULES, ids=lambda path: path.name)
def test_the_projects_own_rules_are_the_same_but_for_their_durations(path) -> None:
    given = yaml.safe_load(path.read_text("utf-8"))
    durations = re.compile(r"\b(\d+(ms|[smhdwy]))+\b")
    for group, made in zip(given["groups"], compress.document(given, 30)["groups"], strict=True):
        for rule, changed in zip(group["rules"], made["rules"], strict=True):
            assert rule.keys() == changed.keys()
            assert durations.sub("D", compress.expression(rule["expr"], 1)) == durations.sub("D", changed["expr"])
            assert not re.search(r"\[\d+[smhdwy]\]", changed["expr"])
