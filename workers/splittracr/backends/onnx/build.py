"""From a manifest to a proven network of ONNX Runtime: the `Runtime` of OnnxRuntime."""

import dataclasses
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from msgspec.structs import replace
from torch import Tensor

from splittracr.backends import demand, measuring
from splittracr.backends.protocol import Backend
from splittracr.backends.torch import build as torch_build
from splittracr.backends.torch.examples import example_batch, second_batch
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.contracts import Runtime
from splittracr.experiment.errors import InvalidInput, reason
from splittracr.experiment.spec import DType, ExperimentSpec, ModelSpec
from splittracr.experiment.types import Exactness
from splittracr.splitting.behaviour import part_digest, watched
from splittracr.splitting.proof import Proof
from splittracr.wire.identity import TOLERANCE
from splittracr.wire.messages import Identity

if TYPE_CHECKING:
    from splittracr.backends.onnx.classes import Ends, Outputs
    from splittracr.backends.onnx.halves import Halves

log = logging.getLogger(__name__)

_NAME = Runtime.ONNX_RUNTIME.value
_PACKAGES = ("onnx", "onnxruntime")
MAX_GRAPH_BYTES = 2**31
"""Max size of a graph with its weights in one message of ONNX."""

_JUDGED = 3
"""Pictures on which each cut is compared with PyTorch, beside a random and a smooth input."""


def build(spec: ExperimentSpec, side: str, base: Path) -> Backend:
    """Build, capture, export and prove the network of `spec` for `side`, "edge" or "server".

    Sets the threads of this process. Relative paths of the manifest start at `base`. Raises
    InvalidInput if the runtime is not installed, or cannot compute this network.
    """
    field = f"spec.{side}.runtime"
    _check_installed(field)
    worker = spec.edge if side == "edge" else spec.server
    if worker.device not in ("auto", "cpu"):
        expected = f"auto or cpu, runtime {_NAME} computes on the processor"
        raise InvalidInput(f"spec.{side}.device", worker.device, expected)
    if spec.model.dtype is not DType.FLOAT32:
        expected = f"float32, the only one with runtime {_NAME}"
        raise InvalidInput("spec.model.dtype", spec.model.dtype.value, expected)
    if side == "server" and spec.server.max_batch > 1:
        log.warning("spec.server.maxBatch has no effect: sessions of %s take one size", _NAME)
    there = {side: worker.model_copy(update={"device": "cpu"})}
    own = torch_build.build(spec.model_copy(update=there), side, base)
    return _converted(own, spec, side)


def export(spec: ExperimentSpec, base: Path, folder: Path) -> None:
    """Write the network of `spec` to `folder` for edges without PyTorch.

    Raises InvalidInput as `build` does, and OSError.
    """
    from splittracr.backends.onnx.proven import OnnxNetwork
    from splittracr.backends.onnx.write import write

    own = build(spec, "edge", base)
    assert isinstance(own, OnnxNetwork)
    write(own, spec, base, folder)


def prove_cuts(spec: ModelSpec, batch: int) -> tuple[str, Proof]:
    """The name and the cuts of a network with both halves in ONNX Runtime, on one thread."""
    study = ExperimentSpec.model_validate(
        {
            "model": spec.model_copy(
                update={"exactness": Exactness.BOUNDED, "tolerance_per_million": 1_000_000}
            ),
            "partition": {"mode": "Sweep"},
            "workload": {"batchSize": batch},
            "edge": {"runtime": _NAME},
            "server": {"runtime": _NAME},
        }
    )
    own = build(study, "edge", Path.cwd())
    return own.network.name, own.proof


def _check_installed(field: str) -> None:
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InvalidInput(
            field,
            _NAME,
            f"a runtime that is installed: {' and '.join(missing)} of the extra onnx "
            "(pip install 'splittracr[onnx]'; for an image --build-arg EXTRAS=onnx) is not here",
        )


