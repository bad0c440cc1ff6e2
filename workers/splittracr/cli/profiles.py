"""Profiles as files: measured here, shipped with the project, or anywhere on disk."""

import time
from collections.abc import Iterable, Mapping
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from splittracr.experiment import explain
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.facts import Facts, of_profile
from splittracr.experiment.profile import Profile, parse_profile
from splittracr.experiment.spec import ExperimentSpec, Source
from splittracr.experiment.types import Operation, OperationTime

if TYPE_CHECKING:  # brings numpy
    from splittracr.backends.protocol import Backend

CODECS = ("raw", "raw+zstd1", "float16", "uint8", "uint8+zstd1", "uint4+zstd1")
PICTURE_CODECS = ("uint8", "png", "jpeg90", "webp90", "avif70")
"""What a profile of a network has if no manifest says what is wanted."""

Timed = tuple[Operation, OperationTime]
"""An operation of a network and how long it takes."""

_SHIPPED = resources.files("splittracr.planning") / "profiles"


def shipped() -> list[str]:
    """Names of the reference profiles."""
    names = (entry.name for entry in _SHIPPED.iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def read(reference: str, field: str) -> Profile:
    """The profile in a file, or the reference profile of that name.

    `field` is the user's name for it. Raises InvalidInput if there is neither.
    """
    if reference in shipped():
        return parse_profile((_SHIPPED / f"{reference}.json").read_text("utf-8"), reference)
    try:
        text = Path(reference).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        expected = f"a file made by `splittracr profile`, or {nearest(reference, shipped())}"
        raise InvalidInput(field, reference, expected) from error
    return parse_profile(text, reference)


def fits(made: Profile, spec: ExperimentSpec) -> bool:
    """Whether a profile is one of the manifest's network, input and batches.

    A profile does not contain the classes and arguments of its network.
    """
    model = spec.model
    built = (made.network, made.dtype, made.input[0])
    size = model.input_size or made.input[-2:]
    return built == (model.name, model.dtype, spec.workload.batch_size) and (
        made.input[-2:] == size
    )


def reference(spec: ExperimentSpec) -> Profile | None:
    """The reference profile of the manifest's network; None if that is built in another way."""
    model = spec.model
    if model.name not in shipped() or model.source is Source.CUSTOM:
        return None
    made = read(model.name, "spec.model.name")
    plain = model.num_classes is None and not model.args
    return made if plain and fits(made, spec) else None


def same_network(one: Profile, other: Profile) -> bool:
    """Whether two profiles can be the two ends of a study."""
    return (one.cuts, one.input, one.dtype) == (other.cuts, other.input, other.dtype)


def in_words(made: Profile) -> str:
    """The network and its input."""
    return f"{made.network} for {'x'.join(map(str, made.input))} in {made.dtype}"


def check_codecs(made: Profile, wanted: Iterable[str]) -> None:
    """Raises InvalidInput for a codec that the profile does not have."""
    known = {codec.codec for codec in (*made.codecs, *made.picture_codecs)}
    for codec in wanted:
        if codec not in known:
            expected = f"a codec in the profile of {made.network}, {nearest(codec, known)}"
            raise InvalidInput("--codec", codec, expected)


def with_rate(made: Profile, file: Path, option: str, *more: Facts) -> Profile:
    """The profile with what `splittracr rate` measured: accuracy, and more picture codecs.

    Raises InvalidInput that names the option if the file is of another model or other batches, and
    the key of the file that differs from the profile or from `more`.
    """
    from splittracr.results import rate

    found = rate.read(file, option)
    if found.model != made.network:
        raise InvalidInput(option, str(file), f"a file of {made.network}, not of {found.model}")
    if made.input[0] != 1:
        expected = f"none: the profile is of batches of {made.input[0]}, the file of single samples"
        raise InvalidInput(option, str(file), expected)
    for facts in (*more, of_profile(made)):
        facts.check(found.identifying_values, str(file))
    return rate.with_accuracy(rate.with_pictures(made, found), found)


def study_of(
    model: dict[str, Any], edge: dict[str, Any], options: Mapping[str, tuple[str, object]]
) -> ExperimentSpec:
    """A study on the edge alone, to be measured. `options` are as those of `explain.validate`."""
    if edge["runtime"] is Runtime.ONNX_RUNTIME:  # whether it is exact enough is up to a study
        model = {**model, "exactness": "Bounded", "tolerancePerMillion": 1_000_000}
    data = {"model": model, "partition": {"mode": "EdgeOnly"}, "edge": edge}
    return explain.validate(ExperimentSpec, data, "MODEL", options)


def measure(
    spec: ExperimentSpec, base: Path, frames: int, *, agreement: bool
) -> tuple[Profile, tuple[Timed, ...]]:
    """Measure the network of `spec` on this machine as its edge would, with every codec, on the
    pictures shipped here, and its power if it has energy sensors. Relative paths start at `base`.

    Also returns the operations with their times.
    """
    from splittracr.backends import registry

    runtime = spec.edge.runtime
    exported = spec.edge.model_path is not None
    backend = registry.load_edge(runtime) if exported else registry.load(runtime)
    own = backend.build(spec, "edge", base)
    return measure_network(own, spec, frames, agreement=agreement)


def measure_network(
    own: "Backend", spec: ExperimentSpec, frames: int, *, agreement: bool
) -> tuple[Profile, tuple[Timed, ...]]:
    """The same of the network of `spec` once it is built."""
    from splittracr import process
    from splittracr.backends import measuring
    from splittracr.edge.metering import measured_power
    from splittracr.wire import registry as codecs

    process.keep_freed_memory()  # as a worker does, or page faults would be measured
    from splittracr.measure.instruments import instruments

    batches = measuring.frames(own, frames)
    judged = batches if agreement else ()
    pictures = [name for name in PICTURE_CODECS if codecs.is_usable(name)]
    made = own.profile(spec, batches, CODECS, pictures, judged)
    with instruments(spec.results, own.device) as sensors:
        work = partial(own.head, own.proof.last, batches[0])
        drawn = measured_power(sensors.energy.snapshot, work, time.sleep)
    times = own.times()  # none if the runtime times no single operations
    timed = tuple(zip(own.proof.operations, times, strict=True)) if times else ()
    changes = {"power": drawn, "identity": measuring.identity(own, spec)}
    return made.model_copy(update=changes), timed
