"""The edge's link to the server: sessions come and go, requests stay until they are answered.

A session is two connections, one for tensors and one for what has to overtake them. When one
ends, a new session is opened after a growing, random pause, and whatever was not answered is sent
again, in order. What waits for an answer meanwhile is the manifest's choice (`onServerLoss`).
"""

import asyncio
import contextlib
import logging
import math
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from itertools import count

import aiohttp

from splittracr import security
from splittracr.edge.dial import Connections, Endpoint, connected
from splittracr.edge.liveness import Liveness
from splittracr.experiment.errors import (
    FrameFailed,
    HandshakeRefused,
    InvalidInput,
    ProtocolError,
    ServerLost,
    SplittracrError,
    Untrusted,
)
from splittracr.experiment.spec import OnServerLoss, TransportSpec
from splittracr.planning.choice import LinkObserver, Transfer
from splittracr.planning.meter import LinkMeter
from splittracr.transport.channel import Traffic
from splittracr.transport.frames import Arrival
from splittracr.wire import codec
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import (
    Cancel,
    Check,
    Checked,
    Failure,
    Goodbye,
    Hello,
    Probe,
    Probed,
    Reply,
    Request,
    Welcome,
    decode,
    encode,
)
from splittracr.wire.payload import Payload, TensorRef

log = logging.getLogger(__name__)

_MOST_LOSSES = 10  # sessions that end with the same request under way: it is the reason
_SUSPICIOUS_LOSSES = 3  # it may be
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds
_LONG_WAIT = 60.0  # seconds without an answer that are worth a line in the log


@dataclass(frozen=True)
class Answer:
    """A reply as it arrived: the server's message, its payload, and the sizes of both ways."""

    reply: Reply
    payload: EncodedPayload
    sent: int
    size: int


@dataclass(frozen=True)
class _UnderWay:
    """Something sent that has no answer yet, whether or not somebody still waits for it."""

    cut: int | None
    size: int
    began: float  # in perf_counter's time


@dataclass
class _Pending:
    """A request until it is answered."""

    request: Request
    payload: EncodedPayload
    answer: asyncio.Future[Answer]
    sent: int = 0
    losses: int = 0  # sessions that ended while the server had it


@dataclass
class _Session(Connections):
    """One session, from its welcome to its end."""

    highest: int = -1  # id of the last request that was sent
    sending: asyncio.Task[None] | None = None  # the rest of it
    broken: asyncio.Future[None] = field(default_factory=asyncio.Future)  # why none can be sent
    leaving: str | None = None  # the server's goodbye
    probes: dict[int, asyncio.Future[Probed]] = field(default_factory=dict)
    checks: asyncio.Queue[Checked] = field(default_factory=asyncio.Queue)
    under_way: dict[int, _UnderWay] = field(default_factory=dict)


