"""What the dashboards ask Prometheus, with their variables filled in as Grafana does it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Protocol

from tests.source import ROOT

DASHBOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
_VARIABLE = re.compile(r"\$\{(\w+)(?::(\w+))?\}|\[\[(\w+)\]\]|\$(\w+)")
_LABEL_VALUES = re.compile(r"label_values\(\s*(?:(.*)\s*,\s*)?([a-zA-Z_]\w*)\s*\)", re.DOTALL)


class Labels(Protocol):
    """What has labels: Prometheus."""

    def label_values(self, label: str, selector: str = "") -> list[str]: ...


@dataclass(frozen=True)
class Query:
    """One expression of a dashboard, and where it stands."""

    dashboard: str
    place: str
    expression: str
    kind: str = ""
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.dashboard}/{self.place}"


@dataclass(frozen=True)
class Variable:
    """One that is asked of Prometheus. `all_value`: what stands for all; None: it has no "All"."""

    dashboard: str
    name: str
    query: str
    regex: str
    all_value: str | None
    multi: bool


def load(path: Path) -> dict[str, Any]:
    """A dashboard."""
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def queries(path: Path) -> list[Query]:
    """Those of all panels, also in rows, and of the annotations."""
    board, uid = load(path), path.stem
    found = []
    for panel in _panels(board["panels"]):
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
        for target in panel.get("targets", ()):
            place = f"{panel['title']} ({target.get('refId', '?')})"
            found.append(Query(uid, place, target["expr"], panel["type"], unit))
    for note in board.get("annotations", {}).get("list", ()):
        if expression := note.get("expr") or note.get("target", {}).get("expr"):
            found.append(Query(uid, f"annotation {note['name']}", expression, "annotation"))
    return found


def _panels(panels: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        yield panel
        yield from _panels(panel.get("panels") or ())


def variables(path: Path) -> list[Variable]:
    """Those that are asked of Prometheus, in their order."""
    found = []
    for each in load(path).get("templating", {}).get("list", ()):
        if each["type"] != "query":
            continue
        query = each["query"] if isinstance(each["query"], str) else each["query"]["query"]
        all_value = (each.get("allValue") or "") if each.get("includeAll") else None
        found.append(
            Variable(path.stem, each["name"], query, each.get("regex") or "", all_value, bool(each.get("multi")))
        )
    return found


def fixed(path: Path) -> dict[str, str]:
    """The present values of the variables that are not asked of Prometheus (but for the data source)."""
    found = {}
    for each in load(path).get("templating", {}).get("list", ()):
        if each["type"] not in ("query", "datasource"):
            value = each.get("current", {}).get("value") or each.get("query") or ""
            found[each["name"]] = "|".join(value) if isinstance(value, list) else str(value)
    return found


def fill(text: str, values: Mapping[str, str]) -> str:
    """An expression with its variables replaced; KeyError names one that has no value."""
    return _VARIABLE.sub(lambda match: values[match[1] or match[3] or match[4]], text)


def builtin(start: float, end: float, interval: float) -> dict[str, str]:
    """Grafana's own variables, for a scrape interval and a step of `interval` s over this range."""
    rate = 4 * interval  # as Grafana: the greater of step + scrape interval, and of four scrape intervals
    span = round(end - start)
    return {
        "__interval": f"{interval:g}s",
        "__interval_ms": f"{interval * 1000:g}",
        "__rate_interval": f"{rate:g}s",
        "__rate_interval_ms": f"{rate * 1000:g}",
        "__range": f"{span}s",
        "__range_s": str(span),
        "__range_ms": str(span * 1000),
        "__from": str(round(start * 1000)),
        "__to": str(round(end * 1000)),
    }


def values_of(variable: Variable, labels: Labels, given: Mapping[str, str]) -> list[str]:
    """What Grafana would offer for it."""
    match = _LABEL_VALUES.fullmatch(fill(variable.query, given).strip())
    assert match, f"{variable} is no label_values()"
    found = labels.label_values(match[2], (match[1] or "").strip())
    if variable.regex:
        pattern = re.compile(variable.regex.strip("/"))
        found = [each for each in found if pattern.search(each)]
    return found


def choices(path: Path, labels: Labels, given: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Values for all variables: "All" where there is such a thing, else each value in turn."""
    found = {**given, **fixed(path)}
    options: dict[str, list[str]] = {}
    for variable in variables(path):
        if variable.name in found:
            continue
        values = values_of(variable, labels, found)
        assert values, f"{variable} has no values"
        if variable.all_value is not None:
            values = [variable.all_value or "|".join(map(re.escape, values))]
        options[variable.name] = values
        found[variable.name] = "|".join(map(re.escape, values)) if len(values) > 1 else values[0]
    for chosen in product(*options.values()):
        yield {**found, **dict(zip(options, chosen, strict=True))}
