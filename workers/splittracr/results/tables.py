"""From records to tables: one flat row a sample, and the summary by cut."""

import io
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from splittracr.experiment.contracts import EXIT
from splittracr.experiment.contracts import answered as answered_by
from splittracr.experiment.energy import FrameEnergy
from splittracr.experiment.types import SCHEMA_KEY, SCHEMA_VERSION, STAGES, Record, Tier, stages_of
from splittracr.results import detection, energy, segmentation
from splittracr.results.environment import Environment, Run
from splittracr.results.gaps import gaps
from splittracr.results.intervals import METHOD, mean_interval, median_difference_interval
from splittracr.results.rate import Rate
from splittracr.results.summary import (
    MIN_PAIRS,
    Accuracy,
    Best,
    Counts,
    CutFigures,
    Mean,
    Outputs,
    Study,
    Summary,
)
from splittracr.results.words import milliseconds

T = TypeVar("T")

STAGE_COLUMNS = tuple(f"{stage}_ms" for stage in STAGES)

SCHEMA: dict[str, type[pl.DataType]] = {
    SCHEMA_KEY: pl.Int64,
    "uid": pl.String,
    "edge": pl.String,
    "trial": pl.Int64,
    "repeat": pl.Int64,
    "sample": pl.Int64,
    "name": pl.String,
    "cut": pl.String,
    "cut_index": pl.Int64,
    "outcome": pl.String,
    "error": pl.String,
    "finished_on": pl.String,
    "fallback": pl.String,
    "codec": pl.String,
    "epoch": pl.Int64,
    "batch": pl.Int64,
    "resent": pl.Boolean,
    "predicted_ms": pl.Float64,
    "reason": pl.String,
    "network": pl.String,
    "sureness": pl.Int64,
    "threshold": pl.Int64,
    "audit": pl.String,
    "judged": pl.String,
    "emulated": pl.Boolean,
    "started_at": pl.Float64,
    "bytes_up": pl.Int64,
    "bytes_down": pl.Int64,
    "total_ms": pl.Float64,
    **dict.fromkeys(STAGE_COLUMNS, pl.Float64),
    "prediction": pl.String,
    "label": pl.Int64,
    "boxes": pl.String,
    "pixels": pl.String,
    "top1": pl.Boolean,
    "top5": pl.Boolean,
    "output_digest": pl.String,
}
"""Columns of `records.parquet` and `records.csv`, in order."""

_AS_JSON = ("judged", "prediction", "boxes", "pixels")

_ANSWERED = (pl.col("outcome") == "ok") & answered_by(
    pl.col("finished_on"), pl.col("cut"), pl.col("network").eq_missing(pl.lit(EXIT))
)
"""Samples that a cut's figures cover."""

_FORMULA = r"^[\s\x00-\x1f]*[=+\-@＝＋－＠\t\r\n]"


def frame(records: Sequence[Record]) -> pl.DataFrame:
    """One row a record with the columns of SCHEMA; null if a stage did not happen."""
    return pl.DataFrame([_row(record) for record in records], schema=SCHEMA, orient="row")


def parquet(samples: pl.DataFrame) -> bytes:
    """The bytes of `records.parquet`, with the version of its columns in the file's metadata."""
    buffer = io.BytesIO()
    samples.write_parquet(buffer, metadata={SCHEMA_KEY: str(SCHEMA_VERSION)})
    return buffer.getvalue()


def csv(samples: pl.DataFrame) -> bytes:
    """The bytes of `records.csv`: UTF-8 with a byte order mark, a header line, empty for null.

    Spreadsheets run text that begins like a formula, and names come from files and other machines:
    such text gets an apostrophe in front. Without the mark Excel assumes another encoding.
    """
    harmless = pl.col(pl.String).str.replace(_FORMULA, "'${0}")
    return samples.with_columns(harmless).write_csv(include_bom=True).encode()


def timed(samples: pl.DataFrame, batch_size: int) -> pl.DataFrame:
    """One row a frame whose times count: answered, and without a wait for a lost server."""
    return frames(answered(samples).filter(~pl.col("resent")), batch_size)


def answered(samples: pl.DataFrame) -> pl.DataFrame:
    """The rows that figures of a cut cover."""
    return samples.filter(_ANSWERED)


def frames(samples: pl.DataFrame, batch_size: int) -> pl.DataFrame:
    """One row a frame, with its number in the column `frame`.

    The pictures of a batch share one run through the network: their records repeat its times and
    sizes. Counted one by one, they would look like independent measurements.
    """
    return samples.with_columns(frame=pl.col("sample") // batch_size).unique(
        ["edge", "trial", "cut_index", "frame"], keep="first", maintain_order=True
    )


