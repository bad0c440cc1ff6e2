"""Writes a model for edges without PyTorch: the files that `backends/exported.py` describes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_unflatten

from splittracr.backends import demand, exported
from splittracr.backends.exported import (
    ExportedModel,
    GraphTensor,
    Layers,
    Layout,
    LiveValues,
    WeightsFile,
)
from splittracr.backends.onnx.export import Live
from splittracr.backends.onnx.graph import STEP, Value
from splittracr.backends.onnx.proven import OnnxNetwork
from splittracr.backends.torch.examples import example_batch, second_batch
from splittracr.backends.torch.profiler import memory
from splittracr.data.postprocess.raw import Raw
from splittracr.experiment.errors import naming
from splittracr.experiment.spec import ExperimentSpec, LayerRef
from splittracr.models.pictures import described
from splittracr.models.weights import file_path
from splittracr.results.files import write_atomically
from splittracr.splitting.behaviour import watched
from splittracr.splitting.live import pack
from splittracr.wire.payload import Tree


@torch.inference_mode()
def write(own: OnnxNetwork, spec: ExperimentSpec, base: Path, folder: Path) -> ExportedModel:
    """Write the model of `own` to `folder`, and return its description.

    Relative paths of the manifest start at `base`.

    Raises OSError that names a file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = own.halves.exported
    graph, weights = made.graph.stored(exported.WEIGHTS)
    write_atomically(folder / exported.GRAPH, graph)
    _write_arrays(folder / exported.WEIGHTS, weights)
    size = own.identity.batch
    batches = [example_batch(own.network, size), second_batch(own.network, size)]
    _write_arrays(folder / exported.OUTPUTS, _outputs(own, batches), step=1)
    described_model = _described(own, spec, base, folder)
    write_atomically(folder / exported.INDEX, described_model.model_dump_json().encode())
    return described_model


def _described(own: OnnxNetwork, spec: ExperimentSpec, base: Path, folder: Path) -> ExportedModel:
    network, last = own.network, own.halves.exported.live[-1]
    proof = demand.undemanded(own.proof, spec.model)  # an edge demands what its manifest does
    name = watched(own.tape)[len(own.tape)]
    return ExportedModel(
        files={one: exported.described(folder / one) for one in exported.FILES},
        runtime=onnxruntime.__version__,
        name=network.name,
        weights=network.weights,
        weights_file=_weights_file(spec, base),
        classes=network.classes,
        pictures=network.pictures,
        shape=network.shape,
        dtype=str(network.input_dtype).removeprefix("torch."),
        prepared=described(network.prepare),
        preparation=network.preparation,
        postprocessor=spec.postprocess.name or network.postprocessor,
        layout=_layout(own),
        outputs=own.outputs,
        identity=msgspec.to_builtins(own.identity),
        parts=(name, f"{name}, second input"),
        cuts=proof.cuts,
        refused=proof.refused,
        op_ms=proof.op_ms,
        uncounted=proof.uncounted,
        operations=proof.operations,
        former_names=dict(proof.former_names),
        memory_bytes=memory(own.tape, proof),
        layers=_layers(own, spec.partition.static_cut),
        live=tuple(map(_live, own.halves.exported.live)),
        output=_output(own, last),
    )


def _weights_file(spec: ExperimentSpec, base: Path) -> WeightsFile | None:
    path = file_path(spec.model, base)
    if path is None:
        return None
    return WeightsFile(name=path.name, **exported.described(path).model_dump())


def _live(live: Live) -> LiveValues:
    values = list(tree_unflatten(_marked(live), live.structure))
    trees, order = _trees(values)
    return LiveValues(values=trees, tensors=tuple(_tensor(live.leaves[i]) for i in order))


def _output(own: OnnxNetwork, last: Live) -> Tree:
    """The tree of the raw output. Its tensors are those alive at the last cut, in the order of
    `_live`.
    """
    values = list(tree_unflatten(_marked(last), last.structure))
    _, alive = _trees(values)
    (tree,), order = _trees([own.tape.tail(len(own.tape), values)])
    return _renumbered(tree, [alive.index(i) for i in order])


def _marked(live: Live) -> list[Any]:
    """The leaves with a tensor in place of each tensor, which holds its own position."""
    return [
        torch.tensor(float(i), dtype=torch.float64) if isinstance(leaf, Value) else leaf
        for i, leaf in enumerate(live.leaves)
    ]


def _trees(values: Sequence[Any]) -> tuple[tuple[Tree, ...], list[int]]:
    """The trees of marked values, and the position that each tensor in them holds."""
    payload = pack(values)
    flat = [np.frombuffer(buffer, np.float64) for buffer in payload.buffers]
    order = [int(flat[ref.buffer][ref.offset // 8]) for ref in payload.tensors]
    return payload.values, order


def _renumbered(tree: Tree, numbers: Sequence[int]) -> Tree:
    ((kind, content),) = tree.items()
    match kind:
        case "t":
            return {"t": numbers[content]}
        case "tuple" | "list":
            return {kind: [_renumbered(part, numbers) for part in content]}
        case "dict":
            return {kind: [[key, _renumbered(part, numbers)] for key, part in content]}
        case "record":
            fields = [[key, _renumbered(part, numbers)] for key, part in content[1]]
            return {kind: [content[0], fields]}
        case _:
            return tree


def _tensor(value: Value) -> GraphTensor:
    return GraphTensor(name=value.name, dtype=value.dtype, shape=value.shape)


def _layout(own: OnnxNetwork) -> Layout | None:
    layout = own.postprocessor.layout if isinstance(own.postprocessor, Raw) else None
    if layout is None:
        return None
    return Layout(lists=tuple(sorted(layout.lists)), common=tuple(sorted(layout.common)))


def _layers(own: OnnxNetwork, cut: object) -> Layers | None:
    if not isinstance(cut, LayerRef):
        return None
    found = own.layers(cut.depth)
    return Layers(depth=cut.depth, names=found.names, cuts=found.cuts)


def _outputs(own: OnnxNetwork, batches: Iterable[Tensor]) -> list[Any]:
    """For each batch the tensors alive at the last cut, of PyTorch and then of ONNX Runtime."""
    made = []
    for batch in batches:
        made += _arrays(own.tape.head(len(own.tape), batch.clone()))
        made += _arrays(own.halves.run(0, own.halves.last, [batch]))
    return made


def _arrays(live: Sequence[Any]) -> list[Any]:
    return [leaf.contiguous().numpy() for leaf in tree_leaves(live) if isinstance(leaf, Tensor)]


def _write_arrays(path: Path, arrays: Iterable[Any], step: int = STEP) -> None:
    """Write arrays one after the other, each at a multiple of `step` bytes."""
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path), temporary.open("wb") as file:
        for array in arrays:
            file.write(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
            file.write(b"\0" * (-array.nbytes % step))
    temporary.replace(path)
