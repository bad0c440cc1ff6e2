"""WebSocket frames (RFC 6455, section 5.2) without I/O: headers, masks and a reader.

Each message is one frame, so its size is known before its payload. The payload is read from the
socket directly into its final memory. Extensions and fragments are refused; neither end sends them.
"""

import struct
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from splittracr.experiment.errors import ProtocolError
from splittracr.transport.aiohttp_private import websocket_mask
from splittracr.wire.payload import ALIGNMENT

Words = NDArray[np.uint64]
Buffer = bytes | bytearray | memoryview

_MASKED, _LENGTH = 0x80, 0x7F
_FINAL = 0x80
_WHOLE_BINARY = _FINAL | 2
_SHORT, _MEDIUM = 126, 127  # lengths of up to 16 and up to 64 bits follow
_MAX_CONTROL = 125
_STAGING = 2**14
_ALIGNMENT = ALIGNMENT // 8  # words, so that a payload can be used without a copy


class Arrival(NamedTuple):
    """A message as it arrived. `data` is writable, and the receiver has the only reference.

    `first` and `last` are the times in seconds at which its first and last bytes arrived.
    `size_on_wire` includes the frame's header; `size_at_first` of these bytes came first.
    """

    data: memoryview
    first: float
    last: float
    size_on_wire: int
    size_at_first: int = 0

    @property
    def receiving_ms(self) -> float:
        """Milliseconds over which the message arrived; 0 if it came in one piece.

        It is extrapolated from the rate of all bytes after the first ones.
        """
        later = self.size_on_wire - self.size_at_first
        return (self.last - self.first) * 1e3 * self.size_on_wire / later if later else 0.0


