"""A dashboard: layout, links, variables, annotations."""

from __future__ import annotations

import json
from typing import Any

from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    GridPos,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from grafana.boards.panels import BLUE, RED, SOURCE
from grafana.boards.promql import FIRING, JOB

#: Grafana's grid.
COLUMNS = 24
_TITLES = {"Alerts": "{{alertname}} {{queue}}{{worker}}{{node}}", "Workers started": "{{job}}: workers started"}
_BOARDS = ("overview", "queue", "task", "worker", "redis")


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
        self._board.with_variable(d.DatasourceVariable("datasource").label("Data source").type("prometheus"))
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

    def add(self, *panels: Any, width: int, height: int = 8) -> None:
        """The next panels, beside the last one where there is room."""
        for panel in panels:
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

    def _annotations(self) -> None:
        alerts = f"max by (alertname, job, queue, worker, node) (ALERTS{{{FIRING}}})"
        # A worker's name is new with each start, so changes() of its start time would see none: those are shown that
        # are younger than a step, and a heartbeat with the scrape after it.
        starts = (
            f"count by (job) (max by (job, worker) (penstock_worker_start_time_seconds{{{JOB}}}) "
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
