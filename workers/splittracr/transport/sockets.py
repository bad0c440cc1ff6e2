"""Opens the websockets of channels, on the edge and on the server.

aiohttp's compression, pings and reader are off, because a channel reads and writes frames itself.
Compression would also stall the event loop, and tensors hardly compress. aiohttp sets TCP_NODELAY.
The size of socket buffers is left to the kernel.
"""

import asyncio
import socket as sockets
from collections.abc import Mapping
from ssl import SSLContext

import aiohttp
from aiohttp import web

from splittracr.transport.aiohttp_private import opened

_KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 8}  # seconds, and a count
USER_TIMEOUT_MS = 300_000
"""The connection ends if sent bytes are not acknowledged for this time.

A server that reads no bytes because its memory is full looks the same, so the time is longer than
such a wait. The heartbeats detect a dead peer much earlier.
"""


async def accept(request: web.Request) -> web.WebSocketResponse:
    """Return the server's end of a websocket, which reads nothing until a channel takes it over."""
    socket = web.WebSocketResponse(compress=False, autoping=False)
    await socket.prepare(request)
    if request.transport is None:
        raise ConnectionResetError("the peer closed the connection before the session began")
    request.transport.pause_reading()
    _keep_alive(request.transport)
    return socket


async def connect(
    client: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str] | None = None,
    tls: SSLContext | None = None,
) -> aiohttp.ClientWebSocketResponse:
    """Return the edge's end of a websocket, which reads nothing until a channel takes it over.

    Raises aiohttp.ClientError if there is no such server or it refuses this edge.
    """
    socket = await client.ws_connect(
        url, headers=headers, ssl=True if tls is None else tls, compress=0, autoping=False
    )
    transport = opened(socket).transport
    transport.pause_reading()
    _keep_alive(transport)
    return socket


def _keep_alive(transport: asyncio.BaseTransport) -> None:
    """Have the kernel probe an idle connection, and end one whose peer acknowledges no bytes."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.family not in (sockets.AF_INET, sockets.AF_INET6):
        return
    connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
    for name, value in {**_KEEPALIVE, "TCP_USER_TIMEOUT": USER_TIMEOUT_MS}.items():
        option = getattr(sockets, name, None)  # not every system has all of them
        if option is not None:
            connection.setsockopt(sockets.IPPROTO_TCP, option, value)
