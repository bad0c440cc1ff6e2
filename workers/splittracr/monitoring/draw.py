"""A dashboard as a figure or as a page, with the panels at the positions that Grafana gives them.

`canvas.py` has the sizes, `time_series.py` and `numbers_panel.py` draw the panels.
"""

import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Any

from matplotlib import style
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from splittracr.monitoring import units
from splittracr.monitoring.canvas import (
    CARD,
    HEADER,
    MARGIN,
    PAD,
    QUIET,
    SMALL,
    TITLE,
    UNIT,
    WIDTH,
    Box,
    Canvas,
    fitted,
    text_width,
    wrapped,
)
from splittracr.monitoring.collect import Collected, QueryResult, TimeRange, VariableValue
from splittracr.monitoring.numbers_panel import Numbers
from splittracr.monitoring.panels import Annotation, Board, Panel
from splittracr.monitoring.table_panel import table
from splittracr.monitoring.time_series import TimeSeries
from splittracr.results.plots import INK, STYLE, inline

PIXELS = 1600
"""Width of a PNG."""

_PAGE = "#f3f4f6"
_STYLE: dict[str, Any] = {**STYLE, "xtick.labelsize": SMALL, "ytick.labelsize": SMALL}
_MAX_VALUES = 4  # of a variable in the heading


@dataclass(frozen=True)
class Heading:
    """The texts above a dashboard, and the time zone of its axes."""

    title: str
    subject: str
    zone: tzinfo


def heading(board: Board, values: Mapping[str, VariableValue], zone: tzinfo) -> Heading:
    """Make the heading of a dashboard from its title and variables."""
    texts = [f"{name} {_several(value)}" for name, value in values.items() if value]
    return Heading(board.title.replace(" / ", " · "), " · ".join(texts), zone)


def _several(value: VariableValue) -> str:
    if isinstance(value, str):
        return value
    more = f" and {len(value) - _MAX_VALUES} more" if len(value) > _MAX_VALUES else ""
    return ", ".join(value[:_MAX_VALUES]) + more


def figure(board: Board, collected: Collected, time_range: TimeRange, heading: Heading) -> Figure:
    """Draw the dashboard as one figure."""
    with style.context(["default", _STYLE]):
        units_high = max(panel.position.y + panel.position.height for panel in board.panels)
        height = units_high * UNIT + HEADER + MARGIN
        made = Figure(figsize=(WIDTH, height), facecolor=_PAGE)
        FigureCanvasAgg(made)
        canvas = Canvas(made, height)
        over_time = TimeSeries(canvas, time_range, heading.zone, board.annotations, collected)
        over_time.measure(board.panels)
        numbers = Numbers(canvas, collected, over_time.ends, time_range.step)
        _header(canvas, heading, over_time.ends, board.annotations, collected)
        kinds = {"timeseries": over_time.draw, "stat": numbers.stat, "table": numbers.table}
        for panel in board.panels:
            box = canvas.box(panel)
            if panel.kind == "row":
                left, bottom = box[0] + 0.02, box[1] + 0.03
                canvas.text(left, bottom, panel.title, size=TITLE + 1.5, weight="bold")
                continue
            inner = _card(canvas, panel.title, box)
            if collected.is_empty(panel):
                _empty(canvas, _reason(panel, collected), inner)
            else:
                kinds[panel.kind](panel, inner)
    return made


def png(made: Figure) -> bytes:
    """Return the figure as a PNG, 1,600 pixels wide."""
    return _saved(made, "png", {"Software": None})


def page(made: Figure, board: Board, collected: Collected, heading: Heading) -> str:
    """Return the figure as a self-contained HTML page, which also lists the panels as text."""
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
    numbers = _numbers(panel, collected.results.get(panel.identity, ()))
    last = _reason(panel, collected) if collected.is_empty(panel) else f"At the end: {numbers}."
    text = f"{panel.description} {last}"
    return f"<dt>{html.escape(panel.title)}</dt><dd>{html.escape(text)}</dd>"


def _numbers(panel: Panel, results: Sequence[QueryResult]) -> str:
    """Return the last values of a panel as text, for search and for screen readers."""
    if panel.kind == "table":
        return "; ".join(", ".join(row) for row in table(panel, results).rows)
    series = [(name, one) for result in results for name, one in result.series]
    return "; ".join(
        f"{name} {units.text(one.values[-1], panel.of(name).unit, panel.of(name).decimals)}"
        for name, one in series
    )


def _saved(made: Figure, kind: str, metadata: dict[str, None]) -> bytes:
    buffer = io.BytesIO()
    with style.context(["default", _STYLE]):
        made.savefig(buffer, format=kind, dpi=PIXELS / WIDTH, metadata=metadata, facecolor=_PAGE)
    return buffer.getvalue()


def _reason(panel: Panel, collected: Collected) -> str:
    """Return the text in place of a panel without series."""
    errors = collected.errors(panel)
    return f"Query failed: {errors[0]}" if errors else panel.empty


def _header(
    canvas: Canvas,
    heading: Heading,
    ends: tuple[float, float],
    annotations: Sequence[Annotation],
    collected: Collected,
) -> None:
    top, right = canvas.height - 0.26, WIDTH - MARGIN
    start, end = (datetime.fromtimestamp(t, heading.zone) for t in ends)
    until = f"{end:%H:%M:%S}" if start.date() == end.date() else f"{end:%-d %b %Y, %H:%M:%S}"
    when = f"{start:%-d %b %Y, %H:%M:%S} – {until} {end:%Z}"
    canvas.text(MARGIN, top, heading.title, size=12, weight="bold")
    canvas.text(right, top, when, size=TITLE, ha="right", color=QUIET)
    canvas.text(MARGIN, top - 0.21, heading.subject, size=TITLE + 1, color=QUIET)
    for one in reversed(annotations):
        if events := collected.events.get(one.name):
            text = f"{one.name} ({len(events)})"
            canvas.text(right, top - 0.21, text, size=SMALL + 0.4, ha="right")
            right -= text_width(text, SMALL + 0.4) + 0.1
            canvas.line([right, right], [top - 0.25, top - 0.12], color=one.colour, lw=1.2,
                        ls=(0, (2, 1.2)))  # fmt: skip
            right -= 0.16


def _card(canvas: Canvas, title: str, box: Box) -> Box:
    """Draw the background and the title of a panel; returns the box for its content."""
    left, bottom, width, height = box
    canvas.add(Rectangle((left, bottom), width, height, fc=CARD, ec="#e1e4e8", lw=0.6, zorder=-1))
    short = fitted(title, width - 2 * PAD, TITLE, bold=True)
    canvas.text(left + PAD, bottom + height - 0.19, short, size=TITLE, weight="bold")
    return left + PAD, bottom + PAD, width - 2 * PAD, height - PAD - 0.3


def _empty(canvas: Canvas, reason: str, box: Box) -> None:
    left, bottom, width, height = box
    lines = wrapped(reason, width, TITLE - 0.5)
    y = bottom + height / 2 + (len(lines) - 1) * 0.075
    for line in lines:
        canvas.text(left + width / 2, y, line, size=TITLE - 0.5, color=QUIET, ha="center",
                    va="center")  # fmt: skip
        y -= 0.15
