"""Writes frames of messages, and control frames between two messages."""

import asyncio
import struct
from random import getrandbits

from splittracr.transport.channel import ByteCounter
from splittracr.transport.frames import Buffer, Opcode, header, masked


class FrameWriter:
    """Writes to one transport. `masks` is true for the end that has to mask (the client).

    `in_frame` is true while a message is written in several pieces. Control frames then wait for
    its end. `paused` is true while the transport refers to memory of a sender.
    """

    def __init__(self, transport: asyncio.Transport, masks: bool, traffic: ByteCounter) -> None:
        self._transport = transport
        self._masks = masks
        self._traffic = traffic
        self._controls: list[Buffer] = []  # control frames that wait for the end of a message
        self._pong: bytes | None = None  # a pong that waits for room in the transport
        self._flowing = asyncio.Event()  # not paused, or ended
        self._flowing.set()
        self._sent_close = False
        self.in_frame = False
        self.paused = False
        self.ended: str | None = None  # why the connection has ended
        self.written = 0

    def check(self) -> None:
        """Raise ConnectionResetError unless messages can be written."""
        if self.ended is not None:
            raise ConnectionResetError(self.ended)
        if self._sent_close:
            raise ConnectionResetError("this end closed the session")

    def write(self, *chunks: Buffer) -> bool:
        """Write chunks. Returns whether the kernel took all bytes; if not, wait for `drained`."""
        size = sum(map(len, chunks))
        self._traffic.sent += size
        if len(chunks) == 1:
            self._transport.write(chunks[0])
        else:
            self._transport.writelines(chunks)
        self.written += size
        return not self.paused

    async def drained(self) -> None:
        """Wait until the transport no longer refers to memory of a sender."""
        await self._flowing.wait()
        if self.ended is not None:
            raise ConnectionResetError(self.ended)

    def end_frame(self) -> None:
        """End a message: write the control frames that waited for it."""
        self.in_frame = False
        for frame in self._controls:
            self.write(frame)
        self._controls.clear()
        self._write_pong()

    def pause(self) -> None:
        """Handle `pause_writing` of the transport."""
        self.paused = True
        self._flowing.clear()

    def resume(self) -> None:
        """Handle `resume_writing` of the transport."""
        self.paused = False
        self._write_pong()
        self._flowing.set()

    def end(self, why: str) -> None:
        """Note the end of the connection and wake all senders. The first reason is kept."""
        if self.ended is None:
            self.ended = why
        self._flowing.set()

    def control(self, opcode: Opcode, body: bytes) -> None:
        """Write a control frame, after the message that is being written."""
        key = new_key() if self._masks else b""
        first = header(opcode, len(body), key)
        frame = masked(key, body, after=first) if key else first + body
        if self.in_frame:
            self._controls.append(frame)
        elif self.ended is None:
            self.write(frame)

    def ping(self) -> None:
        """Write a ping, unless a message is being written."""
        if not (self.in_frame or self.paused):
            self.control(Opcode.PING, b"")

    def pong(self, body: bytes) -> None:
        """Answer a ping now or as soon as there is room.

        If several wait, the latest is answered (RFC 6455, section 5.5.3).
        """
        if self.in_frame or self.paused:
            self._pong = body
        else:
            self.control(Opcode.PONG, body)

    def close(self, code: int, reason: str = "") -> None:
        """Write a close frame, once."""
        if not self._sent_close:
            self._sent_close = True
            self.control(Opcode.CLOSE, struct.pack("!H", code) + reason.encode()[:120])

    def _write_pong(self) -> None:
        if self._pong is not None and not self.in_frame:
            body, self._pong = self._pong, None
            self.control(Opcode.PONG, body)


def new_key() -> bytes:
    """Return a new random mask."""
    return getrandbits(32).to_bytes(4, "big")
