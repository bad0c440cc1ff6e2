"""Profiles as files: measured here, shipped with the project, or anywhere on disk."""

from importlib import resources
from pathlib import Path

from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.profile import Profile, parse_profile
from splittracr.experiment.spec import ExperimentSpec

_SHIPPED = resources.files("splittracr.planning") / "profiles"


def shipped() -> list[str]:
    """Names of the reference profiles."""
    names = (entry.name for entry in _SHIPPED.iterdir())
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def read(reference: str, field: str) -> Profile:
    """The profile in a file, or the reference profile of that name.

    `field` is what the user calls it. Raises InvalidInput where there is neither.
    """
    if reference in shipped():
        return parse_profile((_SHIPPED / f"{reference}.json").read_text("utf-8"), reference)
    try:
        text = Path(reference).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        expected = f"a file made by `splittracr profile`, or {nearest(reference, shipped())}"
        raise InvalidInput(field, reference, expected) from error
    return parse_profile(text, reference)


def measure(spec: ExperimentSpec, base: Path, frames: int, *, agreement: bool) -> Profile:
    """Measure the network of `spec` on this machine as its edge would, with every codec, on the
    pictures shipped here. Relative paths start at `base`.
    """
    from splittracr import process, replica
    from splittracr.measure import profiler

    process.keep_freed_memory()  # as a worker does, or page faults would be measured
    own = replica.build(spec, "edge", base)
    batches = replica.frames(own, frames)
    subject = replica.subject(own, spec)
    return profiler.profile(subject, batches, judged=batches if agreement else ())
