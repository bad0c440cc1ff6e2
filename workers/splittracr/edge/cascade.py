"""A cascade: a small model on the edge answers what it is sure of, the large one answers the rest.

A frame has one sample. It is loaded once, and gets one record, whichever model answers. Some of the
small model's answers are audited: the sample goes to the large model as well, after the answer, and
its record waits for that.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from splittracr.backends import registry
from splittracr.backends.protocol import Backend, Runtime
from splittracr.data import cascade
from splittracr.data.cascade import ClassMap, Judge, Labels
from splittracr.data.contracts import Sample
from splittracr.data.postprocess.common import label_of
from splittracr.edge.frame import LoadSample, Prediction
from splittracr.edge.infer import Inferencer
from splittracr.edge.recording import Cascaded, Finished
from splittracr.edge.result import Result
from splittracr.experiment.errors import FrameFailed, InvalidInput
from splittracr.experiment.spec import CascadeSpec, ExperimentSpec
from splittracr.experiment.types import Cut
from splittracr.planning.audit import Audit, is_audited
from splittracr.planning.decision import Decision
from splittracr.planning.schedule import Step

PLACE = "spec.partition.cascade"

_FIELDS = {
    "spec.model": f"{PLACE}.model",
    cascade.SMALL: f"{PLACE}.model.name",
    cascade.CLASSES: f"{PLACE}.classes",
}
"""Fields in errors about the small model, as a manifest names them."""


@dataclass(frozen=True)
class Small:
    """The small model, how its answers compare with those of the large one, and the audits.

    `answers_at` is the cut in records of its answers, the edge alone, and `names` are the class
    names in the large model's predictions.
    """

    backend: Backend
    judge: Judge
    spec: CascadeSpec
    audit: Audit
    answers_at: Cut
    names: tuple[str, ...]


def built(
    spec: ExperimentSpec, large: Backend, names: tuple[str, ...], runtime: Runtime, base: Path
) -> Small:
    """The small model of a study, proven. `names` are those in the large model's predictions.

    Raises InvalidInput if it does not go with the large one, such as for other classes.
    """
    wanted = spec.partition.cascade
    if wanted is None:
        raise InvalidInput(PLACE, None, "the small model, mode Cascade needs it")
    if spec.workload.batch_size != 1:
        expected = "1: in mode Cascade each sample is decided alone"
        raise InvalidInput("spec.workload.batchSize", spec.workload.batch_size, expected)
    if registry.needs_export(spec.edge.runtime):
        expected = "an edge with PyTorch: mode Cascade needs a second model there"
        raise InvalidInput("spec.edge.runtime", spec.edge.runtime.value, expected)
    changed = {
        "model": wanted.model,
        "dataset": spec.dataset.model_copy(update={"class_names": None}),
        "results": spec.results.model_copy(update={"outputs": "Reduced"}),
    }
    with _in_manifest():
        backend = runtime.build(spec.model_copy(update=changed), "edge", base)
        return joined(backend, large, names, wanted)


def joined(small: Backend, large: Backend, names: tuple[str, ...], wanted: CascadeSpec) -> Small:
    """Both models as a cascade. Raises InvalidInput if they do not go together."""
    classes = cascade.mapped(labels(small), labels(large), wanted.classes)
    _check_statistic(small, large, wanted)
    if not small.network.classes and classes.classes is None:
        small = small.named(names)
    rankings = small.postprocessor.ranking, large.postprocessor.ranking
    promised = wanted.max_disagreement_per_million
    return Small(
        backend=small,
        judge=Judge(wanted.statistic, *rankings, classes, wanted.match_percent / 100),
        spec=wanted,
        audit=Audit(None if promised is None else promised / 1e6),
        answers_at=large.proof.cuts[large.proof.last],
        names=names,
    )


class Cascade:
    """Answers frames by the small model if it is sure enough, else by the large one.

    `runs` runs the small model and `large` the large one. `seed` draws the audits.
    """

    def __init__(self, small: Small, runs: Inferencer, large: Inferencer, seed: int) -> None:
        self._small, self._runs, self._large, self._seed = small, runs, large, seed
        self._alone = Decision(small.backend.proof.last)

    async def warm_up(self, load: LoadSample) -> None:
        """Run a sample through the small model, so that caches are warm."""
        await self._runs.infer([load], self._alone, timed=True)

    async def finish(
        self, step: Step, load: LoadSample, decision: Decision, due: float
    ) -> Finished:
        """Run one frame; `decision` is for the large model.

        Raises what `Inferencer.infer` raises. The frame then has no record.
        """
        once = _Once(load)
        first = await self._runs.infer([once], self._alone, due)
        mine = first.predictions.get(0)
        sureness = 0 if mine is None else self._small.judge.sureness(mine.reduced)
        if mine is None or sureness < self._small.spec.threshold_per_million:
            waited = first.stages.get("other", 0.0)  # stays a wait of the whole frame
            spent = {"small": first.total_ms - waited}
            result = await self._large.infer([once], decision, due, before=spent)
            return Finished(step, result, Cascaded("large", sureness))
        answer = self._answer(first, mine)
        if not is_audited(
            step.trial.number, step.frame, self._small.spec.audit_percent, self._seed
        ):
            return Finished(step, answer, Cascaded("small", sureness))
        checked = await self._large.infer([once], decision)
        return _audited(
            step, answer, checked, Cascaded("small", sureness, self._judged(mine, checked))
        )

    def _judged(
        self, mine: Prediction, checked: Result
    ) -> Literal["agrees", "disagrees", "failed"]:
        """Count an audit and return its outcome."""
        theirs = checked.predictions.get(0)
        if theirs is None:
            return "failed"
        agrees = self._small.judge.agrees(mine.reduced, theirs.reduced)
        self._small.audit.add(agrees=agrees)
        return "agrees" if agrees else "disagrees"

    def _answer(self, first: Result, mine: Prediction) -> Result:
        """The small model's result, in classes of the large one."""
        post, classes = self._small.backend.postprocessor, self._small.judge.classes
        made = replace(mine, draws=post)
        if classes.classes is not None:
            ranking = post.ranking(mine.reduced)
            made = _translated(made, classes, self._small.names, ranking)
        return replace(first, cut=self._small.answers_at, predictions={0: made})


