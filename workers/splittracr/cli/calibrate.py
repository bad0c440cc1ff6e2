"""`splittracr calibrate`: the sureness from which answers of a small model or of exits count."""

import contextlib
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import yaml

from splittracr.cli.cascades import exits_digest
from splittracr.experiment.calibration import Calibration
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.contracts import EDGE, SERVER, Statistic
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec, Mode, ModelSpec
from splittracr.planning import calibration
from splittracr.planning.calibration import Judged, Threshold
from splittracr.results import words

if TYPE_CHECKING:
    from splittracr.backends.protocol import Backend
    from splittracr.edge.calibrating import Both, Findings, OfExits, OfSmall

_RANDOM = "none"
"""How the name of seeded random weights begins."""


@dataclass(frozen=True)
class Goal:
    """The limit of a threshold: a share of disagreements, or mean bytes. One of them is None."""

    disagreement: float | None
    mean_bytes: float | None

    @classmethod
    def parse(cls, percent: float | None, kilobytes: float | None) -> Self:
        """The options of the command. Raises InvalidInput unless there is exactly one of them."""
        if percent is not None and kilobytes is not None:
            expected = "nothing, or no --max-disagreement: a threshold keeps one of them"
            raise InvalidInput("--max-kilobytes", kilobytes, expected)
        if percent is None and kilobytes is None:
            expected = "a share in per cent, or --max-kilobytes"
            raise InvalidInput("--max-disagreement", None, expected)
        return cls(
            None if percent is None else percent / 100,
            None if kilobytes is None else kilobytes * 1000,
        )


@dataclass(frozen=True)
class Question:
    """The options of the command. `first` is the small model, or a file of exits or `Declared`.

    `classes` is the mapping of class names, None for the same classes.
    """

    first: ModelSpec | str
    goal: Goal
    statistic: Statistic | None
    match_percent: int
    classes: Mapping[str, object] | None


def calibrate(spec: ExperimentSpec, base: Path, question: Question) -> Calibration:
    """Run both models on the pictures of a study and choose the threshold.

    Raises InvalidInput if the models or their classes do not go together, or the pictures prove no
    threshold.
    """
    from splittracr.data import datasets
    from splittracr.edge import calibrating

    dataset = datasets.open_dataset(spec.dataset, base)
    count = min(len(dataset), spec.workload.samples or len(dataset))
    _enough(count, question.goal)
    both = _built(spec, base, question.first)
    classes = both.classes(question.classes)
    found = calibrating.judge(
        both, dataset, range(count), classes, question.statistic, question.match_percent / 100
    )
    return _described(both, found, _chosen(found.judged, question.goal), question, spec, base)


def sentences(made: Calibration) -> Iterator[str]:
    """The result for the terminal."""
    share = made.sure / made.pictures
    who = made.small if made.exits is None else words.plural(len(made.exits), "exit")
    verb = "answers" if made.exits is None or len(made.exits) == 1 else "answer"
    yield (
        f"{who} {verb} {words.percent(share)} of {words.plural(made.pictures, 'picture')} "
        f"on the edge: those with a sureness ({made.statistic}) of at least "
        f"{made.threshold_per_million:,} millionths."
    )
    if made.exits is not None:
        shares = ", ".join(f"{cut} {count:,}" for cut, count in made.exits.items())
        yield f"By exit, of all pictures that were judged: {shares}."
    if made.promised_disagreement is None:
        yield (
            f"{made.disagreeing:,} of these {made.sure:,} answers disagree with {made.large}. That "
            "is no promise: the same pictures have chosen the threshold."
        )
    else:
        yield (
            f"With {_percent(made.confidence)} confidence at most "
            f"{_percent(made.promised_disagreement)} of such answers disagree with {made.large} "
            f"({made.disagreeing:,} of {made.sure:,} do, the upper bound is "
            f"{_percent(made.disagreement_bound)})."
        )
    yield (
        f"A picture sends {words.human_bytes(made.kilobytes * 1000)} on average, "
        f"{words.human_bytes(made.kilobytes_without * 1000)} without the cascade: at cut "
        f"{made.cut} with {made.codec}."
    )
    used_by = [(made.small, made.small_weights), (made.large, made.large_weights)]
    random = dict.fromkeys(name for name, used in used_by if used.startswith(_RANDOM))
    for name in random:  # both models can have one name
        yield f"{name} has random weights: the shares mean nothing."
    if made.learnt:
        yield f"Left out: {words.plural(made.learnt, 'picture')} that the exits have learnt from."
    if made.failed:
        yield f"Left out: {words.plural(made.failed, 'picture')} that could not be judged."


