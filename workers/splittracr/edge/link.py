"""The edge's end of the websocket: connects, shakes hands, and matches replies to requests."""

import asyncio
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self

import aiohttp

from splittracr.experiment.errors import (
    FrameFailed,
    HandshakeRefused,
    InvalidInput,
    ProtocolError,
    ServerLost,
    SplittracrError,
)
from splittracr.experiment.spec import TransportSpec
from splittracr.wire.messages import Failure, Goodbye, Hello, Reply, Welcome
from splittracr.wire.payload import Payload
from splittracr.wire.session import EdgeSession

_MEBIBYTE = 2**20
_RETRY_SECONDS = 0.1


@dataclass(frozen=True)
class Answer:
    """A reply as it arrived: the server's stages in ms, its payload, its size on the wire."""

    stages: dict[str, float]
    payload: Payload
    size: int


class Link:
    """An open session with the server. Made by `Link.connect`."""

    def __init__(
        self,
        resources: AsyncExitStack,
        socket: aiohttp.ClientWebSocketResponse,
        session: EdgeSession,
        welcome: Welcome,
    ) -> None:
        self._resources = resources
        self._socket = socket
        self._session = session
        self.welcome = welcome
        self._waiting: dict[int, asyncio.Future[Answer]] = {}
        self._lost: SplittracrError | None = None
        self._receiver = asyncio.create_task(self._receive())

    @classmethod
    async def connect(
        cls, url: str, hello: Hello, token: str | None, transport: TransportSpec
    ) -> Self:
        """Connect and shake hands, trying again until the manifest's time-out.

        Raises HandshakeRefused with the server's reason, InvalidInput for a wrong token or URL,
        and ServerLost when nobody answered in time.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with AsyncExitStack() as on_error:
            client = await on_error.enter_async_context(aiohttp.ClientSession(headers=headers))
            socket = await on_error.enter_async_context(await _open(client, url, transport))
            session = EdgeSession(hello)
            try:
                await socket.send_bytes(session.opening())
                frame = await socket.receive(timeout=transport.connect_timeout_seconds)
            except (ConnectionError, TimeoutError) as error:
                raise ServerLost(f"the server at {url} did not answer the handshake") from error
            if frame.type is not aiohttp.WSMsgType.BINARY:
                raise ServerLost(f"the server at {url} closed the session before its welcome")
            welcome, _ = session.receive(frame.data)
            if not isinstance(welcome, Welcome):
                raise ServerLost(f"the server at {url} is stopping")
            return cls(on_error.pop_all(), socket, session, welcome)

    async def close(self) -> None:
        """End the session."""
        self._receiver.cancel()
        await self._resources.aclose()

    def encode(self, number: int, cut: int, payload: Payload) -> bytes:
        """The frame of request `number`; to be sent in the order of numbers."""
        return self._session.request(number, cut, payload)

    async def request(self, number: int, frame: bytes) -> Answer:
        """Send a frame made by `encode` and wait for its answer.

        Raises FrameFailed when the server could not finish it, ServerLost when it is gone.
        """
        if self._lost is not None:
            raise self._lost
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            await self._socket.send_bytes(frame)
            return await future
        except (ConnectionError, RuntimeError) as error:  # aiohttp's "cannot write to closing"
            raise ServerLost("the server closed the connection") from error
        finally:
            self._waiting.pop(number, None)

    async def _receive(self) -> None:
        """Runs as long as the session: an answer to a ping is sent only while receiving."""
        lost: SplittracrError = ServerLost("the server went away")
        try:
            async for frame in self._socket:
                if frame.type is not aiohttp.WSMsgType.BINARY:
                    break
                message, payload = self._session.receive(frame.data)
                match message:
                    case Reply():
                        self._settle(message.id, Answer(message.stages, payload, len(frame.data)))
                    case Failure():
                        self._settle(message.id, FrameFailed(message.reason))
                    case Goodbye():
                        lost = ServerLost(f"the server went away: {message.reason}")
        except (ProtocolError, HandshakeRefused) as error:
            lost = error
        self._lost = lost
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(lost)

    def _settle(self, number: int, outcome: Answer | Exception) -> None:
        future = self._waiting.get(number)
        if future is None or future.done():
            return
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


async def _open(
    client: aiohttp.ClientSession, url: str, transport: TransportSpec
) -> aiohttp.ClientWebSocketResponse:
    deadline = time.monotonic() + transport.connect_timeout_seconds
    while True:
        try:
            return await client.ws_connect(
                url,
                max_msg_size=transport.max_message_mebibytes * _MEBIBYTE,
                heartbeat=transport.heartbeat_seconds,
                compress=0,
            )
        except aiohttp.WSServerHandshakeError as error:
            if error.status == 401:
                raise HandshakeRefused(f"the server at {url} does not accept the token") from error
            problem: Exception = error
        except aiohttp.InvalidURL as error:
            raise InvalidInput("--server", url, "a URL such as ws://192.0.2.7:8765") from error
        except aiohttp.ClientError as error:
            problem = error
        if time.monotonic() > deadline:
            waited = transport.connect_timeout_seconds
            raise ServerLost(f"no server answered at {url} within {waited} s: {problem}")
        await asyncio.sleep(_RETRY_SECONDS)
