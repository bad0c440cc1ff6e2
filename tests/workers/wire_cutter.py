"""A TCP relay that a test can cut, stall and reset, and that may forget quiet connections."""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class _Flow:
    """A connection as a NAT knows it: after `memory` quiet seconds its bytes vanish for ever."""

    def __init__(self, memory: float) -> None:
        self.memory, self._last = memory, time.monotonic()
        self.forgotten = False
        self.rate = math.inf  # bytes a second, each way

    def carries(self) -> bool:
        """Whether bytes that come now are passed on."""
        now = time.monotonic()
        self.forgotten = self.forgotten or now - self._last > self.memory
        self._last = now
        return not self.forgotten


class WireCutter:
    """Relays connections to `port` on loopback while `flowing` is set; `reset` breaks them all.

    A connection that is quiet for `memory` seconds is forgotten: neither end is notified, and what
    either end sends vanishes. `forgotten` counts them. With `path` this holds only for connections
    that begin with a request of that path.
    """

    def __init__(self, port: int, memory: float = math.inf, path: str = "") -> None:
        self.target = port
        self.forgotten = 0
        self._memory = memory
        self._path = path.encode()
        self.port = 0
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.connections = 0
        self._flows: list[_Flow] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def reset(self) -> None:
        """Break every connection at once, in the middle of a message."""
        for writer in list(self._writers):
            writer.transport.abort()

    def forget(self, number: int) -> None:
        """Drop all that connection `number` still carries, without closing it."""
        self._flows[number].forgotten = True
        self.forgotten += 1

    def slow_down(self, number: int, rate: float) -> None:
        """Pass at most `rate` bytes a second of connection `number` each way."""
        self._flows[number].rate = rate

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, both ways, until either end closes."""
        self.connections += 1
        try:
            there = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, there[1]}
        self._writers |= both
        flow = _Flow(self._memory)
        self._flows.append(flow)
        ways = [
            asyncio.create_task(self._pump(flow, reader, there[1], begins=True)),
            asyncio.create_task(self._pump(flow, there[0], writer)),
        ]
        self._tasks |= set(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        if flow.forgotten:
            await asyncio.wait(ways)  # the other end does not hear that this one has closed
        for end in both:
            end.transport.abort()
        await asyncio.wait(ways)
        self._tasks -= set(ways)
        self._writers -= both

    async def _pump(
        self,
        flow: _Flow,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        begins: bool = False,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if begins and self._path not in data.partition(b"\r\n")[0]:
                    flow.memory = math.inf
                begins = False
                await self.flowing.wait()
                known = not flow.forgotten
                if not flow.carries():
                    self.forgotten += known
                    continue
                for start in range(0, len(data), piece := max(1, int(min(flow.rate, 2**20) / 10))):
                    part = data[start : start + piece]
                    await asyncio.sleep(len(part) / flow.rate)
                    writer.write(part)
                    await writer.drain()


@asynccontextmanager
async def wire_cutter(
    port: int, memory: float = math.inf, path: str = ""
) -> AsyncIterator[WireCutter]:
    """A relay to `port`; its own port is in `port`."""
    cutter = WireCutter(port, memory, path)
    server = await asyncio.start_server(cutter.relay, "127.0.0.1", 0)
    cutter.port = server.sockets[0].getsockname()[1]
    try:
        yield cutter
    finally:
        server.close()
        cutter.flowing.set()
        cutter.reset()
        await server.wait_closed()