def summarise(
    samples: pl.DataFrame, environment: Environment, labels: str | None = None
) -> Summary:
    """The figures of the study; `samples` has the columns of SCHEMA and one uid.

    `labels` says how labels were matched with classes; None if the data set has no class names.
    """
    parts = samples.partition_by("cut_index", "cut", maintain_order=True)
    alternating = _alternating(samples)
    if samples["boxes"].is_not_null().any() and not detection.is_available():
        labels = " ".join(filter(None, (labels, detection.MISSING)))
    found = (_cut_figures(part, environment, alternating) for part in parts)
    cuts = sorted(found, key=lambda cut: cut.index)
    counted = timed(samples, _batch_size(environment))
    partition = environment.manifest.spec.partition
    return Summary(
        study=_study(environment, labels),
        counts=_counts(samples, counted, environment.runs),
        cuts=tuple(cuts),
        best=_best(cuts, counted) if partition.compares(len(cuts)) else None,
        outputs=_outputs(samples, environment),
        agreement=environment.agreement,
        gaps=gaps(samples, environment.runs),
        method=METHOD,
    )


def _batch_size(environment: Environment) -> int:
    return environment.manifest.spec.workload.batch_size


def _row(record: Record) -> dict[str, object]:
    row = record.model_dump(mode="json", exclude={"stages", *_AS_JSON})
    row |= {f"{stage}_ms": ms for stage, ms in record.stages.items()}
    for name in _AS_JSON:
        if (value := getattr(record, name)) is not None:
            row[name] = json.dumps(value, ensure_ascii=False)
    return row


def _study(environment: Environment, labels: str | None) -> Study:
    manifest = environment.manifest
    return Study(
        name=manifest.metadata.name,
        uid=environment.uid,
        model=manifest.spec.model.name,
        weights=environment.weights,
        random_weights=environment.random_weights,
        labels=labels,
        link=environment.link,
        mode=manifest.spec.partition.mode,
        cascade=manifest.spec.partition.cascade is not None,
        emulated=environment.emulated,
        finished=environment.finished_at is not None,
        one_machine=environment.one_machine,
    )


def _counts(samples: pl.DataFrame, counted: pl.DataFrame, runs: Sequence[Run]) -> Counts:
    ok = samples.filter(pl.col("outcome") == "ok")
    return Counts(
        samples=samples.height,
        ok=ok.height,
        failed=samples.height - ok.height,
        missing=max(0, sum(run.samples for run in runs) - samples.height) if runs else None,
        first_error=next(iter(samples["error"].drop_nulls()), None),
        frames_per_second=_rate(ok, "repeat"),
        p50_ms=_quantile(counted, 0.50),
        cut_changes=_changes(samples),
    )


def _changes(samples: pl.DataFrame) -> int:
    """Number of changes of the cut between consecutive samples of an edge, by start time."""
    in_time = samples.sort("edge", "started_at", maintain_order=True)
    before = pl.col("cut_index").shift(1).over("edge")
    return in_time.filter(pl.col("cut_index") != before).height


def _alternating(samples: pl.DataFrame) -> bool:
    """Whether samples of several trials took turns, as a sweep's do."""
    in_time = samples.sort("edge", "started_at", maintain_order=True)
    changes = pl.struct("edge", "trial").rle_id().n_unique()
    trials = pl.struct("edge", "trial").n_unique()
    return bool(in_time.select(changes > trials).item())


def _cut_figures(part: pl.DataFrame, environment: Environment, alternating: bool) -> CutFigures:
    """Figures of the rows of one cut."""
    name, index = str(part["cut"][0]), int(part["cut_index"][0])
    cut = next((c for c in environment.cuts if (c.index, c.name) == (index, name)), None)
    good = answered(part)
    counted = timed(part, _batch_size(environment))
    ok = part.filter(pl.col("outcome") == "ok")
    figures = CutFigures(
        cut=name,
        index=index,
        work=cut.work if cut and cut.work_by == "operations" else None,
        live_bytes=cut.bytes if cut else None,
        exactness=cut.exactness if cut else None,
        largest_error=cut.largest_error if cut else None,
        top1_agreement=cut.top1_agreement if cut else None,
        n=good.height,
        frames=counted.height,
        failed=part.height - ok.height,
        unanswered=ok.height - good.height,
        resent=good.filter(pl.col("resent")).height,
        repeats=part["repeat"].n_unique(),
        total_ms=_mean(counted),
        p50_ms=_quantile(counted, 0.50),
        p95_ms=_quantile(counted, 0.95),
        p99_ms=_quantile(counted, 0.99),
        tiers_ms=_tiers(counted),
        stages_ms=_stages(counted),
        bytes_up=_average(counted, pl.col("bytes_up")),
        bytes_down=_average(counted, pl.col("bytes_down")),
        frames_per_second=None if alternating else _rate(good, "trial"),
        accuracy=_accuracy(good),
        detection=detection.of_rows(good),
        detection_by_codec=_by_codec(good, detection.of_rows),
        keypoints=detection.keypoints_of_rows(good),
        keypoints_by_codec=_by_codec(good, detection.keypoints_of_rows),
        segmentation=segmentation.of_rows(good),
        segmentation_by_codec=_by_codec(good, segmentation.of_rows),
        digests=good["output_digest"].drop_nulls().n_unique() or None,
        codecs=_tally(good.filter(pl.col("bytes_up") > 0)["codec"]),
        finished_on=_tally(ok["finished_on"]),
    )
    return figures.model_copy(update={"energy": _energy(figures, environment)})


