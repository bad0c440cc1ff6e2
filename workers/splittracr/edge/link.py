"""The edge's link to the server: sessions begin and end, requests stay until they have a reply.

A session is two connections, one for tensors and one for messages that must not wait behind them.
After a lost session a new one is opened, after a growing, random pause. `wire/requests.py` decides
which requests are sent, sent again or failed; this module connects and acts.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import count

from splittracr.edge.connector import Connector
from splittracr.edge.dial import Connect, Connections, Endpoint, connected
from splittracr.edge.reconnect import Reconnect
from splittracr.edge.session import ServerReply, Session
from splittracr.edge.transfers import Transfers
from splittracr.experiment.errors import HandshakeRefused, InvalidInput, ServerLost, SplittracrError
from splittracr.experiment.errors import reason as reason_of
from splittracr.experiment.spec import OnServerLoss, TransportSpec
from splittracr.planning.meter import LinkMeter
from splittracr.planning.transfer import LinkObserver
from splittracr.transport.channel import ByteCounter
from splittracr.wire import codec
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import (
    Hello,
    Meter,
    Metered,
    Prepare,
    Prepared,
    Request,
    Time,
    Timed,
    Welcome,
)
from splittracr.wire.payload import Payload, TensorRef
from splittracr.wire.requests import Action, Deliver, Fail, PendingRequests, Send, SendCancel

__all__ = ["Link", "ServerReply"]

log = logging.getLogger(__name__)


class Link:
    """Requests to a server that may be lost and replaced. Made by `Link.open`.

    `welcome` is the last server's, None before the first. `reconnects` counts the sessions after
    the first one, `losses` those that ended early, `resent` the requests sent again. `observer`
    gets every transfer over the link. `began_at` is when an emulated link began to change with
    time.

    It is the only interface to the server, so it has many small methods.
    """

    observer: LinkObserver | None = None

    def __init__(
        self,
        endpoint: Endpoint,
        hello: Hello,
        transport: TransportSpec,
        loss: OnServerLoss,
        connect: Connect = connected,
    ) -> None:
        self._endpoint = endpoint
        self._heartbeat = transport.heartbeat_seconds
        self._finish_on_edge = loss is OnServerLoss.FINISH_ON_EDGE
        self._numbers = count()
        self._replies: dict[int, asyncio.Future[ServerReply]] = {}
        self._requests = PendingRequests(loss, transport.max_message_bytes)
        self.traffic = ByteCounter()
        self.meter = LinkMeter()
        self._reconnect = Reconnect(transport.connect_timeout_seconds, self._finish_on_edge)
        opened_at = time.perf_counter()
        dial = partial(connect, endpoint, hello, transport, opened_at, self.traffic)
        self._connector = Connector(dial, self._reconnect, endpoint.changes)
        self._session: Session | None = None
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.began_at = datetime.now(UTC)
        self.welcome: Welcome | None = None
        self.reconnects = self.losses = self.resent = 0

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        endpoint: Endpoint,
        hello: Hello,
        transport: TransportSpec,
        loss: OnServerLoss,
        connect: Connect = connected,
    ) -> AsyncIterator["Link"]:
        """Yield a link with a session; for FinishOnEdge without one if no server answers in time.

        `connect` opens the connections of a session.

        Raises HandshakeRefused with the server's reason, or for a wrong token.
        Raises InvalidInput for an invalid URL.
        Raises ServerLost if no server answered within `connectTimeoutSeconds`.
        """
        link = cls(endpoint, hello, transport, loss, connect)
        task = asyncio.create_task(link._maintain(), name="link")
        try:
            await link._wait_for_start(transport.connect_timeout_seconds)
            yield link
        finally:
            task.cancel()
            await asyncio.wait([task])
            link._session = None

    @property
    def connected(self) -> bool:
        """Whether there is a session that takes requests."""
        return self._requests.connected

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
        return len(self._requests)

    def give_up(self, error: SplittracrError) -> None:
        """Fail all pending requests, and all that are made later, with `error`."""
        self._act(self._requests.give_up(error))

    async def request(self, cut: int, epoch: int, payload: EncodedPayload) -> ServerReply:
        """Have the server finish a frame. If the caller is cancelled, so is the request.

        Raises FrameFailed if the server cannot finish this frame.
        Raises ServerLost if there is no server and the manifest says not to wait.
        Raises HandshakeRefused if another server took its place.
        """
        number = next(self._numbers)
        reply: asyncio.Future[ServerReply] = asyncio.get_running_loop().create_future()
        self._replies[number] = reply
        losses, away = self.losses, self.losses > 0 and not self.connected
        try:
            self._act(self._requests.submit(Request(number, cut, epoch), payload))
            received = await reply
        finally:
            del self._replies[number]
            self._act(self._requests.cancel(number))  # nothing if it has ended
        if away or self.losses > losses:
            return replace(received, resent=True)
        return received

    async def probe(self, payload: EncodedPayload) -> float:
        """Return the seconds until the server answered a message with `payload`, which it ignores.

        Raises ServerLost without a session, or if it ends before.
        """
        session, started = self._required(), time.perf_counter()
        await session.probe(next(self._numbers), payload)
        return time.perf_counter() - started

    async def read_energy(self) -> Metered:
        """What the server's sensors show now.

        Raises ServerLost without a session, or if it ends before.
        """
        metered: Metered = await self._required().ask(Meter(id=next(self._numbers)))
        return metered

    async def operation_times(self) -> Timed:
        """How long operations take at the server.

        Raises ServerLost without a session, or if it ends before.
        """
        timed: Timed = await self._required().ask(Time(id=next(self._numbers)))
        return timed

    async def prepare(self, cut: int) -> None:
        """Have the server make its tail at a cut ready.

        Raises SplittracrError if it cannot, ServerLost without a session, or if it ends before.
        """
        question = Prepare(id=next(self._numbers), cut=cut)
        prepared: Prepared = await self._required().ask(question)
        if prepared.reason:
            raise SplittracrError(f"the server: {prepared.reason}")

    def _required(self) -> Session:
        """The session. Raises ServerLost if there is none."""
        if self._session is None:
            raise ServerLost("there is no session with the server")
        return self._session

    async def learn(self, size: int) -> None:
        """Send `size` bytes for the observer to measure the link; nothing without a session."""
        with contextlib.suppress(ServerLost):
            await self.probe(_random_payload(size))

    def _act(self, actions: Sequence[Action], reply: ServerReply | None = None) -> None:
        """Take the actions of an event, and those that follow from them."""
        left = deque(actions)
        while left:
            match left.popleft():
                case Send() as send:
                    self.resent += send.resent
                    if self._session is not None:
                        left += self._session.send(send)
                case Deliver(number):
                    future = self._replies.get(number)
                    if future is not None and not future.done() and reply is not None:
                        future.set_result(reply)
                case Fail(number, error):
                    future = self._replies.get(number)
                    if future is not None and not future.done():
                        future.set_exception(error)
                case SendCancel(number):
                    if self._session is not None:
                        self._session.cancel(number)

    async def _wait_for_start(self, seconds: int) -> None:
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self._started)
        except TimeoutError as error:
            if not self._finish_on_edge:
                trouble = self._connector.trouble
                why = f" ({trouble})" if trouble else ""
                reason = f"no server answered at {self._endpoint.url} within {seconds} s{why}"
                raise ServerLost(reason) from error
            log.warning("no server within %d s: the edge begins alone", seconds)
            self._reconnect.started = True
            if not self._started.done():
                self._started.set_result(None)

    async def _maintain(self) -> None:
        """Keep a session open until the link is closed or gives up."""
        try:
            await self._connector.run(self._serve, lambda: self._requests.error is None)
        except (HandshakeRefused, InvalidInput) as error:
            self.give_up(error)
        except Exception as error:
            log.exception("the link has ended")
            self.give_up(SplittracrError(f"the link has ended: {reason_of(error)}"))
        if not self._started.done() and self._requests.error is not None:
            self._started.set_exception(self._requests.error)

    async def _serve(self, connections: Connections) -> None:
        """Run a session to its end."""
        transfers = Transfers(self.meter, lambda: self.observer)
        session = Session(connections, self._requests, transfers, self._heartbeat, self._act)
        if self.welcome is not None:
            self.reconnects += 1
            log.info("connected to the server again")
        self.welcome, self._session = connections.welcome, session
        if not self._started.done():
            self._started.set_result(None)
        if self.observer is not None:
            self.observer.connection(alive=True)
        self._act(self._requests.opened(connections.welcome))
        reason = await session.run()
        self._session = None
        self.losses += 1
        if self.observer is not None:
            self.observer.connection(alive=False)
        self._act(self._requests.lost(reason))
        log.warning("%s", reason)


def _random_payload(size: int) -> EncodedPayload:
    """Return a payload of `size` bytes that no layer below can compress."""
    bits = random.Random(size).randbytes(size)
    tensor = TensorRef(buffer=0, dtype="uint8", shape=(size,), strides=(1,), offset=0)
    return codec.encode(Payload(({"t": 0},), (tensor,), (memoryview(bits),)))
