"""Lossless compression: Zstandard, LZ4 and Blosc2. The size is checked before a buffer is unpacked.

Every function is pure. A peer's buffer is unpacked only if its own header claims exactly the
expected size, so that a few bytes cannot ask for gigabytes.
"""

import struct
import threading
from enum import StrEnum
from typing import Any

import lz4.block  # type: ignore[import-untyped]
import zstandard

from splittracr.experiment.codec import Blosc2, Lossless, Lz4, Zstd
from splittracr.experiment.errors import ProtocolError


class Packer(StrEnum):
    """The library that unpacks a buffer."""

    NONE = "none"
    ZSTD = "zstd"
    LZ4 = "lz4"
    BLOSC2 = "blosc2"


_LARGEST = 2**30  # LZ4 and Blosc2 count in 32 bits; larger buffers travel raw
_HIGH_COMPRESSION = 3  # first level that the lz4 command takes to its slower, better mode


class _Contexts(threading.local):
    """Zstandard's working memory.

    Creating it costs as much as compressing 2 KB; threads share none.
    """

    def __init__(self) -> None:
        self.compressors: dict[int, zstandard.ZstdCompressor] = {}
        self.decompressor = zstandard.ZstdDecompressor()

    def compressor(self, level: int) -> zstandard.ZstdCompressor:
        if level not in self.compressors:
            self.compressors[level] = zstandard.ZstdCompressor(level=level)
        return self.compressors[level]


_CONTEXTS = _Contexts()


def pack(data: memoryview, stage: Lossless | None, itemsize: int) -> tuple[Packer, memoryview]:
    """`data` compressed by `stage`, or `data` itself if that is not smaller.

    `itemsize` is the size of an element in bytes, by which Blosc2's filters sort.
    """
    if stage is None or not 0 < len(data) <= _LARGEST:
        return Packer.NONE, data
    packer, packed = _pack(data, stage, itemsize)
    return (packer, memoryview(packed)) if len(packed) < len(data) else (Packer.NONE, data)


def _pack(data: memoryview, stage: Lossless, itemsize: int) -> tuple[Packer, bytes]:
    match stage:
        case Zstd():
            return Packer.ZSTD, _CONTEXTS.compressor(stage.level).compress(data)
        case Lz4():
            return Packer.LZ4, _pack_lz4(data, stage)
        case Blosc2():
            return Packer.BLOSC2, _pack_blosc2(data, stage, itemsize)


def unpack(data: memoryview, packer: Packer, size: int) -> memoryview:
    """The `size` bytes that were packed into `data`.

    Takes memory for `size` bytes, with any `data`. Raises ProtocolError if `data` is incomplete, or
    holds more or less.
    """
    if packer is Packer.NONE:
        if len(data) != size:
            raise ProtocolError(f"a buffer of {len(data)} bytes, expected {size}")
        return data
    if not len(data) < size <= _LARGEST:
        raise ProtocolError(f"{packer} would have made {len(data)} bytes of {size}")
    unpacked = _UNPACK[packer](data, size)
    if len(unpacked) != size:
        raise ProtocolError(f"{packer} unpacks to {len(unpacked)} bytes, expected {size}")
    return memoryview(unpacked)


def _unpack_zstd(data: memoryview, size: int) -> bytes:
    try:
        # The decompressor takes as much memory as the frame claims, and ignores its limit.
        claimed = zstandard.frame_content_size(data)
        if claimed != size:
            raise ProtocolError(f"a zstd frame claims {claimed} bytes, expected {size}")
        return _CONTEXTS.decompressor.decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ProtocolError(f"a zstd frame is broken: {error}") from error


def _pack_lz4(data: memoryview, stage: Lz4) -> bytes:
    better = {"mode": "high_compression", "compression": stage.level}
    options = better if stage.level >= _HIGH_COMPRESSION else {}
    packed: bytes = lz4.block.compress(data, store_size=False, **options)
    return packed


def _unpack_lz4(data: memoryview, size: int) -> bytes:
    try:
        unpacked: bytes = lz4.block.decompress(data, uncompressed_size=size)
    except lz4.block.LZ4BlockError as error:
        raise ProtocolError(f"an lz4 block is broken: {error}") from error
    return unpacked


_CHUNK = struct.Struct("<BBBBiii6sBB6sBB")  # c-blosc2, README_CHUNK_FORMAT
_CHUNK_VERSIONS = (5, 1)  # of the chunk, and of the packer's own format
_EXTENDED = 0b101  # both bits of the flags: a header of 32 bytes
_OPTIONAL = 0b10010  # copied as it is; blocks not split by bytes
_FORMATS = {0, 1, 3, 4}  # blosclz, lz4 and lz4hc, zlib, zstd
_INNER = {0, 1, 2, 4, 5}  # the same and their slower variants, by the library's numbers
_FILTERS = {"noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_ALL_ZERO = 0x10


def _pack_blosc2(data: memoryview, stage: Blosc2, itemsize: int) -> bytes:
    blosc2 = _blosc2()
    packed: bytes = blosc2.compress2(
        data,
        codec=blosc2.Codec[stage.inner.upper()],
        clevel=stage.level,
        filters=[blosc2.Filter(_FILTERS[stage.filter])],
        typesize=itemsize,
        nthreads=1,
    )
    return packed


def _unpack_blosc2(data: memoryview, size: int) -> bytes:
    _check_chunk(data, size)
    try:
        unpacked: bytes = _blosc2().decompress2(data, nthreads=1)
    except (ValueError, RuntimeError) as error:
        raise ProtocolError(f"a Blosc2 chunk is broken: {error}") from error
    return unpacked


def _check_chunk(data: memoryview, size: int) -> None:
    """Raise ProtocolError unless `pack` could have written this header.

    A chunk may name plug-ins, for which the library starts a process, a file to read from, or
    memory that it leaves as it was.
    """
    if len(data) < _CHUNK.size:
        raise ProtocolError(f"a Blosc2 chunk of {len(data)} bytes is too short")
    (version, inner_version, flags, _, unpacked, block, packed, filters, inner, *rest) = (
        _CHUNK.unpack_from(data)
    )
    meta, filter_meta, more_flags, special = rest
    if (unpacked, packed) != (size, len(data)):
        raise ProtocolError(
            f"a Blosc2 chunk claims {unpacked} bytes in {packed}, not {size} in {len(data)}"
        )
    known = (
        (version, inner_version) == _CHUNK_VERSIONS
        and flags & 0x1F & ~_OPTIONAL == _EXTENDED
        and flags >> 5 in _FORMATS
        and 0 < block <= size
        and filters[0] in _FILTERS.values()
        and not any((*filters[1:], *filter_meta, meta, more_flags))
        and inner in _INNER
        and special in (0, _ALL_ZERO)
    )
    if not known:
        raise ProtocolError("a Blosc2 chunk uses what this protocol does not")


def _blosc2() -> Any:
    """The library, imported on first use: that takes seconds and starts threads."""
    import blosc2  # type: ignore[import-untyped]

    return blosc2


_UNPACK = {
    Packer.ZSTD: _unpack_zstd,
    Packer.LZ4: _unpack_lz4,
    Packer.BLOSC2: _unpack_blosc2,
}
