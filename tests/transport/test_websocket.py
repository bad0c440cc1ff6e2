"""Channels over real sockets, on asyncio's loop and on uvloop."""

import asyncio
import socket
import time
from array import array
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import uvloop
from aiohttp import ClientSession, ClientWebSocketResponse, web
from hypothesis import given, settings
from hypothesis import strategies as st

from splittracr import security
from splittracr.experiment.errors import ProtocolError
from splittracr.planning.emulated_link import Conditions, constant
from splittracr.security import client_context, server_context
from splittracr.transport.channel import Channel
from splittracr.transport.frames import Opcode, header, masked
from splittracr.transport.sockets import USER_TIMEOUT_MS, connect
from splittracr.transport.websocket import WebSocketChannel
from tests.transport.sockets import LIMIT, ends, listening, raw, secure_ends

Run = Callable[[Coroutine[Any, Any, None]], None]
MEBIBYTE = 2**20


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = uvloop.new_event_loop if request.param == "uvloop" else None

    def run(test: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(test)

    return run


async def received(channel: Channel) -> bytes:
    arrival = await channel.receive()
    assert arrival is not None
    return bytes(arrival.data)


async def reached(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds. Raises TimeoutError after 30 seconds."""
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - no event tells of it
            await asyncio.sleep(0)


async def ended(channel: Channel) -> str:
    """Why it ended, once the peer is gone."""
    assert await channel.receive() is None
    assert channel.why_closed is not None
    return channel.why_closed


PARTS = st.lists(
    st.one_of(st.integers(0, 40), st.sampled_from([16000, 70000, 300000])), min_size=0, max_size=5
)


@settings(max_examples=25, deadline=None)
@given(st.lists(PARTS, min_size=1, max_size=4), st.sampled_from([1, 4096, 2**18]))
def test_any_parts_in_any_chunks_arrive_whole_and_in_order(
    messages: list[list[int]], chunk: int
) -> None:
    async def test() -> None:
        seed = Random(0)
        sent = [[seed.randbytes(size) for size in sizes] for sizes in messages]
        async with ends(chunk=chunk) as both:
            for source, sink in ((both.edge, both.server), (both.server, both.edge)):
                for parts in sent:
                    await asyncio.gather(source.send(parts), _expect(sink, b"".join(parts)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


async def _expect(channel: Channel, message: bytes) -> None:
    assert await received(channel) == message


def test_messages_of_many_tasks_never_interleave(run: Run) -> None:
    async def test() -> None:
        async with ends() as both:
            bodies = [bytes([i]) * (i * 77777 % 600000) for i in range(1, 30)]
            for source, sink in ((both.edge, both.server), (both.server, both.edge)):
                sending = asyncio.gather(
                    *(source.send([body[:100], body[100:]]) for body in bodies)
                )
                assert sorted([await received(sink) for _ in bodies]) == sorted(bodies)
                await sending

    run(test())


def test_bytes_are_counted_and_never_elements(run: Run) -> None:
    async def test() -> None:
        async with ends() as both:
            values = array("d", range(5000))
            for source, sink in ((both.edge, both.server), (both.server, both.edge)):
                await source.send([memoryview(values), memoryview(array("f", [1.0]))])
                assert await received(sink) == values.tobytes() + array("f", [1.0]).tobytes()

    run(test())


def test_a_buffer_can_be_used_again_once_it_was_sent(run: Run) -> None:
    async def test() -> None:
        async with ends() as both:
            for source, sink in ((both.edge, both.server), (both.server, both.edge)):
                buffer = bytearray(3 * MEBIBYTE)

                async def send(source: Channel = source, buffer: bytearray = buffer) -> None:
                    for i in range(8):
                        buffer[:] = bytes([i]) * len(buffer)
                        await source.send([buffer])

                sending = asyncio.create_task(send())
                for i in range(8):
                    assert set(await received(sink)) == {i}
                await sending

    run(test())


def test_what_arrives_is_writable_and_says_when_and_how_large(run: Run) -> None:
    async def test() -> None:
        async with ends() as both:
            for size, on_wire in ((100, 6 + 100), (MEBIBYTE, 14 + MEBIBYTE)):
                before = time.perf_counter()
                _, arrival = await asyncio.gather(
                    both.edge.send([bytes(size)]), both.server.receive()
                )
                assert arrival is not None
                arrival.data[0] = 1
                assert before <= arrival.first <= arrival.last <= time.perf_counter()
                assert arrival.size_on_wire == on_wire

    run(test())


def test_a_sender_waits_for_a_peer_that_does_not_read(run: Run) -> None:
    async def test() -> None:
        async with ends() as both:
            sent = 0

            async def flood() -> None:
                nonlocal sent
                while True:
                    await both.server.send([bytes(MEBIBYTE)])
                    sent += 1
                    await asyncio.sleep(0)  # a send that waits for nothing leaves others a turn

            flooding = asyncio.create_task(flood())
            await reached(lambda: not both.edge.reading)
            for _ in range(1000):  # turns of the loop, far more than it takes to send 64
                await asyncio.sleep(0)
            assert sent < 64, "more than sockets and the channel may hold"
            for _ in range(100):
                assert len(await received(both.edge)) == MEBIBYTE
            flooding.cancel()

    run(test())


def test_what_nothing_is_in_the_way_of_is_sent_without_a_task(run: Run) -> None:
    async def test() -> None:
        async with ends() as both:
            for source, sink in ((both.edge, both.server), (both.server, both.edge)):
                assert source.begin([b"first", memoryview(b" and second")]) is None
                assert await received(sink) == b"first and second"
                large = source.begin([bytes(30 * MEBIBYTE)])
                last = source.begin([b"not in its middle"])
                assert large is not None
                assert last is not None
                assert len(await received(sink)) == 30 * MEBIBYTE
                assert await received(sink) == b"not in its middle"
                await asyncio.gather(large, last)
            await both.edge.close()
            with pytest.raises(ConnectionError):
                both.edge.begin([b"late"])

    run(test())


def test_a_cancelled_sender_does_not_tear_its_message(run: Run) -> None:
    async def test() -> None:
        async with ends() as both:
            body = bytes(30 * MEBIBYTE)
            sending = asyncio.create_task(both.edge.send([body]))
            await asyncio.sleep(0)
            sending.cancel()
            following = asyncio.create_task(both.edge.send([b"next"]))
            arrived = {len(await received(both.server)) for _ in range(2)}
            assert arrived == {len(body), len(b"next")}
            await following
            await asyncio.wait([sending])
            assert sending.cancelled()

    run(test())


def test_a_close_is_seen_by_both_ends_with_its_reason(run: Run) -> None:
    async def test() -> None:
        async with ends() as both:
            await both.server.send([b"last"])
            closing = asyncio.create_task(both.server.close(1001, "enough for today"))
            assert await received(both.edge) == b"last"
            assert await ended(both.edge) == "the peer closed the session (1001: enough for today)"
            await closing
            assert await both.server.receive() is None
            for channel in (both.edge, both.server):
                with pytest.raises(ConnectionError):
                    await channel.send([b"more"])

    run(test())


def test_a_peer_that_is_cut_off_ends_receiving_and_sending(run: Run) -> None:
    async def test() -> None:
        async with raw() as edge:
            edge.writer.transport.abort()
            assert "the connection was cut" in await ended(edge.server)
            with pytest.raises(ConnectionError, match="cut"):
                await edge.server.send([bytes(MEBIBYTE)])

    run(test())


def test_a_sender_that_waits_is_told_when_the_peer_is_cut_off(run: Run) -> None:
    async def test() -> None:
        async with raw() as edge:
            sending = asyncio.create_task(edge.server.send([bytes(60 * MEBIBYTE)]))
            await edge.reader.readexactly(100_000)
            edge.writer.transport.abort()
            with pytest.raises(ConnectionError, match="cut"):
                await sending

    run(test())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (header(Opcode.TEXT, 2, b"mask") + masked(b"mask", b"hi"), "text"),
        (header(Opcode.CONTINUATION, 1) + b"x", "fragment"),
        (header(Opcode.BINARY, LIMIT + 1), "announced"),
        (b"\xff" * 9, "unknown kind 15"),
    ],
    ids=["text", "fragment", "oversized", "garbage"],
)
def test_what_is_no_message_ends_the_channel(run: Run, data: bytes, expected: str) -> None:
    async def test() -> None:
        async with raw() as edge:
            edge.writer.write(header(Opcode.BINARY, 4) + b"good" + data)
            assert await received(edge.server) == b"good"
            with pytest.raises(ProtocolError, match=expected):
                await edge.server.receive()
            assert await edge.reader.read(), "a close frame says why"
            assert await edge.server.receive() is None

    run(test())


def test_much_announced_and_nothing_sent_takes_no_memory(run: Run) -> None:
    async def test() -> None:
        async with raw(lambda socket: WebSocketChannel(socket, limit=2**30)) as edge:
            before = psutil.Process().memory_info().rss
            edge.writer.write(header(Opcode.BINARY, 2**30, b"mask"))
            edge.writer.write(bytes(100_000))
            await edge.writer.drain()
            await reached(lambda: edge.server.received > 100_000)
            assert edge.server.why_closed is None
            assert psutil.Process().memory_info().rss - before < 16 * MEBIBYTE

    run(test())


def test_a_ping_is_answered_while_nobody_receives(run: Run) -> None:
    async def test() -> None:
        async with raw() as edge:
            edge.writer.write(header(Opcode.PING, 5, b"mask") + masked(b"mask", b"hello"))
            assert await edge.reader.readexactly(7) == header(Opcode.PONG, 5) + b"hello"

    run(test())


def test_a_peer_without_a_sign_of_life_is_given_up(run: Run) -> None:
    async def test() -> None:
        async with raw(lambda socket: WebSocketChannel(socket, limit=LIMIT, heartbeat=0.1)) as edge:
            assert "no sign of life" in await ended(edge.server)
            assert await edge.reader.read() == header(Opcode.PING, 0)

    run(test())


def test_a_peer_that_answers_pings_is_kept(run: Run) -> None:
    async def test() -> None:
        def wrap(socket: web.WebSocketResponse) -> WebSocketChannel:
            return WebSocketChannel(socket, limit=LIMIT, heartbeat=0.05)

        async with ends(wrap) as both:
            receiving = asyncio.create_task(both.server.receive())
            done, _ = await asyncio.wait([receiving], timeout=0.5)
            assert not done, both.server.why_closed
            await both.edge.send([b"still here"])
            arrival = await receiving
            assert arrival is not None
            assert bytes(arrival.data) == b"still here"

    run(test())


def test_messages_of_any_size_cross_tls_and_its_end_is_seen(run: Run, tmp_path: Path) -> None:
    server_files, edge_files, _ = security.throw_away(tmp_path, ["127.0.0.1"])
    now = datetime.now(UTC)
    contexts = server_context(server_files, now), client_context(edge_files, now)

    async def test() -> None:
        async with secure_ends(*contexts) as both:
            for size in (0, 1000, MEBIBYTE, 20 * MEBIBYTE):
                body = Random(size).randbytes(size)
                for source, sink in ((both.edge, both.server), (both.server, both.edge)):
                    await asyncio.gather(source.send([body]), _expect(sink, body))
            closing = asyncio.create_task(both.server.close(1001, "enough"))
            assert "(1001: enough)" in await ended(both.edge)
            await closing

    run(test())


def test_an_emulated_link_holds_messages_back(run: Run) -> None:
    async def test() -> None:
        link = Conditions(constant(8_000_000, 20_000_000))  # 1 byte a microsecond, 20 ms
        async with ends(pacer_conditions=link) as both:
            before = time.perf_counter()
            await both.edge.send([bytes(50_000)])
            arrival = await both.server.receive()
            assert arrival is not None
            assert len(arrival.data) == 50_000
            assert arrival.last - before >= 0.0595
            await both.server.send([b"reply"])
            assert await received(both.edge) == b"reply"

    run(test())


def test_the_kernel_watches_a_quiet_connection_at_both_ends(run: Run) -> None:
    async def test() -> None:
        found = []

        def note(websocket: web.WebSocketResponse | ClientWebSocketResponse) -> None:
            own = websocket.get_extra_info("socket")
            alive = own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            found.append((alive, own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)))

        def wrap(websocket: web.WebSocketResponse) -> WebSocketChannel:
            note(websocket)
            return WebSocketChannel(websocket, limit=LIMIT)

        async with listening(wrap) as server, ClientSession() as client:
            websocket = await connect(client, f"ws://127.0.0.1:{server.port}/")
            note(websocket)
            async with WebSocketChannel(websocket, limit=LIMIT):
                await server.channels.get()
        assert found == [(1, USER_TIMEOUT_MS)] * 2

    run(test())