def _percent(share: float) -> str:
    return f"{share * 100:.3g} %"


def block(made: Calibration, question: Question, base: Path) -> str:
    """The keys of a manifest in the folder `base` that run this cascade, as YAML."""
    first = question.first
    cascade: dict[str, object] = {
        **(
            {"exits": first.removeprefix(f"{base.absolute()}{os.sep}")}
            if isinstance(first, str)
            else {"model": first.model_dump(mode="json", by_alias=True, exclude_defaults=True)}
        ),
        "statistic": made.statistic.value,
        "thresholdPerMillion": made.threshold_per_million,
    }
    if made.promised_disagreement is not None:
        cascade["maxDisagreementPerMillion"] = round(made.promised_disagreement * 1e6)
    if made.match_percent is not None:
        cascade["matchPercent"] = made.match_percent
    if question.classes is not None:
        cascade["classes"] = dict(question.classes)
    partition = {"mode": Mode.CASCADE.value, "cut": made.cut, "cascade": cascade}
    return yaml.safe_dump({"spec": {"partition": partition}}, sort_keys=False).rstrip()


def _built(spec: ExperimentSpec, base: Path, first: ModelSpec | str) -> "Both":
    """Both models, or exits and the model: the first as an edge runs it, and the model as the
    server does.
    """
    from splittracr.backends import probe, registry
    from splittracr.edge.calibrating import Both
    from splittracr.edge.exits import check_cut

    partition = spec.partition
    if partition.mode not in (Mode.STATIC, Mode.SERVER_ONLY, Mode.CASCADE):
        expected = "Static, ServerOnly or Cascade: pictures that are not answered go on at its cut"
        raise InvalidInput("spec.partition.mode", partition.mode.value, expected)
    probe.check(spec.edge.runtime, "spec.edge.runtime")
    probe.check(spec.server.runtime, "spec.server.runtime")
    one = spec.workload.model_copy(update={"batch_size": 1})
    alone = spec.model_copy(update={"workload": one})
    large = registry.load(spec.server.runtime).build(alone, SERVER, base)
    reference = partition.static_cut
    cut = large.proof.cuts[0] if reference is None else large.cut(reference)
    if cut.index == large.proof.last:
        expected = "a cut before the output: with this one nothing is sent"
        raise InvalidInput("spec.partition.cut", cut.name, expected)
    codec: Codec | PictureCodec = Codec.parse(spec.transport.codec)
    if cut.index == 0 and large.network.pictures:
        codec = PictureCodec.parse(spec.transport.picture_codec)
    if isinstance(first, str):
        own = registry.load(spec.edge.runtime).build(alone, EDGE, base)
        exits = exit_answers(own, alone, base, first)
        check_cut(cut, exits.exits.cuts[-1])
        return Both(exits, large, cut.index, codec)
    return Both(small_answers(alone, base, first), large, cut.index, codec)


def small_answers(spec: ExperimentSpec, base: Path, small: ModelSpec) -> "OfSmall":
    """A small model on the edge of a study. Raises InvalidInput that names --small."""
    from splittracr.backends import registry
    from splittracr.edge.calibrating import OfSmall

    names = spec.dataset.model_copy(update={"class_names": None})  # those of the large model
    wanted = spec.model_copy(update={"model": small, "dataset": names})
    with _option("spec.model", "--small"):
        return OfSmall(registry.load(spec.edge.runtime).build(wanted, EDGE, base))


def exit_answers(own: "Backend", spec: ExperimentSpec, base: Path, exits: str) -> "OfExits":
    """Exits of the model of a study. Raises InvalidInput that names --exits."""
    from splittracr.backends import registry
    from splittracr.edge.calibrating import OfExits

    with _option("spec.partition.cascade.exits", "--exits"):
        return OfExits(registry.exit_maker().opened(own, spec, exits, base))


@contextlib.contextmanager
def _option(place: str, option: str) -> Iterator[None]:
    """Name the option in errors about `place` of a manifest."""
    try:
        yield
    except InvalidInput as error:
        if not error.field.startswith(place):
            raise
        field = error.field.replace(place, option, 1)
        raise InvalidInput(field, error.value, error.expected) from error


