"""A graph and its weights from the files that `write.py` has written. Needs no torch.

Weights stay in their file, which is mapped into memory: pages that no session reads take none.
Nothing in a graph is executed but ONNX's own operations, and no file is opened that it names.
"""

import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper

from splittracr.backends.exported import GRAPH, OUTPUTS, WEIGHTS, ExportedModel, GraphTensor
from splittracr.backends.onnx.graph import Graph, Value
from splittracr.backends.onnx.sessions import Sessions
from splittracr.experiment.errors import SplittracrError

Array = NDArray[Any]


class Parts:
    """Runs the operations between two cuts of a model in `folder`, on arrays.

    Any thread may call it. Its sessions take at most `limit` bytes. Raises SplittracrError if the
    files contradict each other.
    """

    def __init__(self, model: ExportedModel, folder: Path, limit: int) -> None:
        self._live = [[_value(tensor) for tensor in one.tensors] for one in model.live]
        self._limit = limit
        self._weights = _mapped(folder / WEIGHTS)
        self._graph = _graph(folder / GRAPH, self._weights)
        known = {*self._graph.outputs, self._graph.input}
        for values in self._live:
            missing = [value.name for value in values if value.name not in known]
            if missing:
                raise SplittracrError(f"{folder / GRAPH} has no values {', '.join(missing[:3])}")
        self._sessions = Sessions(self._part, limit, warns=True)

    @property
    def last(self) -> int:
        """The last cut."""
        return len(self._live) - 1

    def run(self, start: int, stop: int, given: Sequence[Array]) -> list[Array]:
        """The tensors alive at cut `stop` from those alive at cut `start`."""
        known = {v.name: array for v, array in zip(self._live[start], given, strict=True)}
        if not self._is_renaming(start, stop):
            known |= self._sessions.run((start, stop), known)
        return [known[value.name] for value in self._live[stop]]

    def ready(self, start: int, stop: int) -> bool:
        """Whether `run` between these cuts needs no session that has still to be made."""
        return self._is_renaming(start, stop) or self._sessions.ready((start, stop))

    def make_ready(self, start: int, stop: int) -> None:
        """Make the session that `run` between these cuts needs."""
        if not self.ready(start, stop):
            self._sessions.make_ready((start, stop))

    def session_bytes(self, keys: Sequence[tuple[int, int]]) -> int:
        """Max memory of the sessions that `run` needs between all these pairs of cuts."""
        return self._sessions.nbytes(key for key in keys if not self._is_renaming(*key))

    def _is_renaming(self, start: int, stop: int) -> bool:
        """Whether nothing is computed between these cuts."""
        first, last = ({value.name for value in self._live[k]} for k in (start, stop))
        return last <= first

    def tried(self) -> None:
        """Drop the session that was made to try the model, and the weights that it has read."""
        self._sessions = Sessions(self._part, self._limit, warns=True)
        if isinstance(self._weights, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._weights.madvise(mmap.MADV_DONTNEED)  # they are read again where they are needed

    def _part(self, key: tuple[int, int]) -> Any:
        first, last = ({v.name: v for v in self._live[k]} for k in key)
        outputs = [value for name, value in last.items() if name not in first]
        return self._graph.part(list(first.values()), outputs)


def _graph(path: Path, memory: mmap.mmap | bytes) -> Graph:
    """The graph in a file, with weights in `memory`. Raises SplittracrError if it is none, or
    refers to what is not there.
    """
    try:
        model = onnx.load_from_string(path.read_bytes())
    except DecodeError as error:
        raise SplittracrError(f"{path} is no graph of ONNX") from error
    outside = [t for t in _tensors(model.graph) if t.data_location == TensorProto.EXTERNAL]
    weights = np.frombuffer(memory, np.uint8)
    named = {id(tensor) for tensor in model.graph.initializer}
    if any(id(tensor) not in named for tensor in outside) or len(model.functions):
        raise SplittracrError(f"{path} has weights, or functions, where none belong")
    return Graph(model, {tensor.name: _weight(tensor, weights, path) for tensor in outside})


def outputs(model: ExportedModel, folder: Path) -> list[tuple[list[Array], list[Array]]]:
    """For each seeded input the tensors alive at the last cut, of PyTorch and of ONNX Runtime."""
    tensors = model.live[-1].tensors
    content, offset = np.frombuffer(_mapped(folder / OUTPUTS), np.uint8), 0
    if len(content) != 4 * sum(tensor.nbytes for tensor in tensors):
        raise SplittracrError(f"{folder / OUTPUTS} does not have the outputs of the last cut")
    made = []
    for _ in range(4):
        found = []
        for tensor in tensors:
            part = content[offset : offset + tensor.nbytes]
            found.append(part.view(tensor.dtype).reshape(tensor.shape))
            offset += tensor.nbytes
        made.append(found)
    return [(made[0], made[1]), (made[2], made[3])]


def _value(tensor: GraphTensor) -> Value:
    return Value(tensor.name, tensor.dtype, tensor.shape)


def _mapped(path: Path) -> mmap.mmap | bytes:
    if not path.stat().st_size:
        return b""  # which cannot be mapped
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _weight(tensor: TensorProto, weights: Array, path: Path) -> Array:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
    try:
        offset, length = int(entries["offset"]), int(entries["length"])
    except (KeyError, ValueError) as error:
        raise SplittracrError(f"{path}: {tensor.name} has no place in {WEIGHTS}") from error
    fits = offset >= 0 and offset + length <= len(weights)
    size = math.prod(tensor.dims) * dtype.itemsize
    if entries.get("location") != WEIGHTS or not fits or length != size or offset % dtype.itemsize:
        raise SplittracrError(f"{path}: {tensor.name} lies outside of {WEIGHTS}")
    return weights[offset : offset + length].view(dtype).reshape(tuple(tensor.dims))


def _tensors(graph: GraphProto) -> Iterator[TensorProto]:
    """All tensors of a graph, those of its nodes included."""
    yield from graph.initializer
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        yield from (attribute.t, *attribute.tensors)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors(graph)
