"""Input batches that are the same on every machine, as arrays. Needs no torch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def random(shape: Sequence[int], dtype: str, seed: int = 0) -> NDArray[Any]:
    """A seeded random batch: bytes for `uint8`, otherwise float32 values in [-1, 1) made from 24
    random bits each, which the caller converts.
    """
    draw = np.random.Generator(np.random.Philox(seed))
    if dtype == "uint8":
        return draw.integers(0, 256, tuple(shape), dtype=np.uint8)
    bits = draw.integers(-(2**23), 2**23, tuple(shape), dtype=np.int32)
    return bits.astype(np.float32) / np.float32(2**23)


def ramp(shape: Sequence[int]) -> NDArray[Any]:
    """Pictures from dark to bright, which starts elsewhere in each channel."""
    rows = max(math.prod(shape[:-2]), 1)
    pixels = np.arange(math.prod(shape[-2:]), dtype=np.int64) * 256 // math.prod(shape[-2:])
    starts = np.arange(rows, dtype=np.int64)[:, None] * 85
    return ((pixels[None] + starts) % 256).astype(np.uint8).reshape(tuple(shape))


def scaled(values: NDArray[Any]) -> NDArray[Any]:
    """Values with sizes between 2**-8 and 2**4, exactly."""
    exponents = np.arange(values.size, dtype=np.int32).reshape(values.shape) % 13 - 8
    return np.ldexp(values.astype(np.float32), exponents)


def second(shape: Sequence[int], dtype: str) -> NDArray[Any]:
    """Another batch, unlike `random(shape, dtype)`: a ramp for `uint8`."""
    return ramp(shape) if dtype == "uint8" else scaled(random(shape, dtype, seed=1))
