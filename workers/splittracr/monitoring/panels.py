"""A dashboard's JSON as frozen values: panels, queries, variables. Pure: no I/O, no drawing.

It reads the part of Grafana's classic format that the generated dashboards use, and ignores the
rest.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

from splittracr.experiment.errors import InvalidInput

NAMES = ("study", "fleet", "operator")
"""The dashboards in this package."""

ALL = "$__all"
_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)")
_LABEL_VALUES = re.compile(r"label_values\((.+),\s*(\w+)\)")


@dataclass(frozen=True)
class Field:
    """Format of a value. `mapped` gives the text and the colour that replace a value."""

    unit: str = ""
    decimals: int | None = None
    colour: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    mapped: Mapping[str, tuple[str, str | None]] | None = None


@dataclass(frozen=True)
class Target:
    """One query of a panel, with its variables not filled in."""

    reference: str
    expression: str
    legend: str
    instant: bool


@dataclass(frozen=True)
class GridPosition:
    """Position and size on a grid that is 24 units wide."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Panel:
    """A panel, or a heading (`kind` is `row`).

    `stacking` is `none`, `normal` or `percent`. A number shows the `text`: `value`, `name` or
    `value_and_name`. `columns` renames and orders the columns of a table, without `hidden` ones.
    """

    identity: int
    title: str
    description: str
    kind: str
    position: GridPosition
    targets: tuple[Target, ...]
    empty: str
    field: Field
    fields: Mapping[str, Field]
    stacking: str = "none"
    step: bool = False
    course: bool = False
    text: str = "value"
    columns: Mapping[str, str] | None = None
    hidden: frozenset[str] = frozenset()

    def of(self, name: str) -> Field:
        """Return the format of the series or column `name`."""
        return self.fields.get(name, self.field)


@dataclass(frozen=True)
class Annotation:
    """Events that are marked in all panels over time."""

    name: str
    expression: str
    text: str
    colour: str


@dataclass(frozen=True)
class Variable:
    """A variable whose values are those of a label of the series that `match` selects."""

    name: str
    match: str
    label: str
    multi: bool


@dataclass(frozen=True)
class Board:
    """A dashboard."""

    title: str
    uid: str
    panels: tuple[Panel, ...]
    annotations: tuple[Annotation, ...]
    variables: tuple[Variable, ...]


def load(name: str) -> Board:
    """Load the generated dashboard `name`."""
    folder = resources.files("splittracr.monitoring") / "dashboards"
    return parse(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))


def parse(document: Mapping[str, Any]) -> Board:
    """Parse the JSON of a dashboard."""
    return Board(
        title=document["title"],
        uid=document["uid"],
        panels=tuple(_panel(one) for one in document["panels"]),
        annotations=tuple(
            Annotation(one["name"], one["expr"], one["textFormat"], one["iconColor"])
            for one in document["annotations"]["list"]
        ),
        variables=tuple(
            _variable(one) for one in document["templating"]["list"] if one["type"] == "query"
        ),
    )


def _variable(one: Mapping[str, Any]) -> Variable:
    found = _LABEL_VALUES.fullmatch(one["definition"])
    if found is None:
        raise InvalidInput(f"variable {one['name']}", one["definition"], "label_values(…, label)")
    return Variable(one["name"], found[1], found[2], bool(one.get("multi")))


def _panel(one: Mapping[str, Any]) -> Panel:
    grid = one["gridPos"]
    config = one.get("fieldConfig", {"defaults": {}, "overrides": []})
    defaults, options = config["defaults"], one.get("options", {})
    custom = defaults.get("custom", {})
    field = _field(Field(), defaults)
    columns, hidden = _columns(one.get("transformations", ()))
    return Panel(
        identity=one["id"],
        title=one["title"],
        description=one.get("description", ""),
        kind=one["type"],
        position=GridPosition(grid["x"], grid["y"], grid["w"], grid["h"]),
        targets=tuple(
            Target(q["refId"], q["expr"], q["legendFormat"], bool(q.get("instant")))
            for q in one.get("targets", ())
        ),
        empty=defaults.get("noValue", "No data"),
        field=field,
        fields={
            override["matcher"]["options"]: _field(
                field, {part["id"]: part["value"] for part in override["properties"]}
            )
            for override in config["overrides"]
        },
        stacking=custom.get("stacking", {}).get("mode", "none"),
        step=custom.get("lineInterpolation") == "stepAfter",
        course=options.get("graphMode") == "area",
        text=options.get("textMode", "value"),
        columns=columns,
        hidden=hidden,
    )


def _field(base: Field, settings: Mapping[str, Any]) -> Field:
    changes: dict[str, Any] = {
        ours: settings[theirs]
        for ours, theirs in (
            ("unit", "unit"), ("decimals", "decimals"), ("minimum", "min"), ("maximum", "max"),
        )
        if settings.get(theirs) is not None
    }  # fmt: skip
    if "fixedColor" in (colour := settings.get("color") or {}):
        changes["colour"] = colour["fixedColor"]
    if settings.get("mappings"):
        changes["mapped"] = {
            value: (result["text"], result.get("color"))
            for mapping in settings["mappings"]
            for value, result in mapping["options"].items()
        }
    return replace(base, **changes)


def _columns(
    transformations: Iterable[Mapping[str, Any]],
) -> tuple[dict[str, str] | None, frozenset[str]]:
    for one in transformations:
        if one["id"] == "organize":
            order, names = one["options"]["indexByName"], one["options"]["renameByName"]
            columns = {column: names.get(column, column) for column in sorted(order, key=order.get)}
            return columns, frozenset(one["options"]["excludeByName"])
    return None, frozenset()


def fill(expression: str, values: Mapping[str, str | Sequence[str]]) -> str:
    """Replace the variables of an expression, as Grafana does.

    A text is inserted as it is, a sequence as a regular expression that matches each of its texts.
    Raises InvalidInput for a variable without a value.
    """

    def value(found: re.Match[str]) -> str:
        name = found[1] or found[2]
        if name not in values:
            raise InvalidInput(f"${name}", expression, "a variable that has a value")
        chosen = values[name]
        if isinstance(chosen, str):
            return chosen.replace("\\", "\\\\").replace('"', '\\"')
        escaped = [_escaped(one) for one in chosen]
        return escaped[0] if len(escaped) == 1 else f"({'|'.join(escaped)})" if escaped else ""

    return _VARIABLE.sub(value, expression)


def _escaped(text: str) -> str:
    """Return a regular expression that matches only `text`, for a string of PromQL."""
    doubled = text.replace("\\", "\\" * 4)
    return re.sub(r"([$^*{}\[\]+?.()|])", r"\\\\\1", doubled).replace('"', '\\"')


def legend(form: str, labels: Mapping[str, str]) -> str:
    """Replace `{{label}}` by its value; list all labels if the form is empty."""
    if not form:
        return ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), form).strip()
