"""The figure of the operations: their times at both ends."""

from collections.abc import Sequence

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from splittracr.experiment.contracts import EDGE as EDGE_ROLE
from splittracr.results.layers import Layer, slowest
from splittracr.results.plots import EDGE, FAINT, INK, SERVER, STYLE, WIDTH, Plot
from splittracr.results.words import middle_cut, milliseconds, percent, plural

NAME = "layers"

_NAMED = 4  # operations of each end
_PANEL = 1.75  # inches


def layer_plot(rows: Sequence[Layer]) -> list[Plot]:
    """One panel an end, one bar an operation; none without times."""
    ends = _ends(rows)
    if not ends:
        return []
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH, _PANEL * len(ends) + 0.55), layout="constrained")
        panels = figure.subplots(len(ends), 1, sharex=True, squeeze=False)[:, 0]
        for axes, end in zip(panels, ends, strict=True):
            _draw(axes, end)
        panels[-1].set_xlabel("operations in the order in which they run")
    caption = (
        "Mean time of each operation in a frame, dots: 95th percentile. The numbers are those of "
        "the cuts behind the operations. The slowest ones are named."
    )
    return [Plot(NAME, caption, _in_words(ends), figure)]


def _ends(rows: Sequence[Layer]) -> list[list[Layer]]:
    """The rows of the first edge and of the server."""
    by_end: dict[str, dict[str, list[Layer]]] = {}
    for row in rows:
        by_end.setdefault(row.role, {}).setdefault(row.edge, []).append(row)
    return [next(iter(edges.values())) for edges in by_end.values()]


def _draw(axes: Axes, end: Sequence[Layer]) -> None:
    at_edge = end[0].role == EDGE_ROLE
    positions = np.array([row.index + 1 for row in end])
    means = np.array([row.mean_ms for row in end])
    axes.bar(positions, means, 0.85, color=EDGE if at_edge else SERVER, lw=0)
    axes.plot(positions, [row.p95_ms for row in end], ".", ms=2, color=INK, mew=0)
    top = max(max((row.p95_ms for row in end), default=0.0), 1e-6)
    axes.set_ylim(0, top * 1.28)
    axes.set_xlim(0.2, len(end) + 0.8)
    axes.grid(axis="y", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    emulated = " (emulated)" if end[0].emulated else ""
    axes.set_ylabel(f"{end[0].role}, ms{emulated}")
    for row in _apart(slowest(end, 3 * _NAMED), len(end)):
        place = (row.index + 1) / len(end)
        side = "left" if place < 0.25 else "right" if place > 0.75 else "center"
        axes.annotate(
            middle_cut(row.operation, 30), (row.index + 1, max(row.mean_ms, row.p95_ms)), (0, 4),
            textcoords="offset points", ha=side, fontsize=6.5,
        )  # fmt: skip


def _apart(rows: Sequence[Layer], count: int) -> list[Layer]:
    """Some of the slowest operations, with enough distance that their names do not overlap."""
    kept: list[Layer] = []
    for row in rows:
        if len(kept) < _NAMED and all(abs(row.index - k.index) > count / 5 for k in kept):
            kept.append(row)
    return kept


def _in_words(ends: Sequence[Sequence[Layer]]) -> str:
    said = []
    for end in ends:
        first, total = slowest(end, 1)[0], sum(row.mean_ms for row in end)
        share = f" ({percent(first.share)})" if first.share is not None else ""
        said.append(
            f"{end[0].role}: {plural(len(end), 'operation')} take {milliseconds(total)}, the "
            f"slowest is {first.operation} with {milliseconds(first.mean_ms)}{share}"
        )
    return f"Bars, one an operation. {'; '.join(said)}."
