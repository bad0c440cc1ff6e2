"""What a link sends when, and what it makes of a channel that fails under it."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from splittracr.edge.dial import Endpoint
from splittracr.edge.link import Link, _Session
from splittracr.experiment.errors import FrameFailed
from splittracr.experiment.spec import OnServerLoss, TransportSpec
from splittracr.transport.channel import Channel
from splittracr.wire import codec
from splittracr.wire.codec import NOTHING
from splittracr.wire.messages import (
    End,
    Failure,
    Hello,
    Identity,
    Request,
    Welcome,
    decode,
    encode,
)
from splittracr.wire.payload import Payload, TensorRef
from splittracr.wire.session import EdgeSession, Parts

IDENTITY = Identity(network="n", fingerprint="f", weights="w", batch=1, outputs="Reduced")


class Wire(Channel):
    """A channel without a socket: each message is under way until it is `done`."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.under_way: asyncio.Task[None] | None = None
        self.trouble: Exception | None = None
        self.lost = False

    @property
    def closed(self) -> bool:
        return self.lost

    def begin(self, parts: Any) -> asyncio.Task[None] | None:
        if self.trouble is not None:
            raise self.trouble
        message, _ = decode(b"".join(parts))
        assert isinstance(message, Request)
        self.sent.append(message.id)
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.under_way = asyncio.create_task(self._until_finished())
        return self.under_way

    async def _until_finished(self) -> None:
        await self.finished


class Case:
    """A link with a session over such a wire, and requests that are asked for at once."""

    def __init__(self, window: int = 8) -> None:
        hello = Hello(uid="u", edge="e", identity=IDENTITY)
        self.link = Link(Endpoint("ws://none"), hello, TransportSpec(), OnServerLoss.WAIT)
        self.wire, welcome = Wire(), Welcome(end=End(), refused={}, window=window)
        protocol = EdgeSession(hello)
        protocol.receive(_joined(encode(welcome)))
        self.session = _Session(self.wire, self.wire, protocol, welcome)
        self.link._session = self.session

    async def ask(self, count: int) -> list[asyncio.Task[Any]]:
        asked = [asyncio.create_task(self.link.request(1, 0, NOTHING)) for _ in range(count)]
        await asyncio.sleep(0)
        return asked

    async def end(self, error: Exception | None = None) -> None:
        """What is under way ends, well or not, and the link has heard of it."""
        if error is None:
            self.wire.finished.set_result(None)
        else:
            self.wire.finished.set_exception(error)
        assert self.wire.under_way is not None
        await asyncio.wait([self.wire.under_way])
        await asyncio.sleep(0)


def _joined(parts: Parts) -> bytes:
    return b"".join(parts)


def play(scenario: Coroutine[Any, Any, None]) -> None:
    async def stage() -> None:
        async with asyncio.timeout(20):
            await scenario
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(stage())


def test_requests_leave_one_after_the_other_and_those_withdrawn_not_at_all() -> None:
    async def scenario() -> None:
        case = Case()
        asked = await case.ask(3)
        assert case.wire.sent == [0]
        asked[1].cancel()
        await case.end()
        assert case.wire.sent == [0, 2]

    play(scenario())


def test_no_more_leave_than_the_server_takes() -> None:
    async def scenario() -> None:
        case = Case(window=2)
        await case.ask(3)
        await case.end()
        await case.end()
        assert case.wire.sent == [0, 1]
        failed, _ = case.session.protocol.receive(_joined(encode(Failure(id=0, reason="x"))))
        assert failed.type == "failure"
        case.link._advance()
        assert case.wire.sent == [0, 1, 2]

    play(scenario())


def test_what_did_not_leave_before_the_channel_was_lost_was_not_lost_with_it() -> None:
    async def scenario() -> None:
        case = Case()
        await case.ask(4)
        case.wire.lost = True
        case.wire.trouble = ConnectionResetError("gone")
        await case.end(ConnectionResetError("gone"))
        assert case.session.protocol.outstanding == {0}
        case.link._lost(case.session, "gone")
        assert [p.losses for p in case.link._pending.values()] == [1, 0, 0, 0]
        assert not case.session.broken.done()  # whoever receives tells how it ended

    play(scenario())


@pytest.mark.parametrize("at_once", [True, False])
def test_an_error_of_this_end_breaks_the_session_and_no_request(at_once: bool) -> None:
    async def scenario() -> None:
        case = Case()
        if at_once:
            case.wire.trouble = MemoryError("none left")
        asked = await case.ask(2)
        if not at_once:
            await case.end(MemoryError("none left"))
        assert not any(task.done() for task in asked)
        assert case.session.broken.done()
        assert isinstance(case.session.broken.exception(), MemoryError)

    play(scenario())


def test_a_request_that_may_break_sessions_is_asked_alone() -> None:
    async def scenario() -> None:
        case = Case()
        await case.ask(3)
        for pending in case.link._pending.values():
            pending.losses = 3
        await case.end()
        assert case.wire.sent == [0]
        case.session.protocol.receive(_joined(encode(Failure(id=0, reason="x"))))
        case.link._pending.pop(0)
        case.link._advance()
        assert case.wire.sent == [0, 1]

    play(scenario())


def test_a_request_that_the_server_would_not_take_is_not_sent() -> None:
    async def scenario() -> None:
        case = Case()
        case.link.welcome = Welcome(end=End(), refused={}, most=2**20)
        blob = Payload(
            ({"t": 0},),
            (TensorRef(0, "uint8", (2**20 + 1,), (1,), 0),),
            (memoryview(bytes(2**20 + 1)),),
        )
        words = "1048577 bytes are more than the server's spec.transport.maxMessageMebibytes, 1"
        with pytest.raises(FrameFailed, match=words):
            await case.link.request(1, 0, codec.encode(blob))
        assert case.wire.sent == []

    play(scenario())
