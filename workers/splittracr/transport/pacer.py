"""Delays a sender's messages until they would have arrived over an emulated link.

Each sender emulates its own direction, in its own process. The real link is assumed to be
infinitely fast. A chunk is written at the time at which its last byte would have arrived.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Self

from splittracr.planning.emulated_link import EmulatedLink
from splittracr.transport.clock import Clock, MonotonicClock

Chunk = bytes | bytearray | memoryview


class Pacer:
    """Sends messages through an emulated link; an asynchronous context manager.

    `write` sends one chunk over the real link. A task of the pacer calls it for each chunk in
    order. The time of the link starts when the pacer is constructed. Chunks that are not written
    when the context ends are dropped; call `flush` before.

    `limit` is the sender's socket buffer in bytes. `send` returns when at most that many bytes
    wait to leave. Bytes between departure and arrival are added, so that delay does not reduce
    the rate. A chunk should be smaller than the limit, or the link idles between two messages.

    A chunk is written `lead_ns` before it has to arrive, to allow for the time of the real link.
    """

    def __init__(
        self,
        link: EmulatedLink,
        write: Callable[[Chunk], Awaitable[None]],
        *,
        limit: int = 2**20,
        lead_ns: int = 0,
        clock: Clock | None = None,
    ) -> None:
        self._link = link
        self._write = write
        self._clock = clock or MonotonicClock()
        self._start = self._clock.now()
        self._lead = lead_ns
        self._max_unwritten = limit + link.conditions.in_flight_bytes
        self._queue: deque[tuple[int, Chunk]] = deque()
        self._accepted = 0  # bytes since the start
        self._written = 0
        self._filled = asyncio.Event()
        self._progress = asyncio.Event()  # set for a moment at each write and at the end
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="pacer")
        self._task.add_done_callback(lambda _: self._wake_senders())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.wait({self._task})

    async def send(self, chunks: Sequence[Chunk]) -> None:
        """Send a message; returns when the buffer has room again.

        The chunks stay in use until they are written. If the caller is cancelled while it waits,
        the message is sent all the same. Raises the error of `write`, for this or an earlier
        message, and ConnectionResetError if the pacer is not running.
        """
        self.put(chunks)
        await self.room()

    def put(self, chunks: Sequence[Chunk]) -> bool:
        """Send a message without waiting; returns whether there is room for more."""
        self._check()
        now = self._clock.now() - self._start
        for chunk in chunks:
            delivery = self._link.send(now, _size(chunk))
            self._queue.append((self._start + delivery.arrives - self._lead, chunk))
            self._accepted += _size(chunk)
        self._filled.set()
        return self._written >= self._accepted - self._max_unwritten

    async def room(self) -> None:
        """Wait until the buffer has room."""
        await self._until_written(self._accepted - self._max_unwritten)

    async def flush(self) -> None:
        """Wait until all messages so far are written. Raises the errors of `send`."""
        self._check()
        await self._until_written(self._accepted)

    async def _until_written(self, count: int) -> None:
        while self._written < count:
            await self._progress.wait()
            self._check()

    def _check(self) -> None:
        if self._task is None or self._task.cancelled():
            raise ConnectionResetError("the emulated link is closed")
        if self._task.done() and (error := self._task.exception()):
            raise error

    async def _run(self) -> None:
        while True:
            while not self._queue:
                self._filled.clear()
                await self._filled.wait()
            due, chunk = self._queue[0]
            await self._clock.sleep_until(due)
            await self._write(chunk)
            self._queue.popleft()
            self._written += _size(chunk)
            self._wake_senders()

    def _wake_senders(self) -> None:
        self._progress.set()
        self._progress.clear()


def _size(chunk: Chunk) -> int:
    """Return the bytes of a chunk; an empty one counts as one byte."""
    return max(1, memoryview(chunk).nbytes)
