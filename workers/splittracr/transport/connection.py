"""The asyncio protocol of an open websocket: reads frames, writes frames, checks the peer."""

import asyncio
import time

from splittracr.experiment.errors import ProtocolError
from splittracr.transport.aiohttp_private import Opened
from splittracr.transport.channel import NORMAL, PROTOCOL_BROKEN, ByteCounter
from splittracr.transport.frames import FrameReader, Opcode
from splittracr.transport.heartbeat import Heartbeat, PeerState
from splittracr.transport.inbox import Inbox
from splittracr.transport.writer import FrameWriter


class WebSocketConnection(asyncio.BufferedProtocol):
    """One websocket after its handshake. Construct it inside the running event loop.

    `inbox` holds the messages that have arrived, `writer` sends frames. aiohttp's own protocol is
    notified when the connection ends, so that it cleans up. `limit`, `heartbeat` and `traffic`
    are those of `WebSocketChannel`.
    """

    def __init__(
        self,
        opened: Opened,
        *,
        masks: bool,
        limit: int,
        heartbeat: float | None,
        traffic: ByteCounter,
    ) -> None:
        self._transport = transport = opened.transport
        self._http = opened.protocol
        self._loop = asyncio.get_running_loop()
        self._gone = self._loop.create_future()
        self._traffic = traffic
        self._interval = heartbeat
        self._heartbeat = Heartbeat()
        self._timer: asyncio.TimerHandle | None = None
        self.inbox = Inbox(self._set_reading)
        self.writer = FrameWriter(transport, masks, traffic)
        self._reader = FrameReader(limit, self.inbox.put, self._control, time.perf_counter)
        self.received = 0
        transport.pause_reading()  # event loops choose how to read when reading starts
        transport.set_protocol(self)
        # Writing counts as paused until all bytes are written. Only then does the transport no
        # longer refer to a sender's memory. With TLS `high` bytes suffice to pause, without TLS it
        # takes more than `high`.
        under_tls = transport.get_extra_info("sslcontext") is not None
        transport.set_write_buffer_limits(high=1 if under_tls else 0, low=0)
        transport.resume_reading()
        self._check_peer()

    # Called by the transport.

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory that the next bytes belong to."""
        return self._reader.buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Take `nbytes` bytes from that memory."""
        self.received += nbytes
        self._heartbeat.heard = True
        self._traffic.received += nbytes
        if self.writer.ended is not None:
            return
        try:
            self._reader.received(nbytes)
        except ProtocolError as error:
            self._refuse(error)
        except MemoryError:
            self._refuse(ProtocolError("this end has no memory for the message"))

    def eof_received(self) -> bool:
        """Have the transport close itself."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """End the channel, and notify aiohttp."""
        self._end(f"the connection was cut{f' ({exc})' if exc else ''}")
        self._http.connection_lost(exc)
        if not self._gone.done():
            self._gone.set_result(None)

    def pause_writing(self) -> None:
        """Stop senders until all bytes are written."""
        self.writer.pause()

    def resume_writing(self) -> None:
        """Wake the senders."""
        self.writer.resume()

    # Called by the channel.

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame and wait until the connection is gone."""
        self.writer.check()
        self.writer.close(code, reason)
        self.inbox.clear()
        await asyncio.shield(self._gone)

    def abort(self, why: str) -> None:
        """End the connection at once."""
        self._end(why)
        self._transport.abort()

    # Internal.

    def _set_reading(self, reading: bool) -> None:
        (self._transport.resume_reading if reading else self._transport.pause_reading)()

    def _control(self, opcode: Opcode, body: bytes) -> None:
        match opcode:
            case Opcode.PING:
                self.writer.pong(body)
            case Opcode.CLOSE:
                code = int.from_bytes(body[:2], "big") if len(body) >= 2 else NORMAL
                reason = body[2:].decode(errors="replace")
                self.writer.close(code)
                self._end(f"the peer closed the session ({code}{': ' if reason else ''}{reason})")
                self._transport.close()
            case _:
                pass

    def _refuse(self, error: ProtocolError) -> None:
        self.inbox.end(error)
        self.writer.close(PROTOCOL_BROKEN, str(error))
        self._end(f"the peer broke the protocol: {error}")
        self._transport.close()

    def _end(self, why: str) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.writer.end(why)
        self.inbox.end()

    def _check_peer(self) -> None:
        """Ping a peer that was silent for a heartbeat; abort after another one."""
        if self._interval is None or self.writer.ended is not None:
            return
        match self._heartbeat.check(self._transport.get_write_buffer_size(), self.inbox.reading):
            case PeerState.DEAD:
                self.abort(f"the peer gave no sign of life for {self._interval:g} s")
                return
            case PeerState.SILENT:
                self.writer.control(Opcode.PING, b"")
            case PeerState.ALIVE:
                pass
        self._timer = self._loop.call_later(self._interval, self._check_peer)
