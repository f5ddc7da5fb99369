"""The kinds of panels. Each says what it means, in what unit, and shows nothing as if it were known when it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders.common import (
    GraphThresholdsStyleConfig,
    ReduceDataOptions,
    StackingConfig,
    TableSortByFieldState,
    VizLegendOptions,
    VizTooltipOptions,
)
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
    DashboardSpecialValueMapOptions,
    DataSourceRef,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    SpecialValueMap,
    SpecialValueMatch,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = DataSourceRef("prometheus", "${datasource}")
GREEN, ORANGE, RED, BLUE, GREY = "green", "orange", "red", "blue", "#6e6e6e"
#: Limits and their colours; the first holds from minus infinity on.
Limits = Sequence[tuple[float | None, str]]
NEUTRAL: Limits = ((None, BLUE),)
#: 0 is well, and what is more is not.
NONE_IS_WELL: Limits = ((None, GREEN), (1, RED))
FEW_ARE_WELL: Limits = ((None, GREEN), (1, ORANGE))
YES_IS_WELL: Limits = ((None, RED), (1, GREEN))
#: Seconds that a task has waited: PenstockOldestTaskTooOld.
WAITING: Limits = ((None, GREEN), (30, ORANGE), (120, RED))
#: Seconds that a task is late: PenstockSchedulerLate.
LATE: Limits = ((None, GREEN), (1, ORANGE), (30, RED))
#: Share of the slots: PenstockSaturated.
FULL: Limits = ((None, GREEN), (0.75, ORANGE), (0.9, RED))
#: Share that fails: PenstockErrorRatioHigh.
FAILING: Limits = ((None, GREEN), (0.01, ORANGE), (0.05, RED))
#: Seconds that an event loop is late.
LAG: Limits = ((None, GREEN), (0.1, ORANGE), (1, RED))
OUTCOMES = {"succeeded": GREEN, "failed": RED, "cancelled": BLUE, "expired": ORANGE}


class Series(NamedTuple):
    """An expression, and what its series are called."""

    expr: str
    name: str


class Column(NamedTuple):
    """Of a table: an expression, of which each row has a value."""

    title: str
    unit: str
    expr: str
    limits: Limits = ()


def number(
    title: str, description: str, unit: str, expr: str, limits: Limits = NEUTRAL, *, decimals: int | None = 0
) -> Any:
    """One figure of this moment, coloured by its limits.

    An instant query: of a course over time a stat shows the last value that there was, also when Redis or the exporter
    has been away since.
    """
    panel = stat.Panel().graph_mode(BigValueGraphMode.NONE).color_mode(BigValueColorMode.BACKGROUND)
    panel.text_mode(BigValueTextMode.VALUE).reduce_options(ReduceDataOptions().calcs(["lastNotNull"]))
    # Without this it would have the colour of the lowest limit, which may be green.
    unknown = ValueMappingResult(text="unknown", color=GREY)
    special = DashboardSpecialValueMapOptions(match=SpecialValueMatch.NULL_AND_NAN, result=unknown)
    panel.no_value("unknown").mappings([SpecialValueMap(options=special)])
    if decimals is not None:
        panel.decimals(decimals)
    _common(panel, title, description, unit, limits)
    return _ask(panel, [Series(expr, "")], PromQueryFormat.TIME_SERIES, instant=True)


def lines(
    title: str, description: str, unit: str, *series: Series, stacked: bool = False, limit: float | None = None,
    decimals: int | None = None, colours: Mapping[str, str] | None = None, least: float | None = 0,
) -> Any:  # fmt: skip
    """Series over time.

    Args:
        limit: A dashed red line at this value.
        colours: By the series' names.
        least: Where the axis begins, at the latest; what is below it is not drawn. None: wherever there is a value.
    """
    panel = (
        timeseries.Panel()
        .line_width(1)
        .fill_opacity(25 if stacked else 8)
        .show_points(VisibilityMode.NEVER)
        .legend(
            VizLegendOptions()
            .display_mode(LegendDisplayMode.TABLE)
            .placement(LegendPlacement.BOTTOM)
            .calcs(["lastNotNull", "max"])
            .sort_by("Max")
            .sort_desc(True)
            .show_legend(True)
        )
        .tooltip(VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    )
    if least is not None:
        panel.min(least)
    if stacked:
        panel.stacking(StackingConfig().mode(StackingMode.NORMAL))
    if limit is not None:
        panel.thresholds_style(GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    if decimals is not None:
        panel.decimals(decimals)
    for name, colour in (colours or {}).items():
        fixed = {"mode": FieldColorModeId.FIXED.value, "fixedColor": colour}
        panel.override_by_name(name, [DynamicConfigValue(id_val="color", value=fixed)])
    _common(panel, title, description, unit, ((None, GREEN),) if limit is None else ((None, GREEN), (limit, RED)))
    return _ask(panel, series, PromQueryFormat.TIME_SERIES)


def distribution(title: str, description: str, unit: str, expr: str) -> Any:
    """A heatmap of a histogram's buckets."""
    # steps: the SDK's default is 0, which is no colour at all.
    colours = heatmap.HeatmapColorOptions().scheme("Oranges").steps(64)
    panel = heatmap.Panel().calculate(False).show_legend().y_axis(heatmap.YAxisConfig().unit(unit)).color(colours)
    _common(panel, title, description, unit, NEUTRAL)
    return _ask(panel, [Series(expr, "{{le}}")], PromQueryFormat.HEATMAP)


