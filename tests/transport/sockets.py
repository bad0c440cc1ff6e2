"""Real websockets on loopback: a channel at either end, or a raw socket at the edge's."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

from splittracr.transport.channel import Channel
from splittracr.transport.sockets import accept, connect
from splittracr.transport.websocket import WebSocketChannel

LIMIT = 2**26


@dataclass
class Listening:
    """A server that makes a channel of every connection."""

    port: int
    channels: asyncio.Queue[Channel]


@asynccontextmanager
async def listening(
    wrap: Callable[[web.WebSocketResponse], WebSocketChannel] | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Listening]:
    channels: asyncio.Queue[Channel] = asyncio.Queue()
    finish = asyncio.Event()

    async def serve(request: web.Request) -> web.StreamResponse:
        socket = await accept(request)
        async with wrap(socket) if wrap else WebSocketChannel(socket, limit=LIMIT) as channel:
            channels.put_nowait(channel)
            await finish.wait()
        return socket

    app = web.Application()
    app.router.add_get("/", serve)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield Listening(runner.addresses[0][1], channels)
    finally:
        finish.set()
        await runner.cleanup()


@dataclass
class Ends:
    edge: Channel
    server: Channel


@asynccontextmanager
async def ends(
    wrap: Callable[[web.WebSocketResponse], WebSocketChannel] | None = None, **edge: Any
) -> AsyncIterator[Ends]:
    """An open websocket with a channel at both ends."""
    async with listening(wrap) as server, aiohttp.ClientSession() as client:
        socket = await connect(client, f"ws://127.0.0.1:{server.port}/")
        async with WebSocketChannel(socket, **{"limit": LIMIT} | edge) as channel:
            yield Ends(channel, await server.channels.get())


@asynccontextmanager
async def secure_ends(server_tls: ssl.SSLContext, edge_tls: ssl.SSLContext) -> AsyncIterator[Ends]:
    """The same over TLS."""
    async with listening(tls=server_tls) as server, aiohttp.ClientSession() as client:
        socket = await connect(client, f"wss://127.0.0.1:{server.port}/", tls=edge_tls)
        async with WebSocketChannel(socket, limit=LIMIT) as channel:
            yield Ends(channel, await server.channels.get())


@dataclass
class Raw:
    """The edge's end without any manners."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    server: Channel


@asynccontextmanager
async def raw(
    wrap: Callable[[web.WebSocketResponse], WebSocketChannel] | None = None,
) -> AsyncIterator[Raw]:
    async with listening(wrap) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        key = base64.b64encode(bytes(16)).decode()
        writer.write(
            f"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        try:
            yield Raw(reader, writer, await server.channels.get())
        finally:
            writer.close()
