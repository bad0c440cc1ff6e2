"""The small model or the exits of a cascade in mode Adaptive, before the first frame.

Time and memory are measured, and records of an earlier start are learnt from.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import median

from splittracr.backends import measuring
from splittracr.backends.columns import Clock
from splittracr.data import datasets
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, Sample
from splittracr.edge.calibrating import OfExits, OfSmall
from splittracr.edge.cascade import Small
from splittracr.edge.exits import AtExits
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Record
from splittracr.planning.cascade import Exit
from splittracr.planning.learner import LearntExits, SmallModel

_TIMED = 3  # samples, after one that warms up


def small_model(
    small: Small, spec: ExperimentSpec, dataset: Dataset, earlier: Sequence[Record]
) -> SmallModel:
    """Measure the time and memory of the small model, and learn from the records `earlier`.

    `earlier` is empty unless the edge was started again.
    """
    own = small.backend
    clock, answers = Clock(own.device), OfSmall(own)
    (ms,) = _times_ms(1, dataset, lambda sample: [clock(answers.of, sample)[1]])
    memory = measuring.memory_bytes(own, spec) if _limited(spec) else 0
    made = SmallModel(own.network.name, ms * _slowdown(spec), small.calibrated.audit, memory)
    made.resume(_runs(earlier, small.spec.threshold_per_million, [small.answers_at.index]))
    return made


def learnt_exits(
    exits: AtExits,
    spec: ExperimentSpec,
    dataset: Dataset,
    profile: Profile,
    earlier: Sequence[Record],
) -> LearntExits:
    """Measure the times of the exits, and learn from the records `earlier`.

    The times and the memory of their heads are those of the `profile` of the model.
    """
    answers, cuts = OfExits(exits.exits), exits.exits.cuts

    def of(sample: Sample) -> list[float]:
        return [one.ms for one in answers.timed(sample, exits.backend.prepare(sample))]

    slowdown, heads_ms = _slowdown(spec), profile.head_ms()
    made = LearntExits(
        [
            Exit(
                name=cut.name,
                cut=cut.index,
                head_ms=heads_ms[cut.index] * slowdown,
                own_ms=ms * slowdown,
                share=1 / len(cuts),
                head_bytes=profile.memory_bytes[cut.index],
            )
            for cut, ms in zip(cuts, _times_ms(len(cuts), dataset, of), strict=True)
        ],
        exits.calibrated.audit,
        exits.exits.memory_bytes,
    )
    made.resume(_runs(earlier, exits.spec.threshold_per_million, [cut.index for cut in cuts]))
    return made


def _times_ms(
    count: int, dataset: Dataset, times_of: Callable[[Sample], list[float]]
) -> list[float]:
    """Return the medians of the `count` times in milliseconds that `times_of` measures.

    Samples that fail are left out. If all fail, the times are 0: the first frames measure them.
    """
    times = list[list[float]]()
    for index in range(min(1 + _TIMED, len(dataset))):
        try:
            with contained():
                times.append(times_of(datasets.load(dataset, index)))
        except Exception:  # noqa: BLE001 - the model's and the user's own code
            continue
    found = times[1:] or times or [[0.0] * count]
    return [median(each) for each in zip(*found, strict=True)]


def _slowdown(spec: ExperimentSpec) -> float:
    return spec.edge.slowdown_percent / 100


def _limited(spec: ExperimentSpec) -> bool:
    adaptive = spec.partition.adaptive
    return adaptive is not None and adaptive.edge_memory_mebibytes is not None


def _runs(
    earlier: Iterable[Record], threshold: int, cuts: Sequence[int]
) -> Iterator[tuple[bool, int | None]]:
    """Whether each run was sure, and which of `cuts` its answer has.

    That is None for a try: its record has the cut of the large model. `threshold` is for records
    without their own, as earlier versions wrote them.
    """
    for record in earlier:
        if record.sureness is not None and record.outcome == "ok":
            answered = record.network != "large"
            number = cuts.index(record.cut_index) if answered else None
            yield record.sureness >= (record.threshold or threshold), number
