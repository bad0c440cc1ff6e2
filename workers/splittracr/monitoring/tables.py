"""Rows of a table panel: the answers of its queries, joined by the labels that they share."""

from collections.abc import Sequence
from dataclasses import dataclass

from splittracr.monitoring import units
from splittracr.monitoring.collect import Answer
from splittracr.monitoring.panels import Panel

Cell = str | float


@dataclass(frozen=True)
class Table:
    """Texts of a table with the colour of each cell (None is ordinary ink)."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    colours: tuple[tuple[str | None, ...], ...]
    numeric: tuple[bool, ...]


def table(panel: Panel, answers: Sequence[Answer]) -> Table:
    """The table as Grafana's transformations `merge` and `organize` make it."""
    merged = _merged(answers)
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


def _merged(answers: Sequence[Answer]) -> list[dict[str, Cell]]:
    """Rows that have the same shared labels become one unless they contradict each other."""
    frames = [_frame(answer) for answer in answers if answer.series]
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


def _frame(answer: Answer) -> list[dict[str, Cell]]:
    value = f"Value #{answer.query.reference}"
    return [{**one.labels, value: one.values[-1]} for _, one in answer.series]


def _cell(panel: Panel, name: str, value: Cell) -> tuple[str, str | None]:
    if isinstance(value, str):
        return value, None
    field = panel.of(name)
    if field.mapped and (found := field.mapped.get(f"{value:g}")):
        return found
    return units.text(value, field.unit, field.decimals), None
