"""The edges that are connected, their requests in flight, and the memory of these.

Everything here runs on the event loop.
"""

import asyncio
import contextlib
import hmac
import secrets
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from splittracr.transport.channel import Channel
from splittracr.wire.messages import Goodbye, Hello, encode
from splittracr.wire.session import Parts, ServerSession

_MAX_CANCELLED = 4096  # ids of requests that were cancelled before they arrived


@dataclass(eq=False)
class Connection:
    """One edge: its two channels, its session, and its requests in flight.

    `key` proves that a control channel belongs to the session.
    """

    number: int
    channel: Channel
    session: ServerSession
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    control: Channel | None = None
    attached: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: dict[int, int] = field(default_factory=dict)  # bytes of each request, by its id
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # nothing is in flight
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _cancelled: set[int] = field(default_factory=set)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` beside the other tasks of this connection."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def cancel(self, ids: Sequence[int]) -> None:
        """Note the requests among `ids` that have not arrived yet."""
        early = [number for number in ids if self.session.is_new(number)]
        if len(self._cancelled) + len(early) <= _MAX_CANCELLED:
            self._cancelled.update(early)

    def is_cancelled(self, number: int) -> bool:
        """Whether the request that arrives now was cancelled before. Forgets the id."""
        known = number in self._cancelled
        self._cancelled.discard(number)
        return known

    async def dismiss(self, reason: str) -> None:
        """Say goodbye, wait for the replies in flight, and close both channels."""
        if self.control is not None:
            await send(self.control, encode(Goodbye(reason=reason)))
        if self.in_flight:
            self.idle.clear()
            await self.idle.wait()
        await asyncio.gather(*self.tasks)
        await self.close()

    async def close(self) -> None:
        """Close both channels."""
        await self.channel.close()
        if self.control is not None:
            await self.control.close()


class Connections:
    """All connections. `max_held_bytes` bounds the bytes of all requests in flight."""

    def __init__(self, new_session: Callable[[], ServerSession], max_held_bytes: int) -> None:
        self._new_session = new_session
        self._max_held = max_held_bytes
        self._all: dict[int, Connection] = {}
        self._next_number = 1
        self._held = 0
        self._freed = asyncio.Event()

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._all.values()))

    @property
    def in_flight(self) -> int:
        """Requests without a reply."""
        return sum(len(connection.in_flight) for connection in self)

    def add(self, channel: Channel) -> Connection:
        """A new connection with a session of its own."""
        connection = Connection(self._next_number, channel, self._new_session())
        self._next_number += 1
        self._all[connection.number] = connection
        return connection

    def remove(self, connection: Connection) -> None:
        """Remove a connection and free the memory of its requests."""
        self._all.pop(connection.number, None)
        for number in list(connection.in_flight):
            self.replied(connection, number)

    def with_key(self, key: str) -> Connection | None:
        """The connection that has this key."""
        for connection in self:
            if hmac.compare_digest(connection.key.encode(), key.encode()):
                return connection
        return None

    def superseded(self, by: Connection, hello: Hello) -> list[Connection]:
        """Other connections of the same edge. It has reconnected, perhaps without closing them."""
        return [
            other
            for other in self
            if other is not by
            and (theirs := other.session.hello) is not None
            and (theirs.uid, theirs.edge) == (hello.uid, hello.edge)
        ]

    def accepted(self, connection: Connection, number: int, size: int) -> None:
        """Count request `number` of `size` bytes as in flight."""
        connection.in_flight[number] = size
        self._held += size

    def replied(self, connection: Connection, number: int) -> None:
        """Count request `number` as in flight no longer."""
        self._held -= connection.in_flight.pop(number, 0)
        self._freed.set()
        if not connection.in_flight:
            connection.idle.set()

    async def room(self, connection: Connection) -> None:
        """Wait until another request of this connection may be read.

        An edge with a request in flight waits while the requests of all edges exceed the bound. TCP
        passes the backpressure on to it.
        """
        while connection.in_flight and self._held > self._max_held:
            self._freed.clear()
            await self._freed.wait()


async def send(channel: Channel, parts: Parts) -> None:
    """Send a message. If the edge is lost, its session ends elsewhere."""
    with contextlib.suppress(ConnectionError):
        await channel.send(parts)
