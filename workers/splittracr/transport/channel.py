"""Whole messages over one websocket, as fast as the socket takes them.

aiohttp opens the websocket: TLS, authorisation, the HTTP handshake, routes beside others. After
that its readers and writers would copy each byte of a message five times and hand it on only when
all of it is there. A channel therefore takes over the transport (asyncio's `set_protocol`) and
speaks the frames itself: the kernel writes a payload to the memory where it stays, masks are
applied piece by piece while the peer already reads, and nothing is joined.
"""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random, getrandbits
from types import TracebackType
from typing import Any, Self

from aiohttp import ClientWebSocketResponse, web

from splittracr.experiment.errors import ProtocolError
from splittracr.planning.link import Conditions, EmulatedLink
from splittracr.transport.frames import Arrival, Buffer, FrameReader, Opcode, head, masked
from splittracr.transport.pacer import Pacer

CHUNK = 2**18
"""Bytes that are masked and written at a time, so that they are still in the processor's cache."""

_SMALL = 2**14  # bytes: up to here a message is joined and written at once
_PACED_CHUNK = 2**14  # bytes that arrive at a time over an emulated link
_REAL_NS = 150_000  # what the real way takes on one machine, from a timer's end to the receiver
_MOST_WAITING = 2**20  # bytes of whole messages that nobody received yet
_CLOSE_SECONDS = 2.0

NORMAL, GOING_AWAY, PROTOCOL_BROKEN, TOO_BIG = 1000, 1001, 1002, 1009
"""Close codes (RFC 6455, section 7.4.1)."""


@dataclass
class Traffic:
    """Bytes that crossed websockets, heads of frames included."""

    sent: int = 0
    received: int = 0


