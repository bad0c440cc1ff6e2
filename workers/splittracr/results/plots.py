"""Figures for the report and for papers, drawn with matplotlib's objects (no global state).

One row a cut, in the order of the network, so that long names stay legible and sixty cuts still
fit a page. Blue is the edge, grey the link, orange the server: a palette that readers with any
colour vision, and a black-and-white print, can tell apart.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from splittracr.experiment.types import Tier
from splittracr.results.intervals import share_interval
from splittracr.results.summary import MIN_FRAMES, Accuracy, CutFigures, Summary
from splittracr.results.tables import answered
from splittracr.results.words import (
    decimals,
    human_bytes,
    middle_cut,
    milliseconds,
    percent,
    plural,
    work,
)

WIDTH = 7.4  # inches, the text of a page

NAMES = ("latency", "cuts", "distribution", "accuracy")
"""All figures there are; a study has those that say something about it."""

EDGE, LINK, SERVER = "#08519c", "#b5b5b5", "#d95f02"
SMALL = "#1b9e77"


@dataclass(frozen=True)
class _Part:
    """A part of a bar: some stages of a tier; without `stages` what the others leave of it."""

    name: str
    colour: str
    tier: Tier
    stages: tuple[str, ...] = ()


_PARTS = (  # as they are stacked
    _Part("edge: load, prepare", "#9ecae1", Tier.EDGE, ("load", "prepare")),
    _Part("edge: head", EDGE, Tier.EDGE, ("head",)),
    _Part("edge: everything else", "#5a9bd0", Tier.EDGE),
    _Part("link", LINK, Tier.LINK),
    _Part("server: decode, wait, reply", "#fdbe85", Tier.SERVER),
    _Part("server: tail", SERVER, Tier.SERVER, ("tail",)),
)
INK, FAINT = "#222222", "#dddddd"
_LINES = ("#08519c", "#d95f02", "#009e73", "#cc79a7", "#222222", "#56b4e9")  # after Okabe and Ito
_DASHES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 1)))

_ROW, _MIN_LABEL_ROW, _PAGE = 0.27, 0.128, 9.2  # inches: a row, one that fits a label, all rows
_BAR, _SOLID = 0.72, 1.06  # of a row; rows too thin for labels leave no gap
_MAX_LINES, _MAX_BOXES = 6, 24

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # matplotlib ships it, so figures look the same everywhere
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "svg.hashsalt": "splittracr",  # ids that do not change from run to run
    "svg.fonttype": "path",
    "text.parse_math": False,  # a name is a name, even with a dollar sign in it
}


@dataclass(frozen=True)
class Plot:
    """A figure with a caption; `alt` is a text in its place for screen readers. A notebook shows
    it.
    """

    name: str
    caption: str
    alt: str
    figure: Figure

    def _repr_mimebundle_(self, **_: object) -> dict[str, object]:
        return {
            "image/png": _saved(self, "png", {"Software": None}, dpi=100),
            "text/plain": self.alt,
        }


def plots(summary: Summary, samples: pl.DataFrame) -> list[Plot]:
    """The figures for this study's data; an empty list if no sample finished.

    The distribution counts each row of `samples` once; pass one row a frame.
    """
    if all(cut.p50_ms is None for cut in summary.cuts):
        return []
    with style.context(["default", STYLE]):
        found = [_latency(summary)]
        if len(summary.cuts) > 1:
            found.append(_cuts(summary))
        found += _distribution(summary, samples)
        if len([cut for cut in summary.cuts if cut.accuracy]) > 1:
            found.append(_accuracy(summary))
    return found


def svg(plot: Plot) -> bytes:
    """The figure as SVG, text as outlines; the same bytes for the same figures."""
    return _saved(plot, "svg", {"Date": None, "Creator": None})


def png(plot: Plot) -> bytes:
    """The figure as PNG with 300 dots per inch."""
    return _saved(plot, "png", {"Software": None})


def inline(name: str, drawing: bytes) -> str:
    """The SVG of the figure `name` as an element of a page: no prologue, ids of its own."""
    text = drawing.decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->|\s+xmlns(:xlink)?=\"[^\"]*\"", "", text, flags=re.DOTALL)
    text = re.sub(r'(\sid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    return text.replace("<svg", '<svg aria-hidden="true"', 1)


def _saved(plot: Plot, kind: str, metadata: dict[str, None], dpi: int = 300) -> bytes:
    buffer = io.BytesIO()
    with style.context(["default", STYLE]):
        plot.figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def _latency(summary: Summary) -> Plot:
    """Stacked mean latency, its confidence interval and the median."""
    figure, (axes,), labelled = _rows(summary, extra=0.35)
    rows = np.arange(len(summary.cuts))
    left = np.zeros(len(rows))
    parts = [_parts(cut) for cut in summary.cuts]
    bar, lines = (_BAR, 0.3) if labelled else (_SOLID, 0.0)
    for part, width in zip(_PARTS, np.array(parts).reshape(-1, len(_PARTS)).T, strict=True):
        axes.barh(
            rows, width, bar, left=left, color=part.colour, label=part.name, lw=lines, ec="white"
        )
        left += width
    _mark_totals(axes, summary, labelled)
    axes.set_xlim(0, _right_end(summary) * (1.09 if labelled else 1.02))
    axes.set_xlabel(_axis("end-to-end latency, mean, ms", summary))
    handles, names = axes.get_legend_handles_labels()
    by_column = (0, 3, 1, 4, 2, 5)  # so that it reads row by row: the edge above, the rest below
    figure.legend(
        [handles[i] for i in by_column],
        [names[i] for i in by_column],
        loc="outside upper center",
        ncols=3,
        handlelength=1.1,
        columnspacing=1.6,
    )
    caption = (
        "Mean latency by cut and by where the time went. Black bars: 95 % confidence interval of "
        "the mean, from five frames on. Diamonds: median."
    )
    return Plot("latency", caption, f"Stacked bars. {_range_in_words(summary)}", figure)


def _mark_totals(axes: Axes, summary: Summary, labelled: bool) -> None:
    digits = decimals(_right_end(summary))
    for row, cut in enumerate(summary.cuts):
        if cut.total_ms is None or cut.p50_ms is None:
            axes.text(0, row, "  no sample finished", va="center", color="#777777", fontsize=7)
            continue
        mean = cut.total_ms.mean
        low, high = cut.total_ms.interval or (mean, mean)
        if cut.total_ms.interval is not None:
            axes.errorbar(
                mean, row, xerr=[[mean - low], [high - mean]], fmt="none", ecolor="black",
                elinewidth=0.8, capsize=2 if labelled else 1, capthick=0.8,
            )  # fmt: skip
        axes.plot(cut.p50_ms, row, "D", ms=3 if labelled else 2, mfc="white", mec="black", mew=0.7)
        if labelled:
            right = max(high, cut.p50_ms)
            axes.annotate(
                f"{mean:,.{digits}f}", (right, row), (5, 0), textcoords="offset points",
                va="center", fontsize=7,
            )  # fmt: skip


def _parts(cut: CutFigures) -> list[float]:
    """Milliseconds of each of `_PARTS`; they add up to the mean total."""
    left = {tier: cut.tiers_ms.get(tier, 0.0) for tier in Tier}
    taken = {}
    for part in _PARTS:
        if part.stages:  # a tail that ran on the edge leaves nothing on the server
            named = sum(cut.stages_ms.get(stage, 0.0) for stage in part.stages)
            taken[part] = min(named, left[part.tier])
            left[part.tier] -= taken[part]
    return [taken.get(part, left[part.tier]) for part in _PARTS]


def _cuts(summary: Summary) -> Plot:
    """Bytes of a frame, and where it is computed: two panels with the same rows."""
    figure, (left, right), labelled = _rows(summary, panels=2, extra=0.25)
    _draw_bytes(left, summary, labelled)
    _draw_work(right, summary, labelled)
    caption = (
        "Left: bytes that a frame sends to the server, beside those of the live tensors. "
        "Right: work of the head (edge) and of the tail (server)."
    )
    alt = f"Two panels, one row a cut. Sent: {_range_of_bytes(summary)}. {_range_of_work(summary)}"
    return Plot("cuts", caption, alt, figure)


def _draw_bytes(axes: Axes, summary: Summary, labelled: bool) -> None:
    sent = _column([cut.bytes_up for cut in summary.cuts])
    live = _column([cut.live_bytes if cut.bytes_up else None for cut in summary.cuts])
    some = sent[sent > 0]
    log = some.size > 0 and some.max() > 30 * some.min()
    rows = np.arange(len(summary.cuts))
    size = 6.5 if labelled else 4.5  # a ring around the dot if both are the same
    axes.plot(live, rows, "o", ms=size, mfc="none", mec="#777777", mew=0.8, label="live tensors")
    shown = np.where(sent > 0, sent, np.nan)
    axes.plot(shown, rows, "o", ms=size * 0.55, color=EDGE, label="sent")
    _byte_axis(axes, np.concatenate((some, live[live > 0])), log)
    if labelled:
        _annotate(axes, sent, [human_bytes(value) for value in sent])
    axes.set_xlabel("bytes a frame, edge to server" + (", log scale" if log else ""))
    _legend_above(axes)


def _byte_axis(axes: Axes, values: NDArray[np.float64], log: bool) -> None:
    top = values.max() if values.size else 1.0
    if log:
        axes.set_xscale("log")
        axes.set_xlim(values.min() / 2, top * 12)  # room for the labels
        axes.xaxis.set_major_locator(LogLocator(numticks=5))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, top * 1.35)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(_round_bytes))


def _round_bytes(value: float, _: int) -> str:
    """`1 MB`: ticks are round values and need no zeros behind the point."""
    number, unit = human_bytes(value).split()
    return f"{float(number):g} {unit}"


def _draw_work(axes: Axes, summary: Summary, labelled: bool) -> None:
    share = _column([cut.work for cut in summary.cuts])
    rows = np.arange(len(summary.cuts))
    bar = _BAR if labelled else _SOLID
    axes.barh(rows, np.nan_to_num(share), bar, color=EDGE, lw=0, label="edge")
    rest = np.nan_to_num(1 - share)
    axes.barh(rows, rest, bar, left=np.nan_to_num(share), color=SERVER, lw=0, label="server")
    if labelled:
        for row, cut in enumerate(summary.cuts):
            axes.text(1.03, row, work(cut.work), va="center", fontsize=7)
    axes.set_xlim(0, 1.2)
    axes.set_xticks([0, 0.5, 1])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_xlabel("share of floating-point operations")
    _legend_above(axes)


def _legend_above(axes: Axes) -> None:
    axes.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=2,
        handletextpad=0.4,
        handlelength=1.1,
        borderaxespad=0.2,
    )


def _distribution(summary: Summary, samples: pl.DataFrame) -> list[Plot]:
    """Latency of single frames: curves for a few cuts, boxes for more, nothing for many."""
    rows = answered(samples)
    totals = [
        rows.filter(pl.col("cut_index") == cut.index)["total_ms"].to_numpy() for cut in summary.cuts
    ]
    if len(summary.cuts) > _MAX_BOXES:
        return []
    few = len(summary.cuts) <= _MAX_LINES
    figure, caption = (_curves if few else _boxes)(summary, totals)
    alt = f"Distribution of latency. {_range_in_words(summary)}"
    return [Plot("distribution", caption, alt, figure)]


def _curves(summary: Summary, totals: Sequence[NDArray[np.float64]]) -> tuple[Figure, str]:
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes = figure.add_subplot()
    lines: list[Line2D] = []
    names: list[str] = []
    for cut, values, colour, dash in zip(summary.cuts, totals, _LINES, _DASHES, strict=False):
        if values.size:
            # At most 400 steps: a file must not grow with the number of samples.
            steps = min(values.size, 400)
            shares = np.arange(steps + 1) / steps
            latencies = np.quantile(values, shares, method="inverted_cdf")
            (line,) = axes.step(latencies, shares, where="post", lw=1.4, color=colour, ls=dash)
            lines.append(line)
            names.append(middle_cut(cut.cut, 40))
    for share in (0.5, 0.95):
        axes.axhline(share, color=FAINT, lw=0.8, zorder=0)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.95], ["0", "25 %", "50 %", "75 %", "95 %"])
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("frames finished within")
    axes.set_xlabel(_axis("end-to-end latency, ms", summary))
    # Names are handed over: as labels of lines those that begin with _ would be left out.
    figure.legend(lines, names, loc="outside upper center", ncols=3)
    return figure, "Share of frames that finished within a latency."


def _boxes(summary: Summary, totals: Sequence[NDArray[np.float64]]) -> tuple[Figure, str]:
    figure, (axes,), _ = _rows(summary)
    filled = [row for row, values in enumerate(totals) if values.size]
    marks = ("whislo", "q1", "med", "q3", "whishi")
    shares = (0.05, 0.25, 0.5, 0.75, 0.95)
    boxes = [dict(zip(marks, np.quantile(totals[row], shares), strict=True)) for row in filled]
    thin = {"lw": 0.8, "color": INK}
    axes.bxp(
        boxes, positions=filled, orientation="horizontal", widths=0.55, showfliers=False,
        patch_artist=True, manage_ticks=False, whiskerprops=thin, capprops=thin,
        boxprops={"lw": 0.8, "facecolor": "#c6dbef", "edgecolor": INK},
        medianprops={"lw": 1.4, "color": EDGE},
    )  # fmt: skip
    axes.set_xlim(left=0)
    axes.set_xlabel(_axis("end-to-end latency, ms", summary))
    caption = (
        "Latency of single frames. Boxes: median and quartiles; whiskers: 5th and 95th percentile."
    )
    return figure, caption


def _accuracy(summary: Summary) -> Plot:
    """Accuracy with its confidence interval."""
    figure, (axes,), labelled = _rows(summary, extra=0.25)
    known = [(row, cut.accuracy) for row, cut in enumerate(summary.cuts) if cut.accuracy]
    rows = [row for row, _ in known]
    top1 = np.array([found.top1 for _, found in known])
    low, high = np.array([_share_interval(found) for _, found in known]).T
    top5 = _column([found.top5 for _, found in known])
    axes.plot(top5, rows, "o", ms=4, mfc="none", mec="#777777", label="top-5")
    axes.errorbar(
        top1, rows, xerr=[top1 - low, high - top1], fmt="o", ms=4, color=EDGE, capsize=2,
        elinewidth=0.8, label="top-1",
    )  # fmt: skip
    if labelled:
        place: dict[str, Any] = {
            "transform": axes.get_yaxis_transform(),
            "va": "center",
            "fontsize": 7,
        }
        for row, found in known:
            axes.text(1.01, row, percent(found.top1), **place)
    lowest = float(np.nanmin([*low, *top1]))
    axes.set_xlim(max(0.0, lowest - 0.05), 1.005)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
    axes.set_xlabel("share of labelled samples")
    figure.legend(loc="outside upper center", ncols=2, handletextpad=0.3)
    caption = (
        "Accuracy by cut. Bars: 95 % confidence interval of top-1 (Wilson), from five samples on."
    )
    return Plot("accuracy", caption, f"Dots, one row a cut. {_accuracy_in_words(summary)}", figure)


def _share_interval(found: Accuracy) -> tuple[float, float]:
    """NaN without enough samples."""
    return share_interval(found.top1, found.n) if found.n >= MIN_FRAMES else (np.nan, np.nan)


def _rows(
    summary: Summary, panels: int = 1, extra: float = 0.0
) -> tuple[Figure, Sequence[Axes], bool]:
    """An empty figure with one row a cut, the first cut on top, and `panels` axes side by side.

    `extra` inches are for a legend. The last value is true if rows are high enough for labels;
    otherwise names are thinned and values are in the table only.
    """
    count = len(summary.cuts)
    height = min(_ROW, _PAGE / count)
    figure = Figure(figsize=(WIDTH, count * height + 0.6 + extra), layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    step = int(np.ceil(_MIN_LABEL_ROW / height))
    shown = range(0, count, step)
    names = [middle_cut(summary.cuts[row].cut, 40) for row in shown]
    axes[0].set_yticks(list(shown), names, fontsize=7 if height < 0.16 else 8)
    axes[0].set_ylim(count - 0.4, -0.6)
    for panel in axes:
        panel.tick_params(axis="y", length=0)
        panel.grid(axis="x", color=FAINT, lw=0.6)
        panel.set_axisbelow(True)
    for row, label in zip(shown, axes[0].get_yticklabels(), strict=True):
        if summary.cuts[row].index == summary.winner:
            label.set_fontweight("bold")
    return figure, axes, step == 1


def _annotate(axes: Axes, values: NDArray[np.float64], texts: Sequence[str]) -> None:
    """Write each text right of its value, or left of the end if there is no room."""
    for row, (value, text) in enumerate(zip(values, texts, strict=True)):
        if not np.isnan(value):
            x = value if value > 0 else axes.get_xlim()[0]
            axes.annotate(text, (x, row), (5, 0), textcoords="offset points", va="center",
                          fontsize=7)  # fmt: skip


def _column(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _axis(label: str, summary: Summary) -> str:
    """The label, with a warning if the times are not those of the machine."""
    return f"{label} (emulated)" if summary.study.emulated else label


def _right_end(summary: Summary) -> float:
    """The largest latency that is drawn."""
    ends = [
        max(c.total_ms.mean, c.total_ms.high or 0, c.p50_ms or 0)
        for c in summary.cuts
        if c.total_ms
    ]
    return max(ends, default=1.0) or 1.0


def _range_in_words(summary: Summary) -> str:
    cuts = [(cut.p50_ms, cut.cut) for cut in summary.cuts if cut.p50_ms is not None]
    low, high = min(cuts), max(cuts)
    if len(cuts) == 1:
        return f"Median {milliseconds(low[0])} at {low[1]}."
    return (
        f"{plural(len(cuts), 'cut')}; medians from {milliseconds(low[0])} at {low[1]} to "
        f"{milliseconds(high[0])} at {high[1]}."
    )


def _range_of_bytes(summary: Summary) -> str:
    sent = [(cut.bytes_up, cut.cut) for cut in summary.cuts if cut.bytes_up is not None]
    low, high = min(sent), max(sent)
    return f"{human_bytes(low[0])} at {low[1]} to {human_bytes(high[0])} at {high[1]}"


def _range_of_work(summary: Summary) -> str:
    shares = [cut.work for cut in summary.cuts if cut.work is not None]
    return f"The head's share: {percent(min(shares))} to {percent(max(shares))}." if shares else ""


def _accuracy_in_words(summary: Summary) -> str:
    shares = [cut.accuracy.top1 for cut in summary.cuts if cut.accuracy]
    return f"Top-1 accuracy from {percent(min(shares))} to {percent(max(shares))}."
