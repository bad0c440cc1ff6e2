"""Messages come out in order, with backpressure, and the end comes after them."""

import asyncio

import pytest

from splittracr.experiment.errors import ProtocolError
from splittracr.transport.frames import Arrival
from splittracr.transport.inbox import Inbox


def arrival(size: int = 10) -> Arrival:
    return Arrival(memoryview(b""), first=0.0, last=1.0, size_on_wire=size)


def test_reading_stops_while_more_than_a_mebibyte_waits() -> None:
    async def test() -> None:
        reading: list[bool] = []
        inbox = Inbox(reading.append)
        for _ in range(4):
            inbox.put(arrival(2**19))
        assert (reading, inbox.reading) == ([False], False)
        await inbox.next()
        await inbox.next()
        assert reading == [False]
        await inbox.next()
        assert (reading, inbox.reading) == ([False, True], True)

    asyncio.run(test())


def test_many_empty_messages_stop_reading_too() -> None:
    async def test() -> None:
        reading: list[bool] = []
        inbox = Inbox(reading.append)
        for _ in range(5000):
            inbox.put(arrival(0))
        assert reading == [False]

    asyncio.run(test())


def test_the_error_comes_once_after_the_messages_and_then_the_end() -> None:
    async def test() -> None:
        inbox = Inbox(lambda _: None)
        first = arrival()
        inbox.put(first)
        inbox.end(ProtocolError("garbage"))
        inbox.end()
        assert await inbox.next() is first
        with pytest.raises(ProtocolError, match="garbage"):
            await inbox.next()
        assert await inbox.next() is None

    asyncio.run(test())


def test_a_receiver_that_waits_is_woken_by_a_message_and_by_the_end() -> None:
    async def test() -> None:
        inbox = Inbox(lambda _: None)
        for end in (False, True):
            receiving = asyncio.create_task(inbox.next())
            await asyncio.sleep(0)
            assert not receiving.done()
            if end:
                inbox.end()
            else:
                inbox.put(arrival())
            assert (await receiving is None) == end

    asyncio.run(test())


def test_dropping_the_messages_makes_room() -> None:
    async def test() -> None:
        reading: list[bool] = []
        inbox = Inbox(reading.append)
        inbox.put(arrival(2**21))
        inbox.clear()
        assert reading == [False, True]
        inbox.put(arrival(2**19))
        assert reading == [False, True]

    asyncio.run(test())
