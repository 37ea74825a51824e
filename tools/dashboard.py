"""``python -m tools.dashboard``: writes the Grafana dashboard that the Helm charts carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DataSourceRef,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from tools.dashboard_rows_inside import ROWS

if TYPE_CHECKING:
    from tools.dashboard_rows import Chart, Query

DASHBOARD = Path("helm/mge-cache-sidecar/files/dashboard.json")
"""Where the charts expect it, from the top of the work tree."""

_TOP = Path(__file__).resolve().parent.parent
_SELECTOR = 'namespace=~"$namespace",pod=~"$pod"'
_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_HEIGHT = 8
_NUMBER_HEIGHT = 4
_Panel = timeseries.Panel | stat.Panel | heatmap.Panel


def dashboard_json() -> str:
    """Return the dashboard as Grafana imports it."""
    made = (
        dashboard.Dashboard("MGE cache")
        .uid("mge-cache")
        .description("The caching sidecars: what they save, and whether they are well.")
        .tags(["mge-cache", "llm"])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-6h", "now")
        .refresh("1m")
        .timezone("browser")
        .editable()
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
        .with_variable(_variable("namespace", "Namespace", "mge_cache_build_info"))
        .with_variable(_variable("pod", "Pod", 'mge_cache_build_info{namespace=~"$namespace"}'))
    )
    number = 0
    for row in ROWS:
        number += 1
        made.with_row(dashboard.Row(row.title).id(number))
        for chart in row.charts:
            number += 1
            made.with_panel(_panel(chart).id(number))
    return json.dumps(made.build(), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"


def _variable(name: str, label: str, series: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(_SOURCE)
        .query(f"label_values({series}, {name})")
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(multi=True)
        .include_all(include_all=True)
        .all_value(".*")
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _panel(chart: Chart) -> _Panel:
    panel: _Panel
    if chart.kind == "number":
        panel = _number()
    elif chart.kind == "heat map":
        panel = _heat_map(chart)
    else:
        panel = _lines(chart)
    panel.title(chart.title).description(chart.text).datasource(_SOURCE).span(chart.width)
    panel.height(_NUMBER_HEIGHT if chart.kind == "number" else _HEIGHT).unit(chart.unit)
    if chart.low is not None:
        panel.min(chart.low)
    if chart.high is not None:
        panel.max(chart.high)
    for place, query in enumerate(chart.queries):
        panel.with_target(_target(query, chart, "ABCDEFGH"[place]))
    return panel


def _number() -> stat.Panel:
    return (
        stat.Panel()
        .graph_mode(BigValueGraphMode.NONE)
        .color_mode(BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    )


def _lines(chart: Chart) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .show_points(VisibilityMode.NEVER)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if chart.kind == "stack":
        panel.fill_opacity(30).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return panel


def _heat_map(chart: Chart) -> heatmap.Panel:
    return (
        heatmap.Panel()
        .color(
            heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Blues").steps(64)
        )
        .y_axis(heatmap.YAxisConfig().unit(chart.unit))
        .show_tooltip()
    )


def _target(query: Query, chart: Chart, name: str) -> prometheus.Dataquery:
    target = (
        prometheus.Dataquery()
        .expr(query.promql.replace("@", _SELECTOR))
        .legend_format(query.legend)
        .datasource(_SOURCE)
        .ref_id(name)
    )
    if chart.kind == "heat map":
        target.format(PromQueryFormat.HEATMAP)
    return target.instant() if chart.kind == "number" else target.range()


def main() -> None:
    """Write the dashboard into the chart."""
    (_TOP / DASHBOARD).write_text(dashboard_json(), encoding="utf-8")


if __name__ == "__main__":
    main()
