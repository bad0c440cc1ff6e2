"""How edge and server open the websockets that channels run over: one place for both ends.

aiohttp's own features stay off, since a channel speaks the frames itself: no deflate (tensors
hardly deflate, and deflating them stalls the loop), no pings, no reader. TCP_NODELAY is what
aiohttp sets by itself, and the kernel sizes socket buffers better than a fixed size would.
"""

from collections.abc import Mapping
from ssl import SSLContext

import aiohttp
from aiohttp import web


async def accept(request: web.Request) -> web.WebSocketResponse:
    """The server's end of a websocket, which reads nothing until a channel takes it over."""
    socket = web.WebSocketResponse(compress=False, autoping=False)
    await socket.prepare(request)
    if request.transport is None:
        raise ConnectionResetError("the peer was gone before the session began")
    request.transport.pause_reading()
    return socket


async def connect(
    client: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str] | None = None,
    tls: SSLContext | None = None,
) -> aiohttp.ClientWebSocketResponse:
    """The edge's end of a websocket, which reads nothing until a channel takes it over.

    Raises aiohttp.ClientError where there is no such server, or it does not want this edge.
    """
    socket = await client.ws_connect(
        url, headers=headers, ssl=True if tls is None else tls, compress=0, autoping=False
    )
    socket._writer.transport.pause_reading()
    return socket
