"""An aiohttp shell around the session and the engine.

The event loop only moves bytes, so that pings are answered while a tail runs. Each edge has two
connections: tensors travel on one, and what has to overtake them on the other. When either ends,
both do.
"""

import asyncio
import contextlib
import hmac
import logging
import re
import secrets
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from splittracr.experiment.errors import HandshakeRefused, ProtocolError
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure.health import add_health
from splittracr.measure.metrics import ServerMetrics
from splittracr.planning.emulation import in_words
from splittracr.planning.link import Conditions
from splittracr.replica import Replica
from splittracr.security import bears
from splittracr.server.engine import Engine, Job, Outcome
from splittracr.transport.channel import Channel, Traffic
from splittracr.transport.frames import Arrival
from splittracr.transport.sockets import accept
from splittracr.wire import registry
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import (
    CONTROL_PATH,
    LINK_AGE_HEADER,
    MOST_CONTROL,
    MOST_HEADER,
    REASON_HEADER,
    SESSION_PATH,
    Attach,
    Cancel,
    Check,
    Checked,
    End,
    Failure,
    Goodbye,
    Hello,
    Probe,
    Probed,
    Refusal,
    Request,
    Welcome,
    decode,
    encode,
)
from splittracr.wire.session import Parts, ServerSession

log = logging.getLogger(__name__)

WINDOW = 64
"""Requests that an edge may have without an answer. Twice as many are a fault, or an attack on
memory; an edge can be a little ahead, as an answer arrives before its sending has ended."""

_HANDSHAKE_SECONDS = 10
_DRAIN_SECONDS = 15
_MOST_CANCELLED = 4096
_MOST_HELD = 2**30
"""Bytes of unanswered requests of all edges. Beyond them an edge that has one here is not read."""


@dataclass(eq=False)
class _Connection:
    """One edge: its connections, its session, and what it is still owed."""

    number: int
    channel: Channel
    session: ServerSession
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    control: Channel | None = None
    attached: asyncio.Event = field(default_factory=asyncio.Event)
    owed: dict[int, int] = field(default_factory=dict)  # bytes of each request by its number
    settled: asyncio.Event = field(default_factory=asyncio.Event)  # nothing is owed
    unwanted: set[int] = field(default_factory=set)  # cancelled before they arrived
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the others of this connection."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def close(self) -> None:
        """End both connections."""
        await self.channel.close()
        if self.control is not None:
            await self.control.close()


