"""`splittracr exits train`: exits of the model of a study."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import track

from splittracr.experiment.contracts import ExitTargets
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.exits import ExitsFile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.results import words

if TYPE_CHECKING:
    from splittracr.backends.protocol import Backend, Input
    from splittracr.data.contracts import Dataset, Sample
    from splittracr.edge.frame import Truth
    from splittracr.experiment.types import Cut


@dataclass(frozen=True)
class Options:
    """The options of the command. `held_out` is a share."""

    at: tuple[str, ...]
    targets: ExitTargets | None
    held_out: float
    seed: int
    samples: int | None


def train(
    spec: ExperimentSpec, base: Path, out: Path, options: Options, console: Console
) -> ExitsFile:
    """Train exits on the samples of a study and write their file.

    Raises InvalidInput that names the option or the field.
    """
    from splittracr.backends import registry
    from splittracr.backends.protocol import ExitTraining
    from splittracr.data import datasets
    from splittracr.edge import truths
    from splittracr.results.files import write_atomically

    one = spec.workload.model_copy(update={"batch_size": 1})
    spec = spec.model_copy(update={"workload": one})
    dataset = datasets.open_dataset(spec.dataset, base)
    own = registry.load(spec.edge.runtime).build(spec, "edge", base)
    cuts = [_cut(own, cut) for cut in options.at]
    truth = partial(truths.truth, truths.matching(own, spec, dataset), own.network)
    count = min(len(dataset), options.samples or spec.workload.samples or len(dataset))
    wanted = ExitTraining(options.targets, options.held_out, options.seed)
    indices = track(range(count), "Samples", console=console, transient=True)
    samples = _samples(own, dataset, indices, truth)
    made, content = registry.exit_maker().trained(own, cuts, samples, wanted)
    write_atomically(out, content)
    return made


def sentences(made: ExitsFile) -> Iterator[str]:
    """The result for the terminal."""
    goal = "labels" if made.targets is ExitTargets.LABELS else "answers of the model"
    learnt = f"the {goal} of {words.plural(made.pictures, 'picture')}"
    yield f"Exits of {made.model} have learnt {learnt}. On {made.held_out:,} others:"
    for one in made.exits:
        accuracy = "" if one.accuracy is None else f", accuracy {words.percent(one.accuracy)}"
        yield f"  {one.cut}: agrees with the model on {words.percent(one.agreement)}{accuracy}"
    if made.accuracy is not None:
        yield f"The model itself: accuracy {words.percent(made.accuracy)}."
    if made.weights.startswith("none"):
        yield f"{made.model} has random weights: the shares mean nothing."
    if made.failed:
        yield f"Left out: {words.plural(made.failed, 'picture')} that could not be used."


def _cut(own: "Backend", name: str) -> "Cut":
    """A cut by name or index. Raises InvalidInput for one that is not inside the model, and
    CutRefused.
    """
    cut = own.cut(int(name) if name.isdecimal() else name, "--at")
    if not 0 < cut.index < own.proof.last:
        raise InvalidInput("--at", name, f"a cut inside {own.network.name}")
    return cut


def _samples(
    own: "Backend",
    dataset: "Dataset",
    indices: Iterable[int],
    truth: Callable[["Sample"], "Truth"],
) -> "Iterator[tuple[Input, int | None] | None]":
    """Inputs with labels; None for a sample that cannot be used."""
    from splittracr.data import datasets
    from splittracr.data.containment import contained

    for index in indices:
        try:
            with contained():
                sample = datasets.load(dataset, index)
                made = own.prepare(sample), truth(sample).label
        except Exception:  # noqa: BLE001 - the user's own code; other samples count
            yield None
        else:
            yield made
