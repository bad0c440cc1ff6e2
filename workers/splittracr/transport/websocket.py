"""A channel over one websocket, as fast as the socket takes its bytes.

aiohttp opens the websocket: TLS, authorisation, the HTTP handshake, routes beside others. Its
readers and writers would then copy each byte of a message five times, and deliver it only when it
is complete. The channel therefore takes over the transport (asyncio's `set_protocol`) and reads
and writes the frames itself. The kernel writes a payload directly to its final memory. Masks are
applied chunk by chunk, while the peer already reads.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Self

from aiohttp import ClientWebSocketResponse, web

from splittracr.planning.emulated_link import Conditions, EmulatedLink
from splittracr.transport.aiohttp_private import opened
from splittracr.transport.channel import NORMAL, ByteCounter
from splittracr.transport.connection import WebSocketConnection
from splittracr.transport.frames import Arrival, Buffer
from splittracr.transport.sender import DirectSender, PacedSender, Sender

CHUNK = 2**18
"""Bytes that are masked and written at a time; few enough to stay in the processor's cache."""

_CLOSE_SECONDS = 2.0


class WebSocketChannel:
    """A `Channel` over an open websocket; an asynchronous context manager.

    `limit` is the maximum size of a message in bytes. With `pacer_conditions` messages are delayed
    as by that link, with random numbers from `seed`. After `heartbeat` seconds without a byte the
    peer is pinged. After as long again it counts as dead. Bytes are added to `traffic`.

    No message may have been sent or received on `socket` by other means. The channel keeps a
    reference to it, because aiohttp closes a socket without references, and closes it at the end.
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
        traffic: ByteCounter | None = None,
    ) -> None:
        self._socket = socket
        masks = isinstance(socket, ClientWebSocketResponse)
        self._connection = WebSocketConnection(
            opened(socket),
            masks=masks,
            limit=limit,
            heartbeat=heartbeat,
            traffic=traffic or ByteCounter(),
        )
        self._inbox, self._writer = self._connection.inbox, self._connection.writer
        chunk += -chunk % 8  # so that a chunk begins in phase with the mask
        self._sender: Sender
        if pacer_conditions is None:
            self._sender = DirectSender(self._writer, masks, chunk)
        else:
            link = EmulatedLink(pacer_conditions, Random(seed))
            self._sender = PacedSender(self._writer, masks, chunk, link)

    async def __aenter__(self) -> Self:
        await self._sender.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def why_closed(self) -> str | None:
        """See `Channel`."""
        return self._writer.ended

    @property
    def written(self) -> int:
        """See `Channel`."""
        return self._writer.written

    @property
    def received(self) -> int:
        """See `Channel`."""
        return self._connection.received

    @property
    def reading(self) -> bool:
        """See `Channel`."""
        return self._inbox.reading

    def ping(self) -> None:
        """See `Channel`."""
        self._writer.ping()

    def abort(self, why: str) -> None:
        """See `Channel`."""
        self._connection.abort(why)

    async def send(self, parts: Sequence[Buffer]) -> None:
        """See `Channel`."""
        sending = self.begin(parts)
        if sending is not None:
            await asyncio.shield(sending)

    def begin(self, parts: Sequence[Buffer]) -> asyncio.Task[None] | None:
        """See `Channel`."""
        views = [part if type(part) is bytes else _flat(part) for part in parts]
        self._writer.check()
        return self._sender.begin(views, sum(map(len, views)))

    async def receive(self) -> Arrival | None:
        """See `Channel`."""
        return await self._inbox.next()

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """See `Channel`."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._sender.flush()
                await self._connection.close(code, reason)
        except (TimeoutError, ConnectionError):
            pass
        finally:
            self._connection.abort("this end closed the channel")
            await self._socket.close()
            await self._sender.stop()


def _flat(part: Buffer) -> memoryview:
    """Return a part as bytes, so that `len` counts bytes and not elements."""
    view = memoryview(part)
    return view.cast("B") if view.nbytes else memoryview(b"")
