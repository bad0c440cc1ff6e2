"""Figures in words: units, rounding that adds up, the one-sentence result, predictions."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime
from typing import Any

from splittracr.experiment import contracts
from splittracr.experiment.energy import Kind
from splittracr.experiment.types import Cut, Exactness, Tier
from splittracr.results.summary import (
    MIN_PAIRS,
    Agreement,
    Best,
    Counts,
    CutFigures,
    Estimate,
    Gap,
    Outputs,
    Summary,
)

_SHOWN_GAPS = 3

NOTHING = "–"
"""In place of a figure that is missing."""

REFUSED = "Not proven exact, or below spec.model.exactness"
"""Why cuts are refused."""

_MAX_CUTS = 5


def decimals(largest: float) -> int:
    """Decimals for a column of milliseconds whose largest entry is `largest`."""
    return 2 if largest < 10 else 1 if largest < 10_000 else 0


def milliseconds(value: float) -> str:
    """`4.21 ms`, `41.2 ms`, `1,430 ms`."""
    digits = 2 if value < 10 else 1 if value < 1000 else 0
    return f"{value:,.{digits}f} ms"


def human_bytes(value: float) -> str:
    """Three significant digits in powers of 1000: `774 kB`, `1.23 MB`; at most 7 characters."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            digits = 0 if unit == "B" or value >= 99.95 else 1 if value >= 9.995 else 2
            return f"{value:.{digits}f} {unit}"
        value /= 1000
    return f"{value:.0f} TB"


def human_count(value: float) -> str:
    """Three significant digits in powers of 1000: `231 M`, `1.81 G`."""
    for unit in ("", " k", " M", " G"):
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} T"


def percent(share: float | None) -> str:
    """`37 %` of a share from 0 to 1; one decimal if rounding gave 0 or 100 for another value."""
    if share is None:
        return NOTHING
    rounds_to_end = round(share * 100) in (0, 100) and share not in (0, 1)
    return f"{share * 100:.{1 if rounds_to_end else 0}f} %"


def rounded_parts(parts: Sequence[float], digits: int) -> list[float]:
    """`parts` rounded to `digits` decimals so that they add up to their rounded sum.

    Largest remainder method (Hamilton): each entry moves by less than one unit.
    """
    scaled = [part * 10**digits for part in parts]
    units = [math.floor(part) for part in scaled]
    spare = round(sum(scaled)) - sum(units)
    by_remainder = sorted(range(len(parts)), key=lambda i: units[i] - scaled[i])
    for i in by_remainder[:spare]:
        units[i] += 1
    return [unit / 10**digits for unit in units]


def parts_and_mean(cut: CutFigures, digits: int) -> list[str]:
    """The time in each tier and their sum, the mean total, rounded so that they add up."""
    if not cut.tiers_ms:
        return [NOTHING] * (len(Tier) + 1)
    parts = rounded_parts([cut.tiers_ms[tier] for tier in Tier], digits)
    return [f"{value:.{digits}f}" for value in (*parts, sum(parts))]


def shared_energy(summary: Summary) -> str:
    """A note on the energy of a study on one machine; empty for others."""
    measured = any(one.kind != Kind.MODELLED for cut in summary.cuts for one in cut.energy)
    if not (summary.study.one_machine and measured):
        return ""
    return "Both ends ran on one machine: what its sensors show is the energy of both."


def joules(value: float | None) -> str:
    """Three significant digits: `41.2 mJ`, `1.23 J`."""
    if value is None:
        return NOTHING
    for unit, factor in (("J", 1.0), ("mJ", 1e3), ("µJ", 1e6)):
        if abs(value) * factor >= 1 or unit == "µJ":
            return f"{value * factor:.3g} {unit}" if value * factor < 999.5 else f"{value:,.0f} J"
    raise AssertionError("the last unit takes every value")


def work(share: float | None) -> str:
    """The head's share of the work; `unknown` if operations cannot be counted."""
    return "unknown" if share is None else percent(share)


def middle_cut(text: str, limit: int) -> str:
    """`text`, its middle replaced by an ellipsis if it is longer than `limit`."""
    if len(text) <= limit:
        return text
    tail = (limit - 1) // 2
    return f"{text[: limit - 1 - tail]}…{text[len(text) - tail :]}"


