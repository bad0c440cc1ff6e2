"""The size of the pixels in an AVIF file, read before anything is decoded.

An AVIF announces its size, and the AV1 picture in it has a size of its own, for which the decoder
takes memory. Only files as libavif writes them for one opaque picture are read: the AV1
specification (section 5.5) and ISO/IEC 14496-12 (section 8.11.3) define their fields.
"""

import struct
from collections.abc import Iterator

from splittracr.experiment.errors import ProtocolError

_SEQUENCE_HEADER, _DELIMITER, _FRAME = 1, 2, 6  # types of open bitstream units


def size(data: bytes) -> tuple[int, int]:
    """Width and height of the AV1 picture in a file. Raises ProtocolError for other files."""
    boxes = list(_boxes(data))
    if [kind for kind, _, _ in boxes] != [b"ftyp", b"meta", b"mdat"]:
        raise ProtocolError("an AVIF holds more or less than one picture")
    (_, first, last), (_, start, end) = boxes[1:]
    # One item, all of it in the box mdat: version 0, sizes of 4 bytes, item 1, one extent.
    place = b"iloc" + struct.pack(">IBBHHHHII", 0, 0x44, 0, 1, 1, 0, 1, start, end - start)
    meta = data[first:last]
    if meta.count(b"iloc") != 1 or place not in meta:
        raise ProtocolError("an AVIF holds its picture in several parts")
    units = [one for one in _units(data[start:end]) if one[0] != _DELIMITER]
    if [kind for kind, _ in units] != [_SEQUENCE_HEADER, _FRAME]:
        raise ProtocolError("an AVIF holds more or less than one frame")
    return _sides(units[0][1])


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte of the content and end of each box."""
    at = 0
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        if length < 8 or at + length > len(data):
            raise ProtocolError("an AVIF has a box that is longer than the file")
        yield data[at + 4 : at + 8], at + 8, at + length
        at += length


def _units(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Type and content of each unit; all of them have to announce their length."""
    at = 0
    while at < len(data):
        kind, flags = data[at] >> 3, data[at] & 7
        if kind > 15 or flags != 2:  # an extension, or no length
            raise ProtocolError("an AVIF has a unit without a length")
        length, at = _length(data, at + 1)
        if at + length > len(data):
            raise ProtocolError("an AVIF has a unit that is longer than the file")
        yield kind, data[at : at + length]
        at += length


def _length(data: bytes, at: int) -> tuple[int, int]:
    """A length in groups of seven bits (leb128), and where it ends."""
    value = 0
    for i, byte in enumerate(data[at : at + 5]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ProtocolError("an AVIF has a unit without a length")


def _sides(header: bytes) -> tuple[int, int]:
    """The largest frame of a sequence header, which is the size of a still picture's only frame."""
    bits = "".join(f"{byte:08b}" for byte in header[:10]).ljust(80, "0")
    if bits[3:5] != "11":  # still_picture, reduced_still_picture_header
        raise ProtocolError("an AVIF holds no still picture")
    width, height = (int(bits[at : at + 4], 2) + 1 for at in (10, 14))
    first, last = bits[18 : 18 + width], bits[18 + width : 18 + width + height]
    return int(first, 2) + 1, int(last, 2) + 1
