"""Samples on which exits of the small network are trained."""

from collections.abc import Iterator

from torch import Tensor

from splittracr.backends.protocol import ExitTraining
from splittracr.experiment.contracts import ExitTargets
from tests.workers.pair import Tensors

LABELS = ExitTraining(ExitTargets.LABELS, held_out=0.25, seed=3)


def inputs(count: int, first: int = 0) -> Iterator[tuple[Tensor, int | None]]:
    """Seeded pictures with labels 0 to 9 in turn."""
    for index in range(first, first + count):
        sample = Tensors().load(index)
        assert sample.data is not None
        yield sample.data, sample.label
