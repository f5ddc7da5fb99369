"""What all dashboards share: layout, links, variables, annotations; panels that always say what they mean."""

from __future__ import annotations

import json
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    StackingConfig,
    VizLegendOptions,
    VizTooltipOptions,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    GridPos,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

#: Grafana's grid.
COLUMNS = 24
SOURCE = DataSourceRef("prometheus", "${datasource}")
GREEN, ORANGE, RED, BLUE = "green", "orange", "red", "blue"
#: Limits and their colours; the first holds from minus infinity on.
Steps = Sequence[tuple[float | None, str]]
_NEUTRAL: Steps = ((None, BLUE),)
_TITLES = {"Alerts": "{{alertname}} {{queue}}{{worker}}{{node}}", "Workers started": "{{job}}: workers started"}
_BOARDS = ("overview", "queue", "task", "worker", "redis")


class Query:
    """One expression, and what its series are called."""

    def __init__(self, expr: str, legend: str = "", *, instant: bool = False) -> None:
        self.expr = " ".join(expr.split())
        self.legend = legend
        self.instant = instant


class Board:
    """A dashboard that is filled from left to right, row by row."""

    def __init__(self, name: str, title: str, description: str) -> None:
        self._board = (
            d.Dashboard(f"penstock / {title}")
            .uid(f"penstock-{name}")
            .description(description)
            .tags(["penstock"])
            .readonly()
            .refresh("30s")
            .time("now-1h", "now")
            .timezone("browser")
            .tooltip(DashboardCursorSync.CROSSHAIR)
        )
        self._id = 0
        self._x = self._y = self._height = 0
        self._variable_datasource()
        self.variable("job", "Job", "label_values(penstock_exporter_build_info, job)")
        self._annotations()
        for other in _BOARDS:
            if other != name:
                self._board.link(_link(other))

    def variable(self, name: str, label: str, query: str) -> None:
        """A variable of several values; all of them at first."""
        self._board.with_variable(
            d.QueryVariable(name)
            .label(label)
            .datasource(SOURCE)
            .query({"query": query, "refId": name})
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .sort(VariableSort.ALPHABETICAL_ASC)
            .multi(True)
            .include_all(True)
            .all_value(".+")
            .current(VariableOption(selected=True, text="All", value="$__all"))
        )

    def row(self, title: str) -> None:
        """Begin a part."""
        self._next_line()
        self._id += 1
        position = GridPos(h=1, w=COLUMNS, x=0, y=self._y)
        self._board.with_row(d.Row(title).id(self._id).grid_pos(position))
        self._y += 1

    def add(self, panel: Any, width: int, height: int = 8) -> None:
        """The next panel, beside the last one if there is room."""
        if self._x + width > COLUMNS:
            self._next_line()
        self._id += 1
        self._board.with_panel(panel.id(self._id).grid_pos(GridPos(h=height, w=width, x=self._x, y=self._y)))
        self._x += width
        self._height = max(self._height, height)

    def json(self) -> str:
        """As it is stored: by the SDK, and with what it does not know of annotations of Prometheus."""
        found = json.loads(JSONEncoder().encode(self._board.build()))
        for each in found["annotations"]["list"]:
            each |= {"step": "30s", "titleFormat": _TITLES[each["name"]]}
        return json.dumps(found, indent=2, sort_keys=True) + "\n"

    def _next_line(self) -> None:
        self._x, self._y, self._height = 0, self._y + self._height, 0

    def _variable_datasource(self) -> None:
        self._board.with_variable(d.DatasourceVariable("datasource").label("Data source").type("prometheus"))

    def _annotations(self) -> None:
        # Alerts about no exporter at all have no job.
        alerts = 'max by (alertname, queue, worker, node) (ALERTS{alertname=~"Penstock.*", alertstate="firing", job=~"$job|"})'
        # A worker's name is new with each start, so changes() of its start time would see none: those are shown that
        # are younger than a step, and a heartbeat with the scrape after it.
        starts = (
            'count by (job) (max by (job, worker) (penstock_worker_start_time_seconds{job=~"$job"}) '
            "> time() - 20 - $__interval_ms / 1000)"
        )
        for name, expr, colour in (("Alerts", alerts, RED), ("Workers started", starts, BLUE)):
            made = d.AnnotationQuery().name(name).datasource(SOURCE).enable(True).icon_color(colour)
            self._board.annotation(made.expr(expr))


def _link(name: str) -> Any:
    return (
        d.DashboardLink(name.capitalize())
        .type(DashboardLinkType.LINK)
        .url(f"/d/penstock-{name}")
        .keep_time(True)
        .include_vars(True)
        .icon("dashboard")
        .tooltip("")
    )


