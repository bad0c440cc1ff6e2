"""Live values and results as trees with arrays of numpy, as `splitting/live.py` has for torch.

Kinds that only torch or the network's own code can make, such as a device or a data class, stay
trees: an edge passes them on unread.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splittracr.experiment.errors import ProtocolError
from splittracr.wire.payload import Payload, TensorRef, Tree

Array = NDArray[Any]

_PASSED_ON = ("dtype", "device", "size")
_DTYPES = frozenset(
    (
        *("bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
)
"""Types that numpy and torch have in common. Objects are not among them."""


@dataclass(frozen=True)
class Opaque:
    """A value without tensors that is passed on unread."""

    tree: Tree


@dataclass(frozen=True)
class Record:
    """A data class or named tuple by the name of its class."""

    name: str
    fields: Mapping[str, Any]


def pack(values: Sequence[Any]) -> Payload:
    """The values as a payload whose buffers are the arrays' own memory. An array that is there
    twice is sent once.
    """
    arrays: list[Array] = []
    trees = tuple(to_tree(value, arrays) for value in values)
    buffers: dict[int, int] = {}
    sent: list[Array] = []
    refs = []
    for array in arrays:
        if id(array) not in buffers:
            buffers[id(array)] = len(sent)
            sent.append(np.ascontiguousarray(array))
        place, shape = buffers[id(array)], array.shape
        refs.append(TensorRef(place, array.dtype.name, shape, _strides(shape), 0))
    return Payload(trees, tuple(refs), tuple(map(memory, sent)))


def unpack(payload: Payload) -> list[Any]:
    """The values, in the payload's memory. Raises ProtocolError if a tensor would reach outside
    its buffer, or has a type that numpy does not know.
    """
    arrays = [_array(ref, payload.buffers) for ref in payload.tensors]
    return [from_tree(tree, arrays) for tree in payload.values]


def memory(array: Array) -> memoryview:
    """The elements of a contiguous array as bytes."""
    return array.reshape(-1).view(np.uint8).data


def arrays_in(values: Iterable[Any]) -> list[Array]:
    """All arrays in values, in the order in which `pack` refers to them."""
    found: list[Array] = []
    for value in values:
        to_tree(value, found)
    return found


def to_tree(value: Any, arrays: list[Array]) -> Tree:
    """The tree of a value; its arrays are appended to `arrays`."""
    match value:
        case np.ndarray():
            arrays.append(value)
            return {"t": len(arrays) - 1}
        case Opaque():
            return value.tree
        case Record():
            fields = [[key, to_tree(part, arrays)] for key, part in value.fields.items()]
            return {"record": [value.name, fields]}
        case float() if not math.isfinite(value):
            return {"f": str(value)}
        case None | bool() | int() | float() | str():
            return {"v": value}
        case tuple():
            return {"tuple": [to_tree(part, arrays) for part in value]}
        case list():
            return {"list": [to_tree(part, arrays) for part in value]}
        case Mapping():
            return {"dict": [[key, to_tree(part, arrays)] for key, part in value.items()]}
        case _:
            raise TypeError(f"a {type(value).__name__} cannot cross a cut")


def from_tree(tree: Tree, arrays: Sequence[Array]) -> Any:
    """The value of a tree that refers to `arrays`."""
    ((kind, content),) = tree.items()
    match kind:
        case "t":
            return arrays[content]
        case "v":
            return content
        case "f":
            return float(content)
        case "tuple":
            return tuple(from_tree(part, arrays) for part in content)
        case "list":
            return [from_tree(part, arrays) for part in content]
        case "dict":
            return {key: from_tree(part, arrays) for key, part in content}
        case "record":
            name, fields = content
            return Record(name, {key: from_tree(part, arrays) for key, part in fields})
        case _ if kind in _PASSED_ON:
            return Opaque(tree)
        case _:
            raise ProtocolError(f"unknown kind of value {kind!r}")


def _array(ref: TensorRef, buffers: Sequence[memoryview]) -> Array:
    buffer = buffers[ref.buffer]
    if ref.dtype not in _DTYPES:
        raise ProtocolError(f"an array has no dtype {ref.dtype!r}")
    dtype = np.dtype(ref.dtype)
    if 0 in ref.shape:
        return np.empty(ref.shape, dtype)
    reach = sum((n - 1) * s for n, s in zip(ref.shape, ref.strides, strict=True)) + 1
    if ref.offset + reach * dtype.itemsize > len(buffer):
        raise ProtocolError(f"a tensor {ref.shape} reaches outside its {len(buffer)} bytes")
    strides = [stride * dtype.itemsize for stride in ref.strides]
    return np.ndarray(ref.shape, dtype, buffer, ref.offset, strides)


def _strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Of a contiguous array, in elements."""
    made, step = [], 1
    for size in reversed(shape):
        made.append(step)
        step *= max(size, 1)
    return tuple(reversed(made))
