"""An aiohttp shell around the session and the replica.

One thread runs the network, for one frame at a time; the event loop only moves bytes, so that
pings are answered while a tail runs. Every connection has a task that never stops receiving.
"""

import asyncio
import contextlib
import hmac
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from aiohttp import WSMsgType, web

from splittracr.experiment.errors import HandshakeRefused, ProtocolError
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure.health import add_health
from splittracr.measure.metrics import Metrics
from splittracr.measure.stopwatch import Stopwatch
from splittracr.replica import Replica
from splittracr.server.listener import SESSION_PATH
from splittracr.splitting.live import pack, unpack
from splittracr.wire.messages import (
    Failure,
    Goodbye,
    Hello,
    Refusal,
    Reply,
    Request,
    Welcome,
    encode,
)
from splittracr.wire.payload import Payload
from splittracr.wire.session import ServerSession

log = logging.getLogger(__name__)

_MEBIBYTE = 2**20

# An edge has at most this many frames in flight; more is a fault or an attack on memory.
_MOST_OUTSTANDING = 512


@dataclass
class _Connection:
    """One edge: its socket, its session and the tasks that answer it."""

    socket: web.WebSocketResponse
    session: ServerSession
    tasks: set[asyncio.Task[None]]


class Server:
    """Serves tails of one replica. `token` is what an edge has to bring, if anything."""

    def __init__(self, replica: Replica, spec: ExperimentSpec, token: str | None) -> None:
        self._replica = replica
        self._spec = spec
        self._token = token
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="tail")
        self._connections: list[_Connection] = []
        self._draining = False
        self._welcome = Welcome(
            end=replica.end().model_dump(mode="json"), refused=replica.proof.refused
        )
        self.metrics = Metrics("server")

    def app(self) -> web.Application:
        """Routes: the session, and health and metrics for whoever looks after this process."""
        app = web.Application()
        app.router.add_get(SESSION_PATH, self._serve)
        add_health(app, self.metrics)
        return app

    async def drain(self) -> None:
        """Accept nothing more, answer what was accepted, say goodbye and close every session."""
        self._draining = True
        await asyncio.gather(*(self._dismiss(c) for c in list(self._connections)))
        self._compute.shutdown(wait=False)

    async def _dismiss(self, connection: _Connection) -> None:
        await asyncio.gather(*connection.tasks)
        await self._send(connection, encode(Goodbye(reason="the server is stopping")))
        await connection.socket.close()

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        if not self._authorised(request):
            raise web.HTTPUnauthorized(text="the token is missing or wrong")
        if self._draining:
            raise web.HTTPServiceUnavailable(text="the server is stopping")
        transport = self._spec.transport
        socket = web.WebSocketResponse(
            max_msg_size=transport.max_message_mebibytes * _MEBIBYTE,
            heartbeat=transport.heartbeat_seconds,
            compress=False,  # tensors hardly deflate, and deflating them stalls the loop
        )
        await socket.prepare(request)
        session = ServerSession(
            self._replica.identity,
            self._replica.proof.offered(),
            self._replica.network.variable_shape,
        )
        connection = _Connection(socket, session, set())
        self._connections.append(connection)
        with self.metrics.connected.track_inprogress():
            try:
                await self._receive(connection)
            finally:
                self._connections.remove(connection)
        return socket

    def _authorised(self, request: web.Request) -> bool:
        if not self._token:
            return True
        # What a header holds besides ASCII arrives as surrogates.
        given = request.headers.get("Authorization", "").encode(errors="surrogateescape")
        return hmac.compare_digest(given, f"Bearer {self._token}".encode())

    async def _receive(self, connection: _Connection) -> None:
        """Answer frames until the edge closes or breaks the protocol."""
        async for message in connection.socket:
            arrived = time.perf_counter()
            if message.type is not WSMsgType.BINARY:
                break
            try:
                received, payload = connection.session.receive(message.data)
            except (HandshakeRefused, ProtocolError) as error:
                log.warning("refused an edge: %s", error)
                await self._send(connection, encode(Refusal(reason=str(error)[:4096])))
                break
            if isinstance(received, Hello):
                await self._send(connection, encode(self._welcome))
                log.info("edge %s joined", received.edge)
            elif len(connection.tasks) >= _MOST_OUTSTANDING:
                reason = f"more than {_MOST_OUTSTANDING} requests without an answer"
                await self._send(connection, encode(Failure(id=received.id, reason=reason)))
            elif not self._draining:  # the goodbye tells the edge of what was not accepted
                self._answer_soon(connection, received, payload, arrived, len(message.data))
        await connection.socket.close()

    def _answer_soon(
        self, connection: _Connection, request: Request, payload: Payload, arrived: float, size: int
    ) -> None:
        decoded = (time.perf_counter() - arrived) * 1e3
        task = asyncio.create_task(self._answer(connection, request, payload, decoded, size))
        connection.tasks.add(task)
        task.add_done_callback(connection.tasks.discard)

    async def _answer(
        self, connection: _Connection, request: Request, payload: Payload, decoded: float, size: int
    ) -> None:
        loop = asyncio.get_running_loop()
        queued = time.perf_counter()
        frame, stages = await loop.run_in_executor(
            self._compute, self._finish, request, payload, decoded, queued
        )
        outcome = "ok" if stages else "failed"
        self.metrics.frame(outcome, stages, len(frame), size)
        await self._send(connection, frame)

    def _finish(
        self, request: Request, payload: Payload, decoded: float, queued: float
    ) -> tuple[bytes, dict[str, float]]:
        """The reply to a request, and its stages; runs in the compute thread."""
        replica, watch = self._replica, Stopwatch(self._replica.device)
        watch.add("server_wait", (time.perf_counter() - queued) * 1e3)
        watch.add("decode", decoded)
        try:
            with watch.stage("decode"):
                live = unpack(payload, replica.device)
            with watch.stage("tail"):
                output = replica.tail(request.cut, live)
            with watch.stage("reduce"):
                values = self._reduced(output)
            with watch.stage("reply"):
                result = pack([values])
        except Exception as error:  # the network's own code; the edge is told, the session lives
            log.exception("request %d failed", request.id)
            reason = f"{type(error).__name__}: {error}"[:4096]
            return encode(Failure(id=request.id, reason=reason)), {}
        self.metrics.operations(replica.last - request.cut)
        return encode(Reply(id=request.id, stages=watch.stages), result), watch.stages

    def _reduced(self, output: Any) -> Any:
        if self._spec.results.outputs == "Raw":
            return output
        return [dict(reduced) for reduced in self._replica.reduce(output)]

    async def _send(self, connection: _Connection, frame: bytes) -> None:
        """Send a frame, unless the edge is gone: then nobody misses it."""
        if not connection.socket.closed:
            with contextlib.suppress(ConnectionError):
                await connection.socket.send_bytes(frame)
