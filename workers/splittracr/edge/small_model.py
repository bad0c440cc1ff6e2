"""The small model of a cascade in mode Adaptive: its time and memory before the first frame."""

from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from splittracr.backends import measuring
from splittracr.backends.columns import Clock
from splittracr.backends.protocol import Backend
from splittracr.data import datasets
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset
from splittracr.edge.calibrating import OfSmall
from splittracr.edge.cascade import Small
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Record
from splittracr.planning.small_model import SmallModel

_TIMED = 3  # samples, after one that warms up


def small_model(
    small: Small, spec: ExperimentSpec, dataset: Dataset, earlier: Sequence[Record]
) -> SmallModel:
    """Measure the time and memory of the small model, and learn from the records `earlier`.

    `earlier` is empty unless the edge was started again.
    """
    own = small.backend
    ms = median(_times_ms(own, dataset)) * spec.edge.slowdown_percent / 100
    adaptive = spec.partition.adaptive
    limited = adaptive is not None and adaptive.edge_memory_mebibytes is not None
    made = SmallModel(own.network.name, ms, small.audit, _memory(own, spec) if limited else 0)
    made.resume(_sure(earlier, small.spec.threshold_per_million))
    return made


def _times_ms(own: Backend, dataset: Dataset) -> list[float]:
    """Return times in milliseconds, from preparing a sample to its result.

    Samples that fail are left out. If all fail, the only time is 0: the first frames measure it.
    """
    clock, answers, times = Clock(own.device), OfSmall(own), list[float]()
    for index in range(min(1 + _TIMED, len(dataset))):
        try:
            with contained():
                times.append(clock(answers.of, datasets.load(dataset, index))[1])
        except Exception:  # noqa: BLE001 - the model's and the user's own code
            continue
    return times[1:] or times or [0.0]


def _memory(own: Backend, spec: ExperimentSpec) -> int:
    """Return the bytes of weights and live tensors."""
    return own.profile(spec, measuring.frames(own, 1), ("raw",), ()).memory_bytes[-1]


def _sure(earlier: Iterable[Record], threshold: int) -> Iterator[bool]:
    """Whether the small model was sure, for each of its runs.

    `threshold` is for records without their own, as earlier versions wrote them.
    """
    for record in earlier:
        if record.sureness is not None and record.outcome == "ok":
            yield record.sureness >= (record.threshold or threshold)
