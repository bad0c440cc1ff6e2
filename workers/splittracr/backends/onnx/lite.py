"""From an exported model to a network of ONNX Runtime, on an edge without PyTorch.

The classes of cuts are those that the server has proven with this version of ONNX Runtime. This
edge computes the uncut model on two seeded inputs, and compares its outputs with the server's.
"""

import dataclasses
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
from msgspec.structs import replace
from numpy.typing import NDArray

from splittracr.backends import demand, exported, seeded, settings
from splittracr.backends.exported import ExportedModel
from splittracr.backends.onnx import lite_check, loaded, sessions
from splittracr.backends.onnx.array_digest import part_digest
from splittracr.backends.onnx.lite_network import Host, LiteDescription, LiteNetwork
from splittracr.backends.onnx.loaded import Parts
from splittracr.backends.onnx.values import from_tree
from splittracr.backends.protocol import Backend
from splittracr.data import datasets
from splittracr.data.home import expanded
from splittracr.data.postprocess import arrays as postprocessors
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Cut, Exactness
from splittracr.measure import machine
from splittracr.splitting.proof import Proof
from splittracr.wire.identity import TOLERANCE
from splittracr.wire.messages import Identity

log = logging.getLogger(__name__)

_NAME = Runtime.ONNX_RUNTIME.value
FIELD = "spec.edge.modelPath"


def build(spec: ExperimentSpec, side: str, base: Path) -> Backend:
    """The network in the folder `spec.edge.modelPath`.

    Sets the threads of this process. Raises InvalidInput if this edge cannot run it.
    """
    if spec.edge.device not in ("auto", "cpu"):
        expected = f"auto or cpu, runtime {_NAME} computes on the processor"
        raise InvalidInput("spec.edge.device", spec.edge.device, expected)
    if spec.edge.model_path is None:
        expected = (
            "a folder of `splittracr export`: there is no PyTorch here, and no server to get the "
            "model from"
        )
        raise InvalidInput(FIELD, None, expected)
    folder = base / expanded(spec.edge.model_path, FIELD)
    model = exported.read(folder, FIELD)
    lite_check.check(model, spec, base)
    sessions.use_threads(spec.edge.threads)
    parts = Parts(model, folder, spec.edge.session_mebibytes * 2**20)
    identity = _identity(model, spec)
    batch = identity.batch
    inputs = [
        make((batch, *model.shape), model.dtype).astype(model.dtype)
        for make in (seeded.random, seeded.second)
    ]
    made = [parts.run(0, parts.last, [one]) for one in inputs]
    parts.tried()
    known = loaded.outputs(model, folder)
    proof = demand.demanded(_proof(model, made, known), spec.model)
    demand.check(proof, spec, side)
    digests = {
        name: part_digest(name, [from_tree(tree, found) for tree in model.live[-1].values])
        for name, found in zip(model.parts, made, strict=True)
    }
    description = _description(model, spec, base)
    naming = postprocessors.factory(model.postprocessor, spec.postprocess, model.layout)
    return LiteNetwork(
        network=description,
        model=model,
        parts=parts,
        proof=proof,
        identity=replace(
            identity,
            settings=settings.text(description.classes, spec),
            parts=tuple(digests.get(part.name, part) for part in identity.parts),
        ),
        device=Host(spec.edge.threads),
        naming=naming,
        postprocessor=naming(description.classes),
    )


def _identity(model: ExportedModel, spec: ExperimentSpec) -> Identity:
    """The properties of this edge that the server has to share."""
    identity = msgspec.convert(model.identity, Identity)
    words = f"cpu, {machine.processor()}, {machine.features()}"
    processor = f"{words}, {spec.edge.threads} threads, onnxruntime {onnxruntime.__version__}"
    return replace(identity, processor=processor)


def _description(model: ExportedModel, spec: ExperimentSpec, base: Path) -> LiteDescription:
    names, file = model.classes, spec.dataset.class_names
    if file is not None:
        names = datasets.read_class_names(file, base, spec.model.num_classes or model.outputs)
    return LiteDescription(
        name=model.name,
        weights=model.weights,
        classes=names,
        pictures=model.pictures,
        preparation=model.preparation,
    )


def _proof(
    model: ExportedModel,
    made: Sequence[Sequence[NDArray[Any]]],
    known: Sequence[tuple[Sequence[NDArray[Any]], Sequence[NDArray[Any]]]],
) -> Proof:
    """The server's proof, with the classes that hold on this processor.

    Raises InvalidInput if the outputs here are no more those of the model.
    """
    same = all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for found, (_, onnx) in zip(made, known, strict=True)
        for a, b in zip(found, onnx, strict=True)
    )
    if same:
        return model.proof
    off = max(
        _error(a, b)
        for found, (torch, _) in zip(made, known, strict=True)
        for a, b in zip(torch, found, strict=True)
    )
    if not off <= TOLERANCE:
        expected = f"Torch: {model.name} has a relative error of {off:.1e} on this processor"
        raise InvalidInput("spec.edge.runtime", _NAME, expected)
    log.info("outputs differ from the server's in the last bits, by %.1e at most", off)
    cuts = tuple(_elsewhere(cut, off, model.proof.last) for cut in model.cuts)
    return dataclasses.replace(model.proof, cuts=cuts)


def _elsewhere(cut: Cut, off: float, last: int) -> Cut:
    """The class of a cut whose head runs on another processor than that of its proof."""
    if not cut.index:
        return cut
    kept = cut.index == last and cut.exactness is Exactness.CONSISTENT
    return cut.model_copy(
        update={
            "exactness": Exactness.CONSISTENT if kept else Exactness.BOUNDED,
            "largest_error": max(off, cut.largest_error or 0.0),
        }
    )


def _error(expected: NDArray[Any], found: NDArray[Any]) -> float:
    """The largest difference, relative to the largest size in `expected`.

    Raises SplittracrError if they differ in more than numbers.
    """
    if expected.shape != found.shape or expected.dtype.kind not in "f":
        if expected.shape == found.shape and np.array_equal(expected, found):
            return 0.0
        raise SplittracrError("the output differs from the server's in more than rounding")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    gap = np.nan_to_num(np.where(equal, 0.0, np.abs(a - b)), nan=math.inf)
    largest = float(gap.max(initial=0.0))
    size = float(np.nan_to_num(np.abs(a), nan=0.0, posinf=0.0).max(initial=0.0))
    return largest / size if size else (math.inf if largest else 0.0)
