"""The interface of a connection that carries whole messages both ways.

`websocket.py` implements it. Tests implement it without a socket.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from splittracr.transport.frames import Arrival, Buffer

NORMAL, GOING_AWAY, PROTOCOL_BROKEN, TOO_BIG = 1000, 1001, 1002, 1009
"""Close codes (RFC 6455, section 7.4.1)."""


@dataclass
class ByteCounter:
    """Counts the bytes of connections, headers of frames included."""

    sent: int = 0
    received: int = 0


class Channel(Protocol):
    """An open connection that carries whole messages in order."""

    @property
    def why_closed(self) -> str | None:
        """The reason for which the channel ended, as text; None while it is open.

        `begin` and `send` fail if there is one.
        """

    @property
    def written(self) -> int:
        """Bytes handed to the operating system so far."""

    @property
    def received(self) -> int:
        """Bytes taken from the operating system so far."""

    @property
    def reading(self) -> bool:
        """False while this end reads no bytes (backpressure: too many messages are unreceived)."""

    def begin(self, parts: Sequence[Buffer]) -> asyncio.Future[None] | None:
        """Send one message, the bytes of all parts in order, without waiting.

        Returns None if all bytes were handed over at once. Otherwise returns a future that is
        done when they are; until then the parts must not change. The message is sent whether or
        not the future is awaited. Raises ConnectionError, with no byte sent, if the peer is gone
        or the channel is closing.
        """

    async def send(self, parts: Sequence[Buffer]) -> None:
        """Send one message and wait until its bytes are handed over; from any number of tasks.

        If the caller is cancelled, the message is sent all the same, and its parts stay in use.
        Raises ConnectionError if the peer is gone or the channel is closing.
        """

    async def receive(self) -> Arrival | None:
        """Return the next message, in order; None if the peer has closed or is gone.

        For one task at a time. Raises ProtocolError if the peer sent bytes that are no message;
        the channel is closed then.
        """

    def ping(self) -> None:
        """Send a ping, so that bytes cross the connection both ways, unless a message is sent."""

    def abort(self, why: str) -> None:
        """End the channel at once; `why_closed` is then `why`."""

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the channel; every message for which `send` has returned is sent before.

        Waits at most two seconds for the peer.
        """
