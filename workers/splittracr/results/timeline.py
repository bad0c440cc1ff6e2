"""The figure of an adaptive study: the link, the decisions and the latencies over time."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from splittracr.experiment.spec import LinkSpec
from splittracr.experiment.types import Record
from splittracr.planning.emulated_link import Span
from splittracr.planning.emulation import Direction, conditions
from splittracr.results.environment import Environment
from splittracr.results.plots import EDGE, FAINT, INK, SERVER, SMALL, STYLE, WIDTH, Plot
from splittracr.results.words import middle_cut, milliseconds, percent, plural

NAME = "timeline"

_MAX_CUTS = 12  # names that fit beside the panel
_SECOND = 1e9  # nanoseconds

_FIRST = {"small": "answered by the small model", "exit": "answered by an exit"}
_KINDS = {
    "finished on the server": SERVER,
    "finished on the edge": EDGE,
    **dict.fromkeys(_FIRST.values(), SMALL),
}
"""How a frame ended, and the colour of its point."""


def timeline(environment: Environment, records: Sequence[Record]) -> list[Plot]:
    """Bandwidth, cut and latency over time; an empty list if no frame was predicted."""
    frames = sorted((r for r in records if r.predicted_ms is not None), key=lambda r: r.started_at)
    if not frames:
        return []
    starts = [at.timestamp() for at in environment.link_began_at or [environment.started_at]]
    times = np.array([record.started_at - starts[0] for record in frames])
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
        link, cut, latency = figure.subplots(3, 1, sharex=True, height_ratios=(1, 1.2, 1.3))
        begins = [at - starts[0] for at in starts]
        _link(link, environment.manifest.spec.transport.link, begins, frames, times)
        _cuts(cut, frames, times)
        _latencies(latency, frames, times)
        what = "link began" if environment.link_began_at else "start"
        emulated = " (emulated)" if environment.emulated else ""
        latency.set_xlabel(f"seconds since the {what}{emulated}")
        figure.align_ylabels()
    caption = (
        "Top: the uplink's rate, and what single requests got of it, their latency included. "
        "Middle: the cut of each frame. Bottom: latency, predicted before the frame and measured."
    )
    if any(record.network in _FIRST for record in frames):
        caption += (
            " If a small model or exits go first, the prediction is the mean over all samples."
        )
    return [Plot(NAME, caption, _in_words(frames), figure)]


def _link(
    axes: Axes,
    spec: LinkSpec | None,
    begins: Sequence[float],
    frames: Sequence[Record],
    times: np.ndarray,
) -> None:
    """Draw the emulated rate, from its beginning at each start of the edge, and the goodput of
    requests.
    """
    if spec is not None and spec.trace is None:  # a trace's file may be elsewhere
        spans = conditions(spec, Direction.UP).spans
        at, rates = list[float](), list[float]()
        for start, end in pairwise([*begins, max(begins[-1], float(times[-1]))]):
            offsets, these = _steps(spans, spec, end - start)
            at += [start + offset for offset in offsets]
            rates += these
        axes.step(at, np.array(rates) / 1e6, where="post", color=INK, lw=1.2, label="uplink")
    sent = np.array([record.bytes_up for record in frames], dtype=float)
    waited = np.array([record.stages.get("link", 0.0) for record in frames])
    some = (sent > 0) & (waited > 0)
    got = sent[some] * 8e3 / waited[some] / 1e6
    axes.plot(times[some], got, "o", ms=2.5, color=EDGE, alpha=0.5, mew=0, label="by request")
    if some.any():
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter("{x:g}")
    axes.set_ylabel("Mbit/s")
    _finish(axes)


def _steps(spans: Sequence[Span], spec: LinkSpec, until: float) -> tuple[list[float], list[float]]:
    """Times of changes of the rate, in seconds, and the rate from then on, repeated up to
    `until`.
    """
    ends = list(accumulate(span.duration_ns / _SECOND for span in spans))
    offset = spec.offset_seconds % ends[-1]
    i, cycle = bisect_right(ends, offset), 0
    at, rates = [0.0], [float(spans[i].bits_per_second)]
    while len(at) < 10_000:
        end = cycle * ends[-1] + ends[i] - offset
        if end >= until:
            break
        i, cycle = (i + 1, cycle) if i + 1 < len(spans) else (0, cycle + 1)
        at.append(end)
        rates.append(float(spans[i].bits_per_second))
    return [*at, until], [*rates, rates[-1]]


def _cuts(axes: Axes, frames: Sequence[Record], times: np.ndarray) -> None:
    """Each cut a row, the edge alone on top; all rows are equally high.

    Answers of a small model are in the row of the edge alone, those of exits in that of their cut.
    """
    used = sorted({(record.cut_index, record.cut) for record in frames})
    row = {index: i for i, (index, _) in enumerate(used)}
    rows = [row[record.cut_index] for record in frames]
    axes.step(times, rows, where="post", color=FAINT, lw=1)
    kinds = [
        _FIRST.get(record.network or "", f"finished on the {record.finished_on.value}")
        for record in frames
    ]
    for kind, colour in _KINDS.items():
        chosen = np.array([one == kind for one in kinds])
        if chosen.any():
            at = np.array(rows)[chosen]
            axes.plot(times[chosen], at, "o", ms=2.5, color=colour, mew=0, label=kind)
    step = -(-len(used) // _MAX_CUTS)
    shown = range(0, len(used), step)
    axes.set_yticks(list(shown), [middle_cut(used[i][1], 24) for i in shown], fontsize=7)
    axes.set_ylim(-0.5, len(used) - 0.5)
    _finish(axes)


def _latencies(axes: Axes, frames: Sequence[Record], times: np.ndarray) -> None:
    measured = [record.total_ms for record in frames]
    predicted = np.array([record.predicted_ms for record in frames], dtype=float)
    axes.plot(times, measured, "o", ms=2.5, color=EDGE, mew=0, label="measured")
    axes.step(
        times, np.array(predicted, dtype=float), where="post", color=SERVER, lw=1, label="predicted"
    )
    axes.set_ylim(bottom=0)
    axes.set_ylabel("latency, ms")
    _finish(axes)


def _finish(axes: Axes) -> None:
    axes.grid(axis="x", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=3, handlelength=1.2,
                borderaxespad=0.1)  # fmt: skip


def _in_words(frames: Sequence[Record]) -> str:
    errors = [
        abs(record.predicted_ms / record.total_ms - 1)
        for record in frames
        if record.predicted_ms is not None and record.total_ms > 0
    ]
    switches = max(record.epoch for record in frames)
    middle = milliseconds(float(np.median([record.total_ms for record in frames])))
    off = percent(float(np.median(errors))) if errors else "–"
    return (
        f"Three panels over time. {plural(len(frames), 'frame')}, {switches} switches, median "
        f"latency {middle}; predictions off by {off} in the median."
    )
