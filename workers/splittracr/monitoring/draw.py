"""A dashboard as a figure or as a page: the panels of its JSON, where Grafana would place them.

Sizes are inches; the origin of the page is its lower left corner.
"""

import html
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, tzinfo
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextToPath
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from splittracr.monitoring import units
from splittracr.monitoring.collect import Answer, Choice, Collected, Event, Window
from splittracr.monitoring.panels import Annotation, Board, Panel
from splittracr.monitoring.prometheus import Series
from splittracr.monitoring.tables import table
from splittracr.results.plots import FAINT, INK, STYLE, inline
from splittracr.results.words import middle_cut

PIXELS = 1600
"""Width of a PNG."""

_WIDTH, _UNIT, _MARGIN, _GAP, _HEADER = 9.0, 0.215, 0.14, 0.07, 0.62
_PAD = 0.09
_TITLE, _SMALL, _TABLE, _BIG = 8.0, 6.8, 6.8, 15.0  # points
_LINE = 0.135  # a line of small text
_MAX_SERIES, _MAX_LEGEND_LINES, _MANY_EVENTS = 16, 4, 40
_PAGE, _CARD, _QUIET = "#f3f4f6", "#ffffff", "#6b7280"
_COLOURS = (
    "#08519c", "#d95f02", "#009e73", "#cc79a7", "#56b4e9", "#e6ab02", "#7570b3", "#8c510a",
    "#222222", "#66a61e",
)  # fmt: skip
_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200)
_DAY = 86400

_paths = TextToPath()
_STYLE: dict[str, Any] = {**STYLE, "xtick.labelsize": _SMALL, "ytick.labelsize": _SMALL}

Box = tuple[float, float, float, float]
"""Left, bottom, width, height."""


@dataclass(frozen=True)
class Heading:
    """What stands above a dashboard, and the time zone of its axes."""

    title: str
    subject: str
    zone: tzinfo


def figure(board: Board, collected: Collected, window: Window, heading: Heading) -> Figure:
    """The dashboard as one figure."""
    with style.context(["default", _STYLE]):
        units_high = max(panel.place.y + panel.place.height for panel in board.panels)
        height = units_high * _UNIT + _HEADER + _MARGIN
        made = Figure(figsize=(_WIDTH, height), facecolor=_PAGE)
        FigureCanvasAgg(made)
        page = _Page(made, height, window, heading.zone, board.annotations, collected)
        page.measure(board.panels)
        page.header(heading)
        for panel in board.panels:
            page.panel(panel)
    return made


def png(made: Figure) -> bytes:
    """The figure, 1,600 pixels wide."""
    return _saved(made, "png", {"Software": None})


def page(made: Figure, board: Board, collected: Collected, heading: Heading) -> str:
    """The figure as an HTML page that needs no other file; panels are also listed as text."""
    drawing = inline("dashboard", _saved(made, "svg", {"Date": None, "Creator": None}))
    rows = "\n".join(_listed(panel, collected) for panel in board.panels if panel.kind != "row")
    title = html.escape(f"{heading.title}: {heading.subject}")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ margin: 0; background: {_PAGE}; color: {INK}; font: 15px/1.5 system-ui, sans-serif; }}
