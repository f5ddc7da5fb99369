"""What is wrong with an expression of PromQL, by its syntax tree and by the metrics that there are.

Of each part it is known which labels it has: so it is found when something is added up of which two exporters report
a copy each, when two sides of an operator can never match, and when a legend names a label that a grouping has dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import promql_parser as promql
import yaml

from penstock.metrics.catalogue import all_metrics
from tests.source import ROOT

#: What tells one exporter from another: Prometheus and Kubernetes add them.
EXPORTERS = frozenset({"instance", "pod", "endpoint", "container"})
_COUNTED = {"rate", "increase"}
_OVER_TIME = {"max_over_time", "min_over_time", "avg_over_time", "last_over_time"}
_SAME = {"round", "abs", "clamp_min", "clamp_max"}
#: They take one of several values, so that a copy does not matter.
_OF_COPIES = {"max", "min", "group"}
_ALERTS = frozenset({"alertname", "alertstate", "severity", "job", "queue", "worker", "node"})
#: Grafana's variables for windows -> what stands for them here; and the window of what has no step to go by.
_WINDOWS = {"$__rate_interval": "61s", "$__range": "3601s"}
_LATELY = "300s"


@dataclass(frozen=True)
class Metric:
    """One that can be asked for."""

    labels: frozenset[str]
    counter: bool = False
    #: It is about the exporters themselves: there are as many as there are exporters.
    of_exporters: bool = False


@dataclass(frozen=True)
class Vector:
    """What an expression has, as far as that is known before it is evaluated."""

    labels: frozenset[str]
    counter: bool = False
    of_exporters: bool = False

    @property
    def copies(self) -> bool:
        """Two exporters side by side report each series twice."""
        return bool(self.labels & EXPORTERS) and not self.of_exporters


def _metrics() -> Mapping[str, Metric]:
    found = {"ALERTS": Metric(_ALERTS)}
    for metric in all_metrics():
        labels = frozenset(metric.labels) | EXPORTERS | {"job"}
        own = metric.name.startswith("penstock_exporter_")
        found[metric.name] = Metric(labels, metric.kind == "counter", own)
        if metric.kind == "histogram":
            found |= {f"{metric.name}_{part}": Metric(labels, True) for part in ("sum", "count")}
            found[f"{metric.name}_bucket"] = Metric(labels | {"le"}, True)
    for rule in _recording():
        name = rule["record"]
        read = Reader(rule["expr"], found, of_dashboard=False)
        found[name] = Metric(read.result.labels if read.result else frozenset())
    return found


def _recording() -> Iterator[Mapping[str, str]]:
    loaded = yaml.safe_load((ROOT / "grafana" / "rules" / "penstock-recording.yaml").read_text("utf-8"))
    for group in loaded["groups"]:
        yield from group["rules"]


class Reader:
    """Reads one expression. `of_dashboard`: it has Grafana's variables, chooses the job, and is what is shown."""

    def __init__(
        self, expr: str, metrics: Mapping[str, Metric], *, of_dashboard: bool = True, instant: bool = False
    ) -> None:
        self.faults: list[str] = []
        self._windows = [*([_LATELY] if instant else [_WINDOWS["$__rate_interval"]]), _WINDOWS["$__range"]]
        self._metrics = metrics
        self._of_dashboard = of_dashboard
        #: None: a number.
        self.result: Vector | None = None
        for name, window in _WINDOWS.items():
            expr = expr.replace(f"[{name}]", f"[{window}]")
        expr = re.sub(r"\$__interval_ms\b", "15000", expr)
        try:
            tree = promql.parse(re.sub(r"#.*", "", expr))
        except ValueError as error:
            self.faults.append(f"no PromQL: {error}")
            return
        self.result = self._read(tree)
        if of_dashboard and self.result is not None:
            if self.result.copies:
                self.faults.append("each exporter has a series of its own")
            if self.result.counter:
                self.faults.append("a counter without its rate")

    def _read(self, node: promql.Expr) -> Vector | None:
        match node:
            case promql.NumberLiteral() | promql.StringLiteral():
                return None
            case promql.ParenExpr() | promql.UnaryExpr():
                return self._read(node.expr)
            case promql.VectorSelector():
                return self._selected(node)
            case promql.MatrixSelector():
                if self._of_dashboard and f"{node.range.total_seconds():.0f}s" not in self._windows:
                    self.faults.append(f"a window of {node.range}")
                return self._selected(node.vector_selector)
            case promql.Call():
                return self._called(node)
            case promql.AggregateExpr():
                return self._aggregated(node)
            case promql.BinaryExpr():
                return self._combined(node)
        raise NotImplementedError(f"{type(node).__name__} is not known here")

    def _selected(self, node: promql.VectorSelector) -> Vector:
        metric = self._metrics.get(node.name or "")
        if metric is None:
            self.faults.append(f"no metric {node.name}")
            return Vector(frozenset())
        chosen = {matcher.name for matcher in node.matchers.matchers}
        self._expect(chosen, metric.labels, f" of {node.name}")
        if self._of_dashboard and "job" not in chosen:
            self.faults.append(f"{node.name}: any job")
        return Vector(metric.labels, metric.counter, metric.of_exporters)

    def _called(self, node: promql.Call) -> Vector | None:
        name = node.func.name
        if name == "time":
            return None
        if name == "vector":
            self.faults.append("vector(): says that of which nothing is known")
            return Vector(frozenset())
        inner = self._read(node.args[0 if name == "label_replace" else -1])
        if name == "label_replace":
            assert inner is not None and isinstance(node.args[1], promql.StringLiteral)
            return Vector(inner.labels | {node.args[1].val}, inner.counter, inner.of_exporters)
        if inner is None:
            raise NotImplementedError(f"{name}() of a number is not known here")
        if name in _COUNTED:
            if not inner.counter:
                self.faults.append(f"{name}() of what is no counter")
            return Vector(inner.labels, False, inner.of_exporters)
        if name == "histogram_quantile":
            self._expect({"le"}, inner.labels, " for histogram_quantile()")
            return Vector(inner.labels - {"le"}, False, inner.of_exporters)
        if name in _OVER_TIME | _SAME:
            return inner
        raise NotImplementedError(f"{name}() is not known here")

    def _aggregated(self, node: promql.AggregateExpr) -> Vector:
        inner = self._read(node.expr)
        assert inner is not None, "an aggregate of a number"
        kind, labels = str(node.op), frozenset(node.modifier.labels if node.modifier else ())
        if node.modifier is not None and node.modifier.type == promql.AggModifierType.Without:
            left = inner.labels - labels
        elif kind in ("topk", "bottomk"):
            left = inner.labels
        else:
            self._expect(labels, inner.labels, f" to group by, of {sorted(inner.labels)}")
            left = labels & inner.labels
        if kind not in _OF_COPIES and inner.copies:
            self.faults.append(f"doubled by a second exporter: {kind}")
        if kind == "sum" and inner.counter:
            self.faults.append("a counter without its rate")
        return Vector(left, inner.counter and kind in _OF_COPIES, inner.of_exporters)

    def _combined(self, node: promql.BinaryExpr) -> Vector | None:
        left, right = self._read(node.lhs), self._read(node.rhs)
        if left is None or right is None:
            return left or right
        kind, modifier = str(node.op), node.modifier
        on = frozenset(modifier.matching.labels) if modifier and modifier.matching else None
        if on is not None:
            assert modifier and modifier.matching and modifier.matching.type == promql.LabelModifierType.Include
            self._expect(on, left.labels & right.labels, " on both sides")
        counter, own = left.counter or right.counter, left.of_exporters and right.of_exporters
        if kind == "or":
            if left.labels != right.labels and "unless" not in node.rhs.prettify():
                self.faults.append(f"or: {sorted(right.labels)} is always added to {sorted(left.labels)}")
            return Vector(left.labels | right.labels, counter, own)
        if on is None and left.labels != right.labels:
            self.faults.append(f"{kind}: {sorted(left.labels)} never matches {sorted(right.labels)}")
        if kind in ("and", "unless"):
            return left
        if modifier and modifier.card == promql.VectorMatchCardinality.ManyToOne:
            return Vector(left.labels | frozenset(modifier.group_labels or ()), counter, own)
        return Vector(left.labels if on is None else on, counter, own)

    def _expect(self, labels: frozenset[str] | set[str], known: frozenset[str], where: str) -> None:
        self.faults += [f"no label {label}{where}" for label in sorted(labels - known)]


METRICS = _metrics()


def faults_of(expr: str, legend: str = "", *, instant: bool = False) -> list[str]:
    """What is wrong with an expression of a dashboard, and with what its series are called."""
    read = Reader(expr, METRICS, instant=instant)
    known = read.result.labels if read.result else frozenset()
    wanted = re.findall(r"\{\{(\w+)\}\}", legend)
    return read.faults + [f"no label {label} for the legend" for label in wanted if label not in known]


def faults_of_variable(query: str) -> list[str]:
    """What is wrong with a ``label_values(selector, label)``."""
    found = re.fullmatch(r"label_values\((\w+(?:\{.*\})?), (\w+)\)", query)
    if not found:
        return [f"no label_values(): {query}"]
    name = re.match(r"\w+", found[1])
    read = Reader(found[1], METRICS, of_dashboard=False)
    chooses = "job=" in found[1] or found[2] == "job"
    known = METRICS[name[0]].labels if name and name[0] in METRICS else frozenset()
    return read.faults + ([] if chooses else ["any job"]) + ([] if found[2] in known else [f"no label {found[2]}"])
