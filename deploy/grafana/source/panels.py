"""Queries, panels, variables and annotations, as the dashboards of Lineside use them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as dashboards
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, units
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")

AnyPanel = Builder[models.Panel]

_CLASSIC = 5  # the kind of a variable's query that is a text

BAD = ((None, "green"), (1, "red"))
"""Colors of a count that should be 0."""
RUN_UID, FLEET_UID, HEALTH_UID = "lineside-run", "lineside-fleet", "lineside-health"

STATUS_COLORS = {
    "running": "green",
    "stalled": "orange",
    "disconnected": "yellow",
    "finished": "blue",
    "stopped": "light-blue",
    "interrupted": "purple",
    "failed": "red",
    "killed": "dark-red",
    "lost": "semi-dark-red",
}
PHASE_COLORS = {
    "starting": "super-light-blue",
    "training": "green",
    "waiting": "yellow",
    "evaluating": "blue",
    "saving": "purple",
    "paused": "orange",
    "finished": "text",
}


class Query(NamedTuple):
    """A PromQL query, and the legend of its series."""

    expr: str
    legend: str = "__auto"


def curves(
    title: str,
    unit: str,
    *queries: Query,
    description: str = "",
    span: int = 8,
    minimum: float | None = 0,
    maximum: float | None = None,
    log_scale: bool = False,
) -> timeseries.Panel:
    """Lines over time. ``minimum`` None lets the axis begin at the lowest value."""
    panel = (
        timeseries.Panel()
        .title(title)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(span)
        .height(8)
        .line_width(1)
        .fill_opacity(8)
        .show_points(common.VisibilityMode.AUTO)
        .legend(
            common_builders.VizLegendOptions()
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(
            common_builders.VizTooltipOptions()
            .mode(common.TooltipDisplayMode.MULTI)
            .sort(common.SortOrder.DESCENDING)
        )
    )
    if description:
        panel.description(description)
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if log_scale:
        panel.scale_distribution(
            common_builders.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(10)
        )
    for target in _targets(queries):
        panel.with_target(target.range())
    return panel


def number(
    title: str,
    unit: str,
    query: Query,
    *,
    description: str = "",
    span: int = 4,
    decimals: int | None = None,
    thresholds: Sequence[tuple[float | None, str]] = ((None, "text"),),
) -> stat.Panel:
    """The newest value, large. ``thresholds`` are values from which on it has a color."""
    panel = (
        stat.Panel()
        .title(title)
        .datasource(DATASOURCE)
        .unit(unit)
        .span(span)
        .height(4)
        .color_mode(common.BigValueColorMode.VALUE)
        .graph_mode(common.BigValueGraphMode.NONE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .thresholds(
            dashboards.ThresholdsConfig()
            .mode(models.ThresholdsMode.ABSOLUTE)
            .steps([models.Threshold(value, color) for value, color in thresholds])
        )
    )
    if description:
        panel.description(description)
    if decimals is not None:
        panel.decimals(decimals)
    for target in _targets([query]):
        panel.with_target(target.instant())
    return panel


def name_of(title: str, query: Query, *, span: int = 4) -> stat.Panel:
    """The legend of the only series, as of a state set, instead of its value."""
    return number(title, units.NoUnit, query, span=span).text_mode(common.BigValueTextMode.NAME)


def timeline(
    title: str,
    family: str,
    label: str,
    colors: Mapping[str, str],
    *,
    selector: str,
    by: str,
    legend: str,
    description: str = "",
    span: int = 24,
) -> statetimeline.Panel:
    """The history of the state sets ``family``, a row for each ``by``.

    Each state is a number of the query, and the number has the name and the color of the state.
    """
    states = " or ".join(
        f'{family}{{{label}="{state}",{selector}}} * {number}'
        for number, state in enumerate(colors)
    )
    mapping = {
        str(number): models.ValueMappingResult(text=state, color=color, index=number)
        for number, (state, color) in enumerate(colors.items())
    }
    panel = (
        statetimeline.Panel()
        .title(title)
        .datasource(DATASOURCE)
        .span(span)
        .height(8)
        .show_value(common.VisibilityMode.AUTO)
        .merge_values(True)
        .row_height(0.8)
        .mappings([models.ValueMap(options=mapping)])
    )
    if description:
        panel.description(description)
    for target in _targets([Query(f"sum by ({by}) ({states})", legend)]):
        panel.with_target(target.range())
    return panel


class Column(NamedTuple):
    """A column of a table: a query whose value it shows, with its title and unit."""

    title: str
    expr: str
    unit: str = units.NoUnit


def rows(
    title: str,
    first: str,
    columns: Iterable[Column] = (),
    *,
    hidden: Sequence[str] = (),
    labels: Mapping[str, str],
    links: Mapping[str, str] | None = None,
    description: str = "",
    span: int = 24,
    height: int = 8,
) -> table.Panel:
    """A table with a row for each series of the query ``first``, whose labels are columns.

    The queries of ``columns`` have labels of ``first`` and no others. ``labels`` are the titles of
    the labels that are shown, in their order; ``links`` are addresses by label.
    """
    found = list(columns)
    panel = (
        table.Panel().title(title).datasource(DATASOURCE).span(span).height(height).filterable(True)
    )
    if description:
        panel.description(description)
    for target in _targets([Query(first), *(Query(column.expr) for column in found)]):
        panel.with_target(target.instant().format(PromQueryFormat.TABLE))
    values = [f"Value #{ref_id(n)}" for n in range(1, len(found) + 1)]
    shown = [*labels, *values]
    titles = dict(labels) | {
        value: column.title for value, column in zip(values, found, strict=True)
    }
    unused = ["Time", "Value", "Value #A", *hidden]
    panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    panel.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys(unused, True),
                "indexByName": {name: index for index, name in enumerate(shown)},
                "renameByName": titles,
            },
        )
    )
    for column in found:
        panel.override_by_name(
            column.title, [models.DynamicConfigValue(id_val="unit", value=column.unit)]
        )
    for label, url in (links or {}).items():
        link = {"title": "Open", "url": url}
        panel.override_by_name(
            labels[label], [models.DynamicConfigValue(id_val="links", value=[link])]
        )
    return panel


def ref_id(index: int) -> str:
    """The name of a query in its panel: A, B, and so on."""
    return chr(ord("A") + index)


def datasource_variable() -> dashboards.DatasourceVariable:
    """The data source that all panels use."""
    return dashboards.DatasourceVariable("datasource").label("Data source").type("prometheus")


def label_variable(
    name: str, label: str, query: str, *, regex: str = "", multi: bool = False
) -> dashboards.QueryVariable:
    """A choice among the values of a query. With ``multi`` several, or all, which fit any text."""
    variable = (
        dashboards.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"qryType": _CLASSIC, "query": query, "refId": f"variable-{name}"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(multi)
        .include_all(multi)
    )
    if multi:
        everything = models.VariableOption(selected=True, text="All", value="$__all")
        variable.all_value(".*").current(everything)
    if regex:
        variable.regex(regex)
    return variable


class PrometheusAnnotation(models.AnnotationQuery):
    """An annotation with what the types leave out: how a series becomes a title and a text."""

    title_format: str
    text_format: str

    def to_json(self) -> dict[str, object]:
        return {
            **super().to_json(),
            "step": "60s",
            "titleFormat": self.title_format,
            "textFormat": self.text_format,
        }


class Annotation(dashboards.AnnotationQuery):
    """Marks on all panels where the query ``expr`` has series."""

    def __init__(self, name: str, color: str, expr: str, title: str, text: str = "") -> None:
        super().__init__()
        self._internal = PrometheusAnnotation()
        self._internal.title_format, self._internal.text_format = title, text
        self.name(name).datasource(DATASOURCE).enable(True).icon_color(color).expr(expr)


def new_dashboard(title: str, uid: str, description: str) -> dashboards.Dashboard:
    """An empty dashboard with the data source's variable and links to the others."""
    made = (
        dashboards.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["lineside"])
        .timezone("browser")
        .refresh("15s")
        .time("now-1h", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(datasource_variable())
    )
    return made.link(
        dashboards.DashboardLink("Lineside")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags(["lineside"])
        .as_dropdown(True)
        .keep_time(True)
        .include_vars(True)
    )


def to_json(made: dashboards.Dashboard) -> str:
    """The dashboard as a provisioned file holds it, with the panels numbered in their order."""
    built = made.build()
    for number, panel in enumerate(built.panels or (), 1):
        panel.id_val = number
    text: str = JSONEncoder(indent=1, sort_keys=True).encode(built)
    return text + "\n"


def _targets(queries: Sequence[Query]) -> list[prometheus.Dataquery]:
    return [
        prometheus.Dataquery()
        .expr(query.expr)
        .legend_format(query.legend)
        .ref_id(ref_id(index))
        .datasource(DATASOURCE)
        for index, query in enumerate(queries)
    ]