def plural(count: int, noun: str) -> str:
    """`1 sample`, `3 samples`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def where(cut: str, model: str) -> str:
    """The beginning of a sentence about a cut."""
    match cut:
        case contracts.INPUT:
            return f"Running {model} wholly on the server (cut input)"
        case contracts.OUTPUT:
            return f"Running {model} wholly on the edge (cut output)"
        case _:
            return f"Cutting {model} at {cut}"


def headline(summary: Summary) -> str:
    """The result in one sentence."""
    study, counts, best = summary.study, summary.counts, summary.best
    broken_off = "" if study.finished else " The study was broken off."
    measured = [cut for cut in summary.cuts if cut.n]
    if study.cascade and measured:
        sentence = _cascade(study.model, measured)
    elif best is not None:
        sentence = _lowest(study.model, best, measured)
    elif counts.p50_ms is not None:
        sentence = _together(summary, counts.p50_ms)
    else:
        return (_all_failed(summary) if counts.samples else "No sample was recorded.") + broken_off
    if study.emulated:
        sentence += ", emulated"
    failed = (
        f"; {counts.failed:,} of {plural(counts.samples, 'sample')} failed" if counts.failed else ""
    )
    return f"{sentence}{failed}.{broken_off}"


def _lowest(model: str, best: Best, measured: Sequence[CutFigures]) -> str:
    """The best cut against the others."""
    sentence = f"{where(best.cut, model)} took {milliseconds(best.p50_ms)} in the median"
    if len(measured) > 1:
        sentence += f", the lowest of {len(measured)} cuts"
    if best.tie is not None:
        (second,) = (cut.p50_ms or 0.0 for cut in measured if cut.cut == best.tie)
        few = ", as too few frames were measured" if best.pairs < MIN_PAIRS else ""
        sentence = (
            f"A tie{few}: {sentence[:1].lower()}{sentence[1:]}, and cut {best.tie} took "
            f"{milliseconds(second)}"
        )
    return sentence + _baselines(measured, {best.cut, best.tie})


def _cascade(model: str, measured: Sequence[CutFigures]) -> str:
    """The samples by cut. Cuts of a cascade are no alternatives: each has samples of its own."""
    *others, last = (
        f"{cut.n:,} at {cut.cut} (median {milliseconds(cut.p50_ms or 0.0)})" for cut in measured
    )
    shares = f"{', '.join(others)} and {last}" if others else last
    total = plural(sum(cut.n for cut in measured), "sample")
    return f"Of {total} the cascade of {model} answered {shares}"


def _together(summary: Summary, p50_ms: float) -> str:
    """The median of all cuts, which cuts were used, and how often the cut changed."""
    used = sorted((cut for cut in summary.cuts if cut.n), key=lambda cut: (-cut.n, cut.index))
    shares = [f"{cut.n:,} at {cut.cut}" for cut in used[:_MAX_CUTS]]
    if len(used) > _MAX_CUTS:
        rest = used[_MAX_CUTS:]
        shares.append(f"{sum(cut.n for cut in rest):,} at {plural(len(rest), 'other cut')}")
    *others, last = shares
    changes = (
        ""
        if summary.counts.cut_changes is None
        else (f", with {plural(summary.counts.cut_changes, 'change')} of the cut")
    )
    return (
        f"In mode {summary.study.mode} {summary.study.model} took {milliseconds(p50_ms)} in the "
        f"median of {plural(sum(cut.n for cut in used), 'sample')}, "
        f"{', '.join(others)}{' and ' if others else ''}{last}{changes}"
    )


def _all_failed(summary: Summary) -> str:
    counts = summary.counts
    first = f" The first: {counts.first_error.rstrip('.')}." if counts.first_error else ""
    return f"No sample finished: {plural(counts.failed, 'sample')} failed.{first}"


def _baselines(measured: Sequence[CutFigures], named: AbstractSet[str | None]) -> str:
    """Latencies of the alternatives that were measured: not to split, or the best split.

    `named` are the cuts with the lowest medians, which the sentence has already. If one of them is
    a split, it is the best split.
    """
    names = {contracts.INPUT: "server only", contracts.OUTPUT: "edge only"}
    ranked = sorted((cut.p50_ms, cut.cut) for cut in measured if cut.p50_ms is not None)
    split = next(((p50, cut) for p50, cut in ranked if cut not in names), None)
    found = [
        f"{names[cut]} {milliseconds(p50)}"
        for p50, cut in ranked
        if cut in names and cut not in named
    ]
    if split is not None and split[1] not in named:
        found.append(f"best split {milliseconds(split[0])} at {split[1]}")
    return f" ({', '.join(found)})" if found else ""


def best_prediction(prediction: Any) -> tuple[str, float | None]:
    """A prediction in a few words, and its highest score if it has one.

    Understands the predictions of the post-processors here: classes (`label`, `score`, best first),
    detections (with a `box`; counted by label) and shares of a picture (`label`, `share`). Others
    are shown as JSON.
    """
    match prediction:
        case None:
            return NOTHING, None
        case []:
            return "nothing found", None
        case [{"label": _, "box": _}, *_]:
            return _counted(prediction)
        case [{"label": _, "share": _}, *_]:
            return ", ".join(
                f"{one['label']} {percent(one['share'])}" for one in prediction[:3]
            ), None
        case [{"label": label, **rest}, *_]:
            return str(label), _score(rest)
    return middle_cut(json.dumps(prediction, ensure_ascii=False), 60), None


def _score(item: Mapping[Any, Any]) -> float | None:
    score = item.get("score")
    return float(score) if isinstance(score, int | float) else None


def _counted(detections: Sequence[dict[str, Any]]) -> tuple[str, float | None]:
    """`4 person, 1 bus`, and the highest score."""
    counts = Counter(str(found.get("label")) for found in detections)
    scores = [score for found in detections if (score := _score(found)) is not None]
    text = ", ".join(f"{count} {label}" for label, count in counts.most_common())
    return text, max(scores, default=None)


def differing(outputs: Outputs) -> str:
    """One sentence on raw outputs that differed between cuts."""
    than = "the last cut" if outputs.reference is None else f"cut {outputs.reference}"
    where = ", ".join(outputs.cuts[:_MAX_CUTS])
    if len(outputs.cuts) > _MAX_CUTS:
        where += f" and {len(outputs.cuts) - _MAX_CUTS} more cuts"
    return (
        f"The raw output of {outputs.differing} of {plural(outputs.samples, 'sample')} depends on "
        f"the cut: at {where} it is not that of {than}. Reason: {outputs.reason}."
    )


def exactness(cuts: Sequence[Cut]) -> str:
    """Name how many of the cuts are not exact; empty if all are.

    `Of 8 cuts, 2 are consistent and 5 bounded: outputs are those of PyTorch within 1.5e-06 of the
    largest, with the same first class for 100 % of samples`.
    """
    other = [cut for cut in cuts if cut.exactness is not Exactness.EXACT]
    if not other:
        return ""
    consistent = sum(cut.exactness is Exactness.CONSISTENT for cut in other)
    error = max(cut.largest_error or 0.0 for cut in other)
    ranked = [cut.top1_agreement for cut in other if cut.top1_agreement is not None]
    same = f", with the same first class for {percent(min(ranked))} of samples" if ranked else ""
    return (
        f"Of {plural(len(cuts), 'cut')}, {consistent} {_are(consistent)} consistent and "
        f"{len(other) - consistent} bounded: outputs are those of PyTorch within {error:.1e} of "
        f"the largest{same}"
    )


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def agreement(found: Agreement) -> str:
    """`uint8 at relu: same first class for 98 % of 16 samples, outputs within 0.4 % ...`."""
    ranked = "" if found.top1 is None else f"same first class for {percent(found.top1)} of "
    if found.detections is not None:
        ranked = f"{percent(found.detections)} of detections matched in "
    if found.pixels is not None:
        ranked = f"same class for {percent(found.pixels)} of pixels in "
    samples = f"{ranked}{plural(found.samples, 'sample')}"
    error = f"outputs within {found.largest_error * 100:.2g} % of the largest"
    return f"{found.codec} at {found.cut}: {samples}, {error}"


def precision(value: float) -> str:
    """`0.448`, as COCO's figures are written."""
    return f"{value:.3f}"


