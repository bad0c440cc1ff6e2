"""Sessions without a socket: a test sees what the edge sends, and decides what arrives."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from splittracr.edge.dial import Connections, Endpoint
from splittracr.experiment.spec import TransportSpec
from splittracr.transport.channel import NORMAL, ByteCounter, Channel
from splittracr.transport.frames import Arrival, Buffer
from splittracr.wire.messages import End, Hello, Identity, Message, Welcome, decode
from splittracr.wire.session import EdgeSession
from tests.wire.frames import frame

HELLO = Hello(
    uid="u",
    edge="e",
    identity=Identity(network="n", fingerprint="f", weights="w", batch=1, outputs="Reduced"),
)


class FakeChannel:
    """A channel that sends a message when the test says so; at once if `quick`."""

    def __init__(self, quick: bool = False) -> None:
        self.quick = quick
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.sending: asyncio.Future[None] | None = None  # of the last message
        self.error: Exception | None = None  # raised instead of sending
        self._arrivals: asyncio.Queue[Arrival | None] = asyncio.Queue()
        self._why_closed: str | None = None

    def arrive(self, message: Message) -> None:
        """Have a message of the server arrive."""
        data = memoryview(bytearray(frame(message)))
        self._arrivals.put_nowait(Arrival(data, first=0.0, last=0.0, size_on_wire=len(data)))

    async def nothing_sent(self) -> bool:
        """Whether nothing is sent even after all callbacks have run."""
        for _ in range(10):
            await asyncio.sleep(0)
        return self.sent.empty()

    @property
    def why_closed(self) -> str | None:
        return self._why_closed

    @property
    def written(self) -> int:
        return 0

    @property
    def received(self) -> int:
        return 0

    @property
    def reading(self) -> bool:
        return True

    def begin(self, parts: Sequence[Buffer]) -> asyncio.Future[None] | None:
        if self.error is not None:
            raise self.error
        if self._why_closed is not None:
            raise ConnectionResetError(self._why_closed)
        message, _ = decode(b"".join(parts))
        self.sent.put_nowait(message)
        if self.quick:
            return None
        self.sending = asyncio.get_running_loop().create_future()
        return self.sending

    async def send(self, parts: Sequence[Buffer]) -> None:
        sending = self.begin(parts)
        if sending is not None:
            await sending

    async def receive(self) -> Arrival | None:
        return await self._arrivals.get()

    def ping(self) -> None:
        pass

    def abort(self, why: str) -> None:
        self._why_closed = self._why_closed or why
        self._arrivals.put_nowait(None)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        self.abort(reason)


class FakeSession:
    """One session: its two channels."""

    def __init__(self, quick: bool) -> None:
        self.data = FakeChannel(quick)
        self.control = FakeChannel(quick=True)


class FakeServer:
    """Gives each attempt to connect a new session, in `sessions`; or raises `refusal`.

    If `quick` is true, the data channels of new sessions send at once.
    """

    def __init__(self, window: int = 8) -> None:
        self.welcome = Welcome(end=End(), refused={}, window=window)
        self.sessions: asyncio.Queue[FakeSession] = asyncio.Queue()
        self.refusal: Exception | None = None
        self.quick = False

    @asynccontextmanager
    async def connect(
        self,
        endpoint: Endpoint,
        hello: Hello,
        transport: TransportSpec,
        opened_at: float,
        traffic: ByteCounter,
    ) -> AsyncIterator[Connections]:
        if self.refusal is not None:
            raise self.refusal
        session = FakeSession(self.quick)
        protocol = EdgeSession(hello)
        protocol.receive(frame(self.welcome))
        self.sessions.put_nowait(session)
        data: Channel = session.data
        control: Channel = session.control
        yield Connections(data, control, protocol, self.welcome)
