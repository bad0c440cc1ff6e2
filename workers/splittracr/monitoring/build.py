"""Builds the parts of Grafana dashboards: panels, tables, variables, annotations.

grafana-foundation-sdk is needed only to generate dashboards.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    DataSourceRef,
    LegendDisplayMode,
    LegendPlacement,
    LineInterpolation,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataTransformerConfig,
    DynamicConfigValue,
    FieldColorModeId,
    GridPos,
    ValueMap,
    ValueMappingResult,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from splittracr.experiment.rules import unwrapped
from splittracr.monitoring.panels import NAMES
from splittracr.monitoring.promql import BadQuery, Vector

TAG = "splittracr"
UIDS = {name: f"splittracr-{name}" for name in NAMES}
"""Permanent identifiers of the dashboards in Grafana, by name."""

SCHEMA = 38  # of Grafana 10.0; newer versions migrate it on load

MAX_SERIES = 8

BLUE, SKY, PALE = "#08519c", "#5a9bd0", "#9ecae1"  # the edge, as in the report of a study
GREY, PEACH, ORANGE = "#b5b5b5", "#fdbe85", "#d95f02"  # the link; the server
GREEN, PINK, BLACK, CYAN = "#009e73", "#cc79a7", "#222222", "#56b4e9"

PER_SECOND = "suffix: /s"
PER_MINUTE = "cpm"
SECONDS, BYTES, RATE, SHARE, COUNT = "s", "decbytes", "Bps", "percentunit", "short"
WATTS, CELSIUS, HERTZ = "watt", "celsius", "hertz"

_PROMETHEUS = DataSourceRef(type_val="prometheus", uid="${datasource}")


@dataclass(frozen=True)
class Query:
    """A query of a panel, and the names of its series: `{{label}}` is replaced by its value."""

    vector: Vector
    legend: str
    instant: bool = False

    def __post_init__(self) -> None:
        used = {part.split("}}")[0] for part in self.legend.split("{{")[1:]}
        if wrong := sorted(used - self.vector.labels):
            raise BadQuery(f"{self.vector.text} has no label {', '.join(wrong)} for the legend")


@dataclass(frozen=True)
class Sized:
    """A panel and its size. The page is 24 units wide; a unit of height is 38 pixels."""

    builder: Any
    width: int
    height: int


Section = tuple[str, Sequence[Sized]]


def text_of(builder: dashboard.Dashboard) -> str:
    """Return the JSON of a dashboard."""
    document = json.loads(JSONEncoder().encode(builder.build()))
    document["schemaVersion"] = SCHEMA
    for one in (*document["links"], *document["annotations"]["list"]):
        del one["placement"]  # the SDK's default moves it to a menu of Grafana 12 and later
    for one in document["templating"]["list"]:
        for key in ("auto", "auto_count", "auto_min"):  # of interval variables
            del one[key]
    return json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def board_of(name: str, description: str) -> dashboard.Dashboard:
    """Make an empty dashboard with its data source and links to the others."""
    return (
        dashboard.Dashboard(f"SplitTracr / {name.capitalize()}")
        .uid(UIDS[name])
        .description(description)
        .tags([TAG])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .link(
            dashboard.DashboardLink("SplitTracr")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .icon("external link")
            .keep_time(True)
            .include_vars(True)
        )
        .with_variable(
            dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )


def variable(name: str, query: str, multi: bool = False) -> dashboard.QueryVariable:
    """Make a variable with the values of a query. With `multi` all are selected by default."""
    made = (
        dashboard.QueryVariable(name)
        .label(name.capitalize())
        .datasource(_PROMETHEUS)
        .query({"query": query, "refId": "StandardVariableQuery"})
        .definition(query)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
    )
    return made.multi(True).include_all(True).current(_all()) if multi else made


def _all() -> VariableOption:
    return VariableOption(selected=True, text="All", value="$__all")


def annotation(name: str, vector: Vector, colour: str, text: str) -> dashboard.AnnotationQuery:
    """Make an annotation, which marks each value as an event in all panels."""
    Query(vector, text)  # checks the labels of the text
    return (
        dashboard.AnnotationQuery()
        .name(name)
        .datasource(_PROMETHEUS)
        .enable(True)
        .icon_color(colour)
        .expr(unwrapped(vector.text))
        .step("5s")
        .title_format(name)
        .text_format(text)
    )


def placed(board: dashboard.Dashboard, sections: Iterable[Section]) -> dashboard.Dashboard:
    """Place panels from left to right and from top to bottom, a heading above each section."""
    y, identity = 0, 0
    for title, panels in sections:
        if title:
            identity += 1
            board.with_row(dashboard.Row(title).id(identity).grid_pos(GridPos(h=1, w=24, x=0, y=y)))
            y += 1
        x = tallest = 0
        for panel in panels:
            if x + panel.width > 24:
                x, y, tallest = 0, y + tallest, 0
            identity += 1
            place = GridPos(h=panel.height, w=panel.width, x=x, y=y)
            board.with_panel(panel.builder.id(identity).grid_pos(place))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return board


def _described(panel: Any, title: str, description: str, unit: str, empty: str) -> Any:
    """Set the properties that all panels have."""
    return (
        panel.title(title)
        .description(description)
        .datasource(_PROMETHEUS)
        .unit(unit)
        .no_value(empty)
    )


def _empty(queries: Sequence[Query]) -> str:
    """Return why the panel may be empty, from the metric table."""
    absent = queries[0].vector.absent or "Nothing was scraped in this time range."
    return f"No data: {absent[0].lower()}{absent[1:]}"


def _target(query: Query, reference: str) -> prometheus.Dataquery:
    made = (
        prometheus.Dataquery()
        .datasource(_PROMETHEUS)
        .expr(unwrapped(query.vector.text))
        .legend_format(query.legend)
        .ref_id(reference)
    )
    return made.instant() if query.instant else made.range()


def lines(
    title: str,
    description: str,
    unit: str,
    queries: Sequence[Query],
    *,
    width: int = 12,
    height: int = 8,
    stack: bool = False,
    step: bool = False,
    minimum: float | None = 0,
    maximum: float | None = None,
    decimals: int | None = None,
    axis: float | None = None,
    colours: Mapping[str, str] | None = None,
    empty: str | None = None,
) -> Sized:
    """Make a panel of series over time.

    `axis` is the width of the value axis in pixels, to align two panels.
    """
    panel = _described(timeseries.Panel(), title, description, unit, empty or _empty(queries))
    panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.LIST)
        .placement(LegendPlacement.BOTTOM)
    ).tooltip(
        common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING)
    ).show_points(VisibilityMode.AUTO).line_width(1)
    panel.line_interpolation(LineInterpolation.STEP_AFTER if step else LineInterpolation.LINEAR)
    if stack:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A")).fill_opacity(
            75
        )
    if minimum is not None:
        panel.min(minimum)
    if maximum is not None:
        panel.max(maximum)
    if decimals is not None:
        panel.decimals(decimals)
    if axis is not None:
        panel.axis_width(axis)
    for name, colour in (colours or {}).items():
        fixed = {"mode": FieldColorModeId.FIXED, "fixedColor": colour}
        panel.override_by_name(name, [DynamicConfigValue("color", fixed)])
    for reference, query in zip("ABCDEFGHIJ", queries, strict=False):
        panel.with_target(_target(query, reference))
    return Sized(panel, width, height)


def number(
    title: str,
    description: str,
    unit: str,
    query: Query,
    *,
    width: int = 3,
    decimals: int | None = None,
    named: bool = False,
    name_only: bool = False,
    empty: str = "not scraped",
) -> Sized:
    """Make a panel of the last value, with its course behind it unless the query is instant."""
    mode = (
        BigValueTextMode.NAME
        if name_only
        else BigValueTextMode.VALUE_AND_NAME
        if named
        else BigValueTextMode.VALUE
    )
    course = not (query.instant or named or name_only)
    panel = _described(stat.Panel(), title, description, unit, empty)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).text_mode(
        mode
    ).color_mode(BigValueColorMode.NONE).graph_mode(
        BigValueGraphMode.AREA if course else BigValueGraphMode.NONE
    ).with_target(_target(query, "A"))
    if decimals is not None:
        panel.decimals(decimals)
    return Sized(panel, width, 4)


def count(
    title: str,
    description: str,
    query: Query,
    *,
    width: int = 3,
    named: bool = False,
    name_only: bool = False,
) -> Sized:
    """Make a panel of the last value, without decimals."""
    return number(
        title,
        description,
        COUNT,
        query,
        width=width,
        decimals=0,
        named=named,
        name_only=name_only,
    )


def percentiles(buckets: Vector, *quantiles: float) -> list[Query]:
    """Make a query for each quantile (0 to 1) of a histogram, named `p50` and so on."""
    return [Query(buckets.quantile(q), f"p{q * 100:.0f}") for q in quantiles]


@dataclass(frozen=True)
class Column:
    """A column of a table: a value by labels, or (`hide`) only the labels.

    `mapped` gives the text and the colour that replace a value.
    """

    name: str
    vector: Vector
    unit: str = COUNT
    decimals: int | None = None
    hide: bool = False
    mapped: Mapping[str, tuple[str, str]] | None = None


def table_of(
    title: str,
    description: str,
    columns: Sequence[Column],
    labels: Mapping[str, str],
    height: int,
) -> Sized:
    """Make a table with one row for each set of labels that the columns share.

    `labels` names the columns of labels in their order.
    """
    queries = [Query(column.vector, "", instant=True) for column in columns]
    panel = _described(table.Panel(), title, description, COUNT, _empty(queries))
    references = "ABCDEFGHIJKLMN"
    for reference, query in zip(references, queries, strict=False):
        panel.with_target(_target(query, reference).format(PromQueryFormat.TABLE))
    values = {f"Value #{r}": column for r, column in zip(references, columns, strict=False)}
    order = [*labels, *values]
    hidden = [value for value, column in values.items() if column.hide]
    shown = {value: column.name for value, column in values.items() if not column.hide}
    panel.with_transformation(DataTransformerConfig("merge", options={})).with_transformation(
        DataTransformerConfig(
            "organize",
            options={
                "excludeByName": dict.fromkeys(["Time", *hidden], True),
                "indexByName": {name: index for index, name in enumerate(order)},
                "renameByName": {**labels, **shown},
            },
        )
    )
    for column in columns:
        if not column.hide:
            panel.override_by_name(column.name, _cell(column))
    return Sized(panel, 24, height)


def _cell(column: Column) -> list[DynamicConfigValue]:
    properties = [DynamicConfigValue("unit", column.unit)]
    if column.decimals is not None:
        properties.append(DynamicConfigValue("decimals", column.decimals))
    if column.mapped is not None:
        results = {
            value: ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(column.mapped.items())
        }
        properties += [
            DynamicConfigValue("mappings", [ValueMap(results)]),
            DynamicConfigValue("custom.cellOptions", {"type": "color-text"}),
        ]
    return properties
