"""The edge's end of the websocket: connects, shakes hands, and matches replies to requests."""

import asyncio
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
        most: int,
    ) -> None:
        self._most = most
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

        Raises HandshakeRefused with the server's reason or for a wrong token, InvalidInput for a
        URL that is none, and ServerLost when nobody answered in time.
        """
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        seconds = transport.connect_timeout_seconds
        async with AsyncExitStack() as on_error:
            client = await on_error.enter_async_context(aiohttp.ClientSession(headers=headers))
            session = EdgeSession(hello)
            try:
                async with asyncio.timeout(seconds):
                    socket = await on_error.enter_async_context(await _open(client, url, transport))
                    await socket.send_bytes(session.opening())
                    frame = await socket.receive()
            except (ConnectionError, TimeoutError) as error:
                raise ServerLost(f"no server answered at {url} within {seconds} s") from error
            if frame.type is not aiohttp.WSMsgType.BINARY:
                raise ServerLost(f"the server at {url} closed the session before its welcome")
            welcome, _ = session.receive(frame.data)
            if not isinstance(welcome, Welcome):
                raise ServerLost(f"the server at {url} is stopping")
            most = transport.max_message_mebibytes * _MEBIBYTE
            return cls(on_error.pop_all(), socket, session, welcome, most)

    async def close(self) -> None:
        """End the session."""
        self._receiver.cancel()
        await self._resources.aclose()

    def encode(self, number: int, cut: int, payload: Payload) -> bytes:
        """The frame of request `number`; to be sent in the order of numbers.

        Raises FrameFailed for one that the server would not accept.
        """
        if payload.nbytes > self._most:
            raise FrameFailed(
                f"{payload.nbytes} bytes are more than spec.transport.maxMessageMebibytes, "
                f"{self._most // _MEBIBYTE}"
            )
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
        lost: SplittracrError | None = None
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
        finally:
            self._lost = lost or ServerLost(self._why_closed())
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(self._lost)

    def _why_closed(self) -> str:
        error, code = self._socket.exception(), self._socket.close_code
        if error is not None:
            return f"the server went away ({type(error).__name__}: {error})"
        return f"the server went away (close code {code})" if code else "the server went away"

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
    """Try until it works; whoever calls limits the time."""
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
            if error.status < 500:
                expected = f"the URL of a server's session (it answers {error.status})"
                raise InvalidInput("--server", url, expected) from error
        except aiohttp.InvalidURL as error:
            raise InvalidInput("--server", url, "a URL such as ws://192.0.2.7:8765") from error
        except aiohttp.ClientError:
            pass  # nobody listens yet
        await asyncio.sleep(_RETRY_SECONDS)