def interval(found: Estimate) -> str:
    """`0.448 (0.412 – 0.480)`."""
    ends = [precision(end) for end in (found.low, found.high) if end is not None]
    return precision(found.value) + (f" ({' – '.join(ends)})" if ends else "")


def by_codec(summary: Summary, name: str) -> str:
    """The score `name` of each codec at cuts with several: `relu: raw 0.448, uint8 0.440`."""
    said = []
    for cut in summary.cuts:
        codecs = cut.scores_by_codec.items()
        found = [f"{codec} {interval(one[name])}" for codec, one in codecs if name in one]
        said += [f"{cut.cut}: {', '.join(found)}"] if found else []
    return "; ".join(said)


def mixed_codecs(summary: Summary) -> str:
    """Name the cuts with several codecs; empty if each cut has one.

    `The figures average the samples of relu (24 by raw, 16 by uint8).`
    """
    mixed = [cut for cut in summary.cuts if len(cut.codecs) > 1]
    if not mixed:
        return ""
    said = [
        f"{cut.cut} ({', '.join(f'{count:,} by {codec}' for codec, count in cut.codecs.items())})"
        for cut in mixed[:_MAX_CUTS]
    ]
    more = f" and {len(mixed) - _MAX_CUTS} more cuts" if len(mixed) > _MAX_CUTS else ""
    return f"The figures average the samples of {', '.join(said)}{more}."


def duration(seconds: float) -> str:
    """`12 s`, `2 min 5 s`, `3 h 20 min`; whole units, never rounded up to the next one."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def recorded(counts: Counts) -> str:
    """`40 of 100 samples, 60 are missing`; without the latter parts if they are unknown."""
    if counts.missing is None:
        return plural(counts.samples, "sample")
    planned = plural(counts.samples + counts.missing, "sample")
    return f"{counts.samples:,} of {planned}, {counts.missing:,} are missing"


def gaps(found: Sequence[Gap]) -> str:
    """`2 min 5 s on edge-0 from 2026-03-01 12:00:00 UTC, ...; ...`: the longest ones first.

    Each with its samples, and with the reason if the edge started again.
    """
    longest = sorted(found, key=lambda gap: (-gap.seconds, gap.started_at))
    said = [
        f"{duration(gap.seconds)} on {gap.edge} from "
        f"{datetime.fromtimestamp(gap.started_at, UTC):%Y-%m-%d %H:%M:%S} UTC, between samples "
        f"{gap.after} and {gap.before}{', as the edge started again' if gap.restarted else ''}"
        for gap in longest[:_SHOWN_GAPS]
    ]
    more = [f"and {len(found) - _SHOWN_GAPS} more"] if len(found) > _SHOWN_GAPS else []
    return "; ".join([*said, *more])
