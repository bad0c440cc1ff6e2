"""The section "What should I do?" of the report: a table, the best by constraint, a sentence."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from splittracr.experiment.calibration import Calibration
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.facts import LARGE, Facts
from splittracr.experiment.spec import Mode
from splittracr.experiment.types import Record
from splittracr.experiment.versions import parse
from splittracr.planning.emulation import AS_IT_IS
from splittracr.results import rate, words
from splittracr.results.advice import Advice, advise
from splittracr.results.candidates import Candidate, CandidateKind, Figure
from splittracr.results.environment import Environment
from splittracr.results.rate import LABELLED, METRICS, Metric, Rate
from splittracr.results.summary import Summary

CALIBRATION = "calibration.json"
"""The file of `splittracr calibrate` in a results folder."""

T = TypeVar("T")

_MANY = 100  # samples
_PREDICTED = "≈ "
_ACCURACY = {
    Metric.TOP1: "of the uncut model's top-1 accuracy",
    Metric.MAP: "of the uncut model's mAP 50-95",
    Metric.KEYPOINTS: "of the uncut model's mAP 50-95 of keypoints",
    Metric.MIOU: "of the uncut model's mIoU",
    Metric.CLASSES: "of the uncut model's first classes",
    Metric.DETECTIONS: "of the uncut model's detections",
    Metric.PIXELS: "of the uncut model's pixels",
}
_AGREEMENT = "of the uncut model's results"


@dataclass(frozen=True)
class Found:
    """The files of other commands in a results folder, and why one of them is left out."""

    rate: Rate | None = None
    calibration: Calibration | None = None
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Section:
    """The texts of the section. A row is a title with its cells; `best` are the titles that win."""

    sentence: str
    rows: tuple[tuple[str, list[str]], ...]
    winners: tuple[tuple[str, str, list[str]], ...]
    notes: tuple[str, ...]
    energy: bool
    best: frozenset[str] = field(default_factory=frozenset)


def read(out: Path, environment: Environment) -> Found:
    """The files `rate.json` and `calibration.json` in a results folder, if they are of its model.

    A file that cannot be used is left out, with the reason: the report of a study never fails for
    another command's file.
    """
    reasons: list[str] = []
    return Found(
        _usable(_rate, out / f"{rate.FILE}.json", environment, reasons),
        _usable(_calibration, out / CALIBRATION, environment, reasons),
        tuple(reasons),
    )


def _usable(
    read_file: Callable[[Path, Environment], T],
    path: Path,
    environment: Environment,
    reasons: list[str],
) -> T | None:
    """The content of a file, None without one; appends the reason if it cannot be used."""
    if not path.exists():
        return None
    try:
        return read_file(path, environment)
    except (InvalidInput, OSError) as error:
        reasons.append(str(error))
        return None


def _rate(path: Path, environment: Environment) -> Rate:
    made = rate.read(path, path.name)
    names = {cut.index: cut.name for cut in environment.cuts}
    same = all(names.get(one.cut_index) == one.cut for one in made.points)
    _check(path, environment, made.model, made.weights, same=same)
    _facts(environment).check(made.identifying_values, path.name)
    return made


def _calibration(path: Path, environment: Environment) -> Calibration:
    made = parse(Calibration, path.read_bytes(), path.name, "a calibration")
    same = made.cut in {cut.name for cut in environment.cuts}
    _check(path, environment, made.large, made.large_weights, same=same)
    _facts(environment, LARGE).check(made.identifying_values, path.name)
    return made


def _facts(environment: Environment, prefix: str = "") -> Facts:
    """The facts of a study. The keys of its model begin with `prefix`.

    Files are of single samples, and constants of a graph may contain the size of a batch.
    """
    edge, spec = environment.edge, environment.manifest.spec
    known = {
        "weights_digest": edge.weights_digest,
        "graph_fingerprint": edge.graph_fingerprint if spec.workload.batch_size == 1 else None,
        "preparation": environment.preparation,
    }
    post = spec.postprocess.model_dump(mode="json", by_alias=True)
    return Facts(
        "this study",
        {
            # Left out if unknown: earlier versions, batches, no pictures.
            **{f"{prefix}identity.{key}": value for key, value in known.items() if value},
            **{f"postprocess.{key}": value for key, value in post.items()},
        },
    )


def _check(path: Path, environment: Environment, model: str, weights: str, *, same: bool) -> None:
    """Raise InvalidInput unless a file is of the study's model: it has `same` cuts and weights."""
    if not same or weights != environment.weights:
        own = f"{environment.manifest.spec.model.name} with weights {environment.weights}"
        raise InvalidInput(path.name, f"{model} with weights {weights}", own)


def section(
    environment: Environment, figures: Summary, records: Sequence[Record], found: Found
) -> Section | None:
    """The section; None if there are no two candidates with a latency to compare."""
    made = advise(environment, figures, records, found.rate, found.calibration)
    timed = [one for one in made.candidates if one.latency_ms is not None]
    if len(timed) < 2:
        return None
    kept = _AGREEMENT if found.rate is None else _ACCURACY[found.rate.metric]
    shown, energy = _shown(made), any(one.joules for one in made.candidates)
    return Section(
        sentence=_sentence(made, environment, figures, kept),
        rows=tuple((one.title, _cells(one, energy=energy)) for one in shown),
        winners=tuple(
            (one.constraint, one.candidate.title, _cells(one.candidate, energy=energy))
            if one.candidate is not None
            else (one.constraint, "nothing that is known", [])
            for one in made.winners
        ),
        notes=tuple(_notes(made, environment, figures, found)),
        energy=energy,
        best=frozenset(one.candidate.title for one in made.winners if one.candidate is not None),
    )


