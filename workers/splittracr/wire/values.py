"""Floating-point values as fewer bits: float16, and affine 8 and 4 bits a channel.

A buffer is seen as an array [outer, channels, inner] of one floating-point type. The affine
codecs write `low` and `step` of every channel in front of the codes, value = low + code * step,
where low is the channel's smallest value and step its range / 255 (or 15): uniform quantisation
as in B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference" (2018), but with a real-valued zero point, so that a range far
from zero loses nothing.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from splittracr.experiment.codec import ValueCodec
from splittracr.experiment.errors import ProtocolError
from splittracr.wire.half import LARGEST, from_half, to_half
from splittracr.wire.payload import TensorRef

Floats = NDArray[np.floating[Any]]
Bytes = NDArray[np.uint8]
Groups = tuple[int, int, int]
"""A buffer as [outer, channels, inner]; the elements with one middle index share low and step."""

FloatType = Literal["float16", "bfloat16", "float32", "float64"]
FLOAT_TYPES: tuple[FloatType, ...] = ("float16", "bfloat16", "float32", "float64")
"""Types that are coded, by their names in torch."""

ITEM_SIZES = {
    "float16": 2,
    "bfloat16": 2,
    "float32": 4,
    "float64": 8,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "complex64": 4,  # two numbers of four
}
"""Bytes of a number, for types that have more than one byte a number."""

_LEVELS = {ValueCodec.UINT8: 255, ValueCodec.UINT4: 15}
_MIN_PER_CHANNEL = 16  # with fewer, low and step would take half as many bytes as the codes

# Largest value that the type holds once rounded, and the rounding that `error_bounds` allows for
# besides half a step: relative (of the type itself and of a dozen float32 or float64
# operations), and absolute (of subnormal numbers, and of ranges too small to divide).
_FINITE = {"float16": 65_519.0, "bfloat16": 3.39e38, "float32": 3.4028234e38, "float64": 1.797e308}
_RELATIVE = {"float16": 2.0**-10, "bfloat16": 2.0**-8, "float32": 2.0**-20, "float64": 2.0**-49}
_ABSOLUTE = {
    "float16": 2.0**-24,
    "bfloat16": 2.0**-117,
    "float32": 2.0**-117,
    "float64": 2.0**-1013,
}


def float_type(refs: Sequence[TensorRef], size: int) -> FloatType | None:
    """The floating-point type of all tensors in a buffer of `size` bytes; None if they have
    none.
    """
    names = {ref.dtype for ref in refs}
    for name in FLOAT_TYPES:
        if names == {name} and size and _aligned(refs, size, ITEM_SIZES[name]):
            return name
    return None


def _aligned(refs: Sequence[TensorRef], size: int, itemsize: int) -> bool:
    return size % itemsize == 0 and all(ref.offset % itemsize == 0 for ref in refs)


def channel_groups(refs: Sequence[TensorRef], dtype: FloatType, size: int) -> Groups:
    """The channels of a buffer: those of the first tensor that covers it, else one group.

    A channel is an index of dimension 1 of a tensor with 3 or more dimensions. The tensor is dense
    in any order of strides, and has more than one place and at least 16 values a channel.
    """
    count = size // ITEM_SIZES[dtype]
    found = (_channels(ref) for ref in refs if math.prod(ref.shape) == count)
    return next((groups for groups in found if groups), (1, 1, count))


def _channels(ref: TensorRef) -> Groups | None:
    count, channels = math.prod(ref.shape), (*ref.shape, 1, 1)[1]
    if math.prod(ref.shape[2:]) == 1 or count < channels * _MIN_PER_CHANNEL or not _is_dense(ref):
        return None
    inner = ref.strides[1] if channels > 1 else count
    return count // (channels * inner), channels, inner


def _is_dense(ref: TensorRef) -> bool:
    expected = 1
    for stride, length in sorted(zip(ref.strides, ref.shape, strict=True)):
        if length > 1:
            if stride != expected:
                return False
            expected *= length
    return True


def coded_size(codec: ValueCodec, dtype: FloatType, groups: Groups) -> int:
    """Bytes that `encode_values` makes of a buffer."""
    count = math.prod(groups)
    match codec:
        case ValueCodec.RAW:
            return count * ITEM_SIZES[dtype]
        case ValueCodec.FLOAT16:
            return count * 2
        case ValueCodec.UINT8:
            return _parameter_bytes(dtype, groups) + count
        case ValueCodec.UINT4:
            return _parameter_bytes(dtype, groups) + (count + 1) // 2


# Overflow and NaN are allowed here: `_usable` refuses the result.
_quietly = np.errstate(over="ignore", invalid="ignore")


@_quietly
def encode_values(
    data: memoryview, codec: ValueCodec, dtype: FloatType, groups: Groups
) -> memoryview | None:
    """The buffer `data` of `dtype`, coded; None if it must travel raw.

    That is if `codec` would not make it smaller. With an affine codec it is also if a value is not
    finite, or if a channel's range is beyond the type's.
    """
    if coded_size(codec, dtype, groups) >= len(data):
        return None
    values = _load(data, dtype)
    if codec is ValueCodec.FLOAT16:
        return to_half(values).view(np.uint8).data
    coded = _quantise(values.reshape(groups), codec, dtype)
    return None if coded is None else coded.data


@_quietly
def decode_values(
    data: memoryview, codec: ValueCodec, dtype: FloatType, groups: Groups
) -> memoryview:
    """The buffer that was coded into `data`, which is `coded_size` bytes long.

    Raises ProtocolError if a channel's low or step is not one that `encode_values` writes.
    """
    if codec is ValueCodec.FLOAT16:
        return _store(from_half(_array(data, "u2")), dtype).data
    low, step = _parameters(data, dtype, groups)
    if not _usable(low, step, _LEVELS[codec], dtype):
        raise ProtocolError("a channel's low and step are not those of finite values")
    codes = _array(data[_parameter_bytes(dtype, groups) :], "u1")
    if codec is ValueCodec.UINT4:
        codes = _unpack_nibbles(codes)[: math.prod(groups)]
    values = codes.reshape(groups).astype(low.dtype)
    values *= step
    values += low
    return _store(values.reshape(-1), dtype).data


def error_bounds(
    data: memoryview, codec: ValueCodec, dtype: FloatType, groups: Groups
) -> NDArray[np.float64]:
    """The largest possible error of each value of a buffer, from its coded bytes.

    Infinite for values that float16 may have clamped.
    """
    if codec is ValueCodec.FLOAT16:
        magnitude = np.abs(from_half(_array(data, "u2")).astype(np.float64))
        bounds = np.maximum(magnitude * 2.0**-11, 2.0**-25 + 2.0**-38)
        return np.where(magnitude == LARGEST, np.inf, bounds)
    low, step = (part.astype(np.float64) for part in _parameters(data, dtype, groups))
    largest = np.maximum(np.abs(low), np.abs(low + _LEVELS[codec] * step))
    bounds = step / 2 + _RELATIVE[dtype] * largest + _ABSOLUTE[dtype]
    return np.broadcast_to(bounds, groups).reshape(-1)


def _quantise(values: Floats, codec: ValueCodec, dtype: FloatType) -> Bytes | None:
    """`low`, `step` and codes of an array [outer, channels, inner], or None if not all finite."""
    levels = _LEVELS[codec]
    low = values.min(axis=(0, 2), keepdims=True)
    step = (values.max(axis=(0, 2), keepdims=True) - low) / levels
    step[step < np.finfo(step.dtype).tiny] = 0  # no range to speak of: every code is 0
    if not _usable(low, step, levels, dtype):
        return None
    per_step = np.divide(1, step, out=np.zeros_like(step), where=step > 0)
    scaled = np.subtract(values, low, out=_scratch(values))
    scaled *= per_step
    scaled += 0.5  # the conversion drops the fraction
    coded = np.empty(coded_size(codec, dtype, _shape(values)), np.uint8)
    start = _parameter_bytes(dtype, _shape(values))
    coded[:start].view(low.dtype)[:] = np.concatenate((low, step), axis=None)
    if codec is ValueCodec.UINT4:
        coded[start:] = _pack_nibbles(scaled.astype(np.uint8).reshape(-1))
    else:
        coded[start:].reshape(values.shape)[:] = scaled
    return coded


def _scratch(values: Floats) -> Floats:
    """Memory like `values` whose long rows begin at multiples of 64 bytes.

    Otherwise numpy's loops take twice the time.
    """
    outer, channels, inner = values.shape
    padded = inner + -inner % 16 if inner > 64 else inner
    return np.empty((outer, channels, padded), values.dtype)[:, :, :inner]


def _usable(low: Floats, step: Floats, levels: int, dtype: FloatType) -> bool:
    """Whether every code means a finite value of `dtype`. Both ends ask."""
    largest = np.maximum(np.abs(low), np.abs(low + levels * step))
    return bool(np.all(step >= 0) and np.all(largest <= _FINITE[dtype]))


def _parameter_bytes(dtype: FloatType, groups: Groups) -> int:
    return 2 * groups[1] * (8 if dtype == "float64" else 4)


def _parameters(data: memoryview, dtype: FloatType, groups: Groups) -> tuple[Floats, Floats]:
    both = _array(data[: _parameter_bytes(dtype, groups)], "f8" if dtype == "float64" else "f4")
    low, step = both.reshape(2, 1, groups[1], 1)
    return low, step


def _pack_nibbles(codes: Bytes) -> Bytes:
    if codes.size % 2:
        codes = np.append(codes, np.uint8(0))
    pairs = codes.view("u2")
    packed: Bytes = (pairs | pairs >> 4).astype(np.uint8)
    return packed


def _unpack_nibbles(packed: Bytes) -> Bytes:
    pairs = packed.astype("u2")
    pairs |= pairs << 4
    pairs &= 0x0F0F
    return pairs.view(np.uint8)


def _load(data: memoryview, dtype: FloatType) -> Floats:
    """A buffer's values as float32 (float64 stays), flat; a view if possible."""
    match dtype:
        case "float16":
            return from_half(_array(data, "u2"))
        case "bfloat16":  # the upper half of a float32
            bits = _array(data, "u2").astype(np.uint32)
            bits <<= 16
            return bits.view(np.float32)
        case _:
            return _array(data, "f8" if dtype == "float64" else "f4")


def _store(values: Floats, dtype: FloatType) -> Bytes:
    match dtype:
        case "float16":
            return to_half(values).view(np.uint8)
        case "bfloat16":
            bits = values.view(np.uint32)
            nearest = bits + 0x7FFF + (bits >> 16 & 1)  # ties to even
            return (nearest >> 16).astype(np.uint16).view(np.uint8)
        case _:
            return values.astype("f8" if dtype == "float64" else "f4", copy=False).view(np.uint8)


def _array(data: memoryview, dtype: str) -> NDArray[Any]:
    """A view of `data`, or a copy if its address is not a multiple of its elements' size."""
    array = np.frombuffer(data, dtype)
    return array if array.flags.aligned else array.copy()


def _shape(values: Floats) -> Groups:
    outer, channels, inner = values.shape
    return outer, channels, inner
