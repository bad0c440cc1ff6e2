"""The pacer with a clock that the test moves, and once with the real one."""

import asyncio
import gc
from array import array
from collections.abc import Awaitable, Callable, Coroutine
from random import Random
from typing import Any

import pytest

from splittracr.planning.emulated_link import Conditions, EmulatedLink, constant
from splittracr.transport.clock import MonotonicClock
from splittracr.transport.pacer import Chunk, Pacer

MS = 10**6
START = 5000 * MS


class ManualClock:
    """Does not move until the test moves it to the time for which the pacer waits."""

    def __init__(self) -> None:
        self.time = START
        self._sleeping: asyncio.Queue[tuple[int, asyncio.Future[None]]] = asyncio.Queue()

    def now(self) -> int:
        return self.time

    async def sleep_until(self, due: int) -> None:
        if due > self.time:
            woken = asyncio.get_running_loop().create_future()
            self._sleeping.put_nowait((due, woken))
            await woken

    async def tick(self) -> int:
        """Move to the time for which the pacer waits, as soon as it waits; milliseconds."""
        due, woken = await self._sleeping.get()
        self.time = due
        woken.set_result(None)
        return (due - START) // MS


class Wire:
    """Keeps what is written; `gate` closed makes a write hang."""

    def __init__(self) -> None:
        self.written: asyncio.Queue[bytes] = asyncio.Queue()
        self.entered = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def write(self, chunk: Chunk) -> None:
        self.entered.set()
        await self.gate.wait()
        if self.error:
            raise self.error
        self.written.put_nowait(bytes(chunk))

    def everything(self) -> list[bytes]:
        return [self.written.get_nowait() for _ in range(self.written.qsize())]


def link(round_trip_ms: int = 20) -> EmulatedLink:
    """A kilobyte a millisecond."""
    return EmulatedLink(Conditions(constant(8 * 10**6, round_trip_ms * MS)), Random(0))


def kilobytes(text: str) -> list[bytes]:
    """A chunk of a kilobyte for each letter."""
    return [letter.encode() * 1000 for letter in text]


Scenario = Callable[[Pacer, ManualClock, Wire], Coroutine[Any, Any, None]]


def play(scenario: Scenario, limit: int = 10**6, round_trip_ms: int = 20) -> None:
    async def stage() -> None:
        clock, wire = ManualClock(), Wire()
        async with Pacer(link(round_trip_ms), wire.write, limit=limit, clock=clock) as pacer:
            await scenario(pacer, clock, wire)

    asyncio.run(stage())


def test_chunks_come_out_in_order_when_each_would_have_arrived() -> None:
    async def scenario(pacer: Pacer, clock: ManualClock, wire: Wire) -> None:
        await pacer.send(kilobytes("abc"))
        for letter, due in zip("abc", (11, 12, 13), strict=True):  # 10 ms of delay, once
            assert await clock.tick() == due
            assert await wire.written.get() == letter.encode() * 1000

    play(scenario)


def test_messages_queue_behind_one_another_from_the_time_each_was_sent() -> None:
    async def scenario(pacer: Pacer, clock: ManualClock, wire: Wire) -> None:
        await asyncio.gather(pacer.send(kilobytes("ab")), pacer.send(kilobytes("c")))
        assert [await clock.tick() for _ in "abc"] == [11, 12, 13]
        await pacer.flush()
        clock.time += 87 * MS
        await pacer.send(kilobytes("d"))  # at 100 ms, to a link that is idle
        assert await clock.tick() == 111
        await pacer.flush()
        assert wire.everything() == kilobytes("abcd")

    play(scenario)


def test_a_late_write_does_not_shift_the_next_one() -> None:
    async def scenario(pacer: Pacer, clock: ManualClock, wire: Wire) -> None:
        await pacer.send(kilobytes("abc"))
        wire.gate.clear()
        assert await clock.tick() == 11
        clock.time += MS // 2  # half a millisecond goes by in the write
        wire.gate.set()
        assert await clock.tick() == 12

    play(scenario)


def test_a_sender_waits_while_more_than_the_limit_has_not_left() -> None:
    async def scenario(pacer: Pacer, clock: ManualClock, wire: Wire) -> None:
        # 10 kB are in flight over 10 ms, 2 kB may wait: of 20 kB the first 8 have to be through.
        sending = asyncio.create_task(pacer.send(kilobytes("abcdefghijklmnopqrst")))
        for _ in range(8):
            assert not sending.done()
            await clock.tick()
        await sending
        assert wire.written.qsize() <= 8

    play(scenario, limit=2000)


