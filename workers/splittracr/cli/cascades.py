"""Cascades as candidates, from the files of `splittracr calibrate`."""

import hashlib
from dataclasses import replace
from pathlib import Path

from splittracr.data.home import expanded
from splittracr.experiment.calibration import Calibration
from splittracr.experiment.contracts import DECLARED, Runtime
from splittracr.experiment.errors import InvalidInput, nearest, why
from splittracr.experiment.facts import LARGE, Facts, of_profile
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.versions import parse
from splittracr.planning.cascade import Cascade, ordered_exits

_WHAT = "a file made by `splittracr calibrate --out`"


def read(file: Path, option: str) -> Calibration:
    """The calibration in a file, with the times of the small model or of the exits.

    Raises InvalidInput that names the option.
    """
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidInput(option, str(file), f"{_WHAT} ({why(error)})") from error
    made = parse(Calibration, text, str(file), _WHAT)
    if made.exits is None and not made.small_ms:
        raise InvalidInput(option, str(file), f"{_WHAT} with the time of the small model, small_ms")
    if made.exits is not None and made.exit_ms is None:
        raise InvalidInput(option, str(file), f"{_WHAT} with the times of the exits, exit_ms")
    return made


def of_study(spec: ExperimentSpec, base: Path) -> Facts:
    """The facts in a manifest in the folder `base`, whose model is not loaded."""
    post = spec.postprocess.model_dump(mode="json", by_alias=True)
    known = {f"postprocess.{key}": value for key, value in post.items()}
    cascade = spec.partition.cascade
    if cascade is not None and cascade.model is not None:
        known |= {"small": cascade.model.name, "small_identity.dtype": cascade.model.dtype.value}
    if cascade is not None and cascade.exits is not None:
        digest = exits_digest(cascade.exits, base)
        known |= {"small": spec.model.name} | ({"exits_digest": digest} if digest else {})
    return Facts("the manifest", known)


def exits_digest(exits: str, base: Path) -> str | None:
    """The digest of a file of exits; None if it is not on this machine, or there is no file."""
    path = base / expanded(exits, "spec.partition.cascade.exits")
    if exits == DECLARED or not path.is_file():
        return None
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def of_model(file: Path, edge: Profile, slowdown: float, option: str, *more: Facts) -> Cascade:
    """The cascade of a file for the edge of a profile that is slowed down.

    Raises InvalidInput that names the option if the file is of another model, and the key that
    differs from the profile or from `more`.
    """
    made = read(file, option)
    if made.large != edge.network:
        raise InvalidInput(option, str(file), f"a file of {edge.network}, not of {made.large}")
    for facts in more:
        facts.check(made.identifying_values, str(file))
    return slowed(made, edge, slowdown, str(file))


def slowed(made: Calibration, edge: Profile, slowdown: float, file: str) -> Cascade:
    """The cascade on the edge of a profile that is slower than the machine of the calibration.

    Raises InvalidInput that names the `file` if its models or its exits are not of the profile.
    """
    of_profile(edge, LARGE).check(made.identifying_values, file)
    sure, wrong = made.sure / made.pictures, made.disagreeing / made.pictures
    if made.exits is None or made.exit_ms is None:
        small_ms = (made.small_ms or 0.0) * slowdown
        return Cascade(made.small, small_ms, sure, wrong, own_bytes=made.memory_bytes)
    if edge.runtime is not Runtime.TORCH:
        raise InvalidInput(f"exits of {file}", edge.runtime.value, "a profile of runtime Torch")
    inside = edge.cuts[1:-1]
    for cut in made.exits:
        if cut not in inside:
            expected = f"a cut inside {edge.network}, {nearest(cut, inside)}"
            raise InvalidInput(f"exits of {file}", cut, expected)
    cuts = {name: index for index, name in enumerate(edge.cuts)}
    heads = [ms * slowdown for ms in edge.head_ms()]
    own_ms = {name: ms * slowdown for name, ms in made.exit_ms.items()}
    exits = [
        replace(one, head_bytes=edge.memory_bytes[one.cut])
        for one in ordered_exits(made.exits, own_ms, cuts, heads)
    ]
    return Cascade.of_exits(exits, sure, wrong, made.memory_bytes)


def sentence(cascade: Cascade) -> str:
    """The share that a cascade answers, and the time of an answer, in a sentence."""
    if not cascade.exits:
        return f"{cascade.answers} in {cascade.small_ms:,.0f} ms."
    each = ", ".join(
        f"{one.name} {100 * one.share * cascade.sure:.0f} % in {ms:,.1f} ms"
        for one, (ms, _) in zip(cascade.exits, cascade.ends, strict=True)
    )
    return (
        f"{cascade.answers}: {each}. The others go on after {cascade.small_ms:,.1f} ms of exits, "
        "at a cut after the last one or as the whole input."
    )
