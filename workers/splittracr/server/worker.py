"""An aiohttp shell around sessions and the engine.

The event loop only moves bytes, so that it answers pings while a tail runs. Each edge has two
connections: tensors travel on one, and messages that must not wait behind them on the other. When
either ends, the server closes the other.
"""

import asyncio
import contextlib
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from aiohttp import web

from splittracr.backends import measuring
from splittracr.backends.protocol import Backend
from splittracr.experiment.errors import HandshakeRefused, ProtocolError, reason
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.experiment.types import Exactness
from splittracr.measure.health import add_health
from splittracr.measure.instruments import NO_INSTRUMENTS, Instruments
from splittracr.measure.metrics import ServerMetrics, ServerState
from splittracr.planning.emulated_link import Conditions
from splittracr.planning.emulation import in_words
from splittracr.security import bears
from splittracr.server.connections import Connection, Connections, send
from splittracr.server.engine import Engine
from splittracr.server.export import ModelExport
from splittracr.server.requests import WINDOW, RequestHandler
from splittracr.transport.channel import ByteCounter, Channel
from splittracr.transport.frames import Arrival
from splittracr.transport.sockets import accept
from splittracr.transport.websocket import WebSocketChannel
from splittracr.wire import registry
from splittracr.wire.messages import (
    CONTROL_PATH,
    LINK_AGE_HEADER,
    MAX_CONTROL,
    MAX_HEADER,
    REASON_HEADER,
    SESSION_PATH,
    Attach,
    Cancel,
    Check,
    Checked,
    CutClass,
    End,
    Hello,
    Meter,
    OperationTime,
    Prepare,
    Prepared,
    Probe,
    Probed,
    Refusal,
    Request,
    Time,
    Timed,
    Welcome,
    decode,
    encode,
)
from splittracr.wire.session import ServerSession

log = logging.getLogger(__name__)

_HANDSHAKE_SECONDS = 10
_DRAIN_SECONDS = 15
_MAX_HELD = 2**30
"""Bytes of the requests in flight of all edges. Beyond them an edge that has one is not read."""


@dataclass(frozen=True)
class Admission:
    """Who may open a connection.

    With `token` a client that shows it, with `certificates` also a client whose certificate the TLS
    layer has accepted.
    """

    token: str | None
    certificates: bool

    def allows(self, request: web.Request) -> bool:
        """Whether the request has one of them."""
        if self.certificates and request.get_extra_info("peercert"):
            return True
        if not self.token:
            return not self.certificates
        return bears(request.headers.get("Authorization", ""), self.token)


