"""Preparations of both workers with a network of any backend, before frames run."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from splittracr.backends.protocol import Backend, Input
from splittracr.data import datasets
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset
from splittracr.experiment.identity import ModelIdentity
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import DatasetSpec, ExperimentSpec
from splittracr.measure import machine
from splittracr.planning.adapt import codec_names
from splittracr.results.environment import End


def end(own: Backend) -> End:
    """Description of this end for the environment file."""
    return End(
        hostname=machine.hostname(),
        processor=machine.processor(),
        cores=machine.cores(),
        runtime=own.runtime,
        threads=own.device.threads,
        device=str(own.device),
        capability=own.device.capability,
        graph_fingerprint=own.identity.fingerprint,
        weights_digest=own.identity.weights,
        versions=machine.versions(),
        classes_cached_at=own.proof.classes_cached_at,
    )


def identity(own: Backend, spec: ExperimentSpec) -> ModelIdentity:
    """The properties of a network on which results in files depend; `spec` is that of its study."""
    known = not own.network.variable_shape
    return ModelIdentity(
        graph_fingerprint=own.identity.fingerprint,
        weights_digest=own.identity.weights,
        input=tuple(own.example(0).shape[1:]) if known else None,
        dtype=spec.model.dtype.value,
        preparation=own.network.preparation,
    )


def memory_bytes(own: Backend, spec: ExperimentSpec) -> int:
    """The bytes of a network that one end runs alone: weights and live tensors."""
    return own.profile(spec, frames(own, 1), ("raw",), ()).memory_bytes[-1]


def batches(own: Backend, source: Dataset, indices: Iterable[int]) -> Iterator[Input]:
    """Batches of one sample each, for the samples at `indices` that can be read."""
    for index in indices:
        try:
            with contained():
                found = own.prepare(datasets.load(source, index))
        except Exception:  # noqa: BLE001 - a user's data set can raise anything
            continue
        yield own.stack([found] * own.identity.batch)


def frames(own: Backend, count: int, dataset: Dataset | None = None) -> list[Input]:
    """`count` batches to measure with, each of one sample.

    They are from the data set, or from the pictures shipped here. If the network takes no pictures,
    or none of these can be read, they are random.
    """
    shipped = datasets.open_dataset(DatasetSpec(), Path()) if own.network.pictures else None
    source = dataset or shipped
    made: list[Input] = []
    if source is not None:
        made += batches(own, source, (i % len(source) for i in range(count)))
    return made or [own.example(seed) for seed in range(count)]


def measured(
    own: Backend, spec: ExperimentSpec, batches: Sequence[Input], judged: Sequence[Input] = ()
) -> Profile:
    """The profile of this network, with the codecs that mode Adaptive may choose from.

    Lossy codecs are judged on the batches `judged`.
    """
    codecs, pictures = codec_names(spec)
    made = own.profile(spec, batches, codecs, pictures, judged)
    return made.model_copy(update={"identity": identity(own, spec)})
