"""Exits of the small network, and the samples on which they are trained."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from splittracr.backends.protocol import ExitTraining
from splittracr.backends.torch import exits as maker
from splittracr.experiment.contracts import ExitTargets
from tests.workers.pair import Tensors, proven, spec

FIRST, SECOND, CUT = 2, 4, 5  # body.0, body.2 and body.3
FILE = "exits.safetensors"
LABELS = ExitTraining(ExitTargets.LABELS, held_out=0.25, seed=3)


def inputs(count: int, first: int = 0) -> Iterator[tuple[Tensor, int | None]]:
    """Seeded pictures with labels 0 to 9 in turn."""
    for index in range(first, first + count):
        sample = Tensors().load(index)
        assert sample.data is not None
        yield sample.data, sample.label


def trained(folder: Path) -> Path:
    """The folder, with exits at FIRST and SECOND in FILE."""
    own = proven(spec())
    cuts = [own.proof.cuts[index] for index in (FIRST, SECOND)]
    (folder / FILE).write_bytes(maker.trained(own, cuts, inputs(80, first=1000), LABELS)[1])
    return folder
