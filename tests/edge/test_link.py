"""What a link sends when, and how it handles a channel that fails under it."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from splittracr.edge.dial import Endpoint
from splittracr.edge.link import Link, ServerReply
from splittracr.experiment.errors import FrameFailed, HandshakeRefused, ServerLost, Stopped
from splittracr.experiment.spec import OnServerLoss, TransportSpec
from splittracr.planning.transfer import Transfer
from splittracr.wire.codec import NOTHING
from splittracr.wire.messages import (
    Cancel,
    Check,
    Checked,
    Failure,
    Goodbye,
    Probe,
    Probed,
    Reply,
    Request,
)
from splittracr.wire.requests import MAX_LOSSES
from tests.edge.channels import HELLO, FakeChannel, FakeServer, FakeSession

Asked = list[asyncio.Task[ServerReply]]


@asynccontextmanager
async def linked(
    server: FakeServer, loss: OnServerLoss = OnServerLoss.WAIT, **transport: int
) -> AsyncIterator[tuple[Link, FakeSession]]:
    """A link to a fake server, and its first session."""
    of = TransportSpec.model_validate(transport)
    async with Link.open(Endpoint("ws://none"), HELLO, of, loss, server.connect) as link:
        yield link, await server.sessions.get()


def ask(link: Link, count: int) -> Asked:
    return [asyncio.create_task(link.request(1, 0, NOTHING)) for _ in range(count)]


async def next_id(channel: FakeChannel) -> int:
    """The id of the next request on a channel."""
    message = await channel.sent.get()
    assert isinstance(message, Request)
    return message.id


def hand_over(channel: FakeChannel, error: Exception | None = None) -> None:
    """All bytes of the last message are sent, or that fails."""
    assert channel.sending is not None
    if error is None:
        channel.sending.set_result(None)
    else:
        channel.sending.set_exception(error)


def reply(number: int) -> Reply:
    return Reply(id=number, stages={"tail": 3.0})


async def cancel(asked: Asked) -> None:
    for task in asked:
        task.cancel()
    await asyncio.wait(asked)


def play(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


def test_requests_leave_one_after_the_other_and_cancelled_ones_not_at_all() -> None:
    async def scenario() -> None:
        async with linked(FakeServer()) as (link, session):
            asked = ask(link, 3)
            assert await next_id(session.data) == 0
            assert await session.data.nothing_sent()
            await cancel([asked[1]])
            hand_over(session.data)
            assert await next_id(session.data) == 2
            assert session.control.sent.empty()
            assert link.in_flight == 2
            await cancel([asked[0], asked[2]])
            cancels = [await session.control.sent.get() for _ in range(2)]
            assert cancels == [Cancel(ids=(0,)), Cancel(ids=(2,))]
            assert link.in_flight == 0

    play(scenario())


def test_many_requests_leave_at_once_if_nothing_is_in_the_way() -> None:
    async def scenario() -> None:
        async with linked(FakeServer(window=4096)) as (link, session):
            asked = ask(link, 1)
            assert await next_id(session.data) == 0
            asked += ask(link, 3000)  # they wait for the first one
            assert await session.data.nothing_sent()
            session.data.quick = True
            hand_over(session.data)
            assert [await next_id(session.data) for _ in range(3000)] == list(range(1, 3001))
            await cancel(asked)

    play(scenario())


def test_an_answer_has_the_sizes_of_both_ways() -> None:
    async def scenario() -> None:
        async with linked(FakeServer(window=1)) as (link, session):
            session.data.quick = True
            asked = ask(link, 2)
            assert await next_id(session.data) == 0
            assert await session.data.nothing_sent(), "the window is 1"
            session.data.arrive(reply(0))
            answer = await asked[0]
            assert answer.reply == reply(0)
            assert (answer.sent > 0, answer.size > 0) == (True, True)
            assert await next_id(session.data) == 1
            session.data.arrive(Failure(id=1, reason="too warm"))
            with pytest.raises(FrameFailed, match="too warm"):
                await asked[1]

    play(scenario())


def test_pending_requests_are_sent_again_in_order_and_counted() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server) as (link, first):
            asked = ask(link, 3)
            assert await next_id(first.data) == 0
            hand_over(first.data)
            assert await next_id(first.data) == 1
            server.quick = True
            first.data.abort("cut")
            second = await server.sessions.get()
            assert [await next_id(second.data) for _ in range(3)] == [0, 1, 2]
            assert (link.reconnects, link.losses, link.resent) == (1, 1, 2)
            for number in range(3):
                second.data.arrive(reply(number))
            answers = await asyncio.gather(*asked)
            assert [answer.reply.id for answer in answers] == [0, 1, 2]
            assert all(answer.resent for answer in answers), "all of them waited for the server"
            (later,) = ask(link, 1)
            second.data.arrive(reply(await next_id(second.data)))
            assert not (await later).resent

    play(scenario())


def test_a_message_of_a_lost_session_does_not_move_the_next_one() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server) as (link, first):
            asked = ask(link, 2)
            assert await next_id(first.data) == 0
            first.data.abort("cut")
            second = await server.sessions.get()
            assert await next_id(second.data) == 0
            hand_over(first.data)
            assert await second.data.nothing_sent(), "request 0 is still being sent"
            hand_over(second.data)
            assert await next_id(second.data) == 1
            await cancel(asked)

    play(scenario())


def test_requests_that_did_not_leave_before_the_channel_was_lost_are_not_resent() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server) as (link, first):
            asked = ask(link, 3)
            assert await next_id(first.data) == 0
            first.data.error = ConnectionResetError("gone")
            hand_over(first.data)
            assert await first.data.nothing_sent()
            assert not link.connected
            server.quick = True
            first.data.abort("gone")
            second = await server.sessions.get()
            assert [await next_id(second.data) for _ in range(3)] == [0, 1, 2]
            assert link.resent == 1
            await cancel(asked)

    play(scenario())


@pytest.mark.parametrize("at_once", [True, False])
def test_an_error_of_this_end_ends_the_session_and_no_request(
    at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server) as (link, first):
            server.quick = True
            if at_once:
                first.data.error = MemoryError("none left")
            asked = ask(link, 2)
            if not at_once:
                assert await next_id(first.data) == 0
                hand_over(first.data, MemoryError("none left"))
            second = await server.sessions.get()
            assert [await next_id(second.data) for _ in range(2)] == [0, 1]
            assert not any(task.done() for task in asked)
            await cancel(asked)

    play(scenario())
    assert "a session ended by an error of this end" in caplog.text
    assert "none left" in caplog.text


def test_a_request_in_many_lost_sessions_fails_alone() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server) as (link, session):
            asked = ask(link, 2)
            for _ in range(MAX_LOSSES):
                assert await next_id(session.data) == 0
                session.data.abort("cut")
                session = await server.sessions.get()
            with pytest.raises(FrameFailed, match="lost 10 times while it had this request"):
                await asked[0]
            assert await next_id(session.data) == 1
            session.data.arrive(reply(1))
            assert (await asked[1]).reply.id == 1

    play(scenario())


def test_an_answer_that_was_not_asked_for_ends_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server) as (link, first):
            first.data.arrive(reply(7))
            await server.sessions.get()
            assert link.losses == 1

    play(scenario())
    assert "unexpected reply from the server" in caplog.text


@pytest.mark.parametrize("loss", [OnServerLoss.FAIL, OnServerLoss.FINISH_ON_EDGE])
def test_a_lost_session_fails_requests_if_the_manifest_says_so(loss: OnServerLoss) -> None:
    async def scenario() -> None:
        async with linked(FakeServer(), loss) as (link, session):
            asked = ask(link, 2)
            assert await next_id(session.data) == 0
            session.data.abort("cut")
            for task in asked:
                with pytest.raises(ServerLost, match=r"the server was lost \(cut\)"):
                    await task
            with pytest.raises(ServerLost):
                await link.request(1, 0, NOTHING)
            with pytest.raises(ServerLost):
                await link.probe(NOTHING)

    play(scenario())


def test_a_goodbye_stops_requests_and_still_takes_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server) as (link, first):
            first.data.quick = True
            asked = ask(link, 1)
            assert await next_id(first.data) == 0
            first.control.arrive(Goodbye(reason="it is late"))
            assert await first.data.nothing_sent()
            assert not link.connected
            asked += ask(link, 1)
            assert await first.data.nothing_sent()
            first.data.arrive(reply(0))
            assert (await asked[0]).reply.id == 0
            first.data.abort("closed")
            second = await server.sessions.get()
            assert await next_id(second.data) == 1
            await cancel(asked[1:])

    play(scenario())
    assert "the server ended the session: it is late" in caplog.text


def test_another_server_is_refused_at_once_at_the_start_and_later_after_the_timeout() -> None:
    async def scenario() -> None:
        server = FakeServer()
        server.refusal = HandshakeRefused("they differ in weights")
        with pytest.raises(HandshakeRefused, match="weights"):
            async with linked(server):
                pass
        server.refusal = None
        async with linked(server, connectTimeoutSeconds=1) as (link, session):
            server.refusal = HandshakeRefused("they differ in weights")
            session.data.abort("cut")
            with pytest.raises(HandshakeRefused, match="weights"):
                await link.request(1, 0, NOTHING)

    play(scenario())


def test_an_edge_that_begins_alone_takes_a_late_server_as_its_first() -> None:
    async def scenario() -> None:
        server = FakeServer()
        server.refusal = ConnectionRefusedError("nobody")
        of, loss = TransportSpec(connect_timeout_seconds=1), OnServerLoss.FINISH_ON_EDGE
        async with Link.open(Endpoint("ws://none"), HELLO, of, loss, server.connect) as link:
            with pytest.raises(ServerLost, match="there is no session with the server"):
                await link.request(1, 0, NOTHING)
            server.refusal = None
            session = await server.sessions.get()
            asked = ask(link, 1)
            assert await next_id(session.data) == 1
            assert link.reconnects == 0
            await cancel(asked)

    play(scenario())


def test_an_unexpected_error_of_connecting_ends_the_link_and_is_named() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server) as (link, session):
            server.refusal = KeyError("surprise")
            session.data.abort("cut")
            with pytest.raises(Exception, match="the link has ended: KeyError: 'surprise'"):
                await link.request(1, 0, NOTHING)

    play(scenario())


def test_giving_up_fails_requests_and_ends_reconnecting() -> None:
    async def scenario() -> None:
        async with linked(FakeServer()) as (link, session):
            asked = ask(link, 2)
            assert await next_id(session.data) == 0
            link.give_up(Stopped("enough"))
            for task in asked:
                with pytest.raises(Stopped, match="enough"):
                    await task
            with pytest.raises(Stopped):
                await link.request(1, 0, NOTHING)

    play(scenario())


class Observed:
    """Notes the events that an observer gets."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.connections: list[bool] = []
        self.transfers: dict[int, Transfer] = {}

    def sent(self, number: int, cut: int | None, nbytes: int, now: float) -> None:
        self.started.append(number)

    def heard(self, number: int, transfer: Transfer, now: float) -> None:
        self.transfers[number] = transfer

    def connection(self, alive: bool) -> None:
        self.connections.append(alive)


