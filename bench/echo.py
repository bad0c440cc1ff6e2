"""The peer process for the transport's figures: sends back the bytes that it receives."""

import asyncio
import json
import socket
import struct
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

from splittracr import process, security
from splittracr.planning.emulated_link import Conditions, constant
from splittracr.transport.sockets import accept
from splittracr.transport.websocket import WebSocketChannel

LIMIT = 2**26
SIZE = struct.Struct("<Q")
TIME = struct.Struct("<d")


def read_exactly(connection: socket.socket, memory: memoryview) -> None:
    """Fill `memory`. Raises EOFError if the peer is gone."""
    place = 0
    while place < len(memory):
        count = connection.recv_into(memory[place:])
        if count == 0:
            raise EOFError
        place += count


def write_framed(connection: socket.socket, body: memoryview) -> None:
    """Write the size of `body` and its bytes; small bodies in one call."""
    size = SIZE.pack(len(body))
    if len(body) < 2**14:
        connection.sendall(size + bytes(body))
    else:
        connection.sendall(size)
        connection.sendall(body)


def read_framed(connection: socket.socket, memory: memoryview) -> memoryview:
    """Read a body from `write_framed` into the beginning of `memory`."""
    prefix = bytearray(SIZE.size)
    read_exactly(connection, memoryview(prefix))
    body = memory[: SIZE.unpack(prefix)[0]]
    read_exactly(connection, body)
    return body


def _serve_blocking(listener: socket.socket) -> None:
    """Echo over plain blocking TCP with one buffer, the fastest way in Python."""
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    memory = memoryview(bytearray(LIMIT))
    try:
        while True:
            write_framed(connection, read_framed(connection, memory))
    except (EOFError, ConnectionError):
        connection.close()


async def _echo(request: web.Request) -> web.StreamResponse:
    socket = await accept(request)
    async with WebSocketChannel(socket, limit=LIMIT) as channel:
        while (arrival := await channel.receive()) is not None:
            await channel.send([arrival.data])
    return socket


async def _acknowledge(request: web.Request) -> web.StreamResponse:
    """Answer each message over an emulated link with the time of its arrival."""
    rate, delay = (int(request.query[name]) for name in ("rate", "delay"))
    socket = await accept(request)
    link = Conditions(constant(rate, delay))
    async with WebSocketChannel(socket, limit=LIMIT, pacer_conditions=link) as channel:
        while (arrival := await channel.receive()) is not None:
            await channel.send([TIME.pack(arrival.last)])
    return socket


async def _serve(credentials: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_serve_blocking, args=(listener,), daemon=True).start()
    app = web.Application()
    app.router.add_get("/echo", _echo)
    app.router.add_get("/link", _acknowledge)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    files = security.TlsFiles.of(credentials, security.SERVER)
    tls = security.server_context(files, datetime.now(UTC))
    for context in (None, tls):
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    plain, secure = (address[1] for address in runner.addresses)
    ports = {"tcp": listener.getsockname()[1], "plain": plain, "tls": secure}
    print(json.dumps({"event": "serving", **ports}), flush=True)
    await asyncio.Event().wait()  # until SIGTERM, also sent at the end of the parent


if __name__ == "__main__":
    process.keep_freed_memory()
    process.stop_with_parent()
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        runner.run(_serve(Path(sys.argv[1])))