def _shown(made: Advice) -> list[Candidate]:
    """The edge alone, the best cut, that of each picture format, the cascade, and the winners."""
    groups: dict[tuple[CandidateKind, str, bool], list[Candidate]] = {}
    for one in made.candidates:
        measured = (
            one.kind is CandidateKind.CUT and one.latency_ms is not None and one.latency_ms.measured
        )
        groups.setdefault((one.kind, one.family, measured), []).append(one)
    shown = [min(group, key=lambda one: _rank(one, made.share)) for group in groups.values()]
    won = [one.candidate for one in made.winners if one.candidate is not None]
    return sorted({one.title: one for one in (*shown, *won)}.values(), key=_order)


def _rank(one: Candidate, share: float) -> tuple[bool, float, float]:
    """The best of a group: one that keeps the accuracy, the fastest of them; else the one that
    keeps most.
    """
    latency = float("inf") if one.latency_ms is None else one.latency_ms.value
    kept = -1.0 if one.kept is None else one.kept.value
    return (False, latency, 0.0) if one.keeps(share) else (True, -kept, latency)


def _order(one: Candidate) -> tuple[int, float]:
    latency = float("inf") if one.latency_ms is None else one.latency_ms.value
    return list(CandidateKind).index(one.kind), latency


def _cells(one: Candidate, *, energy: bool) -> list[str]:
    cells = [
        _cell(one.latency_ms, words.milliseconds),
        words.NOTHING if one.kind is CandidateKind.EDGE else _cell(one.bytes, words.human_bytes),
        _cell(one.kept, words.percent),
    ]
    return [*cells, _cell(one.joules, words.joules)] if energy else cells


def _cell(figure: Figure | None, write: Callable[[float], str]) -> str:
    if figure is None:
        return words.NOTHING
    return ("" if figure.measured else _PREDICTED) + write(figure.value)


def _sentence(made: Advice, environment: Environment, figures: Summary, kept: str) -> str:
    """The sentence for a paper: the best candidate that keeps the accuracy, and its rivals."""
    best = made.winners[1].candidate
    slowed = environment.manifest.spec.edge.slowdown_percent
    emulated = f", emulated {slowed / 100:g} times slower" if slowed != 100 else ""
    link = figures.study.link.removeprefix("emulated: ")
    over = "" if link == AS_IT_IS else f" and a link of {link}"
    where = f"For {figures.study.model} on {environment.edge.processor}{emulated}{over}"
    percent = f"{made.share * 100:g} % {kept}"
    if best is None or best.latency_ms is None:
        return f"{where}, no candidate is known to keep {percent}."
    count = sum(one.keeps(made.share) and one.latency_ms is not None for one in made.candidates)
    sent = "" if best.kind is CandidateKind.EDGE or best.bytes is None else (
        f" and {words.human_bytes(best.bytes.value)} a sample"
    )  # fmt: skip
    against = [
        f"{_said(one)} for {one.title}" for one in _rivals(made, best) if one.latency_ms is not None
    ]
    compared = f", against {' and '.join(against)}" if against else ""
    return (
        f"{where}, {best.title} has the lowest mean latency of the "
        f"{words.plural(count, 'candidate')} that keep {percent}: {_said(best)}{sent}{compared}."
    )


def _said(one: Candidate) -> str:
    """`41.2 ms (predicted)`."""
    assert one.latency_ms is not None
    how = "measured" if one.latency_ms.measured else "predicted"
    return f"{words.milliseconds(one.latency_ms.value)} ({how})"


def _rivals(made: Advice, best: Candidate) -> list[Candidate]:
    """The fastest candidate of each other kind that keeps the accuracy."""
    found = []
    for kind in CandidateKind:
        kept = [
            one
            for one in made.candidates
            if one.kind is kind
            and kind is not best.kind
            and one.keeps(made.share)
            and one.latency_ms
        ]
        found += sorted(kept, key=_order)[:1]
    return found


def _notes(made: Advice, environment: Environment, figures: Summary, found: Found) -> Iterator[str]:
    """The notes on origin, error and limits of the figures."""
    if made.link is not None:
        yield (
            "Predictions (≈) use the times of the operations in this study, scaled to the stages "
            f"that it measured, and {made.link}."
        )
    if made.errors:
        lowest, highest = min(made.errors), max(made.errors)
        yield (
            f"Predictions of {words.plural(len(made.errors), 'candidate')} that the study "
            f"measured, too, are {lowest * 100:+.0f} to {highest * 100:+.0f} % off."
        )
    if found.rate is not None:
        labelled = found.rate.metric in LABELLED
        over = " over that of the uncut model" if labelled else ""
        few = (
            ""
            if found.rate.judged >= _MANY
            else " These are too few to show differences of a per cent."
        )
        yield (
            f"Kept, on {words.plural(found.rate.judged, 'sample')} of splittracr rate: "
            f"{METRICS[found.rate.metric]}{over}.{few}"
        )
    if environment.random_weights:
        yield "The weights are random: accuracy and agreement mean nothing."
    yield from (f"Left out: {reason}" for reason in found.left_out)
    lacking = [
        file
        for file, known in (("rate.json", found.rate), (CALIBRATION, found.calibration))
        if known is None
    ]
    if lacking and figures.study.mode != Mode.CASCADE:
        yield (
            f"{' and '.join(lacking)} in this folder would add pictures, other codecs and a "
            "cascade: splittracr rate and splittracr calibrate write them, and splittracr report "
            "makes this page again."
        )