# Panels


def number(
    title: str, description: str, unit: str, query: Query, steps: Steps = _NEUTRAL, *, decimals: int | None = None
) -> Any:
    """One figure, coloured by its limits, with its course behind it."""
    panel = stat.Panel().graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.BACKGROUND)
    panel.text_mode(BigValueTextMode.VALUE).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    return _common(panel, title, description, unit, [query], steps, decimals)


def lines(
    title: str, description: str, unit: str, queries: Sequence[Query], *, stacked: bool = False, limit: float | None = None,
    decimals: int | None = None,
) -> Any:  # fmt: skip
    """Series over time; `limit`: a dashed red line at this value."""
    steps: Steps = ((None, GREEN),) if limit is None else ((None, GREEN), (limit, RED))
    panel = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .min(0)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
            .show_legend(True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if stacked:
        panel.stacking(StackingConfig().mode(StackingMode.NORMAL))
    if limit is not None:
        panel.thresholds_style(GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    return _common(panel, title, description, unit, queries, steps, decimals)


def distribution(title: str, description: str, unit: str, query: Query) -> Any:
    """A heatmap of a histogram's buckets."""
    panel = (
        heatmap.Panel()
        .calculate(False)
        .show_legend()
        .y_axis(heatmap.YAxisConfig().unit(unit))
        .color(heatmap.HeatmapColorOptions().scheme("Oranges").steps(64))
    )
    return _common(panel, title, description, unit, [query], _NEUTRAL, None, PromQueryFormat.HEATMAP)


def timeline(title: str, description: str, query: Query) -> Any:
    """States over time, a line for each series."""
    panel = statetimeline.Panel().show_value(VisibilityMode.NEVER).row_height(0.8).merge_values(True)
    panel.no_value("none")
    return _common(panel, title, description, "none", [query], ((None, GREEN), (1, RED)), None)


def rows(
    title: str, description: str, key: str, columns: Sequence[tuple[str, str, Query, Steps]], link: str = "",
    hidden: Sequence[str] = (),
) -> Any:  # fmt: skip
    """A table: a row for each value of the label `key`; a column (title, unit, query, limits) for each query."""
    panel = table.Panel().show_header(True).filterable(True).min_width(90)
    # A label that looks like a number is none: process 11105 must not become "11.1 K".
    panel.override_by_field_type("string", [DynamicConfigValue(id_val="unit", value="string")])
    names = {f"Value #{letter}": title for letter, (title, *_) in zip(ascii_uppercase, columns, strict=False)}
    panel.transformations([
        DataTransformerConfig(id_val="merge", options={}),
        DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True, **dict.fromkeys(hidden, True)},
                "indexByName": {},
                "renameByName": names,
            },
        ),
    ])  # fmt: skip
    for name, unit, _, steps in columns:
        panel.override_by_name(name, _column(unit, steps))
    panel.override_by_name(key, [DynamicConfigValue(id_val="custom.minWidth", value=180)])
    if link:
        url = [{"title": f"Open this {key}", "url": link}]
        panel.override_by_name(key, [DynamicConfigValue(id_val="links", value=url)])
    queries = [query for _, _, query, _ in columns]
    return _common(panel, title, description, "none", queries, _NEUTRAL, None, PromQueryFormat.TABLE)


def _column(unit: str, steps: Steps) -> list[DynamicConfigValue]:
    found = [DynamicConfigValue(id_val="unit", value=unit)]
    if len(steps) > 1:
        limits = [{"value": value, "color": colour} for value, colour in steps]
        found.append(DynamicConfigValue(id_val="thresholds", value={"mode": "absolute", "steps": limits}))
        found.append(DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}))
    return found


def _common(
    panel: Any, title: str, description: str, unit: str, queries: Sequence[Query], steps: Steps, decimals: int | None,
    format: PromQueryFormat = PromQueryFormat.TIME_SERIES,
) -> Any:  # fmt: skip
    panel.title(title).description(" ".join(description.split())).datasource(SOURCE).unit(unit)
    limits = [Threshold(value=value, color=colour) for value, colour in steps]
    panel.thresholds(d.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(limits))
    if decimals is not None:
        panel.decimals(decimals)
    for letter, query in zip(ascii_uppercase, queries, strict=False):
        made = prometheus.Dataquery().expr(query.expr).ref_id(letter).datasource(SOURCE).format(format)
        made.legend_format(query.legend or "__auto")
        panel.with_target(made.instant() if query.instant else made.range())
    return panel