class Channel:
    """Messages both ways over an open websocket; an asynchronous context manager.

    `limit` is the size in bytes of the largest message that is accepted. With `pacer_conditions`
    what is sent leaves as over that link, with random numbers from `seed`. After `heartbeat`
    seconds without a byte from the peer it is asked for a sign of life, and after as long again
    it counts as gone. Bytes are added to `traffic`.

    Nothing may have been sent or received on `socket` by other means. It stays referred to, since
    aiohttp closes what nobody refers to, and is closed with the channel.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse | ClientWebSocketResponse,
        *,
        limit: int,
        chunk: int = CHUNK,
        pacer_conditions: Conditions | None = None,
        seed: int | str = 0,
        heartbeat: float | None = None,
        traffic: Traffic | None = None,
    ) -> None:
        self._socket = socket
        self._masks = isinstance(socket, ClientWebSocketResponse)
        self._chunk = chunk + -chunk % 8  # so that a chunk begins in phase with the mask
        self._background: set[asyncio.Task[None]] = set()  # each writes a message
        self._turn = asyncio.Lock()  # whose turn among them it is
        self._wire = _Wire(socket, limit, heartbeat, traffic or Traffic())
        self._pacer: Pacer | None = None
        if pacer_conditions is not None:
            link = EmulatedLink(pacer_conditions, Random(seed))
            self._chunk = min(self._chunk, _PACED_CHUNK)
            self._pacer = Pacer(link, self._write_paced, lead_ns=_REAL_NS)
            self._owed: deque[int] = deque()  # chunks of each message that the pacer has

    async def __aenter__(self) -> Self:
        if self._pacer is not None:
            await self._pacer.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._wire.lost is not None

    @property
    def why_closed(self) -> str | None:
        """What ended the channel, in words for a person; None while it is open."""
        return self._wire.lost

    @property
    def written(self) -> int:
        """Bytes handed to the transport so far."""
        return self._wire.written

    @property
    def received(self) -> int:
        """Bytes taken from the transport so far."""
        return self._wire.received

    @property
    def reading(self) -> bool:
        """False while this end takes no bytes, since too many messages wait to be received."""
        return self._wire.reading

    def ping(self) -> None:
        """Have bytes cross the connection both ways, unless a message is being written anyway."""
        self._wire.ping()

    def abort(self, why: str) -> None:
        """End the channel at once; `why_closed` is then `why`."""
        self._wire.abort(why)

    async def send(self, parts: Sequence[Buffer]) -> None:
        """Send one message, the bytes of all parts in order; from any number of tasks.

        Returns when the peer's slowness allows it, and when the parts are free to be changed. A
        sender that is cancelled has sent its message all the same, and its parts may be in use
        for as long as it takes. Raises ConnectionError when the peer is gone or closing.
        """
        sending = self.begin(parts)
        if sending is not None:
            await asyncio.shield(sending)

    def begin(self, parts: Sequence[Buffer]) -> asyncio.Task[None] | None:
        """Send one message as far as nothing is in its way: the quick way, without a task.

        Returns the task that sends the rest of it, whether or not it is waited for, and until
        whose end the parts are in use; None where there is none. Raises ConnectionError when the
        peer is gone or closing.
        """
        views = [part if type(part) is bytes else _flat(part) for part in parts]
        size = sum(map(len, views))
        wire = self._wire
        wire.check()
        if self._pacer is not None:
            return self._begin_paced(self._pacer, views, size)
        if self._background or wire.paused:
            return self._in_background(self._write(self._frame(views, size)))
        if size <= _SMALL:
            sent = wire.write(self._small(views, size))
        elif not self._masks:
            sent = wire.write(head(Opcode.BINARY, size), *views)
        else:
            return self._begin_frame(self._frame(views, size))
        return None if sent else self._in_background(wire.drained())

    async def receive(self) -> Arrival | None:
        """The next message, in the order of sending; None when the peer has closed or is gone.

        One task at a time. Raises ProtocolError when the peer sent what is no message; the
        channel is closed then.
        """
        return await self._wire.next()

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Say goodbye, wait briefly for the peer's and close the socket.

        What `send` has returned for is sent, if the peer reads it within two seconds.
        """
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._finish(code, reason)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._wire.abort("this end closed the channel")
            await self._socket.close()
            if self._pacer is not None:
                await self._pacer.__aexit__(None, None, None)

    async def _finish(self, code: int, reason: str) -> None:
        while self._background:
            await asyncio.wait(self._background)
        if self._pacer is not None:
            await self._pacer.flush()
        await self._wire.say_goodbye(code, reason)

    def _forget(self, sending: asyncio.Task[None]) -> None:
        self._background.discard(sending)
        if not sending.cancelled():
            sending.exception()  # whoever waited has it; a cancelled sender does not want it

    def _begin_frame(self, frame: Iterator[Sequence[Buffer]]) -> asyncio.Task[None] | None:
        """Write a masked message as far as the kernel takes it."""
        for chunks in frame:
            if not self._wire.write(*chunks):
                self._wire.in_frame = True
                return self._in_background(self._write(frame))
        return None

    def _small(self, views: Sequence[Buffer], size: int) -> bytes:
        if not self._masks:
            return b"".join((head(Opcode.BINARY, size), *views))
        key = _new_key()
        return head(Opcode.BINARY, size, key) + masked(b"".join(views), key)

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have a task write a message, or the rest of it, even if nobody waits for that."""
        task = asyncio.create_task(self._in_turn(work))
        self._background.add(task)
        task.add_done_callback(self._forget)
        return task

    async def _in_turn(self, work: Coroutine[Any, Any, None]) -> None:
        async with self._turn:
            await work

    async def _write(self, frame: Iterable[Sequence[Buffer]]) -> None:
        await self._wire.drained()
        self._wire.in_frame = True
        for chunks in frame:
            if not self._wire.write(*chunks):
                await self._wire.drained()
        self._wire.end_frame()

    def _begin_paced(
        self, pacer: Pacer, views: Sequence[Buffer], size: int
    ) -> asyncio.Task[None] | None:
        """A message over the emulated link. Chunks are masked while others are on their way."""
        frame = self._frame(views, size)
        if size > self._chunk or self._background:
            return self._in_background(self._send_paced(pacer, frame, -(-size // self._chunk)))
        self._owed.append(1)
        # With the pacer before anything else happens.
        has_room = pacer.put([b"".join(next(frame))])
        return None if has_room else self._in_background(pacer.room())

    async def _send_paced(
        self, pacer: Pacer, frame: Iterable[Sequence[Buffer]], count: int
    ) -> None:
        self._owed.append(max(1, count))
        for chunks in frame:
            await pacer.send([b"".join(chunks)])

    async def _write_paced(self, chunk: Buffer) -> None:
        self._wire.check()
        self._wire.in_frame = True
        if not self._wire.write(chunk):
            await self._wire.drained()
        self._owed[0] -= 1
        if self._owed[0] == 0:
            self._owed.popleft()
            self._wire.end_frame()

    def _frame(self, views: Sequence[Buffer], size: int) -> Iterator[tuple[Buffer, ...]]:
        """A message as it goes to the transport, one chunk after the other."""
        key = _new_key() if self._masks else b""
        first: tuple[Buffer, ...] = (head(Opcode.BINARY, size, key),)
        for piece in _pieces(views, self._chunk):
            yield (*first, masked(piece, key) if key else piece)
            first = ()
        if first:
            yield first


def _new_key() -> bytes:
    return getrandbits(32).to_bytes(4, "big")


def _flat(part: Buffer) -> memoryview:
    """The bytes of a part, where `len` of a memoryview counts elements."""
    view = memoryview(part)
    return view.cast("B") if view.nbytes else memoryview(b"")


def _pieces(views: Sequence[Buffer], size: int) -> Iterator[Buffer]:
    """All bytes in pieces of `size`, the last one smaller; views of one part where possible."""
    pending: list[memoryview] = []
    room = size
    for part in views:
        view: memoryview = memoryview(part)
        while view:
            pending.append(view[:room])
            room -= len(pending[-1])
            view = view[len(pending[-1]) :]
            if room == 0:
                yield pending[0] if len(pending) == 1 else b"".join(pending)
                pending, room = [], size
    if pending:
        yield pending[0] if len(pending) == 1 else b"".join(pending)


class _Wire(asyncio.BufferedProtocol):
    """The transport's protocol once aiohttp has opened it: frames in, bytes out, signs of life.

    aiohttp's own protocol is told when the connection ends, so that it cleans up.
    """

    def __init__(
        self,
        socket: web.WebSocketResponse | ClientWebSocketResponse,
        limit: int,
        heartbeat: float | None,
        traffic: Traffic,
    ) -> None:
        writer = socket._writer  # the only way from a client's websocket to its transport
        if writer is None or writer.transport.is_closing():
            raise ConnectionResetError("the connection was closed before its first message")
        self._masks = isinstance(socket, ClientWebSocketResponse)
        self._loop = asyncio.get_running_loop()
        self._transport = writer.transport
        self._http = writer.protocol
        self._reader = FrameReader(limit, self._message, self._control, time.perf_counter)
        self._arrived: deque[Arrival] = deque()
        self._waiting = 0  # bytes of them
        self._stopped = False
        self._receiver: asyncio.Future[None] | None = None
        self._flowing = asyncio.Event()  # not paused, or lost
        self._flowing.set()
        self._said_goodbye = False
        self._gone = self._loop.create_future()
        self._error: ProtocolError | None = None
        self._controls: list[bytes] = []  # to be sent between two messages
        self._pong: bytes | None = None  # the same, for want of room
        self._traffic = traffic
        self._heartbeat = heartbeat
        self._heard = True
        self._asked = False
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None
        self.in_frame = False
        self.paused = False
        self.lost: str | None = None
        self.written = 0
        self.received = 0
        self._take_over()

    def _take_over(self) -> None:
        transport = self._transport
        transport.pause_reading()  # event loops choose how to read when reading starts
        transport.set_protocol(self)
        # Write at once, and count as paused until all is written: the memory that was given to
        # the transport is then free again.
        # Under TLS `high` is reached by as many bytes, in the clear only by more.
        under_tls = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=1 if under_tls else 0, low=0)
        transport.resume_reading()
        self._tick()

    # What the transport calls.

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        self.received += nbytes
        self._heard = True
        self._traffic.received += nbytes
        if self.lost is not None:
            return
        try:
            self._reader.received(nbytes)
        except ProtocolError as error:
            self._broken(error)
        except MemoryError:
            self._broken(ProtocolError("a message for which there is no memory here"))

    def eof_received(self) -> bool:
        return False  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        cut = f" ({exc})" if exc else ""
        self._lose(f"the connection was cut{cut}")
        self._http.connection_lost(exc)
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        self.paused = True
        self._flowing.clear()

    def resume_writing(self) -> None:
        self.paused = False
        self._answer_ping()
        self._flowing.set()

    # Receiving.

    def _answer_ping(self) -> None:
        if self._pong is not None and not self.in_frame:
            pong, self._pong = self._pong, None
            self._say(Opcode.PONG, pong)

    def _message(self, arrival: Arrival) -> None:
        self._arrived.append(arrival)
        self._waiting += _cost(arrival)
        if self._waiting > _MOST_WAITING:
            self._stop_reading(True)
        _wake(self._receiver)

    def _control(self, opcode: Opcode, body: bytes) -> None:
        match opcode:
            case Opcode.PING if not (self.in_frame or self.paused):
                self._say(Opcode.PONG, body)
            case Opcode.PING:  # the latest is enough of an answer (RFC 6455, section 5.5.3)
                self._pong = body
            case Opcode.CLOSE:
                code = int.from_bytes(body[:2], "big") if len(body) >= 2 else NORMAL
                reason = body[2:].decode(errors="replace")
                if not self._said_goodbye:
                    self._said_goodbye = True
                    self._say(Opcode.CLOSE, body[:2])
                self._lose(f"the peer closed the session ({code}{': ' if reason else ''}{reason})")
                self._transport.close()
            case _:
                pass

    async def next(self) -> Arrival | None:
        while not self._arrived:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            if self.lost is not None:
                return None
            assert self._receiver is None, "one receiver at a time"
            self._receiver = self._loop.create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        arrival = self._arrived.popleft()
        self._waiting -= _cost(arrival)
        if self._stopped and self._waiting <= _MOST_WAITING:
            self._stop_reading(False)
        return arrival

    def _stop_reading(self, stop: bool) -> None:
        """Let the peer feel that nobody takes its messages, or go on."""
        if stop != self._stopped and self.lost is None:
            self._stopped = stop
            (self._transport.pause_reading if stop else self._transport.resume_reading)()

    def _broken(self, error: ProtocolError) -> None:
        self._error = error
        self._say_close(PROTOCOL_BROKEN, str(error))
        self._lose(f"the peer broke the protocol: {error}")
        self._transport.close()

    # Sending.

    def check(self) -> None:
        """Raise ConnectionResetError unless the peer can be written to."""
        if self.lost is not None:
            raise ConnectionResetError(self.lost)
        if self._said_goodbye:
            raise ConnectionResetError("this end closed the session")

    def write(self, *chunks: Buffer) -> bool:
        """Whether the kernel took all of it at once; otherwise wait for `drained`."""
        self._traffic.sent += sum(map(len, chunks))
        self._transport.writelines(chunks)
        self.written += sum(map(len, chunks))
        return not self.paused

    async def drained(self) -> None:
        """Wait until the transport refers to no memory of a sender any more."""
        await self._flowing.wait()
        if self.lost is not None:
            raise ConnectionResetError(self.lost)

    def end_frame(self) -> None:
        """A message is written: say what had to wait for its end."""
        self.in_frame = False
        for frame in self._controls:
            self.write(frame)
        self._controls.clear()
        self._answer_ping()

    def _say(self, opcode: Opcode, body: bytes) -> None:
        key = _new_key() if self._masks else b""
        frame = head(opcode, len(body), key) + (masked(body, key) if key else body)
        if self.in_frame:
            self._controls.append(frame)
        elif self.lost is None:
            self.write(frame)

    def _say_close(self, code: int, reason: str) -> None:
        self._said_goodbye = True
        self._say(Opcode.CLOSE, struct.pack("!H", code) + reason.encode()[:120])

    # The end.

    async def say_goodbye(self, code: int, reason: str) -> None:
        """Close the session and wait until the peer has done so, too."""
        self.check()
        self._say_close(code, reason)
        self._arrived.clear()
        self._stop_reading(False)
        await asyncio.shield(self._gone)

    def abort(self, why: str) -> None:
        self._lose(why)
        self._transport.abort()

    def _lose(self, why: str) -> None:
        if self.lost is None:
            self.lost = why
        if self._timer is not None:
            self._timer.cancel()
        self._flowing.set()
        _wake(self._receiver)

    # Signs of life.

    @property
    def reading(self) -> bool:
        return not self._stopped

    def ping(self) -> None:
        if not (self.in_frame or self.paused):
            self._say(Opcode.PING, b"")

    def _tick(self) -> None:
        """Ask a peer that was silent for a heartbeat; give it up after another one."""
        if self._heartbeat is None or self.lost is not None:
            return
        unsent = self._transport.get_write_buffer_size()
        if self._heard or unsent != self._unsent or self._stopped:
            self._asked = False
        elif self._asked:
            self._lose(f"the peer gave no sign of life for {self._heartbeat:g} s")
            self._transport.abort()
            return
        else:
            self._asked = True
            self._say(Opcode.PING, b"")
        self._heard, self._unsent = False, unsent
        self._timer = self._loop.call_later(self._heartbeat, self._tick)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _cost(arrival: Arrival) -> int:
    """Bytes of memory that a message takes while it waits; an empty one takes some, too."""
    return arrival.size_on_wire + 256