def test_a_real_link_that_is_slower_holds_the_sender_up() -> None:
    async def scenario(pacer: Pacer, clock: ManualClock, wire: Wire) -> None:
        wire.gate.clear()
        sending = asyncio.create_task(pacer.send(kilobytes("abc")))
        await clock.tick()
        clock.time += 3600 * 1000 * MS
        await wire.entered.wait()
        assert not sending.done()
        wire.gate.set()
        await sending
        await pacer.flush()
        assert wire.everything() == kilobytes("abc")

    play(scenario, limit=1000, round_trip_ms=0)


@pytest.mark.parametrize("use", [lambda p: p.send(kilobytes("b")), Pacer.flush])
def test_an_error_of_the_write_reaches_who_waits_and_who_comes_later(
    use: Callable[[Pacer], Awaitable[None]],
) -> None:
    async def scenario(pacer: Pacer, clock: ManualClock, wire: Wire) -> None:
        wire.error = BrokenPipeError("gone")
        waiting = asyncio.create_task(pacer.send(kilobytes("a" * 50)))
        await clock.tick()
        with pytest.raises(BrokenPipeError, match="gone"):
            await waiting
        with pytest.raises(BrokenPipeError, match="gone"):
            await use(pacer)

    play(scenario, limit=1000)


def test_an_error_that_nobody_asks_for_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(pacer: Pacer, clock: ManualClock, wire: Wire) -> None:
        wire.error = BrokenPipeError("gone")
        await pacer.send(kilobytes("a"))
        await clock.tick()
        await wire.entered.wait()

    play(scenario)
    gc.collect()
    assert not caplog.records  # no "exception was never retrieved"


def test_a_cancelled_sender_has_sent_its_message_all_the_same() -> None:
    async def scenario(pacer: Pacer, clock: ManualClock, wire: Wire) -> None:
        sending = asyncio.create_task(pacer.send(kilobytes("a" * 30)))
        await clock.tick()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        flushing = asyncio.create_task(pacer.flush())
        assert [await clock.tick() for _ in range(29)][-1] == 40
        await flushing
        assert wire.everything() == kilobytes("a" * 30)

    play(scenario, limit=1000)


def test_the_end_of_the_context_drops_what_is_queued_and_frees_who_waits() -> None:
    async def stage() -> None:
        clock, wire = ManualClock(), Wire()
        async with Pacer(link(), wire.write, limit=1000, clock=clock) as pacer:
            waiting = asyncio.create_task(pacer.send(kilobytes("a" * 30)))
            await clock.tick()
            assert await wire.written.get() == b"a" * 1000
        for attempt in (waiting, pacer.send(kilobytes("b")), pacer.flush()):
            with pytest.raises(ConnectionResetError, match="emulated link is closed"):
                await attempt
        assert wire.written.empty()

    asyncio.run(stage())


def test_a_pacer_outside_its_context_sends_nothing() -> None:
    async def stage() -> None:
        with pytest.raises(ConnectionResetError):
            await Pacer(link(), Wire().write, clock=ManualClock()).send([b"a"])

    asyncio.run(stage())


def test_bytes_are_counted_and_not_elements() -> None:
    async def scenario(pacer: Pacer, clock: ManualClock, wire: Wire) -> None:
        await pacer.send([memoryview(array("d", range(125)))])  # 125 elements, 1000 bytes
        assert await clock.tick() == 11
        await pacer.send([b""])
        assert await clock.tick() == 21
        await pacer.flush()
        assert wire.everything()[1:] == [b""]

    play(scenario)


# --------------------------------------------------------------------------------- real time


def _runners() -> list[Any]:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return [asyncio.run]
    return [asyncio.run, uvloop.run]


@pytest.mark.parametrize("run", _runners(), ids=lambda run: run.__module__)
def test_over_a_real_socket_nothing_is_early_and_lateness_is_bounded(
    run: Callable[[Coroutine[Any, Any, None]], None],
) -> None:
    asked = Conditions(constant(400 * 10**6, 10 * MS))
    message = [bytes(50_000)] * 10  # 10 ms at 400 Mbit/s, and 5 ms of delay
    lateness: list[float] = []

    async def transfers() -> None:
        clock = MonotonicClock()
        arrived: asyncio.Queue[int] = asyncio.Queue()

        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(1):  # the last byte of the last chunk is what counts
                await reader.readexactly(499_999)
                arrived.put_nowait(clock.now())
            writer.close()

        server = await asyncio.start_server(receive, "127.0.0.1", 0)
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())

        async def write(chunk: Chunk) -> None:
            writer.write(chunk)
            await writer.drain()

        async with server, Pacer(EmulatedLink(asked, Random(0)), write) as pacer:
            begun = clock.now()
            for _ in range(20):
                await pacer.send(message)
            for number in range(20):
                due = 10 * (number + 1) + 5
                lateness.append((await arrived.get() - begun) / MS - due)
            writer.close()
            await writer.wait_closed()

    run(transfers())
    assert min(lateness) >= 0
    assert max(lateness) < 10_000  # loose: the machine may be busy with anything
