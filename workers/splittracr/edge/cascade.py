"""A cascade: a small model on the edge answers if it is sure enough, else the large model does.

Exits of the large model can take the place of the small one (`edge/exits.py`). A frame has one
sample, which is loaded once and gets one record. Some answers of the edge are audited: after the
answer the sample goes to the large model, too, and the record waits for its result. In mode
Adaptive both may also see a sample after the large model has answered it, or not at all. So they do
in both modes while pictures are judged for a new threshold (`planning/recalibration.py`).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from splittracr.backends.protocol import Backend, Builder
from splittracr.data import cascade
from splittracr.data.cascade import Answer, ClassMap, Judge, Labels
from splittracr.data.contracts import Sample
from splittracr.data.postprocess.common import label_of
from splittracr.edge.frame import Begun, LoadSample, Prediction
from splittracr.edge.infer import Inferencer
from splittracr.edge.recording import Audited, Cascaded, Finished
from splittracr.edge.result import Result
from splittracr.experiment.errors import FrameFailed, InvalidInput
from splittracr.experiment.spec import CascadeSpec, ExperimentSpec
from splittracr.experiment.types import Cut
from splittracr.planning.audit import is_audited
from splittracr.planning.decision import Decision, FirstRun
from splittracr.planning.recalibration import Calibrated, calibrated
from splittracr.planning.schedule import Step
from splittracr.wire.messages import Identity

log = logging.getLogger(__name__)

PLACE = "spec.partition.cascade"

_FIELDS = {
    "spec.model": f"{PLACE}.model",
    cascade.SMALL: f"{PLACE}.model.name",
    cascade.CLASSES: f"{PLACE}.classes",
}
"""Fields in errors about the small model, as a manifest names them."""

_OWN = ("prepare", "head", "reduce", "finish")
"""The stages of the small model on a sample, without reading it and without waits."""


@dataclass(frozen=True, slots=True)
class Tried:
    """The result of the small model or of exits for a sample.

    `answer` is the prediction if its `sureness` (millionths) is enough, else None. `result` is that
    of the frame. The large model starts from `rest`, after the stages `spent` (ms by stage).
    Without `rest` the frame failed. `threshold` is the one in force. There is no answer if the
    decision is to judge the sample. Without an answer, `every` has sureness and result of the
    model, or of each exit; one without a result has sureness 0. `exit_ms` are the times of the
    exits that ran.
    """

    result: Result
    answer: Prediction | None
    sureness: int
    rest: Sequence[LoadSample] | Begun | None
    spent: Mapping[str, float]
    threshold: int
    every: tuple[tuple[int, Answer | None], ...] = ()
    exit_ms: tuple[float, ...] = ()


class First(Protocol):
    """The small model or the exits of a cascade, which run in `backend`.

    Two runs of a study have the same one if `identity` and `digest` are equal.
    """

    @property
    def kind(self) -> Literal["small", "exit"]: ...

    @property
    def backend(self) -> Backend: ...

    @property
    def judge(self) -> Judge: ...

    @property
    def spec(self) -> CascadeSpec: ...

    @property
    def calibrated(self) -> Calibrated: ...

    @property
    def identity(self) -> Identity | None: ...

    @property
    def digest(self) -> str | None: ...

    def check_cut(self, cut: Cut) -> None:
        """Raise InvalidInput for a cut of the study at which figures would mix two kinds of
        answers.
        """

    async def answer(
        self, runs: Inferencer, load: LoadSample, decision: Decision, due: float | None
    ) -> Tried:
        """Try a sample with `runs`, which has `backend`; `decision` is for the large model.

        Raises what `Inferencer.infer` raises.
        """


@dataclass(frozen=True)
class Small:
    """The small model, how its answers compare with those of the large one, and its threshold.

    `answers_at` is the cut in records of its answers, the edge alone, and `names` are the class
    names in the large model's predictions.
    """

    backend: Backend
    judge: Judge
    spec: CascadeSpec
    calibrated: Calibrated
    answers_at: Cut
    names: tuple[str, ...]

    kind: ClassVar[Literal["small"]] = "small"
    digest: ClassVar[None] = None

    def check_cut(self, cut: Cut) -> None:
        """Raise InvalidInput for the cut that the small model's answers have."""
        if cut.index == self.answers_at.index:
            expected = "a cut before the output: there the small model's own answers count"
            raise InvalidInput("spec.partition.cut", cut.name, expected)

    @property
    def identity(self) -> Identity:
        """That of the small model."""
        return self.backend.identity

    async def answer(
        self, runs: Inferencer, load: LoadSample, decision: Decision, due: float | None
    ) -> Tried:
        """Run a sample through the small model."""
        once, threshold = _Once(load), self.calibrated.threshold
        first = await runs.infer([once], Decision(self.backend.proof.last), due)
        waited = first.stages.get("other", 0.0)  # stays a wait of the whole frame
        spent = {"small": first.total_ms - waited}
        mine = first.predictions.get(0)
        sureness = 0 if mine is None else self.judge.sureness(mine.reduced)
        if mine is None:
            return Tried(first, None, sureness, [once], spent, threshold)
        if decision.small == "judge" or sureness < threshold:
            every = ((sureness, _answer(mine)),)
            return Tried(first, None, sureness, [once], spent, threshold, every)
        answered = decision.answered_at(self.answers_at.index)
        translated = replace(self._translated(first, mine), decision=answered)
        return Tried(translated, mine, sureness, [once], spent, threshold)

    def _translated(self, first: Result, mine: Prediction) -> Result:
        """The small model's result, in classes of the large one."""
        post, classes = self.backend.postprocessor, self.judge.classes
        made = replace(mine, draws=post)
        if classes.classes is not None:
            made = _translated(made, classes, self.names, post.ranking(mine.reduced))
        return replace(first, cut=self.answers_at, predictions={0: made})


