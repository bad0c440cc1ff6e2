"""A channel over one websocket, as fast as the socket takes its bytes.

aiohttp opens the websocket: TLS, authorisation, the HTTP handshake, routes beside others. After
that its readers and writers would copy each byte of a message five times and hand it on only when
all of it is there. The channel therefore takes over the transport (asyncio's `set_protocol`) and
reads and writes the frames itself: the kernel writes a payload to the memory where it stays, masks
are applied piece by piece while the peer already reads, and nothing is joined.
"""

import asyncio
from collections.abc import Sequence
from random import Random
from types import TracebackType
from typing import Self

from aiohttp import ClientWebSocketResponse, web

from splittracr.planning.link import Conditions, EmulatedLink
from splittracr.transport.aiohttp_private import opened
from splittracr.transport.channel import NORMAL, Traffic
from splittracr.transport.connection import Connection
from splittracr.transport.frames import Arrival, Buffer
from splittracr.transport.sender import DirectSender, PacedSender, Sender

CHUNK = 2**18
"""Bytes that are masked and written at a time, so that they are still in the processor's cache."""

_CLOSE_SECONDS = 2.0


class WebSocketChannel:
    """A `Channel` over an open websocket; an asynchronous context manager.

    `limit` is the size in bytes of the largest message that is accepted. With `pacer_conditions`
    messages leave as over that link, with random numbers from `seed`. After `heartbeat` seconds
    without a byte the peer is pinged, and after as long again it counts as gone. Bytes are added
    to `traffic`.

    Nothing may have been sent or received on `socket` by other means. The channel refers to it,
    since aiohttp closes a socket without references, and closes it at the end.
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
        masks = isinstance(socket, ClientWebSocketResponse)
        self._connection = Connection(
            opened(socket),
            masks=masks,
            limit=limit,
            heartbeat=heartbeat,
            traffic=traffic or Traffic(),
        )
        self._inbox, self._output = self._connection.inbox, self._connection.output
        chunk += -chunk % 8  # so that a chunk begins in phase with the mask
        self._sender: Sender
        if pacer_conditions is None:
            self._sender = DirectSender(self._output, masks, chunk)
        else:
            link = EmulatedLink(pacer_conditions, Random(seed))
            self._sender = PacedSender(self._output, masks, chunk, link)

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
    def closed(self) -> bool:
        """See `Channel`."""
        return self._output.ended is not None

    @property
    def why_closed(self) -> str | None:
        """See `Channel`."""
        return self._output.ended

    @property
    def written(self) -> int:
        """See `Channel`."""
        return self._output.written

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
        self._output.ping()

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
        self._output.check()
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
    """Return the bytes of a part, where `len` of a memoryview counts elements."""
    view = memoryview(part)
    return view.cast("B") if view.nbytes else memoryview(b"")
