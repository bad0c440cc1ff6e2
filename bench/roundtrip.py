"""Round-trip times of a channel against blocking TCP, and of emulated links against arithmetic."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import aiohttp

from bench.echo import LIMIT, TIME, read_framed, write_framed
from bench.figure import Figure, figure
from bench.processes import serving
from splittracr import security
from splittracr.planning.emulated_link import Conditions, constant
from splittracr.transport.channel import Channel
from splittracr.transport.sockets import connect
from splittracr.transport.websocket import WebSocketChannel

SIZES = {"1 KB": 1024, "784 KB": 784 * 1024, "12 MB": 12 * 2**20}
GOALS = {"1 KB": 2.5, "784 KB": 2.5, "12 MB": 2.0}
_REPEATS = {"1 KB": 60, "784 KB": 12, "12 MB": 2}  # in each round
_ROUNDS = 12
_MBIT, _MS = 10**6, 10**6
_LINKS = (  # bits per second, round trip in nanoseconds, sizes in bytes with repeats
    (5 * _MBIT, 40 * _MS, {1024: 12, 196_608: 6}),
    (50 * _MBIT, 10 * _MS, {1024: 20, 802_816: 8, 12 * 2**20: 2}),
    (200 * _MBIT, 10 * _MS, {1024: 20, 802_816: 12, 12 * 2**20: 3}),
)

Trip = Callable[[memoryview], Awaitable[None]]


async def round_trips() -> list[Figure]:
    """Compare plain and TLS channels with blocking TCP, by the medians of each round."""
    with TemporaryDirectory() as folder:
        async with _echo(Path(folder)) as (ports, edge_files), AsyncExitStack() as stack:
            tls = security.client_context(edge_files, datetime.now(UTC))
            client = await stack.enter_async_context(aiohttp.ClientSession())
            trips: dict[str, Trip] = {"tcp": _blocking(ports["tcp"])}
            for name, scheme, context in (("plain", "ws", None), ("tls", "wss", tls)):
                url = f"{scheme}://127.0.0.1:{ports[name]}/echo"
                socket = await connect(client, url, tls=context)
                channel = await stack.enter_async_context(WebSocketChannel(socket, limit=LIMIT))
                trips[name] = _over(channel)
            return [one async for one in _compared(trips)]


@asynccontextmanager
async def _echo(folder: Path) -> AsyncIterator[tuple[dict[str, int], security.TlsFiles]]:
    _, edge_files, _ = security.throw_away(folder, ["127.0.0.1"])
    async with serving("-m", "bench.echo", str(folder)) as ports:
        yield ports, edge_files


async def _compared(trips: dict[str, Trip]) -> AsyncIterator[Figure]:
    for name, size in SIZES.items():
        body = memoryview(os.urandom(size))
        for trip in trips.values():
            for _ in range(3):
                await trip(body)
        rounds = [await _round(trips, body, _REPEATS[name]) for _ in range(_ROUNDS)]
        base = [medians["tcp"] for medians in rounds]
        for kind, goal in (("plain", GOALS[name]), ("tls", None)):
            ratios = [medians[kind] / medians["tcp"] for medians in rounds]
            words = "websocket" if kind == "plain" else "websocket with TLS"
            title = f"round trip, {name}: {words} / blocking TCP"
            yield figure(title, ratios, "times", max_value=goal)
        yield figure(f"round trip, {name}: blocking TCP", [t * 1e3 for t in base], "ms")


async def _round(trips: dict[str, Trip], body: memoryview, repeats: int) -> dict[str, float]:
    taken: dict[str, list[float]] = {name: [] for name in trips}
    for _ in range(repeats):
        for name, trip in trips.items():
            started = time.perf_counter()
            await trip(body)
            taken[name].append(time.perf_counter() - started)
    return {name: median(times) for name, times in taken.items()}


def _blocking(port: int) -> Trip:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    memory = memoryview(bytearray(LIMIT))

    async def trip(body: memoryview) -> None:
        write_framed(connection, body)
        read_framed(connection, memory)

    return trip


def _over(channel: Channel) -> Trip:
    async def trip(body: memoryview) -> None:
        await channel.send([body])
        await channel.receive()

    return trip


async def emulated_links() -> list[Figure]:
    """Compare round trips over an emulated link with bytes / rate + round-trip time."""
    figures = []
    with TemporaryDirectory() as folder:
        async with _echo(Path(folder)) as (ports, _), aiohttp.ClientSession() as client:
            for rate, delay, sizes in _LINKS:
                url = f"ws://127.0.0.1:{ports['plain']}/link?rate={rate}&delay={delay}"
                socket, link = await connect(client, url), Conditions(constant(rate, delay))
                async with WebSocketChannel(socket, limit=LIMIT, pacer_conditions=link) as channel:
                    for size, repeats in sizes.items():
                        ratios = [
                            await _over_arithmetic(channel, rate, delay, size)
                            for _ in range(repeats)
                        ]
                        title = (
                            f"emulated link, {rate // _MBIT} Mbit/s, {delay // _MS} ms, "
                            f"{size:,} bytes: taken / bytes/rate + RTT"
                        )
                        figures.append(
                            figure(title, ratios, "times", max_value=1.03, min_value=0.97)
                        )
    return figures


async def _over_arithmetic(channel: Channel, rate: int, delay: int, size: int) -> float:
    body = bytes(size)
    await asyncio.sleep(0.01)  # the link is idle
    started = time.perf_counter()
    await channel.send([body])
    answer = await channel.receive()
    assert answer is not None
    taken = answer.last - started
    assert started < TIME.unpack(answer.data)[0] < answer.last
    frame_headers = 2 * 14
    carried = size + frame_headers + len(answer.data)
    return taken / (carried * 8 / rate + delay / 1e9)