def test_the_observer_gets_every_transfer_cancelled_ones_included() -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server) as (link, first):
            first.data.quick = True
            observed = link.observer = Observed()
            (asked,) = ask(link, 1)
            assert await next_id(first.data) == 0
            await cancel([asked])
            assert await first.control.sent.get() == Cancel(ids=(0,))
            first.data.arrive(Failure(id=0, reason="cancelled", waited_ms=7.0))
            probing = asyncio.create_task(link.probe(NOTHING))
            assert await first.control.sent.get() == Probe(id=1)
            first.control.arrive(Probed(id=1))
            assert await probing > 0
            first.data.abort("cut")
            await server.sessions.get()
            assert observed.connections == [False, True]
            assert observed.started == [0, 1]
            assert observed.transfers[0].stages == {"server_wait": 7.0}
            assert observed.transfers[0].cut == 1
            assert observed.transfers[1].cut is None

    play(scenario())


def test_a_probe_fails_with_its_session() -> None:
    async def scenario() -> None:
        async with linked(FakeServer()) as (link, session):
            probing = asyncio.create_task(link.probe(NOTHING))
            assert await session.control.sent.get() == Probe(id=0)
            session.data.abort("cut")
            with pytest.raises(ServerLost, match="the server was lost"):
                await probing

    play(scenario())


def test_a_data_connection_without_bytes_is_ended(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        server = FakeServer()
        async with linked(server, heartbeatSeconds=1) as (link, session):
            for number in range(3):  # the server writes, and nothing arrives here
                assert await session.control.sent.get() == Check(id=number)
                session.control.arrive(Checked(id=number, received=0, written=9))
            await server.sessions.get()
            assert link.losses == 1

    play(scenario())
    assert "no byte from the server has arrived for 2 s" in caplog.text