class Server:
    """Serves tails of one replica. `token` is what an edge has to bring, if anything; with
    `certificates` one that the TLS layer has accepted does as well.

    `downlink` is what the way to each edge is like, where it is emulated; `profile` is what edges
    are told for their decisions. What it does is counted in `metrics`.
    """

    def __init__(
        self,
        replica: Replica,
        spec: ExperimentSpec,
        token: str | None,
        downlink: Conditions | None = None,
        *,
        certificates: bool = False,
        profile: Profile | None = None,
        metrics: ServerMetrics | None = None,
    ) -> None:
        self._replica = replica
        self._spec = spec
        self._token = token
        self._downlink = downlink
        self._certificates = certificates
        self._profile = profile
        self.metrics = metrics or ServerMetrics(max_edges=spec.server.max_edges)
        self._engine = Engine(replica, spec, self.metrics)
        self._traffic = Traffic()
        self._most = spec.transport.max_message_bytes
        self._connections: dict[int, _Connection] = {}
        self._numbers = 0
        self._held = 0  # bytes of all that is owed
        self._freed = asyncio.Event()
        self._draining = False
        self._end = End(**replica.end().model_dump())
        self._codecs = registry.installed()
        self.metrics.use(self)

    @property
    def sessions(self) -> int:
        """Open sessions."""
        return len(self._connections)

    @property
    def in_flight(self) -> int:
        """Requests that have no reply yet."""
        return sum(len(connection.owed) for connection in self._connections.values())

    @property
    def queue_length(self) -> int:
        """Requests that wait for the compute thread."""
        return self._engine.queue_length

    @property
    def busy_seconds(self) -> float:
        """Time that the compute thread has spent on requests."""
        return self._engine.busy_seconds

    @property
    def bytes_up(self) -> int:
        """Bytes received from edges so far."""
        return self._traffic.received

    @property
    def bytes_down(self) -> int:
        """Bytes sent to edges so far."""
        return self._traffic.sent

    def app(self) -> web.Application:
        """Routes: the two connections, and health for probes."""
        app = web.Application()
        app.router.add_get(SESSION_PATH, self._serve_session)
        app.router.add_get(CONTROL_PATH, self._serve_control)
        add_health(app)
        self._engine.start()
        app.on_cleanup.append(self._stop_engine)
        return app

    async def drain(self) -> None:
        """Say goodbye and accept nothing more, answer what was accepted, close every session."""
        self._draining = True
        leaving = list(self._connections.values())
        with contextlib.suppress(TimeoutError):  # an edge that does not read waits in vain
            async with asyncio.timeout(_DRAIN_SECONDS):
                await asyncio.gather(*(self._dismiss(c) for c in leaving))
        await asyncio.gather(*(c.close() for c in leaving))

    async def _stop_engine(self, _: web.Application) -> None:
        self._engine.stop()
        # A daemon thread that is still in PyTorch when the interpreter ends aborts the process.
        await asyncio.to_thread(self._engine.join, _DRAIN_SECONDS)

    async def _dismiss(self, connection: _Connection) -> None:
        if connection.control is not None:
            await _send(connection.control, encode(Goodbye(reason="the server is stopping")))
        if connection.owed:
            connection.settled.clear()
            await connection.settled.wait()
        await asyncio.gather(*connection.tasks)
        await connection.close()

    # ------------------------------------------------------------------------ the two connections

    async def _serve_session(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        if len(self._connections) >= self._spec.server.max_edges:
            full = f"{self._spec.server.max_edges} edges are served already (spec.server.maxEdges)"
            raise _not_now(full)
        socket = await accept(request)
        limit = self._most + MOST_HEADER
        async with Channel(
            socket,
            limit=limit,
            pacer_conditions=self._link(request),
            traffic=self._traffic,
        ) as channel:
            connection = self._new(channel)
            try:
                await self._receive(connection)
            finally:
                self._forget(connection)
                await connection.close()
        return socket

    async def _serve_control(self, request: web.Request) -> web.StreamResponse:
        self._admit(request)
        socket = await accept(request)
        async with Channel(
            socket,
            limit=MOST_CONTROL,
            pacer_conditions=self._link(request),
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

    def _link(self, request: web.Request) -> Conditions | None:
        """The way to an edge, whose link began some time ago."""
        age = request.headers.get(LINK_AGE_HEADER, "0")
        if self._downlink is None or not re.fullmatch("[0-9]{1,18}", age):
            return self._downlink
        return replace(self._downlink, offset_ns=self._downlink.offset_ns + int(age))

    def _admit(self, request: web.Request) -> None:
        if not self._authorised(request):
            raise web.HTTPUnauthorized(text="the token is missing or wrong")
        if self._draining:
            raise _not_now("the server is stopping")

    def _authorised(self, request: web.Request) -> bool:
        if self._certificates and request.get_extra_info("peercert"):
            return True
        if not self._token:
            return not self._certificates
        return bears(request.headers.get("Authorization", ""), self._token)

    def _new(self, channel: Channel) -> _Connection:
        session = ServerSession(
            self._replica.identity,
            self._replica.proof.offered(),
            self._replica.network.variable_shape,
            codecs=self._codecs,
        )
        self._numbers += 1
        connection = _Connection(self._numbers, channel, session)
        self._connections[connection.number] = connection
        return connection

    def _forget(self, connection: _Connection) -> None:
        self._connections.pop(connection.number, None)
        self._engine.drop(connection.number)
        for number in list(connection.owed):
            self._settle(connection, number)

    # ----------------------------------------------------------------------------------- control

    async def _attach(self, channel: Channel) -> _Connection:
        """The session that a control connection says it belongs to."""
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            arrival = await channel.receive()
        message = decode(arrival.data)[0] if arrival is not None else None
        if isinstance(message, Attach):
            for connection in self._connections.values():
                if hmac.compare_digest(connection.key.encode(), message.session.encode()):
                    connection.control = channel
                    connection.attached.set()
                    return connection
        raise ProtocolError("a control connection belongs to no session")

    async def _control(self, connection: _Connection, channel: Channel) -> None:
        while (arrival := await channel.receive()) is not None:
            message, _ = decode(arrival.data)
            match message:
                case Probe():
                    answer = Probed(id=message.id, receiving_ms=arrival.receiving_ms)
                    await _send(channel, encode(answer))
                case Cancel():
                    self._cancel(connection, message.ids)
                case Check():
                    await _send(channel, encode(_checked(message, connection.channel)))
                case _:
                    raise ProtocolError(f"unexpected {message.type} on a control connection")

    def _cancel(self, connection: _Connection, ids: Sequence[int]) -> None:
        """What is here need not be computed, and what is still on its way neither."""
        self._engine.cancel(connection.number, ids)
        early = [number for number in ids if connection.session.is_new(number)]
        if len(connection.unwanted) + len(early) <= _MOST_CANCELLED:
            connection.unwanted.update(early)

    # -------------------------------------------------------------------------------------- data

    async def _receive(self, connection: _Connection) -> None:
        """Take requests until the edge closes or breaks the protocol."""
        try:
            await self._shake_hands(connection)
            while (arrival := await connection.channel.receive()) is not None:
                self._take(connection, arrival)
                await self._room(connection)
        except TimeoutError:
            log.warning("an edge did not finish its handshake in %d s", _HANDSHAKE_SECONDS)
        except (HandshakeRefused, ProtocolError) as error:
            log.warning("refused an edge: %s", error)
            await _send(connection.channel, encode(Refusal(reason=str(error)[:4096])))

    async def _shake_hands(self, connection: _Connection) -> None:
        async with asyncio.timeout(_HANDSHAKE_SECONDS):
            arrival = await connection.channel.receive()
            if arrival is None:
                raise ProtocolError("the edge left before its hello")
            hello, _ = connection.session.receive(arrival.data)
            if not isinstance(hello, Hello):
                raise ProtocolError(f"unexpected {hello.type} from the edge")
            self._supersede(connection, hello)
            await _send(connection.channel, encode(self._welcome(connection)))
            await connection.attached.wait()
        log.info("edge %s joined", hello.edge)

    def _welcome(self, connection: _Connection) -> Welcome:
        return Welcome(
            end=self._end,
            refused=self._replica.proof.refused,
            session=connection.key,
            profile=self._profile,
            window=WINDOW,
            most=self._most,
            network=in_words(self._spec.transport.link)[:4096],
            codecs=self._codecs,
        )

    def _supersede(self, connection: _Connection, hello: Hello) -> None:
        """Close what an edge that connects anew has left behind, maybe without knowing."""
        for other in list(self._connections.values()):
            theirs = other.session.hello
            if other is connection or theirs is None:
                continue
            if (theirs.uid, theirs.edge) == (hello.uid, hello.edge):
                self._forget(other)
                connection.start(other.close())  # may take a while, with nobody at the other end

    def _take(self, connection: _Connection, arrival: Arrival) -> None:
        received, payload = connection.session.receive(arrival.data)
        if not isinstance(received, Request):
            raise ProtocolError(f"unexpected {received.type} from the edge")
        if payload.nbytes > self._most:
            raise ProtocolError(
                f"a payload of {payload.nbytes} bytes; spec.transport.maxMessageMebibytes is "
                f"{self._spec.transport.max_message_mebibytes}"
            )
        if len(connection.owed) >= 2 * WINDOW:
            raise ProtocolError(f"more than {2 * WINDOW} requests without an answer")
        if not self._draining:  # the edge was told, and asks the next server
            connection.owed[received.id] = arrival.size_on_wire
            self._held += arrival.size_on_wire
            job = self._job(connection, received, payload, arrival)
            if received.id in connection.unwanted:
                connection.unwanted.discard(received.id)
                self._engine.refuse(job)
            else:
                self._engine.submit(job)

    async def _room(self, connection: _Connection) -> None:
        """Wait until there is memory for another request; the edge feels it by TCP's own means."""
        while connection.owed and self._held > _MOST_HELD:
            self._freed.clear()
            await self._freed.wait()

    def _job(
        self, connection: _Connection, request: Request, payload: EncodedPayload, arrival: Arrival
    ) -> Job:
        loop = asyncio.get_running_loop()

        def done(job: Job, parts: Parts, outcome: Outcome) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._deliver, connection, job, parts, outcome)

        return Job(
            edge=connection.number,
            request=request,
            payload=payload,
            arrived=arrival.last,
            receiving_ms=arrival.receiving_ms,
            done=done,
        )

    def _deliver(self, connection: _Connection, job: Job, parts: Parts, outcome: Outcome) -> None:
        sent = sum(len(part) for part in parts)
        if sent > self._most + MOST_HEADER:
            limit = "spec.transport.maxMessageMebibytes"
            reason = f"the reply of {sent} bytes is more than {limit} allows"
            outcome, parts = "failed", encode(Failure(id=job.request.id, reason=reason))
        self._answer(connection, job.request.id, parts)
        self.metrics.answered(outcome, job.stages)
        if outcome == "ok":
            self.metrics.operations(self._replica.last - job.request.cut)

    def _answer(self, connection: _Connection, number: int, parts: Parts) -> None:
        sending = None
        with contextlib.suppress(ConnectionError):  # the edge is gone: nobody misses it
            sending = connection.channel.begin(parts)
        if sending is None:
            self._settle(connection, number)
        else:
            sending.add_done_callback(lambda _: self._settle(connection, number))

    def _settle(self, connection: _Connection, number: int) -> None:
        """A request is owed no longer."""
        self._held -= connection.owed.pop(number, 0)
        self._freed.set()
        if not connection.owed:
            connection.settled.set()


def _checked(check: Check, data: Channel) -> Checked:
    return Checked(id=check.id, received=data.received, written=data.written, reading=data.reading)


def _not_now(reason: str) -> web.HTTPServiceUnavailable:
    return web.HTTPServiceUnavailable(text=reason, headers={REASON_HEADER: reason})


async def _send(channel: Channel, parts: Parts) -> None:
    """Send a frame, unless the edge is gone: then nobody misses it."""
    with contextlib.suppress(ConnectionError):
        await channel.send(parts)
