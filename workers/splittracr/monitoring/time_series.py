"""Draws panels over time: lines or stacks, their axes, legends and marked events."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

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
from splittracr.monitoring.collect import Collected, TimeRange
from splittracr.monitoring.panels import Annotation, Panel
from splittracr.monitoring.prometheus import Series
from splittracr.results.plots import FAINT

_LINE = 0.135  # a line of small text
_MAX_LEGEND_LINES, _MANY_EVENTS = 4, 40
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAY = 86400


@dataclass(frozen=True)
class TimeSeries:
    """Draws the panels over time of one dashboard."""

    canvas: Canvas
    time_range: TimeRange
    zone: tzinfo
    annotations: Sequence[Annotation]
    collected: Collected
    margins: dict[tuple[int, int], float] = field(default_factory=dict)
    """Width of the value axes of panels that stand below each other, so that times line up."""

    @property
    def ends(self) -> tuple[float, float]:
        """The drawn range, at least a second."""
        return self.time_range.start, max(self.time_range.end, self.time_range.start + 1)

    def measure(self, panels: Iterable[Panel]) -> None:
        """Fill `margins`."""
        for panel in panels:
            if panel.kind == "timeseries" and not self.collected.is_empty(panel):
                found = coloured(panel, self.collected.results[panel.identity])
                _, _, ticks = _scale(panel, [one for _, _, one in found])
                texts = units.ticks(ticks, panel.field.unit)
                wide = max(text_width(text, SMALL) for text in texts) + 0.07
                key = (panel.position.x, panel.position.width)
                self.margins[key] = max(wide, self.margins.get(key, 0.0))

    def draw(self, panel: Panel, box: Box) -> None:
        """Draw a panel with its legend."""
        left, bottom, width, height = box
        series = coloured(panel, self.collected.results[panel.identity])
        entries = _legend_lines([(name, colour) for name, colour, _ in series], width)
        below = len(entries) * _LINE + 0.05
        low, high, ticks = _scale(panel, [one for _, _, one in series])
        texts = units.ticks(ticks, panel.field.unit)
        margin = self.margins[panel.position.x, panel.position.width]
        axes = self._axes(
            (left + margin, bottom + below + 0.17, width - margin - 0.05, height - below - 0.2)
        )
        axes.set_ylim(low, high)
        axes.set_yticks(ticks, texts)
        self._time_axis(axes, width - margin)
        self._mark_events(axes)
        if panel.stacking != "none":
            self._stack(panel, axes, series)
        else:
            for _, colour, one in series:
                self._line(panel, axes, colour, one)
        self._legend(entries, left, bottom + below - _LINE)

    def _axes(self, box: Box) -> Axes:
        axes = self.canvas.axes(box)
        axes.set_facecolor("none")
        axes.grid(axis="y", color=FAINT, lw=0.5)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color("#b8bcc4")
        axes.tick_params(axis="y", length=0, pad=2, colors=QUIET)
        axes.tick_params(axis="x", length=2, pad=2, colors=QUIET)
        return axes

    def _time_axis(self, axes: Axes, width: float) -> None:
        start, end = self.ends
        found = time_ticks(start, end, max(2, int(width / 0.62)), self.zone)
        room = (text_width(found[-1][1], SMALL) / 2 - 0.08) / width * (end - start) if found else 0
        found = [(time, text) for time, text in found if time <= end - room]
        axes.set_xlim(start, end)
        axes.set_xticks([time for time, _ in found], [text for _, text in found])

    def _line(self, panel: Panel, axes: Axes, colour: str, one: Series) -> None:
        times, values = with_gaps(one, self.time_range.step)
        drawstyle = "steps-post" if panel.step else "default"
        axes.plot(times, values, color=colour, lw=1.25, drawstyle=drawstyle)
        alone = _alone(values)
        axes.plot(times[alone], values[alone], ".", color=colour, ms=4)

    def _stack(self, panel: Panel, axes: Axes, series: Sequence[tuple[str, str, Series]]) -> None:
        times, layers = _layers([one for _, _, one in series])
        step = self.time_range.step
        # Close each stretch: the last value holds for a step, or a lone point would be invisible.
        gaps = np.flatnonzero(np.diff(times) > 1.5 * step)
        lower = np.zeros(len(times))
        for (_, colour, _), layer in zip(series, layers, strict=True):
            upper = lower + layer
            for part in np.split(np.arange(len(times)), gaps + 1):
                end = min(times[part[-1]] + (step if panel.step else 0), self.ends[1])
                x = np.append(times[part], end)
                low, high = (np.append(y[part], y[part][-1]) for y in (lower, upper))
                axes.fill_between(
                    x, low, high, color=colour, alpha=0.85, lw=0.3,
                    step="post" if panel.step else None,
                )  # fmt: skip
            lower = upper

    def _mark_events(self, axes: Axes) -> None:
        for one in self.annotations:
            events = self.collected.events.get(one.name, ())
            shade = 0.65 if len(events) <= _MANY_EVENTS else 0.3
            for event in events:
                axes.axvline(event.time, color=one.colour, lw=0.7, ls=(0, (2, 1.5)), alpha=shade,
                             zorder=1.5)  # fmt: skip

    def _legend(self, lines: Sequence[Sequence[tuple[str, str]]], left: float, y: float) -> None:
        for line in lines:
            x = left
            for name, colour in line:
                if colour:
                    self.canvas.line([x, x + 0.12], [y + 0.035] * 2, color=colour, lw=2.2)
                self.canvas.text(x + 0.16, y, name, size=SMALL)
                x += _entry_width(name)
            y -= _LINE


def time_ticks(start: float, end: float, count: int, zone: tzinfo) -> list[tuple[float, str]]:
    """Return round times of the zone between two times, with their texts.

    There are at most `count + 1` of them.
    """
    span = end - start
    step = next(
        (one for one in _STEPS if span / one <= count), math.ceil(span / count / _DAY) * _DAY
    )
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < _DAY else "%-d %b"
    offset = datetime.fromtimestamp(start, zone).utcoffset()
    shift = offset.total_seconds() if offset else 0.0
    first = math.ceil((start + shift) / step) * step - shift
    times = [first + number * step for number in range(int((end - first) // step) + 1)]
    return [(time, datetime.fromtimestamp(time, zone).strftime(form)) for time in times]


def _scale(panel: Panel, series: Sequence[Series]) -> tuple[float, float, list[float]]:
    """Return the ends of the value axis and its ticks."""
    if panel.stacking != "none":
        _, layers = _layers(series)
        values = layers.sum(axis=0)
    else:
        values = np.array([value for one in series for value in one.values])
    shown = panel.field
    low = float(values.min()) if shown.minimum is None else shown.minimum
    high = float(values.max()) if shown.maximum is None else shown.maximum
    low = min(low, float(values.min()))
    if high <= low:
        low, high = (low, low + 1) if low == 0 else (low - abs(low) * 0.1, low + abs(low) * 0.1)
    room = 0.0 if shown.maximum is not None else (high - low) * 0.08
    low -= 0.0 if shown.minimum is not None else (high - low) * 0.05
    locator = MaxNLocator(4, integer=shown.decimals == 0, steps=[1, 2, 2.5, 5, 10])
    ticks = [t for t in locator.tick_values(low, high + room) if low <= t <= high + room]
    return low, high + room, [float(tick) for tick in ticks] or [low]


def _layers(series: Sequence[Series]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return all times and, for each series, its values at them; 0 for a missing value."""
    times = np.array(sorted({round(t, 3) for one in series for t in one.times}))
    layers = np.zeros((len(series), len(times)))
    for row, one in enumerate(series):
        places = np.searchsorted(times, np.round(one.times, 3))
        layers[row, places] = one.values
    return times, layers


def _alone(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which points have no neighbour, so that no line shows them."""
    missing = np.concatenate(([True], np.isnan(values), [True]))
    alone: NDArray[np.bool_] = ~missing[1:-1] & missing[:-2] & missing[2:]
    return alone


def _entry_width(name: str) -> float:
    return text_width(name, SMALL) + 0.28


def _legend_lines(entries: Sequence[tuple[str, str]], width: float) -> list[list[tuple[str, str]]]:
    """Arrange entries in at most four lines; the last entry counts those that do not fit."""
    lines: list[list[tuple[str, str]]] = [[]]
    used = 0.0
    for number, (name, colour) in enumerate(entries):
        short = fitted(name, width - 0.3, SMALL)
        if lines[-1] and used + _entry_width(short) > width:
            if len(lines) == _MAX_LEGEND_LINES:
                lines[-1][-1] = (f"+ {len(entries) - number + 1} more", "")
                break
            lines.append([])
            used = 0.0
        lines[-1].append((short, colour))
        used += _entry_width(short)
    return lines
