"""Draws panels without a time axis: numbers, with their course behind them, and tables."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splittracr.monitoring import units
from splittracr.monitoring.canvas import (
    QUIET,
    SMALL,
    Box,
    Canvas,
    coloured,
    fitted,
    text_width,
    with_gaps,
)
from splittracr.monitoring.collect import Collected
from splittracr.monitoring.panels import Panel
from splittracr.monitoring.prometheus import Series
from splittracr.monitoring.table_panel import table
from splittracr.results.plots import FAINT, INK

_TABLE, _BIG = 6.8, 15.0  # points


@dataclass(frozen=True)
class Numbers:
    """Draws the panels without a time axis of one dashboard.

    `ends` is the time range of the dashboard, `step` the seconds between two values.
    """

    canvas: Canvas
    collected: Collected
    ends: tuple[float, float]
    step: float

    def stat(self, panel: Panel, box: Box) -> None:
        """Draw the last value of each series."""
        left, bottom, width, height = box
        found = coloured(panel, self.collected.results[panel.identity])
        if panel.course and len(found[0][2].times) > 2:
            self._course(found[0][2], (left, bottom, width, height * 0.36))
        each = width / len(found)
        for position, (name, _, one) in enumerate(found):
            how = panel.of(name)
            value = units.text(one.values[-1], how.unit, how.decimals)
            shown = name if panel.text == "name" else value
            size = min(_BIG, _BIG * (each - 0.06) / text_width(shown, _BIG, bold=True))
            x = left + each * position
            self.canvas.text(x, bottom + height * 0.55, shown, size=size, weight="bold")
            if panel.text == "value_and_name":
                label = fitted(name, each - 0.05, SMALL)
                self.canvas.text(x, bottom + height * 0.22, label, size=SMALL, color=QUIET)

    def table(self, panel: Panel, box: Box) -> None:
        """Draw a table; the last row counts those that do not fit."""
        left, bottom, width, height = box
        made = table(panel, self.collected.results[panel.identity])
        room = max(1, int(height / 0.175) - 1)
        rows = made.rows if len(made.rows) <= room else made.rows[: room - 1]
        widths = _column_widths(made.header, rows, width)
        y = bottom + height - 0.12
        self._cells(made.header, widths, made.numeric, left, y, color=QUIET)
        for number, row in enumerate(rows):
            self.canvas.line([left, left + width], [y - 0.05] * 2, color=FAINT, lw=0.5)
            y -= 0.175
            self._cells(row, widths, made.numeric, left, y, colours=made.colours[number])
        if len(rows) < len(made.rows):
            self.canvas.text(left, y - 0.175, f"{len(made.rows) - len(rows)} more", size=_TABLE,
                             color=QUIET)  # fmt: skip

    def _course(self, one: Series, box: Box) -> None:
        axes = self.canvas.axes(box)
        axes.axis("off")
        times, values = with_gaps(one, self.step)
        axes.fill_between(times, values, color="#c6dbef", lw=0)
        axes.plot(times, values, color="#5a9bd0", lw=0.8)
        axes.set_xlim(*self.ends)
        axes.set_ylim(0, max(1e-12, float(np.nanmax(values))) * 1.05)

    def _cells(
        self,
        texts: Sequence[str],
        widths: Sequence[float],
        numeric: Sequence[bool],
        left: float,
        y: float,
        color: str = INK,
        colours: Sequence[str | None] | None = None,
    ) -> None:
        for column, (text, width) in enumerate(zip(texts, widths, strict=True)):
            shown = fitted(text, width - 0.08, _TABLE)
            at = left + width - 0.1 if numeric[column] else left
            chosen = (colours[column] if colours else None) or color
            self.canvas.text(at, y, shown, size=_TABLE, color=chosen,
                             ha="right" if numeric[column] else "left")  # fmt: skip
            left += width


def _column_widths(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: float
) -> list[float]:
    """Return the widths of the columns.

    Spare width is divided evenly. If the texts need more than `width`, wide columns are narrowed
    in proportion.
    """
    needed = [
        max(text_width(text, _TABLE) for text in column) + 0.18
        for column in zip(header, *rows, strict=True)
    ]
    spare = width - sum(needed)
    if spare >= 0:
        return [one + spare / len(needed) for one in needed]
    narrow = [min(one, width / len(needed)) for one in needed]
    rest = width - sum(narrow)
    wanting = [one - small for one, small in zip(needed, narrow, strict=True)]
    return [small + rest * more / (sum(wanting) or 1.0)
            for small, more in zip(narrow, wanting, strict=True)]  # fmt: skip