def _enough(count: int, goal: Goal) -> None:
    """Raise InvalidInput if so few pictures prove nothing, before any model is run."""
    if goal.disagreement is None:
        return
    least = calibration.min_pictures(goal.disagreement)
    if count < least:
        expected = (
            f"a share that {words.plural(count, 'picture')} can prove, or at least {least:,} "
            "pictures: spec.dataset"
        )
        raise InvalidInput("--max-disagreement", f"{goal.disagreement * 100:g}", expected)


def _chosen(judged: Sequence[Judged], goal: Goal) -> Threshold:
    """The threshold. Raises InvalidInput that says how many pictures are needed for a proof."""
    if goal.mean_bytes is not None:
        return _within(judged, goal.mean_bytes)
    share = goal.disagreement or 0.0
    found = calibration.proven(judged, share)
    if found is not None:
        return found
    needed = calibration.pictures_needed(judged, share)
    expected = f"a larger share: {words.plural(len(judged), 'picture')} prove it for no sureness"
    if needed is not None:
        expected += f". For this share at least {max(needed, len(judged) + 1):,} like them do"
    else:
        surest = calibration.at(judged, max(1, *(one.surest for one in judged)))
        expected += f", and {surest.disagreeing:,} of the {surest.sure:,} surest answers disagree"
    raise InvalidInput("--max-disagreement", f"{share * 100:g}", expected)


def _within(judged: Sequence[Judged], mean_bytes: float) -> Threshold:
    """The threshold for so many bytes. Raises InvalidInput that says how many are possible."""
    found = calibration.within(judged, mean_bytes)
    if found is None:
        never = [one.bytes for one in judged if one.surest == 0]
        expected = (
            f"at least {math.ceil(sum(never) / len(judged)) / 1000:g}: the edge is never "
            f"sure of {len(never):,} of {words.plural(len(judged), 'picture')}"
        )
        raise InvalidInput("--max-kilobytes", f"{mean_bytes / 1000:g}", expected)
    return found


def _described(
    both: "Both",
    found: "Findings",
    threshold: Threshold,
    question: Question,
    spec: ExperimentSpec,
    base: Path,
) -> Calibration:
    from splittracr.backends import measuring

    first = question.first
    digest, own = None, None
    if isinstance(first, str):
        digest = exits_digest(first, base)
    else:
        own = measuring.identity(both.first.backend, spec.model_copy(update={"model": first}))
    sizes = [one.bytes for one in found.judged]
    sent = [one.bytes for one in found.judged if one.surest < threshold.sureness]
    small, exits = both.first.backend.network, _exit_cuts(both)
    counts = Counter(one.exit(threshold.sureness) for one in found.judged)
    return Calibration(
        small=small.name,
        small_weights=small.weights,
        small_identity=own,
        exits_digest=digest,
        exits={cut: counts[number] for number, cut in enumerate(exits)} if exits else None,
        learnt=found.learnt,
        large=both.large.network.name,
        large_weights=both.large.network.weights,
        large_identity=measuring.identity(both.large, spec),
        postprocess=spec.postprocess.model_dump(mode="json", by_alias=True),
        statistic=found.statistic,
        threshold_per_million=threshold.sureness,
        promised_disagreement=question.goal.disagreement,
        confidence=calibration.CONFIDENCE,
        pictures=threshold.pictures,
        sure=threshold.sure,
        disagreeing=threshold.disagreeing,
        disagreement_bound=threshold.bound,
        match_percent=question.match_percent if found.detects else None,
        cut=both.large.proof.cuts[both.cut].name,
        codec=str(both.codec),
        kilobytes=sum(sent) / len(sizes) / 1000,
        kilobytes_without=sum(sizes) / len(sizes) / 1000,
        small_ms=None if exits else found.first_ms[0],
        exit_ms=dict(zip(exits, found.first_ms, strict=True)) if exits else None,
        memory_bytes=both.first.memory_bytes(spec),
        failed=len(found.failures),
    )


def _exit_cuts(both: "Both") -> tuple[str, ...]:
    """The names of the cuts of exits, in order; empty with a small model."""
    from splittracr.edge.calibrating import OfExits

    first = both.first
    return tuple(cut.name for cut in first.exits.cuts) if isinstance(first, OfExits) else ()