def built(
    spec: ExperimentSpec, large: Backend, names: tuple[str, ...], runtime: Builder, base: Path
) -> Small:
    """The small model of a study, proven. `names` are those in the large model's predictions.

    Raises InvalidInput if it does not go with the large one, such as for other classes.
    """
    wanted = spec.partition.cascade
    if wanted is None or wanted.model is None:
        raise InvalidInput(f"{PLACE}.model", None, "the small model")
    changed = {
        "model": wanted.model,
        "dataset": spec.dataset.model_copy(update={"class_names": None}),
        "results": spec.results.model_copy(update={"outputs": "Reduced"}),
    }
    with _in_manifest():
        backend = runtime.build(spec.model_copy(update=changed), "edge", base)
        made = joined(backend, large, names, wanted)
    reference = spec.partition.static_cut
    if reference is not None:
        made.check_cut(large.cut(reference))
    return made


def joined(small: Backend, large: Backend, names: tuple[str, ...], wanted: CascadeSpec) -> Small:
    """Both models as a cascade. Raises InvalidInput if they do not go together."""
    classes = cascade.mapped(labels(small), labels(large), wanted.classes)
    _check_statistic(small, large, wanted)
    if not small.network.classes and classes.classes is None:
        small = small.named(names)
    rankings = small.postprocessor.ranking, large.postprocessor.ranking
    return Small(
        backend=small,
        judge=Judge(wanted.statistic, *rankings, classes, wanted.match_percent / 100),
        spec=wanted,
        calibrated=calibrated(wanted),
        answers_at=large.proof.cuts[large.proof.last],
        names=names,
    )


