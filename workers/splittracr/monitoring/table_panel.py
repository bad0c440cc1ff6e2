"""The rows of a table panel: the results of its queries, joined by their common labels."""

from collections.abc import Sequence
from dataclasses import dataclass

from splittracr.monitoring import units
from splittracr.monitoring.collect import QueryResult
from splittracr.monitoring.panels import Panel

Cell = str | float


@dataclass(frozen=True)
class Table:
    """The texts of a table, with the colour of each cell (None is the default)."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    colours: tuple[tuple[str | None, ...], ...]
    numeric: tuple[bool, ...]


def table(panel: Panel, results: Sequence[QueryResult]) -> Table:
    """Make the table, as Grafana's transformations `merge` and `organize` do."""
    merged = _merged(results)
    present = {name for row in merged for name in row}
    names = panel.columns or {name: name for name in sorted(present)}
    shown = [name for name in names if name in present and name not in panel.hidden]
    ordered = sorted(merged, key=lambda row: [str(row.get(name, "")) for name in shown])
    cells = [[_cell(panel, names[name], row.get(name, "")) for name in shown] for row in ordered]
    return Table(
        header=tuple(names[name] for name in shown),
        rows=tuple(tuple(text for text, _ in row) for row in cells),
        colours=tuple(tuple(colour for _, colour in row) for row in cells),
        numeric=tuple(name.startswith("Value #") for name in shown),
    )


def _merged(results: Sequence[QueryResult]) -> list[dict[str, Cell]]:
    """Merge rows that have the same shared labels, unless they differ in another column."""
    frames = [_frame(result) for result in results if result.series]
    if not frames:
        return []
    shared = set.intersection(*({name for row in frame for name in row} for frame in frames))
    merged: list[dict[str, Cell]] = []
    for frame in frames:
        for row in frame:
            key = [row.get(name, "") for name in sorted(shared)]
            same = [
                other
                for other in merged
                if [other.get(name, "") for name in sorted(shared)] == key
                and all(other.get(name, value) == value for name, value in row.items())
            ]
            for other in same:
                other.update(row)
            if not same:
                merged.append(dict(row))
    return merged


def _frame(result: QueryResult) -> list[dict[str, Cell]]:
    value = f"Value #{result.target.reference}"
    return [{**one.labels, value: one.values[-1]} for _, one in result.series]


def _cell(panel: Panel, name: str, value: Cell) -> tuple[str, str | None]:
    if isinstance(value, str):
        return value, None
    field = panel.of(name)
    if field.mapped and (found := field.mapped.get(f"{value:g}")):
        return found
    return units.text(value, field.unit, field.decimals), None