def _energy(cut: CutFigures, environment: Environment) -> tuple[FrameEnergy, ...]:
    """Energy of a frame at a cut, by sensors and by declared power."""
    measured = energy.of_cut(environment, cut.index)
    nbytes = None if cut.bytes_up is None else cut.bytes_up + (cut.bytes_down or 0.0)
    waits = energy.waits_ms(cut.stages_ms)
    declared = energy.modelled(environment.manifest.spec, measured, cut.tiers_ms, waits, nbytes)
    return (*measured, *declared)


def _mean(good: pl.DataFrame) -> Mean | None:
    if good.is_empty():
        return None
    repeats = good.partition_by("edge", "trial", maintain_order=True)
    return mean_interval([_values(repeat) for repeat in repeats])


def _values(rows: pl.DataFrame) -> NDArray[np.float64]:
    return rows["total_ms"].to_numpy()


def _quantile(good: pl.DataFrame, share: float) -> float | None:
    return good["total_ms"].quantile(share, interpolation="linear")


def _average(good: pl.DataFrame, expression: pl.Expr) -> float | None:
    """The mean over rows; None without rows."""
    value = good.select(expression.mean()).item()
    return None if value is None else float(value)


def _stages(good: pl.DataFrame) -> dict[str, float]:
    """Mean milliseconds by stage; a missing stage counts as 0."""
    if good.is_empty():
        return {}
    means = good.select(pl.col(*STAGE_COLUMNS).fill_null(0.0).mean()).row(0)
    return {stage: float(mean) for stage, mean in zip(STAGES, means, strict=True)}


def _tiers(good: pl.DataFrame) -> dict[Tier, float]:
    """Mean milliseconds by tier."""
    if good.is_empty():
        return {}
    means = good.select(_in_tier(tier).mean().alias(tier) for tier in Tier).row(0)
    return {tier: float(mean) for tier, mean in zip(Tier, means, strict=True)}


def _in_tier(tier: Tier) -> pl.Expr:
    """Milliseconds of a sample in a tier; stages without a tier belong to the end that
    finished it.
    """
    here = pl.when(pl.col("finished_on") == tier).then(_sum(None)).otherwise(0.0)
    return _sum(tier) + here


def _sum(tier: Tier | None) -> pl.Expr:
    return pl.sum_horizontal(f"{stage}_ms" for stage in stages_of(tier))


def _rate(rows: pl.DataFrame, block: str) -> float | None:
    """Samples a second of each edge, added up; pauses between blocks do not count.

    `block` is the column with the number of a stretch without a pause.
    """
    end = pl.col("started_at") + pl.col("total_ms") / 1000
    blocks = rows.group_by("edge", block).agg(
        span=end.max() - pl.col("started_at").min(), samples=pl.len()
    )
    edges = blocks.group_by("edge").agg(pl.col("span", "samples").sum())
    if edges.is_empty() or not (edges["span"] > 0).all():
        return None
    return float((edges["samples"] / edges["span"]).sum())


def _accuracy(good: pl.DataFrame) -> Accuracy | None:
    labelled = good.filter(pl.col("top1").is_not_null())
    if labelled.is_empty():
        return None
    pictures = labelled.group_by("name", "label").agg(pl.col("top1", "top5").mean())
    means = pictures.select(pl.col("top1", "top5").mean()).row(0)
    return Accuracy(n=pictures.height, top1=means[0], top5=means[1])


def _by_codec(good: pl.DataFrame, of_rows: Callable[[pl.DataFrame], T | None]) -> dict[str, T]:
    """The figures of each codec; empty for a single one."""
    sent = good.filter(pl.col("bytes_up") > 0).partition_by("codec", as_dict=True)
    if len(sent) < 2:
        return {}
    made = {str(codec): of_rows(rows) for (codec,), rows in sorted(sent.items())}
    return {codec: found for codec, found in made.items() if found is not None}


def _tally(values: pl.Series) -> dict[str, int]:
    return {str(value): int((values == value).sum()) for value in values.unique().sort()}