class Cascade:
    """Answers frames with `first` if it is sure enough, else with the large model.

    `runs` runs the backend of `first`, and `large` the large model. `seed` draws the audits.
    """

    def __init__(self, first: First, runs: Inferencer, large: Inferencer, seed: int) -> None:
        self._first, self._runs, self._large, self._seed = first, runs, large, seed
        self._warned = False

    async def warm_up(self, load: LoadSample, decision: Decision) -> None:
        """Run a sample through the small model or the exits, so that caches are warm."""
        await self._first.answer(self._runs, load, decision, None)

    async def finish(
        self, step: Step, load: LoadSample, decision: Decision, due: float
    ) -> Finished:
        """Run one frame; `decision` is for the large model, except its `small`.

        Raises what `Inferencer.infer` raises. The frame then has no record.
        """
        now = self._first.calibrated
        if now.audit.judging:
            judged = now.judges(step.trial.number, step.frame, self._seed)
            decision = replace(decision, small="judge" if judged else None)
        done = await self._finished(step, load, decision, due)
        change = None if done.cascaded is None else now.observe(done.cascaded)
        if change is not None:
            log.warning("after sample %d of trial %d: %s", step.frame, step.trial.number, change)
        return done

    async def _finished(
        self, step: Step, load: LoadSample, decision: Decision, due: float
    ) -> Finished:
        if decision.small != "first":
            return await self._large_first(step, load, decision, due)
        first = self._first
        tried = await first.answer(self._runs, load, decision, due)
        if tried.rest is None:
            return Finished(step, tried.result, Cascaded("large", 0))
        if tried.answer is None:
            result = await self._large.infer(tried.rest, decision, due, before=tried.spent)
            return Finished(step, result, _cascaded("large", tried))
        if not is_audited(step.trial.number, step.frame, first.spec.audit_percent, self._seed):
            return Finished(step, tried.result, _cascaded(first.kind, tried))
        checked = await self._large.infer(tried.rest, decision)
        outcome = self._audit(tried.answer, checked)
        return _audited(step, tried.result, checked, _cascaded(first.kind, tried, outcome))

    async def _large_first(
        self, step: Step, load: LoadSample, decision: Decision, due: float
    ) -> Finished:
        """Have the large model answer, then perhaps try the small one or exits on the sample."""
        once = _Once(load)
        result = await self._large.infer([once], decision, due)
        alone = Cascaded("large", judged=() if decision.small == "judge" else None)
        if decision.small is None or result.failures:
            return Finished(step, result, alone)
        tried = await self._first.answer(self._runs, once, decision, None)
        if tried.rest is None or tried.result.failures:
            return Finished(step, result, alone)
        outcome = None if tried.answer is None else self._audit(tried.answer, result)
        cascaded = _cascaded("large", tried, outcome)
        if decision.small == "judge":
            cascaded = replace(cascaded, judged=tuple(self._judged(tried, result)))
        return Finished(step, result, cascaded)

    def _audit(self, mine: Prediction, checked: Result) -> Audited:
        """The outcome of an audit."""
        theirs = checked.predictions.get(0)
        if theirs is None:
            return "failed"
        agrees = self._first.judge.compared(_answer(mine), _answer(theirs))
        if agrees is None:
            if not self._warned:
                log.warning("audits fail, expected %s", cascade.describing("the large model"))
            self._warned = True
            return "failed"
        return "agrees" if agrees else "disagrees"

    def _judged(self, tried: Tried, result: Result) -> Iterator[tuple[int, bool]]:
        """Sureness and agreement of the small model, or of each exit.

        Results that cannot be compared do not agree.
        """
        theirs = _answer(result.predictions[0])
        for sureness, mine in tried.every:
            yield sureness, mine is not None and bool(self._first.judge.compared(mine, theirs))


def _answer(one: Prediction) -> Answer:
    return Answer(one.reduced, one.described, one.geometry)


def _cascaded(
    network: Literal["small", "exit", "large"], tried: Tried, outcome: Audited | None = None
) -> Cascaded:
    """What `network` answered after the small model, or the exits, have been `tried`."""
    return Cascaded(network, tried.sureness, outcome, _run(tried), tried.threshold)


def _run(tried: Tried) -> FirstRun:
    """What the small model or the exits did, without reading and waits.

    Exits after the first sure one ran only so that the sample is judged.
    """
    sure = tried.sureness >= tried.threshold
    if tried.exit_ms:
        enough = [sureness >= tried.threshold for sureness, _ in tried.every]
        needed = enough.index(True) + 1 if any(enough) else len(tried.exit_ms)
        return FirstRun.of_exits(tried.exit_ms[:needed], sure=sure)
    stages = tried.result.stages
    return FirstRun(sure, sum(stages.get(one, 0.0) for one in _OWN))


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
        expected = cascade.comparable(large.network.name)
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