class Link:
    """Requests to a server that may go away and come back. Made by `Link.open`.

    `welcome` is the last server's, None before the first. `reconnects` counts the sessions after
    the first one, `losses` those that ended early, `resent` the requests sent again. `observer`
    hears of all that crosses the link. `began_at` is when an emulated link began to change with
    time.
    """

    observer: LinkObserver | None = None

    def __init__(
        self, endpoint: Endpoint, hello: Hello, transport: TransportSpec, loss: OnServerLoss
    ) -> None:
        self._endpoint = endpoint
        self._hello = hello
        self._transport = transport
        self._loss = loss
        self._most = transport.max_message_bytes
        self._numbers = count()
        self._pending: dict[int, _Pending] = {}  # by rising number
        self._unwanted: asyncio.Queue[int] = asyncio.Queue()
        self._session: _Session | None = None
        self._first = asyncio.get_running_loop().create_future()
        self._dead: SplittracrError | None = None
        self._trouble: str | None = None  # what went wrong with the last attempt to connect
        self._task: asyncio.Task[None] | None = None
        self._opened_at = time.perf_counter()
        self._mentioned = -math.inf  # when a long wait was logged last
        self.began_at = datetime.now(UTC)
        self.welcome: Welcome | None = None
        self.reconnects = self.losses = self.resent = 0
        self.traffic = Traffic()
        self.meter = LinkMeter()

    @classmethod
    @asynccontextmanager
    async def open(
        cls, endpoint: Endpoint, hello: Hello, transport: TransportSpec, loss: OnServerLoss
    ) -> AsyncIterator["Link"]:
        """A link with a session, or, for FinishOnEdge, without one if nobody answers in time.

        Raises HandshakeRefused with the server's reason or for a wrong token, InvalidInput for a
        URL that is none, and ServerLost when nobody answered within `connectTimeoutSeconds`.
        """
        link = cls(endpoint, hello, transport, loss)
        link._task = asyncio.create_task(link._maintain(), name="link")
        link._task.add_done_callback(link._ended)
        try:
            await link._opened()
            yield link
        finally:
            link._task.cancel()
            await asyncio.wait([link._task])
            link._session = None

    @property
    def connected(self) -> bool:
        """Whether there is a session that takes requests."""
        return self._session is not None and self._session.leaving is None

    @property
    def sessions(self) -> int:
        """Open sessions: 0 or 1."""
        return int(self._session is not None)

    @property
    def bytes_up(self) -> int:
        """Bytes sent to servers so far."""
        return self.traffic.sent

    @property
    def bytes_down(self) -> int:
        """Bytes received from servers so far."""
        return self.traffic.received

    @property
    def in_flight(self) -> int:
        """Requests that have no reply yet, sent or not."""
        return len(self._pending)

    def give_up(self, error: SplittracrError) -> None:
        """Answer what waits, and whatever is asked from now on, with `error`."""
        self._dead = error
        self._tell(error)

    async def request(self, cut: int, epoch: int, payload: EncodedPayload) -> Answer:
        """Have the server finish a frame; cancelled, the server is told that nobody waits.

        Raises FrameFailed when this frame cannot be finished there, ServerLost when the server is
        away and the manifest says not to wait, HandshakeRefused when another one took its place.
        """
        told = self.welcome.most if self.welcome else None
        most = self._most if told is None else min(told, self._most)
        if payload.nbytes > most:
            whose = "the server's " if most < self._most else ""
            raise FrameFailed(
                f"{payload.nbytes} bytes are more than {whose}spec.transport.maxMessageMebibytes, "
                f"{most // 2**20}"
            )
        if self._dead is not None:
            raise self._dead
        if self._session is None and self._loss is OnServerLoss.FINISH_ON_EDGE:
            raise ServerLost("the server is away")
        number = next(self._numbers)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._pending[number] = _Pending(Request(id=number, cut=cut, epoch=epoch), payload, answer)
        self._advance()
        try:
            return await answer
        except asyncio.CancelledError:
            self._unwanted.put_nowait(number)
            raise
        finally:
            self._pending.pop(number, None)

    async def probe(self, payload: EncodedPayload) -> float:
        """Seconds until the server has answered a message with `payload`, which it ignores.

        Raises ServerLost without a session.
        """
        session = self._session
        if session is None:
            raise ServerLost("the server is away")
        number = next(self._numbers)
        answer: asyncio.Future[Probed] = asyncio.get_running_loop().create_future()
        session.probes[number] = answer
        started = time.perf_counter()
        parts = encode(Probe(id=number), payload)
        self._note(session, number, None, sum(len(part) for part in parts))
        try:
            await session.control.send(parts)
            await answer
        except ConnectionError as error:
            raise ServerLost("the server went away") from error
        finally:
            session.probes.pop(number, None)
        return time.perf_counter() - started

    async def learn(self, size: int) -> None:
        """Send `size` bytes for the observer to learn from; nothing without a session."""
        bits = random.Random(size).randbytes(size)  # that no layer below can compress
        tensor = TensorRef(buffer=0, dtype="uint8", shape=(size,), strides=(1,), offset=0)
        blob = Payload(({"t": 0},), (tensor,), (memoryview(bits),))
        with contextlib.suppress(ServerLost):
            await self.probe(codec.encode(blob))

    # --------------------------------------------------------------------------------- sessions

    async def _opened(self) -> None:
        seconds = self._transport.connect_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._first)
        except TimeoutError as error:
            if self._loss is OnServerLoss.FINISH_ON_EDGE:
                log.warning("no server within %d s: the edge begins alone", seconds)
                if not self._first.done():
                    self._first.set_result(None)
                return
            reason = f"no server answered at {self._endpoint.url} within {seconds} s"
            if self._trouble is not None:
                reason += f" ({self._trouble})"
            raise ServerLost(reason) from error

    async def _maintain(self) -> None:
        """One session after the other, for as long as the link is open."""
        refused_since: float | None = None
        attempt = 0
        while self._dead is None:
            try:
                way = connected(
                    self._endpoint, self._hello, self._transport, self._opened_at, self.traffic
                )
                async with way as made:
                    session = _Session(**vars(made))
                    attempt, refused_since = 0, None
                    self._greeted(session)
                    self._lost(session, await self._serve(session))
            except security.NotYetValid as error:  # the clock may be set soon
                if self._trouble is None:
                    log.warning("%s", error)
                refused_since, self._trouble = None, str(error)
            except (HandshakeRefused, InvalidInput) as error:
                if isinstance(error, Untrusted) and self._endpoint.changes:
                    refused_since = None
                    self._missing(error)
                else:
                    loop_time = asyncio.get_running_loop().time()
                    refused_since = refused_since or loop_time
                    self._refused(error, loop_time - refused_since)
            except (ConnectionError, TimeoutError, aiohttp.ClientError, ProtocolError) as error:
                refused_since = None
                self._missing(error)
            if self._dead is None:
                await asyncio.sleep(pause(attempt, random.random()))
                attempt += 1

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Nobody connects any more: for a reason that was told, or one that nobody expected."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.error("the link has ended", exc_info=error)
            self.give_up(SplittracrError(f"the link has ended: {type(error).__name__}: {error}"))
            if not self._first.done():
                self._first.set_exception(self._dead or error)

    def _greeted(self, session: _Session) -> None:
        if self._first.done():
            self.reconnects += 1
            log.info("connected to the server again")
        else:
            self._first.set_result(None)
        self.welcome, self._session = session.welcome, session
        if self.observer is not None:
            self.observer.connection(alive=True)
        self._advance()

    def _lost(self, session: _Session, reason: str) -> None:
        """The session has ended: those who wait go on waiting, or are told."""
        self._session = None
        self.losses += 1
        for number, pending in self._pending.items():
            pending.losses += number in session.protocol.outstanding
            if pending.losses >= _MOST_LOSSES and not pending.answer.done():
                told = f"the server was lost {_MOST_LOSSES} times while it had this request"
                pending.answer.set_exception(FrameFailed(told))
        if self.observer is not None:
            self.observer.connection(alive=False)
        error = ServerLost(reason)
        if self._loss is OnServerLoss.FAIL:
            self.give_up(error)
        elif self._loss is OnServerLoss.FINISH_ON_EDGE:
            self._tell(error)
        log.warning("%s", reason)

    def _missing(self, error: Exception) -> None:
        """Note why there is no session; another attempt follows."""
        self._trouble = str(error) or type(error).__name__
        log.debug("no session with the server yet: %s", self._trouble)

    def _refused(self, error: SplittracrError, seconds: float) -> None:
        """Somebody answered and said no. At the start that is final; later the right server may
        come back, and is waited for as long as at the start.
        """
        if not self._first.done():
            self._first.set_exception(error)
            self.give_up(error)
        elif self._loss is OnServerLoss.FINISH_ON_EDGE:
            log.warning("%s", error)
        elif seconds > self._transport.connect_timeout_seconds:
            self.give_up(error)

    def _tell(self, error: SplittracrError) -> None:
        for pending in self._pending.values():
            if not pending.answer.done():
                pending.answer.set_exception(error)

    async def _serve(self, session: _Session) -> str:
        """Work with a session until it ends; returns why it ended."""
        tasks = [
            asyncio.create_task(self._receive(session), name="answers"),
            asyncio.create_task(self._listen(session), name="control"),
            asyncio.create_task(self._withdraw(session), name="cancels"),
            asyncio.create_task(self._supervise(session), name="checks"),
            session.broken,
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return session.leaving or next(_why(task) for task in tasks if task in done)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            for probe in session.probes.values():
                if not probe.done():
                    probe.set_exception(ServerLost("the server went away"))

    # ------------------------------------------------------------------------------- one session

    def _advance(self) -> None:
        """Send what waits, in the order of numbers and within the server's window."""
        session = self._session
        try:
            while session is not None and (pending := self._next(session)) is not None:
                self._begin(session, pending)
        except ConnectionError:
            pass  # whoever receives hears of it
        except Exception as error:  # noqa: BLE001 - it ends the session, not whoever asked
            if session is not None and not session.broken.done():
                session.broken.set_exception(error)

    def _begin(self, session: _Session, pending: _Pending) -> None:
        request = pending.request
        parts = session.protocol.request(request, pending.payload)
        session.highest = request.id
        self.resent += pending.sent > 0
        pending.sent = sum(len(part) for part in parts)
        self._note(session, request.id, request.cut, pending.sent)
        session.sending = session.channel.begin(parts)
        if session.sending is not None:
            session.sending.add_done_callback(partial(self._sent, session))

    def _sent(self, session: _Session, sending: asyncio.Task[None]) -> None:
        session.sending = None
        error = None if sending.cancelled() else sending.exception()
        if error is None:
            if session is self._session:
                self._advance()
        elif not isinstance(error, ConnectionError) and not session.broken.done():
            session.broken.set_exception(error)

    def _next(self, session: _Session) -> _Pending | None:
        """What can be sent: one after the other, so that what is withdrawn before is not sent."""
        # One at a time while some are suspected, so that the one to blame is lost alone.
        suspected = any(p.losses >= _SUSPICIOUS_LOSSES for p in self._pending.values())
        window = 1 if suspected else session.welcome.window
        full = len(session.protocol.outstanding) >= window
        busy = session.sending is not None or session.channel.closed or session.broken.done()
        if session.leaving or busy or full:
            return None
        waiting = (p for n, p in self._pending.items() if n > session.highest)
        return next(waiting, None)

    async def _withdraw(self, session: _Session) -> None:
        """Tell the server which answers nobody waits for any more."""
        while True:
            number = await self._unwanted.get()
            if number in session.protocol.outstanding:
                await session.control.send(encode(Cancel(ids=(number,))))

    async def _supervise(self, session: _Session) -> None:
        """End the session when the data connection no longer carries bytes.

        The control connection supervises itself, by the heartbeat of its channel.
        """
        liveness = Liveness(self._transport.heartbeat_seconds)
        for number in count():
            await asyncio.sleep(self._transport.heartbeat_seconds)
            self._mention_waiting(session)
            with contextlib.suppress(ConnectionError):  # `_listen` reports it
                session.channel.ping()
                written = session.channel.written
                await session.control.send(encode(Check(id=number)))
                checked = await session.checks.get()
                reason = liveness.judge(written, session.channel.received, checked)
                if reason is not None:
                    session.channel.abort(reason)

    def _mention_waiting(self, session: _Session) -> None:
        """Log, once a minute at most, that the server has had a request for long."""
        began = min((sent.began for sent in session.under_way.values()), default=math.inf)
        now = time.perf_counter()
        if now - max(began, self._mentioned) > _LONG_WAIT:
            self._mentioned = now
            log.warning(
                "a request has been without an answer for %.0f s; the connection works",
                now - began,
            )

    async def _receive(self, session: _Session) -> None:
        while (arrival := await session.channel.receive()) is not None:
            message, payload = session.protocol.receive(arrival.data)
            if isinstance(message, Reply | Failure):
                self._heard(session, message, arrival)
            match message:
                case Reply():
                    self._settle(message, payload, arrival)
                case Failure() if message.id in self._pending:
                    self._fail(message)
            self._advance()  # the window has room
        raise ConnectionResetError(f"the server went away ({session.channel.why_closed})")

    def _note(self, session: _Session, number: int, cut: int | None, size: int) -> None:
        """Something begins to leave."""
        now = time.perf_counter()
        session.under_way[number] = _UnderWay(cut, size, now)
        if self.observer is not None:
            self.observer.sent(number, cut, size, now)

    def _heard(
        self, session: _Session, message: Reply | Failure | Probed, arrival: Arrival
    ) -> None:
        """Something was answered, or failed: that it has crossed the link teaches as much."""
        sent = session.under_way.pop(message.id, None)
        if sent is None:
            return
        receiving = 0.0
        match message:
            case Reply():
                stages, receiving = message.stages, message.receiving_ms
            case Failure():
                stages = {"server_wait": message.waited_ms}
            case Probed():
                stages, receiving = {}, message.receiving_ms
        elapsed = (arrival.last - sent.began) * 1e3
        transfer = Transfer(
            cut=sent.cut,
            bytes_up=sent.size,
            bytes_down=arrival.size_on_wire,
            network_ms=max(0.0, elapsed - sum(stages.values())),
            stages=stages,
            receiving_up_ms=receiving,
            receiving_down_ms=arrival.receiving_ms,
        )
        self.meter.observe(arrival.last, transfer)
        if self.observer is not None:
            self.observer.heard(message.id, transfer, arrival.last)

    def _settle(self, reply: Reply, payload: EncodedPayload, arrival: Arrival) -> None:
        pending = self._pending.get(reply.id)
        if pending is not None and not pending.answer.done():
            answer = Answer(reply, payload, pending.sent, arrival.size_on_wire)
            pending.answer.set_result(answer)

    def _fail(self, failure: Failure) -> None:
        answer = self._pending[failure.id].answer
        if not answer.done():
            answer.set_exception(FrameFailed(failure.reason))

    async def _listen(self, session: _Session) -> None:
        """The control connection: the server's goodbye, and answers to probes."""
        while (arrival := await session.control.receive()) is not None:
            message, _ = decode(arrival.data)
            match message:
                case Probed():
                    self._heard(session, message, arrival)
                    probe = session.probes.get(message.id)
                    if probe is not None and not probe.done():
                        probe.set_result(message)
                case Checked():
                    session.checks.put_nowait(message)
                case Goodbye():
                    session.leaving = f"the server went away: {message.reason}"
                case _:
                    raise ProtocolError(f"unexpected {message.type} on a control connection")
        if session.leaving is None:
            raise ConnectionResetError(f"the server went away ({session.control.why_closed})")
        await asyncio.Event().wait()  # the answers still due come by the other connection


def pause(attempt: int, draw: float) -> float:
    """Seconds before the next attempt to connect; `draw` is a random number in [0, 1).

    Doubles with each attempt, and half of it is random, so that edges do not come back as one.
    """
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 10))
    return longest * (0.5 + draw / 2)


def _why(task: asyncio.Future[None]) -> str:
    error = task.exception()
    if not isinstance(error, ConnectionError | ProtocolError):
        log.error("a session has ended for a reason of this end", exc_info=error)
    return str(error) or type(error).__name__
