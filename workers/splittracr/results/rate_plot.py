"""The figure of bytes against accuracy."""

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from splittracr.results.bjontegaard import Point, front
from splittracr.results.plots import EDGE, FAINT, INK, SERVER, STYLE, WIDTH, Plot
from splittracr.results.rate import (
    ANCHOR,
    AS_NUMBER,
    FILE,
    METRICS,
    CascadePoint,
    Metric,
    Rate,
    RatePoint,
)
from splittracr.results.words import human_bytes, middle_cut, percent, precision

_FORMATS = {"jpeg": SERVER, "webp": "#009e73", "avif": "#cc79a7", "lossless": "#777777"}
_MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h", "*")
_BLUES = ("#08306b", "#2171b5", "#6baed6")
_CASCADES = "#b30000"
_SPREAD = 0.02  # of the range of accuracies, above and below


def rate_plot(made: Rate) -> Plot:
    """A line for each family of pictures, marks for each cut, and the Pareto front of all."""
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH, 4.4), layout="constrained")
        axes = figure.add_subplot()
        lines = {"Pareto front": _draw_front(axes, made.everything)}
        for name, points in _families(made.points, whole=True).items():
            lines[_named(name)] = _draw_pictures(axes, name, points)
        for place, (name, points) in enumerate(_families(made.points, whole=False).items()):
            mark, colour = _MARKS[place % len(_MARKS)], _BLUES[place % len(_BLUES)]
            (lines[middle_cut(name, 24)],) = axes.plot(
                *_best(points), ls="-", lw=0.7, marker=mark, color=colour, ms=4, mew=0
            )
        if made.cascades:
            (lines[made.cascades[0].family],) = axes.plot(
                *_best(made.cascades), ls="-", lw=1.6, marker="D", color=_CASCADES, ms=4, mew=0
            )
        lines["uncut, uncoded"] = axes.axhline(made.uncut.value, color=INK, lw=0.8, ls=":")
        _scale(axes, made)
        # Names are handed over: as labels of lines those that begin with _ would be left out.
        figure.legend(lines.values(), lines, loc="outside upper center", ncols=4, handlelength=2.4)
    caption = (
        f"Mean bytes that a sample sends, and {METRICS[made.metric]} of {made.judged:,} samples. "
        "Orange, green and pink: the whole picture, dashed if it is sent smaller. Blue: cuts, each "
        "with its codecs. The wide line is the Pareto front of all points."
    )
    if made.cascades:
        caption += (
            " Red: cascades, in which the edge answers some samples. The others go on at a point "
            "of the front without cascades."
        )
    return Plot(FILE, caption, _alt(made), figure)


def _families(points: Sequence[RatePoint], *, whole: bool) -> dict[str, list[RatePoint]]:
    found: dict[str, list[RatePoint]] = {}
    for one in points:
        if (one.cut_index == 0) == whole:
            found.setdefault(one.family, []).append(one)
    return found


def _best(points: Sequence[RatePoint]) -> tuple[list[float], list[float]]:
    """Bytes and accuracies on the points' own front."""
    kept = [points[i] for i in front([Point(one.bytes, one.accuracy.value) for one in points])]
    return [one.bytes for one in kept], [one.accuracy.value for one in kept]


def _draw_front(axes: Axes, points: Sequence[RatePoint]) -> Line2D:
    (line,) = axes.step(
        *_best(points), where="post", color=EDGE, lw=6, alpha=0.15, solid_capstyle="butt"
    )
    return line


def _draw_pictures(axes: Axes, name: str, points: Sequence[RatePoint]) -> Line2D:
    kind, _, scale = name.partition(" ")[2].partition("@")
    ordered = sorted(points, key=lambda one: one.bytes)
    (line,) = axes.plot(
        [one.bytes for one in ordered], [one.accuracy.value for one in ordered],
        ls="" if kind == "lossless" else "--" if scale else "-", marker=".", ms=5, mew=0,
        lw=1.6 if name == ANCHOR else 1.1, color=_FORMATS[kind],
    )  # fmt: skip
    return line


def _named(family: str) -> str:
    """`jpeg`, or `jpeg at 50 % size`."""
    kind, _, scale = family.partition(" ")[2].partition("@")
    return f"{kind} at {scale} % size" if scale else kind


def _scale(axes: Axes, made: Rate) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
    axes.xaxis.set_major_formatter(FuncFormatter(_bytes))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    values = np.array([made.uncut.value, *(one.accuracy.value for one in made.everything)])
    margin = max(_SPREAD * float(np.ptp(values)), 0.005)
    axes.set_ylim(float(values.min()) - margin, float(values.max()) + margin)
    axes.yaxis.set_major_formatter(FuncFormatter(partial(_written, made.metric)))
    axes.set_xlabel("bytes of a sample's message, log scale")
    axes.set_ylabel(METRICS[made.metric])


def _bytes(value: float, _: int = 0) -> str:
    number, unit = human_bytes(value).split()
    return f"{float(number):g} {unit}"


def _written(metric: Metric, value: float, _: int = 0) -> str:
    return precision(value) if metric in AS_NUMBER else f"{value * 100:.4g} %"


def _alt(made: Rate) -> str:
    points = sorted((one for one in made.everything if one.on_front), key=lambda one: one.bytes)
    said = "; ".join(
        f"{_operating_point(one)}: {human_bytes(one.bytes)}, {percent(one.accuracy.value)}"
        for one in points
    )
    return f"Bytes against accuracy. On the Pareto front: {said}."


def _operating_point(one: RatePoint) -> str:
    """`jpeg:50 at input`, with a cascade `jpeg:50 at input after 40 % answered on the edge`."""
    point = f"{one.codec} at {one.cut}"
    if isinstance(one, CascadePoint):
        return f"{point} after {percent(one.answered)} answered on the edge"
    return point
