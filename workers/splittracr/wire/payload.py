"""The content of a message besides its header: live values, as trees over typed buffers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta, Struct

from splittracr.experiment.errors import ProtocolError
from splittracr.experiment.types import Cut, TensorSpec

Tree = dict[str, Any]
"""One value: a single key names its kind, `{"t": 0}` the first tensor, `{"v": 3}` a scalar, `{"f":
"nan"}` one that is not finite,
`{"tuple": [...]}`, `{"list": [...]}`, `{"dict": [[key, tree], ...]}`, `{"size": [1, 3]}` a shape,
`{"record": ["module:Class", [[field, tree], ...]]}` a data class or named tuple,
`{"dtype": "float32"}`, `{"device": None}` the device of the reader."""

Size = Annotated[int, Meta(ge=0, lt=2**48)]
_MAX_DIMENSIONS = 16
_MAX_DEPTH = 32
_WIDEST = 16  # bytes of torch's widest element, if an empty example does not show the type

ALIGNMENT = 64
"""Bytes of which a payload's place is a multiple, in a frame and in memory: torch's own."""

LIMIT = 2**31
"""Bytes that one live tensor may have unless the caller knows better."""


class Closed(Struct, frozen=True, forbid_unknown_fields=True):
    """A closed, immutable value: data of the other end is checked as it is read."""


class TensorRef(Closed, frozen=True):
    """A tensor as a strided view of a buffer: strides in elements, offset in bytes."""

    buffer: Size
    dtype: Annotated[str, Meta(max_length=32)]
    shape: Annotated[tuple[Size, ...], Meta(max_length=_MAX_DIMENSIONS)]
    strides: Annotated[tuple[Size, ...], Meta(max_length=_MAX_DIMENSIONS)]
    offset: Size


class PayloadHeader(Closed, frozen=True):
    """The payload without its bytes; `buffers` are their sizes in order."""

    values: tuple[Tree, ...]
    tensors: tuple[TensorRef, ...]
    buffers: tuple[Size, ...]


@dataclass(frozen=True)
class Payload:
    """Live values ready for the wire. The buffers may be views of memory that is still in use."""

    values: tuple[Tree, ...]
    tensors: tuple[TensorRef, ...]
    buffers: tuple[memoryview, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(len(buffer) for buffer in self.buffers)

    def header(self) -> PayloadHeader:
        """The payload without its bytes."""
        return PayloadHeader(self.values, self.tensors, tuple(map(len, self.buffers)))


def check_structure(header: PayloadHeader) -> None:
    """Raise ProtocolError unless every tree is well formed and all references exist."""
    for ref in header.tensors:
        if ref.buffer >= len(header.buffers):
            raise ProtocolError(f"a tensor names buffer {ref.buffer} of {len(header.buffers)}")
        if len(ref.shape) != len(ref.strides):
            raise ProtocolError(f"a tensor has shape {ref.shape} and strides {ref.strides}")
    for tree in header.values:
        _check_tree(tree, len(header.tensors), _MAX_DEPTH)


def _check_tree(tree: Any, tensors: int, depth: int) -> None:
    if depth == 0 or not isinstance(tree, dict) or len(tree) != 1:
        raise ProtocolError("a value is not a tree of one known kind")
    ((kind, content),) = tree.items()
    match kind, content:
        case ("t", int()) if not isinstance(content, bool) and 0 <= content < tensors:
            pass
        case ("f", "inf" | "-inf" | "nan"):
            pass
        case ("v", None | bool() | int() | float() | str()) | ("dtype", str()) | ("device", None):
            pass
        case ("size", list()) if all(type(n) is int and abs(n) < 2**48 for n in content):
            pass
        case ("tuple" | "list", list()):
            for part in content:
                _check_tree(part, tensors, depth - 1)
        case ("dict", list()):
            _check_entries(content, tensors, depth)
        case ("record", [str(), list() as fields]):
            _check_entries(fields, tensors, depth)
        case _:
            raise ProtocolError(f"a value of kind {str(kind)[:20]!r} has unexpected content")


def _check_entries(entries: list[Any], tensors: int, depth: int) -> None:
    for entry in entries:
        if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
            raise ProtocolError("a dict or record is not a list of [key, tree]")
        _check_tree(entry[1], tensors, depth - 1)


def check_live(header: PayloadHeader, cut: Cut, variable_shape: bool, limit: int = LIMIT) -> None:
    """Raise ProtocolError unless the tensors are those alive at `cut`.

    Each is one value or a part of one, in order. Count, dtype and rank always have to match; sizes
    too, unless pictures keep their own: then a tensor may have `limit` bytes, and no more of them
    than its buffer or its example at this cut has. (A detector's live tensors may lead with any
    number of pictures, anchors or boxes, so only the input's batch and channels are compared.)
    """
    tensors = header.tensors
    if len(tensors) != len(cut.live):
        raise ProtocolError(
            f"cut {cut.name} has {len(cut.live)} live tensors, the request {len(tensors)}"
        )
    named = [i for tree in header.values for i in _tensors_of(tree)]
    if named != list(range(len(tensors))):
        raise ProtocolError(f"the values at cut {cut.name} do not hold each tensor once, in order")
    for got, want in zip(tensors, cut.live, strict=True):
        if got.dtype != want.dtype or not _fits(got.shape, want.shape, cut, variable_shape):
            raise ProtocolError(
                f"live tensor {want.name} at cut {cut.name} is {want.dtype} {list(want.shape)}, "
                f"the request has {got.dtype} {list(got.shape)}"
            )
        _check_size(got, want, header.buffers[got.buffer], cut, limit)
    if not variable_shape and sum(header.buffers) > cut.bytes:
        raise ProtocolError(
            f"cut {cut.name} has {cut.bytes} bytes, the request would have {sum(header.buffers)}"
        )


def _fits(got: Sequence[int], want: Sequence[int], cut: Cut, variable_shape: bool) -> bool:
    if len(got) != len(want) or not variable_shape:
        return tuple(got) == tuple(want)
    picture = cut.index == 0 and len(want) == 4
    return not picture or tuple(got[:2]) == tuple(want[:2])


def _check_size(got: TensorRef, want: TensorSpec, buffer: int, cut: Cut, limit: int) -> None:
    """A view may have more elements than its buffer only if the example's had, too."""
    elements = math.prod(want.shape)
    size = math.prod(got.shape) * (want.bytes // elements if elements else _WIDEST)
    expanded = want.bytes > cut.bytes
    allowed = max(want.bytes, limit if expanded else min(buffer, limit))
    if size > allowed:
        raise ProtocolError(
            f"live tensor {want.name} at cut {cut.name} would have {size} bytes "
            f"{list(got.shape)}, the request may have {allowed}"
        )


def _tensors_of(tree: Tree) -> Iterator[int]:
    ((kind, content),) = tree.items()
    if kind == "t":
        yield content
    elif kind in ("tuple", "list"):
        for part in content:
            yield from _tensors_of(part)
    elif kind in ("dict", "record"):
        for _, part in content if kind == "dict" else content[1]:
            yield from _tensors_of(part)
