"""The page that panels are drawn on: sizes, colours, texts and boxes.

Sizes are inches. The origin of the page is its lower left corner.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.textpath import TextToPath
from numpy.typing import NDArray

from splittracr.monitoring.collect import QueryResult
from splittracr.monitoring.panels import Panel
from splittracr.monitoring.prometheus import Series
from splittracr.results.words import middle_cut

WIDTH, UNIT, MARGIN, GAP, HEADER = 9.0, 0.215, 0.14, 0.07, 0.62
PAD = 0.09
TITLE, SMALL = 8.0, 6.8  # points
CARD, QUIET = "#ffffff", "#6b7280"
_MAX_SERIES = 16
_COLOURS = (
    "#08519c", "#d95f02", "#009e73", "#cc79a7", "#56b4e9", "#e6ab02", "#7570b3", "#8c510a",
    "#222222", "#66a61e",
)  # fmt: skip

_paths = TextToPath()

Box = tuple[float, float, float, float]
"""Left, bottom, width, height."""


@dataclass(frozen=True)
class Canvas:
    """A figure of `WIDTH` by `height`, addressed in inches."""

    figure: Figure
    height: float

    def box(self, panel: Panel) -> Box:
        """Return the box of a panel."""
        unit = (WIDTH - 2 * MARGIN + GAP) / 24
        at = panel.position
        bottom = self.height - HEADER - (at.y + at.height) * UNIT
        return MARGIN + at.x * unit, bottom, at.width * unit - GAP, at.height * UNIT - GAP

    def axes(self, box: Box) -> Axes:
        """Add axes."""
        left, bottom, width, height = box
        return self.figure.add_axes(
            (left / WIDTH, bottom / self.height, width / WIDTH, height / self.height)
        )

    def add(self, artist: Any) -> None:
        """Add an artist, whose coordinates are inches."""
        artist.set_transform(self.figure.dpi_scale_trans)
        self.figure.add_artist(artist)

    def line(self, x: Sequence[float], y: Sequence[float], **settings: Any) -> None:
        """Draw a line."""
        self.add(Line2D(x, y, **settings))

    def text(self, x: float, y: float, text: str, *, size: float, **settings: Any) -> None:
        """Write a text; `size` is in points."""
        self.figure.text(
            x, y, text, fontsize=size, transform=self.figure.dpi_scale_trans, **settings
        )


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Return the width of a text."""
    font = FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")
    width, _, _ = _paths.get_text_width_height_descent(text, font, ismath=False)
    return float(width) / 72


def fitted(text: str, width: float, size: float, bold: bool = False) -> str:
    """Return the text, shortened in the middle if it is wider than `width`."""
    length = len(text)
    while length > 3 and text_width(middle_cut(text, length), size, bold) > width:
        length -= 1
    return middle_cut(text, length) if text else text


def wrapped(text: str, width: float, size: float) -> list[str]:
    """Break a text into lines of at most `width`."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if text_width(longer, size) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return [fitted(line, width, size) for line in lines]


def coloured(panel: Panel, results: Iterable[QueryResult]) -> list[tuple[str, str, Series]]:
    """Return name, colour and series, in the order of the queries and then of names."""
    found = [pair for result in results for pair in sorted(result.series, key=lambda one: one[0])]
    fixed = {panel.of(name).colour for name, _ in found}
    free = cycle([colour for colour in _COLOURS if colour not in fixed])
    return [(name, panel.of(name).colour or next(free), one) for name, one in found[:_MAX_SERIES]]


def with_gaps(one: Series, step: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return times and values, with NaN at each step without a value."""
    times, values = np.array(one.times), np.array(one.values)
    gaps = np.flatnonzero(np.diff(times) > 1.5 * step) + 1
    return np.insert(times, gaps, times[gaps - 1]), np.insert(values, gaps, np.nan)