class Server:
    """Serves tails of one network to the edges that `token` and `certificates` admit.

    `downlink` is the emulated link to each edge, if any. `profile` is what edges base their
    decisions on. `metrics` counts. `instruments` are the sensors that edges may read. `export`
    makes the routes that hand the model to edges.

    Handlers of both connections are methods here, since they share connections, requests and
    metrics.
    """

    def __init__(
        self,
        backend: Backend,
        spec: ExperimentSpec,
        token: str | None,
        downlink: Conditions | None = None,
        *,
        certificates: bool = False,
        profile: Profile | None = None,
        metrics: ServerMetrics | None = None,
        instruments: Instruments = NO_INSTRUMENTS,
        export: Callable[[Callable[[web.Request], None]], ModelExport] | None = None,
    ) -> None:
        self._backend = backend
        self._spec = spec
        self._admission = Admission(token, certificates)
        self._downlink = downlink
        self._profile = profile
        self._instruments = instruments
        self._export = None if export is None else export(self._admit)
        self.metrics = metrics or ServerMetrics(max_edges=spec.server.max_edges)
        self._engine = Engine(backend, spec, self.metrics)
        self._traffic = ByteCounter()
        self._codecs = registry.installed()
        new_session = partial(
            ServerSession,
            backend.identity,
            backend.proof.offered(),
            backend.network.variable_shape,
            codecs=self._codecs,
        )
        self._connections = Connections(new_session, _MAX_HELD)
        self._requests = RequestHandler(
            self._engine, self._connections, spec.transport, self.metrics, backend.proof.last
        )
        self._draining = False
        self._classes = _classes(backend)
        self._end = End(**measuring.end(backend).model_dump())
        self.metrics.use(self.state)

    def app(self) -> web.Application:
        """Routes: the two connections, and health for probes."""
        app = web.Application()
        app.router.add_get(SESSION_PATH, self._serve_session)
        app.router.add_get(CONTROL_PATH, self._serve_control)
        add_health(app)
        if self._export is not None:
            self._export.add_routes(app)
        self._engine.start()
        app.on_cleanup.append(self._stop_engine)
        return app

    async def drain(self) -> None:
        """Accept nothing more, send the replies in flight, and close every session."""
        self._draining = True
        leaving = list(self._connections)
        with contextlib.suppress(TimeoutError):  # an edge that does not read is not waited for
            async with asyncio.timeout(_DRAIN_SECONDS):
                await asyncio.gather(*(c.dismiss("the server is stopping") for c in leaving))
        await asyncio.gather(*(c.close() for c in leaving))

    async def _stop_engine(self, _: web.Application) -> None:
        self._engine.stop()
        # A daemon thread that is still in PyTorch when the interpreter ends aborts the process.
        await asyncio.to_thread(self._engine.join, _DRAIN_SECONDS)

    def state(self) -> ServerState:
        """The present figures."""
        return ServerState(
            sessions=len(self._connections),
            in_flight=self._connections.in_flight,
            queue_length=self._engine.queue_length,
            busy_seconds=self._engine.busy_seconds,
            bytes_up=self._traffic.received,
            bytes_down=self._traffic.sent,
        )

    # ------------------------------------------------------------------------ the two connections

    async def _serve_session(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        max_edges = self._spec.server.max_edges
        if len(self._connections) >= max_edges:
            raise _unavailable(f"{max_edges} edges are served already (spec.server.maxEdges)")
        socket = await accept(request)
        async with WebSocketChannel(
            socket,
            limit=self._spec.transport.max_message_bytes + MAX_HEADER,
            pacer_conditions=_conditions(self._downlink, request),
            traffic=self._traffic,
        ) as channel:
            connection = self._connections.add(channel)
            try:
                await self._receive(connection)
            finally:
                self._forget(connection)
                await connection.close()
        return socket

    async def _serve_control(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        socket = await accept(request)
        async with WebSocketChannel(
            socket,
            limit=MAX_CONTROL,
            pacer_conditions=_conditions(self._downlink, request),
            heartbeat=self._spec.transport.heartbeat_seconds,
            traffic=self._traffic,
        ) as channel:
            with contextlib.suppress(ProtocolError, TimeoutError):
                connection = await self._attach(channel)
                try:
                    await self._control(connection, channel)
                finally:
                    await connection.close()
        return socket

    def _admit(self, request: web.Request) -> None:
        if not self._admission.allows(request):
            raise web.HTTPUnauthorized(text="the token is missing or wrong")
        if self._draining:
            raise _unavailable("the server is stopping")

    def _forget(self, connection: Connection) -> None:
        self._engine.drop(connection.number)
        self._connections.remove(connection)

    # ----------------------------------------------------------------------------------- control

    async def _attach(self, channel: Channel) -> Connection:
        """The connection that a control channel belongs to."""
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            arrival = await channel.receive()
        message = decode(arrival.data)[0] if arrival is not None else None
        connection = None
        if isinstance(message, Attach):
            connection = self._connections.with_key(message.session)
        if connection is None:
            raise ProtocolError("a control connection belongs to no session")
        connection.control = channel
        connection.attached.set()
        return connection

    async def _control(self, connection: Connection, channel: Channel) -> None:
        while (arrival := await channel.receive()) is not None:
            message, _ = decode(arrival.data)
            match message:
                case Probe():
                    answer = Probed(id=message.id, receiving_ms=arrival.receiving_ms)
                    await send(channel, encode(answer))
                case Cancel():
                    self._requests.cancel(connection, message.ids)
                case Meter():
                    metered = await asyncio.to_thread(self._instruments.metered, message.id)
                    await send(channel, encode(metered))
                case Time():
                    await send(channel, encode(_timed(self._backend, message)))
                case Prepare():
                    connection.start(_prepare(self._backend, message, channel))
                case Check():
                    await send(channel, encode(_checked(message, connection.channel)))
                case _:
                    raise ProtocolError(f"unexpected {message.type} on a control connection")

    # -------------------------------------------------------------------------------------- data

    async def _receive(self, connection: Connection) -> None:
        """Take requests until the edge closes or breaks the protocol."""
        try:
            await self._shake_hands(connection)
            while (arrival := await connection.channel.receive()) is not None:
                self._take(connection, arrival)
                await self._connections.room(connection)
        except TimeoutError:
            log.warning("an edge did not finish its handshake in %d s", _HANDSHAKE_SECONDS)
        except (HandshakeRefused, ProtocolError) as error:
            log.warning("refused an edge: %s", error)
            await send(connection.channel, encode(Refusal(reason=str(error)[:4096])))

    async def _shake_hands(self, connection: Connection) -> None:
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            arrival = await connection.channel.receive()
            if arrival is None:
                raise ProtocolError("the edge closed the connection before its hello")
            hello, _ = connection.session.receive(arrival.data)
            if not isinstance(hello, Hello):
                raise ProtocolError(f"unexpected {hello.type} from the edge")
            for other in self._connections.superseded(connection, hello):
                self._forget(other)
                connection.start(other.close())  # slow if its other end is gone
            await send(connection.channel, encode(self._welcome(connection)))
            await connection.attached.wait()
        log.info("edge %s joined", hello.edge)

    def _welcome(self, connection: Connection) -> Welcome:
        return Welcome(
            end=self._end,
            refused=self._backend.proof.refused,
            session=connection.key,
            profile=self._profile,
            window=WINDOW,
            max_message_bytes=self._spec.transport.max_message_bytes,
            link=in_words(self._spec.transport.link)[:4096],
            codecs=self._codecs,
            classes=self._classes,
        )

    def _take(self, connection: Connection, arrival: Arrival) -> None:
        request, payload = connection.session.receive(arrival.data)
        if not isinstance(request, Request):
            raise ProtocolError(f"unexpected {request.type} from the edge")
        self._requests.check(connection, payload)
        if not self._draining:  # after the goodbye, the edge asks the next server
            self._requests.take(connection, request, payload, arrival)


def _classes(backend: Backend) -> dict[str, CutClass]:
    """The classes of the offered cuts that are not exact, by name."""
    return {
        cut.name: CutClass(cut.exactness, cut.largest_error, cut.top1_agreement)
        for cut in backend.proof.offered().values()
        if cut.exactness is not Exactness.EXACT
    }


def _conditions(downlink: Conditions | None, request: web.Request) -> Conditions | None:
    """The emulated link to an edge; the request has the time since that link began."""
    age = request.headers.get(LINK_AGE_HEADER, "0")
    if downlink is None or not re.fullmatch("[0-9]{1,18}", age):
        return downlink
    return replace(downlink, offset_ns=downlink.offset_ns + int(age))


async def _prepare(backend: Backend, message: Prepare, channel: Channel) -> None:
    """Make a tail ready while others run."""
    why = ""
    try:
        if message.cut not in backend.proof.offered():
            raise ProtocolError(f"there is no cut {message.cut}")
        await asyncio.to_thread(backend.make_ready, "tail", message.cut)
    except Exception as error:  # noqa: BLE001 - a library's own; the edge keeps another cut
        why = reason(error)[:4096]
        log.warning("a tail cannot be made ready: %s", why)
    await send(channel, encode(Prepared(id=message.id, reason=why)))


def _timed(backend: Backend, question: Time) -> Timed:
    times = (OperationTime(**one.model_dump()) for one in backend.times())
    return Timed(id=question.id, operations=tuple(times))


def _checked(check: Check, data: Channel) -> Checked:
    return Checked(id=check.id, received=data.received, written=data.written, reading=data.reading)


def _unavailable(reason: str) -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text=reason, headers={REASON_HEADER: reason})