def _converted(own: ProvenNetwork, spec: ExperimentSpec, side: str) -> Backend:
    """The same network in ONNX Runtime, with the class of each cut."""
    from splittracr.backends.onnx import classes, sessions
    from splittracr.backends.onnx.export import export
    from splittracr.backends.onnx.halves import Halves
    from splittracr.backends.onnx.proven import OnnxNetwork

    field, network = f"spec.{side}.runtime", own.network
    worker = spec.edge if side == "edge" else spec.server
    if network.variable_shape:
        expected = f"Torch: {network.name} keeps each picture's own size"
        raise InvalidInput(field, _NAME, expected)
    nbytes = sum(tensor.nbytes for tensor in network.module.state_dict().values())
    if nbytes > MAX_GRAPH_BYTES:
        expected = (
            f"Torch: the weights of {network.name} take {nbytes} bytes, and a graph of ONNX holds "
            f"up to {MAX_GRAPH_BYTES}"
        )
        raise InvalidInput(field, _NAME, expected)
    sessions.use_threads(torch.get_num_threads())
    batches = _batches(own)
    try:
        halves = Halves(export(own.tape, batches[0]), worker.session_mebibytes * 2**20)
        tried = halves.on_trial()
        known = classes.outputs(own, tried, batches)
        off = max(classes.error(one.torch, one.onnx) for one in known)
    except Exception as error:  # the exporter and the runtime raise any error
        expected = f"Torch: ONNX does not express {network.name} ({reason(error)[:500]})"
        raise InvalidInput(field, _NAME, expected) from error
    if halves.whole_bytes > worker.session_mebibytes * 2**20:
        expected = f"{-(-halves.whole_bytes // 2**20)} or more, for {network.name}"
        raise InvalidInput(f"spec.{side}.sessionMebibytes", worker.session_mebibytes, expected)
    if off > TOLERANCE:
        expected = f"Torch: ONNX computes {network.name} with a relative error of {off:.1e}"
        raise InvalidInput(field, _NAME, expected)
    ends = classes.Ends(spec.edge.runtime, spec.server.runtime)
    proof = demand.demanded(_classified(own, tried, ends, known), spec.model)
    demand.check(proof, spec, side)
    fields = {one.name: getattr(own, one.name) for one in dataclasses.fields(own)}
    identity = _identity(own, spec, [known[0].onnx, known[1].onnx])
    fields |= {"proof": proof, "batchable": frozenset(), "identity": identity}
    return OnnxNetwork(**fields, halves=halves)


def _classified(
    own: ProvenNetwork, halves: "Halves", ends: "Ends", known: "Sequence[Outputs]"
) -> Proof:
    """The proof of `own` with the class of each cut, from the cache or measured now."""
    from splittracr.backends.onnx import class_cache, classes

    place = class_cache.folder()
    key = None if place is None else class_cache.key(own, halves, ends, known)
    if place is None or key is None:
        return classes.classify(own, halves, ends, known)
    cached = class_cache.load(place, key, own.proof)
    if cached is not None:
        return cached
    proof = classes.classify(own, halves, ends, known)
    class_cache.store(place, key, own.proof, proof)
    return proof


def _batches(own: ProvenNetwork) -> list[Tensor]:
    """The inputs on which cuts are compared: two of the handshake, then pictures or random ones."""
    network, size = own.network, own.identity.batch
    first = [example_batch(network, size), second_batch(network, size)]
    return [*first, *measuring.frames(own, _JUDGED)]


def _identity(
    own: ProvenNetwork, spec: ExperimentSpec, outputs: Sequence[Sequence[object]]
) -> Identity:
    """The properties that the other end has to share. The outputs are those of this runtime.

    Another runtime is another processor to the handshake: numbers are compared within its
    tolerance. Two ends of ONNX Runtime need the same version.
    """
    import onnxruntime

    version = onnxruntime.__version__
    name = watched(own.tape)[len(own.tape)]
    names = (name, f"{name}, second input")
    made = {one: part_digest(one, list(values)) for one, values in zip(names, outputs, strict=True)}
    both = {spec.edge.runtime, spec.server.runtime} == {Runtime.ONNX_RUNTIME}
    return replace(
        own.identity,
        parts=tuple(made.get(part.name, part) for part in own.identity.parts),
        processor=f"{own.identity.processor}, onnxruntime {version}",
        versions={**own.identity.versions, **({"onnxruntime": version} if both else {})},
    )
