"""Payloads without torch, for tests of the codecs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from splittracr.wire.payload import Payload, TensorRef

ITEM_SIZES = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "int64": 8,
    "int32": 4,
    "uint8": 1,
    "bool": 1,
}


def dense_strides(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides of a tensor whose dimensions lie in memory in this order, the outermost first."""
    strides, step = [0] * len(shape), 1
    for dim in reversed(order):
        strides[dim] = step
        step *= shape[dim]
    return tuple(strides)


def payload_of(*parts: tuple[str, Sequence[int], Sequence[int], bytes]) -> Payload:
    """One buffer and one tensor for each (dtype, shape, order of dimensions, bytes)."""
    refs = tuple(
        TensorRef(
            buffer=i, dtype=dtype, shape=tuple(shape), strides=dense_strides(shape, order), offset=0
        )
        for i, (dtype, shape, order, _) in enumerate(parts)
    )
    trees = ({"tuple": [{"t": i} for i in range(len(parts))]}, {"v": 3})
    return Payload(trees, refs, tuple(memoryview(data) for *_, data in parts))


def as_numbers(data: memoryview, dtype: str) -> NDArray[np.float64]:
    """A buffer's values, exactly."""
    if dtype == "bfloat16":
        bits = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        return bits.view(np.float32).astype(np.float64)
    return np.frombuffer(data, dtype).astype(np.float64)


def as_bytes(values: NDArray[np.float64], dtype: str) -> bytes:
    """The values in `dtype`, bfloat16 by cutting off the lower half of a float32."""
    if dtype == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32) >> 16
        return bits.astype(np.uint16).tobytes()
    return values.astype(dtype).tobytes()