main {{ max-width: {PIXELS}px; margin: 0 auto; padding: 0 0 2rem; }}
svg {{ display: block; width: 100%; height: auto; }}
h1 {{ position: absolute; left: -9999px; }}
details {{ margin: 0 1.5rem; }}
dt {{ font-weight: 600; margin-top: .6rem; }}
dd {{ margin: 0; }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{drawing}
<details>
<summary>What the panels show</summary>
<dl>
{rows}
</dl>
</details>
</main>
</body>
</html>
"""


def _listed(panel: Panel, collected: Collected) -> str:
    numbers = _numbers(panel, collected.answers.get(panel.identity, ()))
    last = _reason(panel, collected) if collected.is_empty(panel) else f"At the end: {numbers}."
    said = f"{panel.description} {last}"
    return f"<dt>{html.escape(panel.title)}</dt><dd>{html.escape(said)}</dd>"


def _numbers(panel: Panel, answers: Sequence[Answer]) -> str:
    """The last values of a panel, so that a page can be searched and read aloud."""
    if panel.kind == "table":
        return "; ".join(", ".join(row) for row in table(panel, answers).rows)
    series = [(name, one) for answer in answers for name, one in answer.series]
    return "; ".join(
        f"{name} {units.text(one.values[-1], panel.of(name).unit, panel.of(name).decimals)}"
        for name, one in series
    )


def _saved(made: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    with style.context(["default", _STYLE]):
        made.savefig(buffer, format=kind, dpi=PIXELS / _WIDTH, metadata=metadata, facecolor=_PAGE)
    return buffer.getvalue()


def _reason(panel: Panel, collected: Collected) -> str:
    """What stands in place of a panel without series."""
    errors = collected.errors(panel)
    return f"Query failed: {errors[0]}" if errors else panel.empty


@dataclass(frozen=True)
class _Page:
    """Draws panels on a figure."""

    figure: Figure
    height: float
    window: Window
    zone: tzinfo
    annotations: Sequence[Annotation]
    collected: Collected
    margins: dict[tuple[int, int], float] = field(default_factory=dict)
    """Width of the value axes of panels that stand below each other, so that times line up."""

    def measure(self, panels: Iterable[Panel]) -> None:
        """Fill `margins`."""
        for panel in panels:
            if panel.kind == "timeseries" and not self.collected.is_empty(panel):
                found = _coloured(panel, self.collected.answers[panel.identity])
                _, _, ticks = self._scale(panel, [one for _, _, one in found])
                texts = units.ticks(ticks, panel.field.unit)
                wide = max(_width(text, _SMALL) for text in texts) + 0.07
                key = (panel.place.x, panel.place.width)
                self.margins[key] = max(wide, self.margins.get(key, 0.0))

    def header(self, heading: Heading) -> None:
        top = self.height - 0.26
        start, end = (datetime.fromtimestamp(t, self.zone) for t in self._ends())
        until = f"{end:%H:%M:%S}" if start.date() == end.date() else f"{end:%-d %b %Y, %H:%M:%S}"
        when = f"{start:%-d %b %Y, %H:%M:%S} – {until} {end:%Z}"
        self._text(_MARGIN, top, heading.title, size=12, weight="bold")
        self._text(_WIDTH - _MARGIN, top, when, size=_TITLE, ha="right", color=_QUIET)
        self._text(_MARGIN, top - 0.21, heading.subject, size=_TITLE + 1, color=_QUIET)
        right = _WIDTH - _MARGIN
        for one in reversed(self.annotations):
            if events := self.collected.events.get(one.name):
                said = f"{one.name} ({len(events)})"
                self._text(right, top - 0.21, said, size=_SMALL + 0.4, ha="right")
                right -= _width(said, _SMALL + 0.4) + 0.1
                self._add(Line2D([right, right], [top - 0.25, top - 0.12], color=one.colour,
                                 lw=1.2, ls=(0, (2, 1.2))))  # fmt: skip
                right -= 0.16

    def panel(self, panel: Panel) -> None:
        left, bottom, width, height = self._box(panel)
        if panel.kind == "row":
            self._text(left + 0.02, bottom + 0.03, panel.title, size=_TITLE + 1.5, weight="bold")
            return
        self._add(
            Rectangle((left, bottom), width, height, fc=_CARD, ec="#e1e4e8", lw=0.6, zorder=-1)
        )
        title = _fitted(panel.title, width - 2 * _PAD, _TITLE, bold=True)
        self._text(left + _PAD, bottom + height - 0.19, title, size=_TITLE, weight="bold")
        inner = (left + _PAD, bottom + _PAD, width - 2 * _PAD, height - _PAD - 0.3)
        if self.collected.is_empty(panel):
            self._empty(panel, inner)
            return
        draw = {"timeseries": self._timeseries, "stat": self._stat, "table": self._table}
        draw[panel.kind](panel, inner)

    def _empty(self, panel: Panel, box: Box) -> None:
        left, bottom, width, height = box
        lines = _wrapped(_reason(panel, self.collected), width, _TITLE - 0.5)
        y = bottom + height / 2 + (len(lines) - 1) * 0.075
        for line in lines:
            self._text(left + width / 2, y, line, size=_TITLE - 0.5, color=_QUIET, ha="center",
                       va="center")  # fmt: skip
            y -= 0.15

    # ---------------------------------------------------------------------------- over time

    def _timeseries(self, panel: Panel, box: Box) -> None:
        left, bottom, width, height = box
        series = _coloured(panel, self.collected.answers[panel.identity])
        entries = _legend_lines([(name, colour) for name, colour, _ in series], width)
        below = len(entries) * _LINE + 0.05
        low, high, ticks = self._scale(panel, [one for _, _, one in series])
        texts = units.ticks(ticks, panel.field.unit)
        margin = self.margins[panel.place.x, panel.place.width]
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
        left, bottom, width, height = box
        place = (left / _WIDTH, bottom / self.height, width / _WIDTH, height / self.height)
        axes = self.figure.add_axes(place)
        axes.set_facecolor("none")
        axes.grid(axis="y", color=FAINT, lw=0.5)
        axes.set_axisbelow(True)
        axes.spines["left"].set_visible(False)
        axes.spines["bottom"].set_color("#b8bcc4")
        axes.tick_params(axis="y", length=0, pad=2, colors=_QUIET)
        axes.tick_params(axis="x", length=2, pad=2, colors=_QUIET)
        return axes

    def _time_axis(self, axes: Axes, width: float) -> None:
        start, end = self._ends()
        found = time_ticks(start, end, max(2, int(width / 0.62)), self.zone)
        room = (_width(found[-1][1], _SMALL) / 2 - 0.08) / width * (end - start) if found else 0
        found = [(time, text) for time, text in found if time <= end - room]
        axes.set_xlim(start, end)
        axes.set_xticks([time for time, _ in found], [text for _, text in found])

    def _ends(self) -> tuple[float, float]:
        """The drawn range: never nothing."""
        return self.window.start, max(self.window.end, self.window.start + 1)

    def _scale(self, panel: Panel, series: Sequence[Series]) -> tuple[float, float, list[float]]:
        """Ends of the value axis and its ticks."""
        if panel.stacking != "none":
            _, layers = self._layers(series)
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

    def _line(self, panel: Panel, axes: Axes, colour: str, one: Series) -> None:
        times, values = _with_gaps(one, self.window.step)
        drawstyle = "steps-post" if panel.step else "default"
        axes.plot(times, values, color=colour, lw=1.25, drawstyle=drawstyle)
        alone = _alone(values)
        axes.plot(times[alone], values[alone], ".", color=colour, ms=4)

    def _layers(self, series: Sequence[Series]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """All times and, for each series, its values at them; 0 where it has none."""
        times = np.array(sorted({round(t, 3) for one in series for t in one.times}))
        layers = np.zeros((len(series), len(times)))
        for row, one in enumerate(series):
            places = np.searchsorted(times, np.round(one.times, 3))
            layers[row, places] = one.values
        return times, layers

    def _stack(self, panel: Panel, axes: Axes, series: Sequence[tuple[str, str, Series]]) -> None:
        times, layers = self._layers([one for _, _, one in series])
        step = self.window.step
        # Close each stretch: the last value holds for a step, or a lone point would be invisible.
        gaps = np.flatnonzero(np.diff(times) > 1.5 * step)
        lower = np.zeros(len(times))
        for (_, colour, _), layer in zip(series, layers, strict=True):
            upper = lower + layer
            for part in np.split(np.arange(len(times)), gaps + 1):
                end = min(times[part[-1]] + (step if panel.step else 0), self._ends()[1])
                x = np.append(times[part], end)
                low, high = (np.append(y[part], y[part][-1]) for y in (lower, upper))
                axes.fill_between(
                    x, low, high, color=colour, alpha=0.85, lw=0.3,
                    step="post" if panel.step else None,
                )  # fmt: skip
            lower = upper

    def _mark_events(self, axes: Axes) -> None:
        for one in self.annotations:
            events: Sequence[Event] = self.collected.events.get(one.name, ())
            shade = 0.65 if len(events) <= _MANY_EVENTS else 0.3
            for event in events:
                axes.axvline(event.time, color=one.colour, lw=0.7, ls=(0, (2, 1.5)), alpha=shade,
                             zorder=1.5)  # fmt: skip

    def _legend(self, lines: Sequence[Sequence[tuple[str, str]]], left: float, y: float) -> None:
        for line in lines:
            x = left
            for name, colour in line:
                if colour:
                    self._add(Line2D([x, x + 0.12], [y + 0.035] * 2, color=colour, lw=2.2))
                self._text(x + 0.16, y, name, size=_SMALL)
                x += _entry_width(name)
            y -= _LINE

    # -------------------------------------------------------------------- numbers and tables

    def _stat(self, panel: Panel, box: Box) -> None:
        left, bottom, width, height = box
        found = _coloured(panel, self.collected.answers[panel.identity])
        if panel.course and len(found[0][2].times) > 2:
            self._course(found[0][2], (left, bottom, width, height * 0.36))
        each = width / len(found)
        for position, (name, _, one) in enumerate(found):
            how = panel.of(name)
            value = units.text(one.values[-1], how.unit, how.decimals)
            shown = name if panel.text == "name" else value
            size = min(_BIG, _BIG * (each - 0.06) / _width(shown, _BIG, bold=True))
            x = left + each * position
            self._text(x, bottom + height * 0.55, shown, size=size, weight="bold")
            if panel.text == "value_and_name":
                label = _fitted(name, each - 0.05, _SMALL)
                self._text(x, bottom + height * 0.22, label, size=_SMALL, color=_QUIET)

    def _course(self, one: Series, box: Box) -> None:
        left, bottom, width, height = box
        axes = self.figure.add_axes(
            (left / _WIDTH, bottom / self.height, width / _WIDTH, height / self.height)
        )
        axes.axis("off")
        times, values = _with_gaps(one, self.window.step)
        axes.fill_between(times, values, color="#c6dbef", lw=0)
        axes.plot(times, values, color="#5a9bd0", lw=0.8)
        axes.set_xlim(*self._ends())
        axes.set_ylim(0, max(1e-12, float(np.nanmax(values))) * 1.05)

    def _table(self, panel: Panel, box: Box) -> None:
        left, bottom, width, height = box
        made = table(panel, self.collected.answers[panel.identity])
        room = max(1, int(height / 0.175) - 1)
        rows = made.rows if len(made.rows) <= room else made.rows[: room - 1]
        widths = _column_widths(made.header, rows, width)
        y = bottom + height - 0.12
        self._cells(made.header, widths, made.numeric, left, y, color=_QUIET)
        for number, row in enumerate(rows):
            self._add(Line2D([left, left + width], [y - 0.05] * 2, color=FAINT, lw=0.5))
            y -= 0.175
            self._cells(row, widths, made.numeric, left, y, colours=made.colours[number])
        if len(rows) < len(made.rows):
            self._text(left, y - 0.175, f"{len(made.rows) - len(rows)} more", size=_TABLE,
                       color=_QUIET)  # fmt: skip

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
            shown = _fitted(text, width - 0.08, _TABLE)
            at = left + width - 0.1 if numeric[column] else left
            chosen = (colours[column] if colours else None) or color
            self._text(at, y, shown, size=_TABLE, color=chosen,
                       ha="right" if numeric[column] else "left")  # fmt: skip
            left += width

    # ----------------------------------------------------------------------------- helpers

    def _box(self, panel: Panel) -> Box:
        unit = (_WIDTH - 2 * _MARGIN + _GAP) / 24
        place = panel.place
        bottom = self.height - _HEADER - (place.y + place.height) * _UNIT
        return (
            _MARGIN + place.x * unit,
            bottom,
            place.width * unit - _GAP,
            place.height * _UNIT - _GAP,
        )

    def _add(self, artist: Any) -> None:
        artist.set_transform(self.figure.dpi_scale_trans)
        self.figure.add_artist(artist)

    def _text(self, x: float, y: float, text: str, *, size: float, **settings: Any) -> None:
        self.figure.text(
            x, y, text, fontsize=size, transform=self.figure.dpi_scale_trans, **settings
        )


def time_ticks(start: float, end: float, most: int, zone: tzinfo) -> list[tuple[float, str]]:
    """At most about `most` round times of the zone between two, with their texts."""
    span = end - start
    step = next((one for one in _STEPS if span / one <= most), math.ceil(span / most / _DAY) * _DAY)
    form = "%H:%M:%S" if step < 60 else "%H:%M" if step < _DAY else "%-d %b"
    offset = datetime.fromtimestamp(start, zone).utcoffset()
    shift = offset.total_seconds() if offset else 0.0
    first = math.ceil((start + shift) / step) * step - shift
    times = [first + number * step for number in range(int((end - first) // step) + 1)]
    return [(time, datetime.fromtimestamp(time, zone).strftime(form)) for time in times]


def _coloured(panel: Panel, answers: Iterable[Answer]) -> list[tuple[str, str, Series]]:
    """Name, colour and series, in the order of the queries and then of names."""
    found = [pair for answer in answers for pair in sorted(answer.series, key=lambda one: one[0])]
    fixed = {panel.of(name).colour for name, _ in found}
    free = cycle([colour for colour in _COLOURS if colour not in fixed])
    return [(name, panel.of(name).colour or next(free), one) for name, one in found[:_MAX_SERIES]]


def _with_gaps(one: Series, step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and values with NaN wherever a step has no value."""
    times, values = np.array(one.times), np.array(one.values)
    gaps = np.flatnonzero(np.diff(times) > 1.5 * step) + 1
    return np.insert(times, gaps, times[gaps - 1]), np.insert(values, gaps, np.nan)


def _alone(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Points without a neighbour, which no line shows."""
    missing = np.concatenate(([True], np.isnan(values), [True]))
    alone: NDArray[np.bool_] = ~missing[1:-1] & missing[:-2] & missing[2:]
    return alone


def _width(text: str, size: float, bold: bool = False) -> float:
    """Of a text, in inches."""
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    width, _, _ = _paths.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def _fitted(text: str, width: float, size: float, bold: bool = False) -> str:
    """The text, its middle left out where it is wider than `width`."""
    length = len(text)
    while length > 3 and _width(middle_cut(text, length), size, bold) > width:
        length -= 1
    return middle_cut(text, length) if text else text


def _wrapped(text: str, width: float, size: float) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if _width(longer, size) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_fitted(line, width, size) for line in lines]


def _entry_width(name: str) -> float:
    return _width(name, _SMALL) + 0.28


def _legend_lines(entries: Sequence[tuple[str, str]], width: float) -> list[list[tuple[str, str]]]:
    """Entries in lines; what does not fit in four is counted."""
    lines: list[list[tuple[str, str]]] = [[]]
    used = 0.0
    for number, (name, colour) in enumerate(entries):
        short = _fitted(name, width - 0.3, _SMALL)
        if lines[-1] and used + _entry_width(short) > width:
            if len(lines) == _MAX_LEGEND_LINES:
                lines[-1][-1] = (f"+ {len(entries) - number + 1} more", "")
                break
            lines.append([])
            used = 0.0
        lines[-1].append((short, colour))
        used += _entry_width(short)
    return lines


def _column_widths(
    header: Sequence[str], rows: Sequence[Sequence[str]], width: float
) -> list[float]:
    """As wide as the texts need, the rest spread evenly; narrower in proportion if too wide."""
    needed = [
        max(_width(text, _TABLE) for text in column) + 0.18
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


def heading(board: Board, values: Mapping[str, Choice], zone: tzinfo) -> Heading:
    """The heading of a dashboard: its variables in words."""
    said = [f"{name} {_several(value)}" for name, value in values.items() if value]
    return Heading(board.title.replace(" / ", " · "), " · ".join(said), zone)


def _several(value: Choice) -> str:
    """At most four of the chosen values."""
    if isinstance(value, str):
        return value
    more = f" and {len(value) - 4} more" if len(value) > 4 else ""
    return ", ".join(value[:4]) + more
