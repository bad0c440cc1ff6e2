"""Encodes payloads and back: first the values, then their bytes, one buffer at a time.

    encode: Payload -> EncodedPayload      decode: EncodedPayload -> Payload

An encoded payload describes itself: decoding needs neither the manifest nor the network. Structure
never changes: the same trees, the same tensors with the same strides over buffers of the original
sizes, so that views that share a buffer still do. Some values are not encoded: integers, a buffer
that tensors of two types share, and values that are not finite (with an affine codec).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from splittracr.experiment.codec import RAW, Codec, PictureCodec, PictureFormat, ValueCodec
from splittracr.experiment.errors import ProtocolError
from splittracr.wire import lossless, pictures, registry, values
from splittracr.wire.lossless import Packer
from splittracr.wire.payload import Closed, Payload, PayloadHeader, Size, TensorRef, check_structure
from splittracr.wire.values import ITEM_SIZES, FloatType, Groups

LIMIT = 2**30
"""Bytes that a payload may decode to unless the caller knows better."""

Sizes = Annotated[tuple[Size, ...], Meta(max_length=4096)]


class BufferCoding(Closed, frozen=True):
    """How one buffer was encoded, with its encoded size in bytes.

    `dtype` and `groups` (the buffer as [outer, channels, inner]) are those of coded values; None if
    values are raw. `pictures` are the sizes of the picture files in it, if any. `codec` names the
    codec of another package that encoded all of it.
    """

    values: ValueCodec
    packer: Packer
    size: Size
    dtype: FloatType | None = None
    groups: tuple[Size, Size, Size] | None = None
    pictures: Sizes = ()
    codec: Annotated[str, Meta(max_length=64)] = ""


@dataclass(frozen=True)
class EncodedPayload:
    """A payload ready for the wire. `header` is the original's and has the original sizes.

    There are `codings` for all buffers, or none if no buffer is encoded. The buffers may be views
    of memory that is still in use, as the original's may.
    """

    header: PayloadHeader
    codings: tuple[BufferCoding, ...]
    buffers: tuple[memoryview, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all encoded buffers."""
        return sum(len(buffer) for buffer in self.buffers)


NOTHING = EncodedPayload(PayloadHeader(values=(), tensors=(), buffers=()), (), ())
"""The payload of a message without one."""


def encode(payload: Payload, codec: Codec | PictureCodec = RAW) -> EncodedPayload:
    """The payload's buffers, each as small as `codec` makes it; never larger than they were.

    A picture codec serves tensors of pictures (uint8 [N, 3, H, W]) and leaves others as they are.
    """
    if codec == RAW:
        return EncodedPayload(payload.header(), (), payload.buffers)
    tensors = _by_buffer(payload.tensors, len(payload.buffers))
    encoded = [
        _encode(data, refs, codec) for data, refs in zip(payload.buffers, tensors, strict=True)
    ]
    return EncodedPayload(
        payload.header(),
        tuple(coding for coding, _ in encoded),
        tuple(data for _, data in encoded),
    )


def decode(encoded: EncodedPayload, limit: int = LIMIT) -> Payload:
    """The payload, with lossless codecs bit for bit. Raw buffers are views of the encoded ones.

    Takes memory for a few times the sizes that the header announces, and that only after they
    were found to sum to `limit` bytes at most and to agree with the codings. Raises ProtocolError
    for anything that `encode` would not have made.
    """
    header, codings = encoded.header, encoded.codings
    announced, received = len(header.buffers), len(encoded.buffers)
    if announced != received or (codings and len(codings) != announced):
        raise ProtocolError(
            f"{announced} buffers announced, {len(codings)} described, {received} received"
        )
    if sum(header.buffers) > limit:
        raise ProtocolError(f"{sum(header.buffers)} bytes announced, the limit is {limit}")
    check_structure(header)
    if not codings:
        for data, size in zip(encoded.buffers, header.buffers, strict=True):
            _check_whole(data, size)
        return Payload(header.values, header.tensors, encoded.buffers)
    tensors = _by_buffer(header.tensors, len(header.buffers))
    parts = zip(encoded.buffers, codings, header.buffers, tensors, strict=True)
    buffers = tuple(_decode(data, coding, size, refs) for data, coding, size, refs in parts)
    return Payload(header.values, header.tensors, buffers)


def error_bounds(encoded: EncodedPayload, index: int) -> NDArray[np.float64]:
    """The largest possible error of each element of buffer `index`; empty if the codec is lossless.

    Infinite for elements that float16 may have clamped. Raises ValueError for a codec of another
    package, whose error is unknown.
    """
    coding = encoded.codings[index] if encoded.codings else None
    if coding is not None and coding.codec:
        raise ValueError(f"the error of codec {coding.codec} is not known")
    if coding is None or coding.dtype is None or coding.groups is None:
        return np.empty(0)
    size = values.coded_size(coding.values, coding.dtype, coding.groups)
    data = lossless.unpack(encoded.buffers[index], coding.packer, size)
    return values.error_bounds(data, coding.values, coding.dtype, coding.groups)


def _by_buffer(refs: Sequence[TensorRef], count: int) -> list[list[TensorRef]]:
    found: list[list[TensorRef]] = [[] for _ in range(count)]
    for ref in refs:
        found[ref.buffer].append(ref)
    return found