def _best(cuts: Sequence[CutFigures], timed: pl.DataFrame) -> Best | None:
    ranked = sorted((c.p50_ms, c.index, c) for c in cuts if c.p50_ms is not None)
    if not ranked:
        return None
    p50, index, winner = ranked[0]
    if len(ranked) == 1:
        return Best(cut=winner.cut, index=index, p50_ms=p50, why="the only cut with figures")
    second_p50, _, second = ranked[1]
    lead = milliseconds(second_p50 - p50)
    why = f"the lowest median of {len(ranked)} cuts, {lead} below {second.cut}"
    pairs = _pairs(timed, index, second.index)
    doubt = _doubt(pairs)
    return Best(
        cut=winner.cut,
        index=index,
        p50_ms=p50,
        tie=second.cut if doubt else None,
        pairs=sum(map(len, pairs)),
        why=why + doubt,
    )


def _doubt(pairs: Sequence[NDArray[np.float64]]) -> str:
    """Why the order of the two lowest medians is not certain; empty if it is."""
    if sum(map(len, pairs)) < MIN_PAIRS:
        return "; too few frames were measured at both, so their order is not certain"
    low, high = median_difference_interval(pairs)
    if low <= 0 <= high:
        return "; the 95 % interval of that difference contains 0, so their order is not certain"
    return ""


def _pairs(timed: pl.DataFrame, first: int, second: int) -> list[NDArray[np.float64]]:
    """Latencies of the frames measured at both cuts, one array (frames, 2) a repeat and edge."""
    key = ["edge", "repeat", "frame"]
    at = [
        timed.filter(pl.col("cut_index") == index).select(*key, "total_ms")
        for index in (first, second)
    ]
    both = at[0].join(at[1], on=key).sort(key)
    repeats = both.partition_by("edge", "repeat", maintain_order=True)
    return [repeat.select("total_ms", "total_ms_right").to_numpy() for repeat in repeats]


def _outputs(samples: pl.DataFrame, environment: Environment) -> Outputs | None:
    """Compares the digests of each (edge, sample) over cuts and repeats."""
    key = ["edge", "sample"]
    seen = samples.filter(pl.col("output_digest").is_not_null()).sort(
        "cut_index", "repeat", descending=[True, False], maintain_order=True
    )
    seen = seen.filter(pl.len().over(key) > 1)
    if seen.is_empty():
        return None
    first = seen.with_columns(
        reference=pl.col("output_digest").first().over(key), last=pl.col("cut").first().over(key)
    )
    other = first.filter(pl.col("output_digest") != pl.col("reference")).sort("cut_index")
    last = other["last"].unique()
    return Outputs(
        samples=seen.select(key).unique().height,
        differing=other.select(key).unique().height,
        cuts=tuple(other["cut"].unique(maintain_order=True)),
        reference=last[0] if len(last) == 1 else None,
        reason=None if other.is_empty() else _why_other(other, environment),
    )


def _why_other(other: pl.DataFrame, environment: Environment) -> str:
    """Why the outputs in `other` may differ from those at the last cut."""
    pixels = any(tensor.dtype == "uint8" for cut in environment.cuts[:1] for tensor in cut.live)
    exact = pl.col("codec").str.contains(r"^(raw(\+.*)?|png|webp)$")
    # Pixels at the input are sent as they are by the picture codec of this name.
    exact |= (pl.col("codec") == "uint8") & (pl.col("cut_index") == 0) & pl.lit(pixels)
    lossy = other.filter(~exact)["codec"]
    if len(lossy):
        return f"lossy codecs were used ({', '.join(lossy.unique().sort())})"
    edge, server = environment.edge, environment.server
    if server is None:
        return "the model does not compute the same twice on the edge"
    ends = [(end.processor, end.device, end.capability) for end in (edge, server)]
    if ends[0] != ends[1]:
        here, there = (f"{name} on {device} ({can})" for name, device, can in ends)
        return f"the ends have different processors, {here} and {there}, which round differently"
    if edge.threads != server.threads:
        return (
            f"the ends use {edge.threads} and {server.threads} threads, which sum in another order"
        )
    names = sorted(edge.versions.keys() | server.versions.keys())
    versions = [n for n in names if edge.versions.get(n) != server.versions.get(n)]
    if versions:
        return f"the ends have different versions of {', '.join(versions)}"
    return "the ends are alike, so the model does not compute the same twice"


def rates(made: Rate) -> pl.DataFrame:
    """The points of `splittracr rate` as a flat table, with the columns of `rate.csv`."""
    return pl.DataFrame(
        [
            {
                **one.model_dump(exclude={"accuracy"}),
                "metric": made.metric.value,
                "accuracy": one.accuracy.value,
                "accuracy_low": one.accuracy.low,
                "accuracy_high": one.accuracy.high,
            }
            for one in made.everything
        ],
        infer_schema_length=None,
    )
