"""Whether two values are the same: to the bit, or as the plain collections of a graph."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from splittracr.splitting.live import raw_bytes


def same(left: Any, right: Any) -> bool:
    """Whether two trees of values are equal in structure, dtypes, shapes and every bit."""
    (a, spec_a), (b, spec_b) = tree_flatten(left), tree_flatten(right)
    return spec_a == spec_b and all(_same_leaf(x, y) for x, y in zip(a, b, strict=True))


def same_plain(left: Any, right: Any) -> bool:
    """`same` for outputs of a module and its graph, which knows plain collections only: an
    OrderedDict is a dict, a named tuple or list a tuple, and so are a data class's fields.
    """
    return same(_plain(left), _plain(right))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value, key=repr)}
    if isinstance(value, (tuple, list)):
        return tuple(_plain(part) for part in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return tuple(_plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    return value


def _same_leaf(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor):
        return type(a) is type(b) and bool(a == b)
    if not isinstance(b, Tensor) or (a.dtype, a.layout, a.is_nested) != (
        b.dtype,
        b.layout,
        b.is_nested,
    ):
        return False
    if a.is_nested:
        return same(list(a.unbind()), list(b.unbind()))
    if a.shape != b.shape:
        return False
    if a.is_quantized:
        return torch.equal(a, b) and same(a.dequantize(), b.dequantize())
    return torch.equal(_bits(a), _bits(b))


def _bits(tensor: Tensor) -> Tensor:
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.dtype.itemsize == 1:  # some of them cannot even be copied
        tensor = tensor.view(torch.uint8)
    return raw_bytes(tensor)