def _encode(
    data: memoryview, refs: Sequence[TensorRef], codec: Codec | PictureCodec
) -> tuple[BufferCoding, memoryview]:
    if isinstance(codec, PictureCodec):
        return _encode_pictures(data, refs, codec)
    if codec.named is not None:
        return _encode_named(data, refs, codec.named)
    dtype = values.float_type(refs, len(data))
    if dtype is not None and codec.values is not ValueCodec.RAW:
        groups = values.channel_groups(refs, dtype, len(data))
        coded = values.encode_values(data, codec.values, dtype, groups)
        if coded is not None:
            itemsize = 2 if codec.values is ValueCodec.FLOAT16 else 1
            packer, packed = lossless.pack(coded, codec.lossless, itemsize)
            return BufferCoding(
                values=codec.values, packer=packer, size=len(packed), dtype=dtype, groups=groups
            ), packed
    packer, packed = lossless.pack(data, codec.lossless, _item_size(refs))
    return BufferCoding(values=ValueCodec.RAW, packer=packer, size=len(packed)), packed


def _encode_named(
    data: memoryview, refs: Sequence[TensorRef], name: str
) -> tuple[BufferCoding, memoryview]:
    made = registry.encode(name, data, refs)
    if made is None:
        return BufferCoding(values=ValueCodec.RAW, packer=Packer.NONE, size=len(data)), data
    coding = BufferCoding(values=ValueCodec.RAW, packer=Packer.NONE, size=len(made), codec=name)
    return coding, made


def _encode_pictures(
    data: memoryview, refs: Sequence[TensorRef], codec: PictureCodec
) -> tuple[BufferCoding, memoryview]:
    shape = _picture_shape(refs, len(data))
    if shape is None or codec.format is PictureFormat.UINT8:
        raw = BufferCoding(values=ValueCodec.RAW, packer=Packer.NONE, size=len(data))
        return raw, data
    files = pictures.encode_picture(np.frombuffer(data, np.uint8).reshape(shape), codec)
    joined = memoryview(b"".join(files))
    sizes = tuple(len(file) for file in files)
    return BufferCoding(
        values=ValueCodec.RAW, packer=Packer.NONE, size=len(joined), pictures=sizes
    ), joined


def _picture_shape(refs: Sequence[TensorRef], size: int) -> tuple[int, ...] | None:
    """[N, 3, H, W] if a buffer of `size` bytes is one tensor of pictures in plain order."""
    if len(refs) != 1 or refs[0].dtype != "uint8" or len(refs[0].shape) != 4:
        return None
    shape = refs[0].shape
    plain = tuple(math.prod(shape[i + 1 :]) for i in range(4))
    covered = refs[0].strides == plain and refs[0].offset == 0 and math.prod(shape) == size > 0
    return shape if covered and shape[1] == 3 else None


def _item_size(refs: Sequence[TensorRef]) -> int:
    sizes = {ITEM_SIZES.get(ref.dtype, 1) for ref in refs}
    return sizes.pop() if len(sizes) == 1 else 1


def _check_whole(data: memoryview, size: int) -> None:
    if len(data) != size:
        raise ProtocolError(f"a buffer of {size} bytes announced, {len(data)} received")


def _decode(
    data: memoryview, coding: BufferCoding, size: int, refs: Sequence[TensorRef]
) -> memoryview:
    _check_whole(data, coding.size)
    if coding.codec:
        return registry.decode(coding.codec, data, size, refs)
    if coding.pictures:
        return _decode_pictures(data, coding, size, refs)
    if coding.values is ValueCodec.RAW:
        if coding.dtype is not None or coding.groups is not None:
            raise ProtocolError("a raw buffer is described as if it were coded")
        return lossless.unpack(data, coding.packer, size)
    dtype, groups = _check_coded(coding, size, refs)
    coded = lossless.unpack(data, coding.packer, values.coded_size(coding.values, dtype, groups))
    return values.decode_values(coded, coding.values, dtype, groups)


def _decode_pictures(
    data: memoryview, coding: BufferCoding, size: int, refs: Sequence[TensorRef]
) -> memoryview:
    shape = _picture_shape(refs, size)
    if shape is None or len(coding.pictures) != shape[0] or sum(coding.pictures) != len(data):
        raise ProtocolError(f"{len(coding.pictures)} pictures do not make a buffer of {size} bytes")
    decoded = np.empty(shape, np.uint8)
    start = 0
    for picture, length in zip(decoded, coding.pictures, strict=True):
        file = bytes(data[start : start + length])
        picture[:] = pictures.decode_picture(file, (shape[1], shape[2], shape[3]))
        start += length
    return decoded.reshape(-1).data


def _check_coded(
    coding: BufferCoding, size: int, refs: Sequence[TensorRef]
) -> tuple[FloatType, Groups]:
    """Return type and groups of coded values, after checking that they fill a buffer of `size`."""
    dtype, groups = coding.dtype, coding.groups
    if dtype is None or groups is None or dtype != values.float_type(refs, size):
        raise ProtocolError(f"a buffer is coded as {dtype}, its tensors are something else")
    if math.prod(groups) * ITEM_SIZES[dtype] != size:
        raise ProtocolError(f"{list(groups)} elements of {dtype} do not make {size} bytes")
    if values.coded_size(coding.values, dtype, groups) >= size:
        raise ProtocolError(f"{coding.values} would not have made {size} bytes smaller")
    return dtype, groups
