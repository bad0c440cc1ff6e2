"""What a message carries besides its header: live values, as trees over typed buffers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from splittracr.experiment.errors import ProtocolError
from splittracr.experiment.types import Cut, Frozen

Tree = dict[str, Any]
"""One value: a single key names its kind, `{"t": 0}` the first tensor, `{"v": 3}` a scalar,
`{"tuple": [...]}`, `{"list": [...]}`, `{"dict": [[key, tree], ...]}`, `{"size": [1, 3]}` a shape,
`{"dtype": "float32"}`, `{"device": None}` the device of whoever reads it."""

Size = Annotated[int, Field(ge=0, lt=2**48)]
_MAX_DIMENSIONS = 16
_MAX_DEPTH = 32


class TensorRef(Frozen):
    """A tensor as a strided view of a buffer: strides in elements, offset in bytes."""

    buffer: Size
    dtype: Annotated[str, Field(max_length=32)]
    shape: Annotated[tuple[Size, ...], Field(max_length=_MAX_DIMENSIONS)]
    strides: Annotated[tuple[Size, ...], Field(max_length=_MAX_DIMENSIONS)]
    offset: Size


class PayloadHeader(Frozen):
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
        return PayloadHeader(
            values=self.values,
            tensors=self.tensors,
            buffers=tuple(len(buffer) for buffer in self.buffers),
        )


EMPTY = Payload((), (), ())


def check_structure(header: PayloadHeader) -> None:
    """Raise ProtocolError unless every tree is well formed and refers to what is there."""
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
        case ("v", None | bool() | int() | float() | str()) | ("dtype", str()) | ("device", None):
            pass
        case ("size", list()) if all(type(n) is int and 0 <= n < 2**48 for n in content):
            pass
        case ("tuple" | "list", list()):
            for part in content:
                _check_tree(part, tensors, depth - 1)
        case ("dict", list()):
            for entry in content:
                if not (isinstance(entry, list) and len(entry) == 2 and isinstance(entry[0], str)):
                    raise ProtocolError("a dict is not a list of [key, tree]")
                _check_tree(entry[1], tensors, depth - 1)
        case _:
            raise ProtocolError(f"a value of kind {str(kind)[:20]!r} has unexpected content")


def check_live(tensors: Sequence[TensorRef], cut: Cut, variable_shape: bool) -> None:
    """Raise ProtocolError unless the tensors are those alive at `cut`.

    Count, dtype and rank always have to match; sizes too, unless pictures keep their own.
    """
    if len(tensors) != len(cut.live):
        raise ProtocolError(
            f"cut {cut.name} has {len(cut.live)} live tensors, the request {len(tensors)}"
        )
    for got, want in zip(tensors, cut.live, strict=True):
        same = len(got.shape) == len(want.shape) and (variable_shape or got.shape == want.shape)
        if got.dtype != want.dtype or not same:
            raise ProtocolError(
                f"live tensor {want.name} at cut {cut.name} is {want.dtype} {list(want.shape)}, "
                f"the request has {got.dtype} {list(got.shape)}"
            )
