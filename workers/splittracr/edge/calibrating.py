"""Runs a small model, or exits, and the large model on the same pictures and judges the answers.

All run in this process, and nothing is sent: the bytes at the cut are counted only.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from splittracr.backends import measuring
from splittracr.backends.columns import Clock
from splittracr.backends.protocol import Backend, Exits, Input, Live
from splittracr.data import cascade, datasets
from splittracr.data.cascade import Answer, ClassMap, Judge
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, Geometry, Reduced, Sample
from splittracr.edge.cascade import labels
from splittracr.edge.stages import geometry
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.contracts import DETECTED, Statistic
from splittracr.experiment.errors import InvalidInput, SplittracrError, reason
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.calibration import Judged
from splittracr.wire import codec as wire


class NotIndependent(SplittracrError):
    """The exits have learnt from a sample, so it must not judge them."""


@dataclass(frozen=True)
class Timed:
    """An answer on the host, and the time in milliseconds of the small model or of the exit alone.

    The time of a small model includes its preparation.
    """

    answer: Answer
    ms: float


class Answers(Protocol):
    """The small model or the exits; `backend` has the model and the post-processor."""

    @property
    def backend(self) -> Backend: ...

    def of(self, sample: Sample) -> list[Timed]:
        """The results for a sample, in the order in which they are tried.

        Raises NotIndependent for a sample that must not be judged.
        """

    def memory_bytes(self, spec: ExperimentSpec) -> int:
        """The bytes on the edge beside the large model, which is that of `spec`."""


@dataclass(frozen=True)
class OfSmall:
    """The answer of a small model."""

    backend: Backend

    def of(self, sample: Sample) -> list[Timed]:
        """The result of the model."""
        (result, seen), ms = Clock(self.backend.device)(self._result, sample)
        return [Timed(described(self.backend, result, seen), ms)]

    def memory_bytes(self, spec: ExperimentSpec) -> int:
        """The weights and live tensors of the model."""
        return measuring.memory_bytes(self.backend, spec)

    def _result(self, sample: Sample) -> tuple[Reduced, Geometry]:
        own = self.backend
        batch = own.stack([own.prepare(sample)])
        seen = geometry(sample, batch)
        live = own.head(own.proof.last, batch)
        (result,) = own.on_host(own.reduce(own.tail(own.proof.last, live)))
        return result, seen


@dataclass(frozen=True)
class OfExits:
    """The answers of exits."""

    exits: Exits

    @property
    def backend(self) -> Backend:
        """The network."""
        return self.exits.backend

    def of(self, sample: Sample) -> list[Timed]:
        """The results of all exits. Raises NotIndependent for a sample they have learnt from."""
        prepared = self.backend.prepare(sample)
        if self.exits.has_learnt(prepared):
            raise NotIndependent("the exits have learnt from it")
        return self.timed(sample, prepared)

    def timed(self, sample: Sample, prepared: Input) -> list[Timed]:
        """The results of all exits for a sample that is prepared."""
        own, clock = self.backend, Clock(self.backend.device)
        found: list[Timed] = []
        batch = own.stack([prepared])
        seen = geometry(sample, batch)
        live, before = own.head(0, batch), 0
        for number, cut in enumerate(self.exits.cuts):
            live = self.exits.between(before, live, cut.index)
            before = cut.index
            result, ms = clock(self._result, number, live)
            found.append(Timed(described(own, result, seen), ms))
        return found

    def memory_bytes(self, spec: ExperimentSpec) -> int:
        """The weights of the exits: their heads are those of the network."""
        del spec
        return self.exits.memory_bytes

    def _result(self, number: int, live: Live) -> Reduced:
        own = self.backend
        (result,) = own.on_host(own.reduce(self.exits.classify(number, live)))
        return result


@dataclass(frozen=True)
class Both:
    """The small model or the exits, the large model, and the cut and codec between the ends."""

    first: Answers
    large: Backend
    cut: int
    codec: Codec | PictureCodec

    def classes(self, given: Mapping[Any, Any] | None) -> ClassMap:
        """The classes of the small model as those of the large one; see `cascade.mapped`."""
        if isinstance(self.first, OfExits):
            return ClassMap()
        return cascade.mapped(labels(self.first.backend), labels(self.large), given)

    def run(self, dataset: Dataset, index: int) -> tuple[list[Timed], Answer, int]:
        """The first answers and that of the large model for a sample, and the bytes at the cut."""
        sample, large = datasets.load(dataset, index), self.large
        answers = self.first.of(sample)
        batch = large.stack([large.prepare(sample)])
        seen = geometry(sample, batch)
        live = large.pack(large.head(self.cut, batch))
        exact = large.reduce(large.tail(self.cut, large.unpack(live)))
        size = wire.encode(live, self.codec).nbytes
        return answers, described(large, large.on_host(exact)[0], seen), size

    def check(self, judge: Judge, small: Answer, large: Answer) -> bool:
        """Whether an answer agrees. Raises InvalidInput if the boxes cannot be compared."""
        agrees = judge.compared(small, large)
        if agrees is None:
            expected = cascade.describing(self.large.network.name)
            raise InvalidInput(cascade.SMALL, self.first.backend.network.name, expected)
        return agrees


def described(own: Backend, result: Reduced, seen: Geometry) -> Answer:
    """A result of a model with its description."""
    return Answer(result, own.postprocessor.describe(result, seen), seen)


@dataclass(frozen=True)
class Findings:
    """The pictures that were judged, by which statistic, and the reasons why others were not.

    `first_ms` are the median times of the small model, or of each exit. `learnt` counts the
    pictures that were left out because the exits have learnt from them.
    """

    judged: tuple[Judged, ...]
    statistic: Statistic
    detects: bool
    first_ms: tuple[float, ...]
    failures: tuple[str, ...]
    learnt: int = 0


def judge(
    both: Both,
    dataset: Dataset,
    indices: Iterable[int],
    classes: ClassMap,
    wanted: Statistic | None,
    least_match: float,
    done: Callable[[int], None] = lambda _: None,
) -> Findings:
    """Judge the first answers on the samples at `indices`.

    `wanted` is the statistic; None takes the one for the kind of its results. `done` is called
    with the number of samples so far. Raises InvalidInput if the results of the models cannot be
    compared, or no sample can be run.
    """
    judged: list[Judged] = []
    failures: list[str] = []
    times: list[list[float]] = []
    chosen, learnt = wanted, 0
    for count, index in enumerate(indices, start=1):
        try:
            with contained():
                timed, large, size = both.run(dataset, index)
        except NotIndependent:
            learnt += 1
            continue
        except Exception as error:  # noqa: BLE001 - the models' and the user's own code
            failures.append(reason(error))
            continue
        times.append([one.ms for one in timed])
        answers = [one.answer for one in timed]
        chosen = statistic(both, answers[0].reduced, large.reduced, chosen)
        rankings = both.first.backend.postprocessor.ranking, both.large.postprocessor.ranking
        one = Judge(chosen, *rankings, classes, least_match)
        (sureness, agrees), *later = [
            (one.sureness(answer.reduced), both.check(one, answer, large)) for answer in answers
        ]
        judged.append(Judged(sureness, agrees, size, tuple(later)))
        done(count)
    if chosen is None or not judged:
        why = failures[0] if failures else "it has no sample"
        if learnt:
            why = f"the exits have learnt from {learnt:,} of them"
        raise InvalidInput("spec.dataset", None, f"samples that both models take ({why})")
    first_ms = tuple(round(median(each), 4) for each in zip(*times, strict=True))
    return Findings(tuple(judged), chosen, chosen in DETECTED, first_ms, tuple(failures), learnt)


def statistic(both: Both, small: Reduced, large: Reduced, wanted: Statistic | None) -> Statistic:
    """The statistic `wanted`, or the default one. Raises InvalidInput if it suits no result."""
    name, post = both.first.backend.network.name, both.first.backend.postprocessor
    fitting = cascade.statistics(post.ranking, small)
    others = cascade.statistics(both.large.postprocessor.ranking, large)
    if not isinstance(both.first, OfExits) and (not fitting or fitting != others):
        raise InvalidInput(cascade.SMALL, name, cascade.comparable(both.large.network.name))
    if wanted is not None and wanted not in fitting:
        raise InvalidInput("--statistic", wanted.value, f"one of: {', '.join(fitting)}")
    return wanted or fitting[0]