class Opcode(IntEnum):
    """The kind of a frame."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


def header(opcode: int, size: int, key: bytes = b"") -> bytes:
    """Return the header of an unfragmented frame of `size` bytes; `key` is its mask, four bytes."""
    first, mask = _FINAL | opcode, _MASKED if key else 0
    if size < _SHORT:
        return struct.pack("!BB", first, mask | size) + key
    if size < 2**16:
        return struct.pack("!BBH", first, mask | _SHORT, size) + key
    return struct.pack("!BBQ", first, mask | _MEDIUM, size) + key


def masked(key: bytes, *parts: Buffer, after: bytes = b"") -> bytearray:
    """Return `after` as it is, then a copy of all parts, masked with `key`, four bytes.

    The parts begin at a multiple of four bytes of their frame. Masking is its own inverse.
    """
    copy = bytearray().join((after, *parts))
    turn = -len(after) % 4
    websocket_mask(key[turn:] + key[:turn], copy)
    copy[: len(after)] = after
    return copy


def _memory(size: int) -> Words:
    """Return aligned memory for `size` bytes, in whole words; the kernel fills it lazily."""
    room = np.empty((size + 7) // 8 + _ALIGNMENT, np.uint64)
    return room[-(room.ctypes.data // 8) % _ALIGNMENT :][: (size + 7) // 8]


def _word(key: bytes) -> Any:
    return np.frombuffer(key * 2, np.uint64)[0]


class FrameReader:
    """Parses bytes into frames.

    Write the next bytes to `buffer()` and call `received` with their number. `message` is called
    with each binary frame, `control` with each control frame. Headers and small frames are
    collected in a staging buffer. The rest of a large payload is written to its final memory and
    unmasked as it arrives.

    `received` raises ProtocolError for a frame that this project does not send. It also raises it
    for a frame of more than `limit` bytes, before it allocates memory for it.
    """

    def __init__(
        self,
        limit: int,
        message: Callable[[Arrival], None],
        control: Callable[[Opcode, bytes], None],
        clock: Callable[[], float],
    ) -> None:
        self._limit = limit
        self._message = message
        self._control = control
        self._clock = clock
        self._staging = bytearray(_STAGING)
        self._room = memoryview(self._staging)
        self._staged = 0
        self._payload: memoryview | None = None  # of the incomplete frame
        self._words = np.empty(0, np.uint64)  # the same memory
        self._place = 0
        self._key: Any = None
        self._unmasked = 0  # words
        self._header = self._at_first = 0  # bytes
        self._began = 0.0

    def buffer(self) -> memoryview:
        """Return the memory that the next bytes belong to; never empty."""
        if self._payload is None:
            return self._room[self._staged :] if self._staged else self._room
        return self._payload[self._place :]

    def received(self, count: int) -> None:
        """Take `count` bytes that were written to `buffer()`."""
        if self._payload is not None:
            self._fill(count)
        elif self._staged or not self._take_whole(count):
            self._take_all(self._staged + count)

    def _take_whole(self, count: int) -> bool:
        """Take a message if its one short frame is all that arrived; returns False otherwise."""
        data = self._staging
        second = data[1]
        size, at = second & _LENGTH, 2
        if size == _SHORT:
            size, at = data[2] << 8 | data[3], 4
        elif size == _MEDIUM:
            return False
        start = at + 4 if second & _MASKED else at
        if data[0] != _WHOLE_BINARY or start + size != count or size > self._limit:
            return False
        body = data[start:count]
        if start != at:
            websocket_mask(bytes(data[at:start]), body)
        now = self._clock()
        self._message(Arrival(memoryview(body), now, now, count, count))
        return True

    def _take_all(self, end: int) -> None:
        """Take all bytes of the staging buffer up to `end`."""
        start = 0
        while start < end and (used := self._take(start, end)):
            start += used
        self._staged = end - start
        if self._staged and start:
            self._staging[: self._staged] = self._staging[start:end]

    def _take(self, start: int, end: int) -> int:
        """Read a header and as much payload as there is; returns 0 without a whole header."""
        data = self._staging
        if end - start < 2:
            return 0
        first, second = data[start], data[start + 1]
        opcode = Opcode.BINARY if first == _WHOLE_BINARY else _opcode(first)
        size, at = second & _LENGTH, start + 2
        if size == _SHORT:
            size, at = int.from_bytes(data[at : at + 2], "big"), at + 2
        elif size == _MEDIUM:
            size, at = int.from_bytes(data[at : at + 8], "big"), at + 8
        payload = at + 4 if second & _MASKED else at
        if payload > end:
            return 0
        key = bytes(data[at:payload])
        if opcode is not Opcode.BINARY:
            return self._take_control(opcode, key, size, payload, end) and payload + size - start
        if size > self._limit:
            raise ProtocolError(f"a message of {size} bytes announced, the limit is {self._limit}")
        if payload + size <= end:  # whole, and small
            body = data[payload : payload + size]
            if key:
                websocket_mask(key, body)
            now, whole = self._clock(), payload + size - start
            self._message(Arrival(memoryview(body), now, now, whole, whole))
            return whole
        here = min(size, end - payload)
        self._begin(size, key, payload - start, here)
        if self._payload is not None:
            self._payload[:here] = data[payload : payload + here]
        self._fill(here)
        return payload + here - start

    def _take_control(self, opcode: Opcode, key: bytes, size: int, start: int, end: int) -> bool:
        """Take a control frame; returns False if a part of it is missing."""
        if size > _MAX_CONTROL:
            raise ProtocolError(f"a control frame of {size} bytes")
        if start + size > end:
            return False
        body = self._staging[start : start + size]
        if key:
            websocket_mask(key, body)
        self._control(opcode, bytes(body))
        return True

    def _begin(self, size: int, key: bytes, header: int, here: int) -> None:
        self._header, self._began = header, self._clock()
        self._at_first = header + here
        self._words = _memory(size)
        self._payload = self._words.data.cast("B")[:size]
        self._place = self._unmasked = 0
        self._key = _word(key) if key else None

    def _fill(self, count: int) -> None:
        """Count and unmask `count` more bytes of the payload."""
        payload = self._payload
        assert payload is not None
        self._place += count
        complete = self._place == len(payload)
        if self._key is not None:  # whole words only, so that the mask is always in phase
            until = len(self._words) if complete else self._place // 8
            part = self._words[self._unmasked : until]
            part ^= self._key
            self._unmasked = until
        if complete:
            self._payload = None
            size = self._header + len(payload)
            arrival = Arrival(payload, self._began, self._clock(), size, self._at_first)
            self._message(arrival)


def _opcode(first: int) -> Opcode:
    """Return the kind of a frame, from its first byte."""
    try:
        opcode = Opcode(first & 0x0F)
    except ValueError:
        raise ProtocolError(f"a frame of unknown kind {first & 0x0F}") from None
    if first & 0x70:
        raise ProtocolError("a frame with an extension that was not agreed on")
    if opcode is Opcode.TEXT:
        raise ProtocolError("a text frame; messages are binary")
    if opcode is Opcode.CONTINUATION or not first & _FINAL:
        raise ProtocolError("a fragment of a message; each has to come in one frame")
    return opcode
