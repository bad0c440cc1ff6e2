"""An exported ONNX graph and the parts of it between two sets of values. Needs no torch.

The raw graph is cut, and each part is optimised by its own session: an optimised graph has merged
operations across our cuts, so it cannot be cut any more.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

from splittracr.experiment.errors import SplittracrError

_SHARED_BYTES = 1024
"""Constants from this size on lie outside of the parts. Smaller ones may be shapes, which a session
needs while it loads."""


STEP = 64
"""Bytes of which a weight's place in a file is a multiple."""


@dataclass(frozen=True)
class Value:
    """A tensor in the graph. `dtype` is numpy's name of its element type."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    def described(self) -> ValueInfoProto:
        """The same as ONNX describes it."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        return helper.make_tensor_value_info(self.name, kind, self.shape)


@dataclass(frozen=True)
class Part:
    """A part of a graph as a serialised model, and the `weights` that lie outside of it by name."""

    model: bytes
    weights: Mapping[str, NDArray[Any]]

    @property
    def nbytes(self) -> int:
        """Size of model and weights."""
        return len(self.model) + sum(array.nbytes for array in self.weights.values())


class Graph:
    """An exported model without the nodes that only rename a value.

    `outputs` are the names of its outputs, in order. `known` holds weights by name that are in
    memory already, among them all that lie outside of the model.
    """

    def __init__(self, model: ModelProto, known: Mapping[str, NDArray[Any]]) -> None:
        graph = model.graph
        self._opsets, self._version = list(model.opset_import), model.ir_version
        self._same = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity"}
        self._nodes = [self._renamed(n) for n in graph.node if n.op_type != "Identity"]
        self._maker = {name: i for i, n in enumerate(self._nodes) for name in n.output}
        self._constants: dict[str, TensorProto] = {}
        self._weights: dict[str, NDArray[Any]] = {}
        for tensor in graph.initializer:
            if tensor.data_location == TensorProto.EXTERNAL:
                self._weights[tensor.name] = known[tensor.name]
                self._constants[tensor.name] = _outside(tensor)
                continue
            array = numpy_helper.to_array(tensor)
            if array.nbytes < _SHARED_BYTES:
                self._constants[tensor.name] = tensor
                continue
            own = known.get(tensor.name)
            shared = own is not None and np.array_equal(own, array)
            self._weights[tensor.name] = own if own is not None and shared else array
            self._constants[tensor.name] = _outside(tensor)
        self.input = graph.input[0].name
        self.outputs = tuple(self._source(output.name) for output in graph.output)

    def part(self, inputs: Sequence[Value], outputs: Sequence[Value]) -> Part:
        """The operations that make `outputs` of `inputs`. Raises SplittracrError if these are not
        enough.
        """
        given = {value.name for value in inputs}
        nodes = self._between(given, [v.name for v in outputs])
        used = {name for node in nodes for name in _reads(node)}
        if self.input in used - given:
            raise SplittracrError("the export has merged operations of both sides of a cut")
        made = helper.make_graph(
            nodes,
            "part",
            [value.described() for value in inputs if value.name in used],
            [value.described() for value in outputs],
            [tensor for name, tensor in self._constants.items() if name in used],
        )
        model = helper.make_model(made, opset_imports=self._opsets)
        model.ir_version = self._version
        weights = {name: array for name, array in self._weights.items() if name in used}
        return Part(model.SerializeToString(), weights)

    def stored(self, location: str) -> tuple[bytes, list[NDArray[Any]]]:
        """The graph as a serialised model, and the weights that lie outside of it, in the file
        `location` one after the other, each at a multiple of `STEP` bytes.
        """
        constants, weights, offset = [], [], 0
        for name, constant in self._constants.items():
            weight = self._weights.get(name)
            if weight is None:
                constants.append(constant)
                continue
            constants.append(_outside(constant, location, offset, weight.nbytes))
            weights.append(weight)
            offset += -(-weight.nbytes // STEP) * STEP
        made = helper.make_graph(
            self._nodes,
            "model",
            [helper.make_empty_tensor_value_info(self.input)],
            [helper.make_empty_tensor_value_info(name) for name in self.outputs],
            constants,
        )
        model = helper.make_model(made, opset_imports=self._opsets)
        model.ir_version = self._version
        return model.SerializeToString(deterministic=True), weights

    def _between(self, inputs: Iterable[str], outputs: Sequence[str]) -> list[NodeProto]:
        """The nodes from inputs to outputs, in the order of the graph."""
        known, wanted, found = set(inputs), list(outputs), set[int]()
        while wanted:
            name = wanted.pop()
            position = None if name in known else self._maker.get(name)
            known.add(name)
            if position is not None and position not in found:
                found.add(position)
                wanted += _reads(self._nodes[position])
        return [self._nodes[i] for i in sorted(found)]

    def _renamed(self, node: NodeProto) -> NodeProto:
        copy = NodeProto()
        copy.CopyFrom(node)
        self._rename(copy)
        return copy

    def _rename(self, node: NodeProto) -> None:
        for i, name in enumerate(node.input):
            node.input[i] = self._source(name)
        for branch in _branches(node):
            for inner in branch.node:
                self._rename(inner)

    def _source(self, name: str) -> str:
        while name in self._same:
            name = self._same[name]
        return name


def _branches(node: NodeProto) -> Iterator[GraphProto]:
    """The branches of an `If`, or the body of a loop."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _reads(node: NodeProto) -> list[str]:
    """The values that a node reads, also those that its branches take from around it."""
    found = list(node.input)
    for branch in _branches(node):
        own = {one.name for one in (*branch.input, *branch.initializer)}
        own |= {name for inner in branch.node for name in inner.output}
        found += [name for inner in branch.node for name in _reads(inner) if name not in own]
    return found


def _outside(
    tensor: TensorProto, location: str = "shared", offset: int | None = None, nbytes: int = 0
) -> TensorProto:
    """The description of a constant whose values a session gets from elsewhere."""
    made = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    made.data_location = TensorProto.EXTERNAL
    entries = {"location": location}
    if offset is not None:
        entries |= {"offset": str(offset), "length": str(nbytes)}
    for key, value in entries.items():
        made.external_data.append(onnx.StringStringEntryProto(key=key, value=value))
    return made
