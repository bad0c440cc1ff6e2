"""Digests of arrays as `splitting/behaviour.py` makes them of tensors. Needs no torch."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splittracr.backends.onnx.values import arrays_in, memory
from splittracr.wire.messages import PartDigest, Summary

_MAX_NAME, _MAX_TENSORS, _SAMPLED = 1024, 64, 1 << 16


def part_digest(name: str, values: list[Any]) -> PartDigest:
    """The digest of values and of their floating-point arrays in numbers."""
    floats = [array for array in arrays_in(values) if array.dtype.kind == "f"]
    digest = hashlib.sha256(_canonical(values).encode()).hexdigest()
    return PartDigest(name[:_MAX_NAME], digest, tuple(map(_summary, floats[:_MAX_TENSORS])))


def _canonical(value: Any) -> str:
    match value:
        case np.ndarray():
            digest = hashlib.sha256(memory(np.ascontiguousarray(value))).hexdigest()
            return f"tensor(torch.{value.dtype.name},{list(value.shape)},{digest})"
        case list() | tuple():
            kind, parts = type(value).__name__, value
        case dict():
            kind, parts = "dict", tuple(value.items())
        case _:
            return f"builtins.{type(value).__name__}({value!r})"
    return f"builtins.{kind}({','.join(map(_canonical, parts))})"


def _summary(array: NDArray[Any]) -> Summary:
    kind = f"{array.dtype.name}[{','.join(map(str, array.shape))}]"
    if not array.size:
        return Summary(kind, 0.0, 0.0, 0.0)
    flat = array.reshape(-1)
    if flat.size > _SAMPLED:
        flat = flat[:: flat.size // _SAMPLED | 1]
    values = np.nan_to_num(flat.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    size = np.abs(values)
    largest = float(size.max())
    rms = largest * float(np.sqrt(np.square(size / largest).mean())) if largest else 0.0
    return Summary(kind, float(values.mean()), float(size.mean()), rms)
