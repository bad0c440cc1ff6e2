"""Digests of the samples of a data set, so that a resumed study detects changed samples.

The digest of a file covers its size and its bytes; of a large file only some stretches are read.
Of a user's own data set only a few samples are loaded, because loading may be slow.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, Sample
from splittracr.data.datasets import Boxed, Folder, Masked, Samples, class_index
from splittracr.experiment.errors import why

WHOLE = 1 << 20
"""Bytes of the largest file that is read in full."""

_STRETCHES, _STRETCH = 16, 1 << 16
_LOADED = 4  # samples of a user's own data set


Buffers = Callable[[object], Iterable[memoryview]]
"""Returns the memory of the tensors in a value, each with its elements in order of indices."""


def contents(
    dataset: Dataset, count: int, buffers: Buffers
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names and content digests of the first `count` samples, or of all if fewer.

    `buffers` gives the memory of samples that are tensors.
    """
    count = min(count, len(dataset))
    names = tuple(_name(dataset, i) for i in range(count))
    labels = getattr(dataset, "labels", None)
    match dataset:
        case Samples():
            digests = ["shipped"] * count  # they change only with the package's version
        case Folder():
            digests = [_of_file(dataset.root / dataset.files[i]) for i in range(count)]
            if isinstance(dataset, Boxed):
                digests = [f"{digest}, {_of_boxes(dataset, i)}" for i, digest in enumerate(digests)]
            if isinstance(dataset, Masked):
                labelled = (_of_file(dataset.mask_files[i]) for i in range(count))
                pairs = zip(digests, labelled, strict=True)
                digests = [f"{digest}, mask {mask}" for digest, mask in pairs]
        case _:
            digests = _of_samples(dataset, count, buffers)
            labels = None
    return names, tuple(_labelled(digest, labels, i) for i, digest in enumerate(digests))


def _name(dataset: Dataset, index: int) -> str:
    try:
        name = dataset.name(index)
    except Exception:  # noqa: BLE001 - the user's data set can raise anything
        return str(index)
    return str(name).encode("utf-8", "backslashreplace").decode()


def _labelled(digest: str, labels: Sequence[int] | None, index: int) -> str:
    return digest if labels is None else f"{digest}, label {labels[index]}"


def _of_file(path: Path) -> str:
    """Return the size and a digest of a file, or why it cannot be read."""
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest = hashlib.blake2b(digest_size=12)
            if size <= WHOLE:
                digest.update(file.read())
            else:
                for i in range(_STRETCHES):
                    file.seek((size - _STRETCH) * i // (_STRETCHES - 1))
                    digest.update(file.read(_STRETCH))
    except OSError as error:
        return f"unreadable ({why(error)})"
    return f"{size} {digest.hexdigest()}"


def _of_boxes(dataset: Boxed, index: int) -> str:
    """Return a digest of the labelled boxes of a picture, with the names of their classes."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(repr((dataset.annotations[index], dataset.classes)).encode())
    return f"boxes {digest.hexdigest()}"


def _of_samples(dataset: Dataset, count: int, buffers: Buffers) -> list[str]:
    """Return digests of a few samples spread over the data set, with the first and the last."""
    digests = [""] * count
    for i in {(count - 1) * part // (_LOADED - 1) for part in range(_LOADED)} if count else ():
        first, second = (_of_sample(dataset, i, buffers) for _ in range(2))
        digests[i] = first if first == second else ""  # random, as with augmentation
    return digests


def _of_sample(dataset: Dataset, index: int, buffers: Buffers) -> str:
    try:
        with contained():
            sample = dataset.load(index)
            label = class_index(sample.label, sample.name)
        digest = hashlib.blake2b(_bytes(sample, buffers), digest_size=12)
    except Exception:  # noqa: BLE001 - recorded as failed when the study loads the sample
        return ""
    return f"{digest.hexdigest()}, label {label}"


def _bytes(sample: Sample, buffers: Buffers) -> bytes:
    if sample.picture is not None:
        return f"{sample.picture.size}".encode() + sample.picture.tobytes()
    if sample.data is None:
        return b""
    shape = f"{sample.data.dtype} {list(sample.data.shape)}"
    return shape.encode() + b"".join(buffers(sample.data))