class _Once:
    """Loads a sample at the first call and returns the same one afterwards."""

    def __init__(self, load: LoadSample) -> None:
        self._load = load
        self._sample: Sample | None = None

    def __call__(self) -> Sample:
        if self._sample is None:
            self._sample = self._load()
        return self._sample


def _audited(step: Step, answer: Result, checked: Result, cascaded: Cascaded) -> Finished:
    """The answer with the bytes of its audit. The latency is that of the answer."""
    exchange = checked.exchange
    if exchange is not None:
        exchange = replace(exchange, stages={}, receiving_ms=0.0, resent=False)
    return Finished(step, replace(answer, exchange=exchange), cascaded)


def _translated(
    mine: Prediction, classes: ClassMap, names: tuple[str, ...], ranking: list[int] | None
) -> Prediction:
    """A prediction in classes of the large model, without those that it does not have."""
    described = []
    for one in mine.described:
        index = classes.of(one["class"])
        if index is not None:
            described.append({**one, "class": index, "label": label_of(names, index)})
    if mine.top1 is None or ranking is None:
        return replace(mine, described=described)
    ranked = [classes.of(index) for index in ranking]
    label = mine.truth.label
    return replace(mine, described=described, top1=label in ranked[:1], top5=label in ranked[:5])


def labels(backend: Backend) -> Labels:
    """The classes of a model."""
    return Labels(backend.network.name, backend.network.classes, backend.outputs)


def _check_statistic(small: Backend, large: Backend, wanted: CascadeSpec) -> None:
    """Raise InvalidInput unless the results of both are of one kind, which the statistic suits."""
    kinds = [_statistics(small), _statistics(large)]
    if kinds[0] != kinds[1] or not kinds[0]:
        expected = (
            f"a model whose results, as those of {large.network.name}, are classes or upright "
            "boxes, with scores from 0 to 1"
        )
        raise InvalidInput(cascade.SMALL, small.network.name, expected)
    if wanted.statistic not in kinds[0]:
        expected = f"one of: {', '.join(kinds[0])}"
        raise InvalidInput(f"{PLACE}.statistic", wanted.statistic.value, expected)


def _statistics(backend: Backend) -> tuple[str, ...]:
    last = backend.proof.last
    output = backend.tail(last, backend.head(last, backend.example(0)))
    try:
        (result,) = backend.on_host(backend.reduce(output))
    except FrameFailed:
        return ()
    return cascade.statistics(backend.postprocessor.ranking, result)


@contextmanager
def _in_manifest() -> Iterator[None]:
    """Name the manifest's fields in errors about the small model."""
    try:
        yield
    except InvalidInput as error:
        field, expected = _renamed(error.field), error.expected
        for old in (cascade.SMALL, cascade.CLASSES):
            expected = expected.replace(old, _FIELDS[old])
        raise InvalidInput(field, error.value, expected) from error


def _renamed(field: str) -> str:
    for old, new in _FIELDS.items():
        if field.startswith(old):
            return field.replace(old, new, 1)
    return field
