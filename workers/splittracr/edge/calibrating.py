"""Runs a small and a large model on the same pictures and judges the small one's answers.

Both run in this process, and nothing is sent: the bytes at the cut are counted only.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from splittracr.backends.protocol import Backend
from splittracr.data import cascade, datasets
from splittracr.data.cascade import ClassMap, Judge
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, Reduced
from splittracr.edge.cascade import labels
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.contracts import Statistic
from splittracr.experiment.errors import InvalidInput, reason
from splittracr.planning.calibration import Judged
from splittracr.planning.sureness import DETECTED
from splittracr.wire import codec as wire


@dataclass(frozen=True)
class Both:
    """The two models, and the way on which samples go to the large one."""

    small: Backend
    large: Backend
    cut: int
    codec: Codec | PictureCodec

    def classes(self, given: Mapping[Any, Any] | None) -> ClassMap:
        """The classes of the small model as those of the large one; see `cascade.mapped`."""
        return cascade.mapped(labels(self.small), labels(self.large), given)

    def run(self, dataset: Dataset, index: int) -> tuple[Reduced, Reduced, int]:
        """The results of the small and the large model for a sample, and the bytes at the cut."""
        sample = datasets.load(dataset, index)
        small, large = self.small, self.large
        answer = small.reduce(
            small.tail(
                small.proof.last, small.head(small.proof.last, small.stack([small.prepare(sample)]))
            )
        )
        live = large.pack(large.head(self.cut, large.stack([large.prepare(sample)])))
        exact = large.reduce(large.tail(self.cut, large.unpack(live)))
        size = wire.encode(live, self.codec).nbytes
        return small.on_host(answer)[0], large.on_host(exact)[0], size


@dataclass(frozen=True)
class Findings:
    """The pictures that were judged, by which statistic, and the reasons why others were not."""

    judged: tuple[Judged, ...]
    statistic: Statistic
    detects: bool
    failures: tuple[str, ...]


def judge(
    both: Both,
    dataset: Dataset,
    indices: Iterable[int],
    classes: ClassMap,
    wanted: Statistic | None,
    least_match: float,
    done: Callable[[int], None] = lambda _: None,
) -> Findings:
    """Judge the small model on the samples at `indices`.

    `wanted` is the statistic; None takes the one for the kind of its results. `done` is called
    with the number of samples so far. Raises InvalidInput if the results of the models cannot be
    compared, or no sample can be run.
    """
    judged: list[Judged] = []
    failures: list[str] = []
    chosen = wanted
    for count, index in enumerate(indices, start=1):
        try:
            with contained():
                small, large, size = both.run(dataset, index)
        except Exception as error:  # noqa: BLE001 - the models' and the user's own code
            failures.append(reason(error))
            continue
        chosen = _statistic(both, small, large, chosen)
        rankings = both.small.postprocessor.ranking, both.large.postprocessor.ranking
        one = Judge(chosen, *rankings, classes, least_match)
        judged.append(Judged(one.sureness(small), one.agrees(small, large), size))
        done(count)
    if chosen is None or not judged:
        why = failures[0] if failures else "it has no sample"
        raise InvalidInput("spec.dataset", None, f"samples that both models take ({why})")
    return Findings(tuple(judged), chosen, chosen in DETECTED, failures=tuple(failures))


def _statistic(both: Both, small: Reduced, large: Reduced, wanted: Statistic | None) -> Statistic:
    """The statistic `wanted`, or the default one. Raises InvalidInput if it suits no result."""
    name = both.small.network.name
    fitting = cascade.statistics(both.small.postprocessor.ranking, small)
    if not fitting or fitting != cascade.statistics(both.large.postprocessor.ranking, large):
        expected = (
            f"a model whose results, as those of {both.large.network.name}, are classes or upright "
            "boxes, with scores from 0 to 1"
        )
        raise InvalidInput(cascade.SMALL, name, expected)
    if wanted is not None and wanted not in fitting:
        raise InvalidInput("--statistic", wanted.value, f"one of: {', '.join(fitting)}")
    return wanted or fitting[0]
