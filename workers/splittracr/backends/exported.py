"""A model as an edge without PyTorch gets it: three files and `model.json`, which describes them.

`graph.onnx` is the raw graph, whose larger weights lie in `weights.bin`. `outputs.bin` has what
the uncut model makes of two seeded inputs. All of it is data: the graph is a message of ONNX, the
rest are plain bytes.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from splittracr.data.preparation import Preparation
from splittracr.experiment.errors import InvalidInput, SplittracrError, why
from splittracr.experiment.explain import parse_json
from splittracr.experiment.types import Cut, Frozen, Operation
from splittracr.splitting.proof import Proof
from splittracr.wire.payload import PayloadHeader, TensorRef, Tree, check_structure

INDEX, GRAPH, WEIGHTS, OUTPUTS = "model.json", "graph.onnx", "weights.bin", "outputs.bin"
FILES = (GRAPH, WEIGHTS, OUTPUTS)

MAX_INDEX = 2**26
"""Bytes of the largest `model.json` that is read."""
_MAX_BYTES = {GRAPH: 2**31 - 1, WEIGHTS: 2**37, OUTPUTS: 2**33}

_CHUNK = 2**20


class ExportedFile(Frozen):
    """Size and SHA-256 of one file."""

    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class WeightsFile(ExportedFile):
    """The file of `spec.model.weightsFile`, which is not part of the export."""

    name: Annotated[str, Field(max_length=4096)]


class GraphTensor(Frozen):
    """A tensor of the graph; `dtype` as numpy names it."""

    name: Annotated[str, Field(max_length=4096)]
    dtype: Annotated[str, Field(max_length=32)]
    shape: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**40)], ...], Field(max_length=16)]

    @property
    def nbytes(self) -> int:
        """Its size in memory."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


class LiveValues(Frozen):
    """The live values at a cut: their trees, as in a message, and the tensors these refer to."""

    values: tuple[Tree, ...]
    tensors: tuple[GraphTensor, ...]


class Layout(Frozen):
    """Which parts of a raw output are per picture, as `data/postprocess/raw.py` has it."""

    lists: tuple[str, ...] = ()
    common: tuple[str, ...] = ()


class Layers(Frozen):
    """The layers down to `depth`, and the cut after each."""

    depth: int
    names: tuple[str, ...]
    cuts: tuple[int | None, ...]


class ExportedModel(Frozen):
    """What `model.json` says: the files, and all that an edge needs to know of the model."""

    format: Literal[1] = 1
    files: dict[str, ExportedFile]
    runtime: str = Field(description="Version of ONNX Runtime by which the cuts were classified.")
    name: str
    weights: str
    weights_file: WeightsFile | None = None
    classes: tuple[str, ...]
    pictures: bool
    shape: tuple[int, ...]
    dtype: str
    prepared: Preparation | None
    preparation: str | None
    postprocessor: str
    layout: Layout | None = None
    outputs: int | None = None
    identity: dict[str, Any]
    parts: tuple[str, str] = Field(description="Names of the two parts that an output is.")
    cuts: tuple[Cut, ...] = Field(min_length=2)
    refused: dict[str, str]
    op_ms: tuple[float, ...]
    uncounted: tuple[str, ...]
    operations: tuple[Operation, ...]
    former_names: dict[str, int]
    memory_bytes: tuple[int, ...]
    layers: Layers | None = None
    live: tuple[LiveValues, ...]
    output: Tree = Field(description="The raw output, of the tensors alive at the last cut.")

    @property
    def digest(self) -> str:
        """Names the three files together."""
        text = "".join(self.files[name].sha256 for name in FILES)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    @property
    def proof(self) -> Proof:
        """The cuts as the server has proven them."""
        return Proof(
            cuts=self.cuts,
            refused=self.refused,
            op_ms=self.op_ms,
            uncounted=self.uncounted,
            operations=self.operations,
            former_names=self.former_names,
        )


def parse(text: bytes, origin: str) -> ExportedModel:
    """The description in `text`. Raises SplittracrError if it contradicts itself or is too large.

    `origin` is the file or the address that it comes from.
    """
    if len(text) > MAX_INDEX:
        raise SplittracrError(f"{origin} has more than the limit of {MAX_INDEX} bytes")
    model = parse_json(ExportedModel, text, origin)
    if set(model.files) != set(FILES):
        raise SplittracrError(f"{origin} describes {sorted(model.files)}, expected {FILES}")
    for name, limit in _MAX_BYTES.items():
        size = model.files[name].bytes
        if size > limit:
            raise SplittracrError(f"{origin}: {name} has {size} bytes, the limit is {limit}")
    if len(model.live) != len(model.cuts):
        raise SplittracrError(
            f"{origin} has live values of {len(model.live)} cuts, expected {len(model.cuts)}"
        )
    for one in model.live:
        _check_trees(one.values, len(one.tensors))
    _check_trees([model.output], len(model.live[-1].tensors))
    return model


def _check_trees(trees: Sequence[Tree], tensors: int) -> None:
    ref = TensorRef(0, "uint8", (), (), 0)
    check_structure(PayloadHeader(tuple(trees), (ref,) * tensors, (1,)))


def read(folder: Path, field: str) -> ExportedModel:
    """The description of the model in `folder`, whose files have the digests that it names.

    Raises InvalidInput that names `field` if a file is missing or has changed.
    """
    try:
        with (folder / INDEX).open("rb") as file:
            text = file.read(MAX_INDEX + 1)
    except OSError as error:
        expected = f"a folder of `splittracr export` ({INDEX}: {why(error)})"
        raise InvalidInput(field, str(folder), expected) from error
    model = parse(text, str(folder / INDEX))
    for name in FILES:
        wrong = difference(folder / name, model.files[name])
        if wrong is not None:
            raise InvalidInput(field, str(folder), f"the files that {INDEX} describes ({wrong})")
    return model


def difference(path: Path, wanted: ExportedFile) -> str | None:
    """Why the file at `path` is not the one that is wanted; None if it is."""
    try:
        size = path.stat().st_size
        if size != wanted.bytes:
            return f"{path.name} has {size} bytes, not {wanted.bytes}"
        found = described(path)
    except OSError as error:
        return f"{path.name}: {why(error)}"
    if found.sha256 != wanted.sha256:
        return f"{path.name} has SHA-256 {found.sha256[:16]}…, not {wanted.sha256[:16]}…"
    return None


def described(path: Path) -> ExportedFile:
    """Size and digest of a file. Raises OSError."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    return ExportedFile(bytes=size, sha256=digest.hexdigest())
