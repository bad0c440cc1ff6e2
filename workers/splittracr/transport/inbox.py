"""A queue of arrived messages, with backpressure."""

import asyncio
from collections import deque
from collections.abc import Callable

from splittracr.transport.frames import Arrival

_MAX_BYTES = 2**20


class Inbox:
    """A queue of messages for one receiver.

    `set_reading(False)` is called when more than 1 MiB is queued, and `set_reading(True)` when the
    queue is below 1 MiB again.
    """

    def __init__(self, set_reading: Callable[[bool], None]) -> None:
        self._set_reading = set_reading
        self._arrivals: deque[Arrival] = deque()
        self._bytes = 0
        self._receiver: asyncio.Future[None] | None = None
        self._end: Exception | None = None
        self.ended = False
        self.reading = True

    def put(self, arrival: Arrival) -> None:
        """Add a message."""
        self._arrivals.append(arrival)
        self._bytes += _cost(arrival)
        if self._bytes > _MAX_BYTES:
            self._read(False)
        self._wake()

    def end(self, error: Exception | None = None) -> None:
        """Mark the end. After the queued messages `next` raises `error` once, then returns None."""
        self.ended = True
        self._end = self._end or error
        self._wake()

    def clear(self) -> None:
        """Drop the queued messages and resume reading."""
        self._arrivals.clear()
        self._bytes = 0
        self._read(True)

    async def next(self) -> Arrival | None:
        """Return the next message; None at the end. For one task at a time."""
        while not self._arrivals:
            if self._end is not None:
                error, self._end = self._end, None
                raise error
            if self.ended:
                return None
            assert self._receiver is None, "one receiver at a time"
            self._receiver = asyncio.get_running_loop().create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        arrival = self._arrivals.popleft()
        self._bytes -= _cost(arrival)
        if not self.reading and self._bytes <= _MAX_BYTES:
            self._read(True)
        return arrival

    def _read(self, reading: bool) -> None:
        if reading != self.reading and not self.ended:
            self.reading = reading
            self._set_reading(reading)

    def _wake(self) -> None:
        if self._receiver is not None and not self._receiver.done():
            self._receiver.set_result(None)


def _cost(arrival: Arrival) -> int:
    """Return the memory in bytes of a queued message, with a constant for its objects."""
    return arrival.size_on_wire + 256