def timeline(title: str, description: str, series: Series, states: Mapping[int, tuple[str, str]]) -> Any:
    """States over time, a line for each series; `states`: what a value means, and its colour."""
    panel = statetimeline.Panel().show_value(VisibilityMode.NEVER).row_height(0.8).merge_values(True)
    panel.color_scheme(d.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    said = {str(value): ValueMappingResult(text=text, color=colour) for value, (text, colour) in states.items()}
    panel.mappings([ValueMap(options=said)])
    limits: Limits = ((None, GREY), *((value, colour) for value, (_, colour) in sorted(states.items())))
    _common(panel, title, description, "none", limits)
    return _ask(panel, [series], PromQueryFormat.TIME_SERIES)


def rows(
    title: str, description: str, key: str, columns: Sequence[Column], *, worst: Sequence[str], link: str,
    labels: Mapping[str, str] | None = None,
) -> Any:  # fmt: skip
    """A table of this moment: a row for each value of the label `key`, the worst first.

    Args:
        worst: Columns by which it is sorted, greatest values first.
        link: Where a click on the label leads, without the data source and the time, which are kept.
        labels: What other labels are called in the table's head.
    """
    panel = table.Panel().show_header(True).filterable(True).min_width(90)
    # A label that looks like a number is none: process 11105 must not become "11.1 K".
    panel.override_by_field_type("string", [DynamicConfigValue(id_val="unit", value="string")])
    names = {f"Value #{letter}": column.title for letter, column in zip(ascii_uppercase, columns, strict=False)}
    renamed = {**names, **(labels or {})}
    organized = {"excludeByName": {"Time": True}, "indexByName": {}, "renameByName": renamed}
    merged = DataTransformerConfig(id_val="merge", options={})
    panel.transformations([merged, DataTransformerConfig(id_val="organize", options=organized)])
    panel.sort_by([TableSortByFieldState().display_name(name).desc(True) for name in worst])
    for column in columns:
        panel.override_by_name(column.title, _looks(column))
    url = link + "&${datasource:queryparam}&${__url_time_range}"
    links = [{"title": f"Open this {key}", "url": url}]
    panel.override_by_name(
        key,
        [DynamicConfigValue(id_val="custom.minWidth", value=180), DynamicConfigValue(id_val="links", value=links)],
    )
    _common(panel, title, description, "none", NEUTRAL)
    return _ask(panel, [Series(column.expr, "") for column in columns], PromQueryFormat.TABLE, instant=True)


def _looks(column: Column) -> list[DynamicConfigValue]:
    found = [DynamicConfigValue(id_val="unit", value=column.unit)]
    if column.limits:
        limits = [{"value": value, "color": colour} for value, colour in column.limits]
        found.append(DynamicConfigValue(id_val="thresholds", value={"mode": "absolute", "steps": limits}))
        found.append(DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"}))
    return found


def _common(panel: Any, title: str, description: str, unit: str, limits: Limits) -> None:
    panel.title(title).description(" ".join(description.split())).datasource(SOURCE).unit(unit)
    steps = [Threshold(value=value, color=colour) for value, colour in limits]
    panel.thresholds(d.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps))


def _ask(panel: Any, series: Sequence[Series], format: PromQueryFormat, *, instant: bool = False) -> Any:
    for letter, (expr, name) in zip(ascii_uppercase, series, strict=False):
        made = prometheus.Dataquery().expr(" ".join(expr.split())).ref_id(letter).datasource(SOURCE).format(format)
        made.legend_format(name or "__auto")
        panel.with_target(made.instant() if instant else made.range())
    return panel
