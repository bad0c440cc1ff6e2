"""Profiles as files: measured here, shipped with the project, or anywhere on disk."""

from importlib import resources
from pathlib import Path

from splittracr.experiment.errors import InvalidInput, nearest
from splittracr.experiment.profile import Profile, parse_profile

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


def measure(
    model: str, weights: str, device: str, threads: int, frames: int, *, agreement: bool
) -> Profile:
    """Measure the network `model` on this machine, with the pictures shipped here."""
    import torch

    from splittracr import process, replica
    from splittracr.data import datasets
    from splittracr.experiment.spec import DatasetSpec, ExperimentSpec
    from splittracr.measure import profiler

    process.keep_freed_memory()  # as a worker does, or page faults would be measured
    spec = ExperimentSpec.model_validate(
        {
            "model": {"name": model, "weights": weights},
            "partition": {"mode": "EdgeOnly"},
            "edge": {"device": device, "threads": threads},
        }
    )
    own = replica.build(spec, "edge", Path.cwd())
    network = own.network
    pictures = datasets.open_dataset(DatasetSpec(), Path.cwd())
    batches = [replica.example_batch(network, 1)]
    if network.input_dtype is torch.uint8 and network.shape[0] == 3 and len(network.shape) == 3:
        loaded = (pictures.load(i % len(pictures)).picture for i in range(frames))
        batches = [network.prepare(picture).unsqueeze(0) for picture in loaded if picture]
    subject = profiler.Subject(
        network, own.tape, own.proof, own.device, spec.model.dtype.value, own.reduce
    )
    return profiler.profile(subject, batches, agreement=agreement)
