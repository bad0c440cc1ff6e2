"""Times without records within a study, as between two pods of an edge. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

import polars as pl

from splittracr.results.environment import Run
from splittracr.results.summary import Gap

MIN_SECONDS = 5.0
MEDIANS = 20
"""A gap is longer than MIN_SECONDS and than MEDIANS times the median time between frames.

With random arrivals one interval in a million is as long by chance.
"""


def gaps(samples: pl.DataFrame, runs: Sequence[Run] = ()) -> tuple[Gap, ...]:
    """The gaps of all edges, in order of time; `samples` has the columns of `tables.SCHEMA`.

    `runs` have the starts of each edge. A gap runs from the end of all earlier records to the start
    of the next one, of the same edge. It needs three frames of the edge: with fewer the usual time
    between frames is unknown.
    """
    parts = samples.partition_by("edge", maintain_order=True)
    starts = {run.edge: [start.timestamp() for start in run.started_at] for run in runs}
    found = [gap for part in parts for gap in _of_edge(part, starts)]
    return tuple(sorted(found, key=lambda gap: (gap.started_at, gap.edge)))


def _of_edge(rows: pl.DataFrame, started: Mapping[str, Sequence[float]]) -> Iterator[Gap]:
    edge = str(rows["edge"][0])
    frames = (
        rows.select("started_at", "sample", end=pl.col("started_at") + pl.col("total_ms") / 1000)
        .group_by("started_at")
        .agg(pl.col("end").max(), first=pl.col("sample").min(), last=pl.col("sample").max())
        .sort("started_at")
    )
    starts, ends = frames["started_at"].to_list(), frames["end"].cum_max().to_list()
    if len(starts) < 3:
        return
    usual = sorted(later - start for start, later in pairwise(starts))
    shortest = max(MIN_SECONDS, MEDIANS * usual[(len(usual) - 1) // 2])
    lasts, firsts = frames["last"].to_list(), frames["first"].to_list()
    for at, (end, start) in enumerate(zip(ends, starts[1:], strict=False)):
        if start - end > shortest:
            yield Gap(
                edge=edge,
                started_at=end,
                seconds=start - end,
                after=lasts[at],
                before=firsts[at + 1],
                restarted=any(end < time < start for time in started.get(edge, ())),
            )
