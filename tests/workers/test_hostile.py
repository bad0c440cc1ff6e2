"""Strangers and liars at a server process that meanwhile serves an edge with manners."""

import asyncio
import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from msgspec import structs

from splittracr.backends.torch import build
from splittracr.backends.torch.examples import example_batch
from splittracr.edge.dial import Endpoint
from splittracr.edge.link import Link
from splittracr.experiment import manifest as manifests
from splittracr.experiment.spec import ExperimentSpec
from splittracr.splitting.live import pack
from splittracr.transport.frames import Opcode, header, masked
from splittracr.wire import codec
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import CONTROL_PATH, SESSION_PATH, Attach, Hello, Request
from tests.cli.processes import environment, event, manifest
from tests.wire.frames import frame

pytestmark = pytest.mark.timeout(300)

TOKEN = "a-token-that-only-friends-have"
CUT = 60
KEY = b"mask"
AT_ONCE = 64
PATIENCE = 20  # seconds within which the server closes what does not belong


@dataclass(frozen=True)
class Target:
    """A server process, and what an edge of its study would send."""

    url: str
    spec: ExperimentSpec
    hello: Hello
    payload: EncodedPayload
    process: psutil.Process

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port


@contextmanager
def target(folder: Path) -> Iterator[Target]:
    """A small network without TLS, so that what is sent is what is read."""
    file = manifest(folder, {"transport": {"security": "Plain"}})
    spec = manifests.parse(file.read_text()).spec
    own = build.build(spec, "edge", folder)
    hello = Hello(uid="u", edge="e", identity=own.identity)
    payload = codec.encode(pack(own.head(CUT, example_batch(own.network, 1))))
    with (folder / "server.log").open("wb") as log:  # thousands of refusals would fill a pipe
        process = subprocess.Popen(
            [sys.executable, "-m", "splittracr", "server", str(file)],
            env=environment(SPLITTRACR_TOKEN=TOKEN),
            stdout=subprocess.PIPE,
            stderr=log,
        )
    try:
        url = event(process.stdout, "serving")["url"]
        yield Target(url, spec, hello, payload, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.communicate(timeout=100)


@dataclass(frozen=True)
class Socket:
    """A raw connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def frame(self, body: bytes, opcode: int = Opcode.BINARY) -> None:
        self.writer.write(header(opcode, len(body), KEY) + masked(KEY, body))

    async def upgrade(self, path: str = SESSION_PATH, token: str = TOKEN) -> bytes:
        """Ask for a websocket; the status line of the answer."""
        self.writer.write(
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {b64encode(bytes(16)).decode()}\r\n"
            f"Authorization: Bearer {token}\r\n\r\n".encode()
        )
        answer = await self.reader.readuntil(b"\r\n\r\n")
        return answer.partition(b"\r\n")[0]

    async def closed(self) -> bytes:
        """What came until the server closed."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.read()


@asynccontextmanager
async def dial(port: int) -> AsyncIterator[Socket]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Socket(reader, writer)
    finally:
        writer.transport.abort()


Attack = Callable[[Target, Socket], Awaitable[None]]


async def garbage(on: Target, socket: Socket) -> None:
    socket.writer.write(os.urandom(2000).replace(b"\n", b"x") + b"\r\n\r\n")
    assert b"400" in await socket.closed()


async def wrong_token(on: Target, socket: Socket) -> None:
    assert b"401" in await socket.upgrade(token="guess")


async def garbage_frames(on: Target, socket: Socket) -> None:
    assert b"101" in await socket.upgrade()
    socket.writer.write(b"\xff" + os.urandom(500))
    await socket.closed()


async def text(on: Target, socket: Socket) -> None:
    assert b"101" in await socket.upgrade()
    socket.frame(b"hello", Opcode.TEXT)
    assert b"text frame" in await socket.closed()


async def oversized(on: Target, socket: Socket) -> None:
    assert b"101" in await socket.upgrade()
    socket.writer.write(header(Opcode.BINARY, 2**40, KEY))
    assert b"the limit is" in await socket.closed()


async def garbled_message(on: Target, socket: Socket) -> None:
    assert b"101" in await socket.upgrade()
    socket.frame(b"STr" + os.urandom(300))
    assert b"refusal" in await socket.closed()


async def wrong_order(on: Target, socket: Socket) -> None:
    assert b"101" in await socket.upgrade()
    socket.frame(frame(Request(id=0, cut=CUT), on.payload))
    assert b"unexpected request" in await socket.closed()


async def another_network(on: Target, socket: Socket) -> None:
    assert b"101" in await socket.upgrade()
    other = structs.replace(on.hello.identity, weights="0" * 64)
    socket.frame(frame(structs.replace(on.hello, identity=other)))
    assert b"differ in weights" in await socket.closed()


async def foreign_control(on: Target, socket: Socket) -> None:
    assert b"101" in await socket.upgrade(CONTROL_PATH)
    socket.frame(frame(Attach(session="guess")))
    await socket.closed()


async def truncated(on: Target, socket: Socket) -> None:
    assert b"101" in await socket.upgrade()
    whole = frame(on.hello)
    socket.writer.write(header(Opcode.BINARY, len(whole), KEY) + masked(KEY, whole[:40]))
    await socket.writer.drain()


async def much_announced(on: Target, socket: Socket) -> None:
    """The limit announced and a little sent: no memory for it, and no lasting place either."""
    assert b"101" in await socket.upgrade()
    socket.writer.write(header(Opcode.BINARY, 2**29, KEY) + bytes(5000))
    await socket.closed()


async def slow_writer(on: Target, socket: Socket) -> None:
    assert b"101" in await socket.upgrade()
    whole = header(Opcode.BINARY, 300, KEY) + bytes(300)
    with suppress(ConnectionError):
        for byte in whole[:40]:
            socket.writer.write(bytes([byte]))
            await socket.writer.drain()
            await asyncio.sleep(0.01)


async def half_a_session(on: Target, socket: Socket) -> None:
    """A right hello and no control connection: one of few places, taken for ten seconds."""
    assert b"101" in await socket.upgrade()
    socket.frame(frame(structs.replace(on.hello, edge=f"half-{id(socket)}")))
    assert b"welcome" in await socket.closed()


async def passer_by(on: Target, socket: Socket) -> None:
    """Connects and is gone."""


ANSWERED = (
    garbage,
    wrong_token,
    garbage_frames,
    text,
    oversized,
    garbled_message,
    wrong_order,
    another_network,
    foreign_control,
)
SLOW = (much_announced, slow_writer, half_a_session)
QUICK = (*ANSWERED, truncated, passer_by)


class Answers(list[bytes]):
    """What an edge was answered, and a way to wait for more."""

    def __init__(self) -> None:
        super().__init__()
        self._more = asyncio.Event()

    def add(self, answer: bytes) -> None:
        self.append(answer)
        self._more.set()

    async def more_than(self, count: int) -> None:
        async with asyncio.timeout(PATIENCE):
            while len(self) <= count:
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def good_edge(on: Target) -> AsyncIterator[Answers]:
    """An edge that asks all the time; its answers. Fails when it is not served."""
    endpoint = Endpoint(on.url, TOKEN)
    answers = Answers()
    async with Link.open(
        endpoint, on.hello, on.spec.transport, on.spec.partition.server_loss
    ) as link:

        async def ask() -> None:
            while True:
                answer = await link.request(CUT, 0, on.payload)
                answers.add(b"".join(codec.decode(answer.payload).buffers))
                await asyncio.sleep(0.005)

        asking = asyncio.create_task(ask())
        try:
            yield answers
            assert not asking.done(), "the good edge was not served to the end"
            assert link.reconnects == 0
        finally:
            asking.cancel()
            await asyncio.wait([asking])


async def attack(on: Target, how: Attack) -> None:
    async with asyncio.timeout(PATIENCE + 10), dial(on.port) as socket:
        await how(on, socket)


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with target(tmp_path_factory.mktemp("hostile")) as found:
        yield found


@pytest.mark.parametrize("how", [*QUICK, *SLOW], ids=lambda how: how.__name__)
def test_the_server_gets_rid_of(how: Attack, on: Target) -> None:
    async def test() -> None:
        async with good_edge(on) as answers:
            await answers.more_than(0)
            await asyncio.gather(*(attack(on, how) for _ in range(8)))
            await answers.more_than(len(answers))
            assert len(set(answers)) == 1

    asyncio.run(test())


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "connections", [pytest.param(10_000, marks=pytest.mark.soak), pytest.param(400)]
)
def test_thousands_of_hostile_connections_take_no_memory(connections: int, on: Target) -> None:
    async def test() -> None:
        async with good_edge(on) as answers:
            mixed = cycle(QUICK)
            for start in range(0, connections, AT_ONCE):
                wave = islice(mixed, min(AT_ONCE, connections - start))
                await asyncio.gather(*(attack(on, how) for how in wave))
                if start == 0:  # what the first of each kind costs is code and pools
                    first = on.process.memory_info().rss
            grown = on.process.memory_info().rss - first
            assert grown < 48 * 2**20, f"{grown / 2**20:.0f} MiB after {connections} connections"
            assert on.process.num_fds() < 200
            await answers.more_than(len(answers))
            assert len(set(answers)) == 1
            print(f"{connections} connections, {grown / 2**20:+.1f} MiB, {len(answers)} answers")

    asyncio.run(test())
