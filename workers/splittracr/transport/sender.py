"""Sends messages: immediately if no other is being sent, otherwise in tasks that take turns."""

import asyncio
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from typing import Any, Protocol

from splittracr.planning.emulated_link import EmulatedLink
from splittracr.transport.frames import Buffer, Opcode, header, masked
from splittracr.transport.pacer import Pacer
from splittracr.transport.writer import FrameWriter, new_key

_SMALL = 2**14  # bytes: up to here a message is joined and written at once
_PACED_CHUNK = 2**14  # bytes that arrive at a time over an emulated link
_REAL_NS = 150_000  # time on one machine from a timer's end to the receiver


class Sender(Protocol):
    """Sends messages in order."""

    def begin(self, views: Sequence[Buffer], size: int) -> asyncio.Task[None] | None:
        """Send `views`, `size` bytes in all; returns the task that sends the rest, if any."""

    async def flush(self) -> None:
        """Wait until all messages are written."""

    async def start(self) -> None:
        """Start the tasks that `begin` needs."""

    async def stop(self) -> None:
        """Stop these tasks; bytes that are not written are dropped."""


class Tasks:
    """Runs tasks one at a time, in order, whether or not they are awaited."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()

    def __bool__(self) -> bool:
        """Return whether a task is running or waits for its turn."""
        return bool(self._tasks)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` after all earlier tasks."""
        task = asyncio.create_task(self._in_turn(work))
        self._tasks.add(task)
        task.add_done_callback(self._finished)
        return task

    async def wait(self) -> None:
        """Wait for all tasks."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _in_turn(self, work: Coroutine[Any, Any, None]) -> None:
        async with self._turn:
            await work

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the caller of `send` has it, unless it was cancelled


class DirectSender:
    """Writes messages as fast as the kernel accepts them, `chunk` bytes at a time if masked."""

    def __init__(self, writer: FrameWriter, masks: bool, chunk: int) -> None:
        self._writer = writer
        self._masks = masks
        self._chunk = chunk
        self._tasks = Tasks()

    def begin(self, views: Sequence[Buffer], size: int) -> asyncio.Task[None] | None:
        """See `Sender`."""
        writer = self._writer
        if self._tasks or writer.paused:
            return self._tasks.start(self._write(_frame(views, size, self._masks, self._chunk)))
        if size <= _SMALL:
            sent = writer.write(self._small(views, size))
        elif not self._masks:
            sent = writer.write(header(Opcode.BINARY, size), *views)
        else:
            return self._begin_masked(_frame(views, size, True, self._chunk))
        return None if sent else self._tasks.start(writer.drained())

    async def flush(self) -> None:
        """See `Sender`."""
        await self._tasks.wait()

    async def start(self) -> None:
        """See `Sender`."""

    async def stop(self) -> None:
        """See `Sender`."""

    def _begin_masked(self, frame: Iterator[Sequence[Buffer]]) -> asyncio.Task[None] | None:
        """Write chunks until the kernel accepts no more; a task writes the rest."""
        for chunks in frame:
            if not self._writer.write(*chunks):
                self._writer.in_frame = True
                return self._tasks.start(self._write(frame))
        return None

    def _small(self, views: Sequence[Buffer], size: int) -> Buffer:
        if not self._masks:
            return b"".join((header(Opcode.BINARY, size), *views))
        key = new_key()
        return masked(key, *views, after=header(Opcode.BINARY, size, key))

    async def _write(self, frame: Iterable[Sequence[Buffer]]) -> None:
        await self._writer.drained()
        self._writer.in_frame = True
        for chunks in frame:
            if not self._writer.write(*chunks):
                await self._writer.drained()
        self._writer.end_frame()


class PacedSender:
    """Writes each chunk of a message when it would have arrived over an emulated link."""

    def __init__(self, writer: FrameWriter, masks: bool, chunk: int, link: EmulatedLink) -> None:
        self._writer = writer
        self._masks = masks
        self._chunk = min(chunk, _PACED_CHUNK)
        self._tasks = Tasks()
        self._pacer = Pacer(link, self._write, lead_ns=_REAL_NS)
        self._unwritten: deque[int] = deque()  # chunks of each message in the pacer

    def begin(self, views: Sequence[Buffer], size: int) -> asyncio.Task[None] | None:
        """See `Sender`. Chunks are masked while earlier ones are delayed."""
        frame = _frame(views, size, self._masks, self._chunk)
        if size > self._chunk or self._tasks:
            return self._tasks.start(self._send(frame, -(-size // self._chunk)))
        self._unwritten.append(1)
        # Without an await in between, so that messages stay in order.
        has_room = self._pacer.put([b"".join(next(frame))])
        return None if has_room else self._tasks.start(self._pacer.room())

    async def flush(self) -> None:
        """See `Sender`."""
        await self._tasks.wait()
        await self._pacer.flush()

    async def start(self) -> None:
        """See `Sender`."""
        await self._pacer.__aenter__()

    async def stop(self) -> None:
        """See `Sender`."""
        await self._pacer.__aexit__(None, None, None)

    async def _send(self, frame: Iterable[Sequence[Buffer]], count: int) -> None:
        self._unwritten.append(max(1, count))
        for chunks in frame:
            await self._pacer.send([b"".join(chunks)])

    async def _write(self, chunk: Buffer) -> None:
        self._writer.check()
        self._writer.in_frame = True
        if not self._writer.write(chunk):
            await self._writer.drained()
        self._unwritten[0] -= 1
        if self._unwritten[0] == 0:
            self._unwritten.popleft()
            self._writer.end_frame()


def _frame(
    views: Sequence[Buffer], size: int, masks: bool, chunk: int
) -> Iterator[tuple[Buffer, ...]]:
    """Yield one message as it goes to the transport, chunk by chunk."""
    key = new_key() if masks else b""
    first = header(Opcode.BINARY, size, key)
    for pieces in _pieces(views, chunk) if size else [()]:
        yield (masked(key, *pieces, after=first),) if key else (first, *pieces)
        first = b""


def _pieces(views: Sequence[Buffer], size: int) -> Iterator[Sequence[memoryview]]:
    """Yield all bytes as views that are `size` long together, the last ones shorter."""
    pending: list[memoryview] = []
    room = size
    for part in views:
        view: memoryview = memoryview(part)
        while view:
            pending.append(view[:room])
            room -= len(pending[-1])
            view = view[len(pending[-1]) :]
            if room == 0:
                yield pending
                pending, room = [], size
    if pending:
        yield pending
