"""float32 to float16 and back: numpy's conversions, up to five times faster after a ReLU.

numpy converts one number after the other, with branches that a ReLU's zeros mispredict. Here
whole blocks are converted by integer operations on the bits. The scaling by 2^-112, which turns
float16's exponents into float32's and lets the processor make the subnormal numbers, is from
F. Giesen, "Float->half variants" (2012, public domain). It rounds those twice: a number below
2^-14 that lies within 2^-38 of the middle between two of them may go to either.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 65504.0
_BLOCK = 2**14  # elements: a block and its temporaries stay in the first and second cache
_DOWN, _UP = np.float32(2.0**-112), np.float32(2.0**112)
_INFINITY, _MINUS_INFINITY = 0x7C00, 0xFC00
_SIGN_AND_VALUE = -0x70002000  # bit 31 and bits 13 to 27, as a signed number
_SMALLEST = np.float32(2.0**-149)


def to_half(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    """The bits of flat `values` rounded to float16, ties to even.

    Finite values beyond 65,504 become 65,504 with their sign; NaN and infinity stay.
    """
    if not values.size:
        return np.empty(0, np.uint16)
    low, high = values.min(), values.max()
    if values.dtype != np.float32 or _flushes_to_zero() or not -LARGEST <= low <= high <= LARGEST:
        return _one_by_one(values)
    half = np.empty(values.size, np.uint16)
    for part in _blocks(values.size):
        bits = (values[part] * _DOWN).view(np.uint32)
        rounding = bits >> 13
        rounding &= 1
        rounding += 0xFFF
        sign = bits >> 16
        sign &= 0x8000
        bits += rounding
        bits >>= 13
        bits |= sign
        half[part] = bits  # the lower 16 bits of each
    return half


def from_half(half: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The float32 values of float16 bits, flat."""
    if _flushes_to_zero() or not half.size or not _all_finite(half):
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            return half.view(np.float16).astype(np.float32)
    values = np.empty(half.size, np.float32)
    bits, signed = values.view(np.int32), half.view(np.int16)
    for part in _blocks(half.size):
        bits[part] = signed[part]
        bits[part] <<= 13
        bits[part] &= _SIGN_AND_VALUE
        values[part] *= _UP
    return values


def _one_by_one(values: NDArray[np.floating[Any]]) -> NDArray[np.uint16]:
    beyond = np.isfinite(values) & (np.abs(values) > LARGEST)
    values = np.where(beyond, np.copysign(LARGEST, values), values)
    with np.errstate(invalid="ignore", under="ignore"):
        return values.astype(np.float16).view(np.uint16)


def _all_finite(half: NDArray[np.uint16]) -> bool:
    return bool(half.view(np.int16).max() < _INFINITY and half.max() < _MINUS_INFINITY)


def _flushes_to_zero() -> bool:
    """Whether this thread takes subnormal numbers for zero, as -ffast-math does."""
    return not _SMALLEST * np.float32(2)


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, size, _BLOCK))
