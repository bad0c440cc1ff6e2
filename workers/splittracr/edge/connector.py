"""Opens one session after the other, with a growing pause after each failure."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager

import aiohttp

from splittracr import security
from splittracr.edge.dial import Connections
from splittracr.edge.reconnect import Reconnect
from splittracr.experiment.errors import (
    HandshakeRefused,
    InvalidInput,
    ProtocolError,
    Untrusted,
    reason,
)

log = logging.getLogger(__name__)


class Connector:
    """Connects again and again. `trouble` is why the last attempt failed, None if none has.

    `dial` opens the connections of a session. With `replaceable` a server that cannot be trusted
    is not final, as another may take its place.
    """

    def __init__(
        self,
        dial: Callable[[], AbstractAsyncContextManager[Connections]],
        reconnect: Reconnect,
        replaceable: bool,
    ) -> None:
        self._dial = dial
        self._reconnect = reconnect
        self._replaceable = replaceable
        self.trouble: str | None = None

    async def run(
        self, serve: Callable[[Connections], Awaitable[None]], wanted: Callable[[], bool]
    ) -> None:
        """Open sessions and `serve` each to its end, as long as `wanted()` is true.

        Raises HandshakeRefused or InvalidInput if the server refuses the edge for good.
        """
        while wanted():
            try:
                async with self._dial() as connections:
                    self._reconnect.opened()
                    await serve(connections)
            except security.NotYetValid as error:  # the clock may be set soon
                if self.trouble is None:
                    log.warning("%s", error)
                self._unreachable(error)
            except (HandshakeRefused, InvalidInput) as error:
                if isinstance(error, Untrusted) and self._replaceable:
                    self._unreachable(error)
                elif self._reconnect.refused(time.monotonic()):
                    raise
                else:
                    log.warning("%s", error)
            except (ConnectionError, TimeoutError, aiohttp.ClientError, ProtocolError) as error:
                self._unreachable(error)
            if wanted():
                await asyncio.sleep(self._reconnect.pause(random.random()))

    def _unreachable(self, error: Exception) -> None:
        """Note why there is no session; another attempt follows."""
        self._reconnect.unreachable()
        self.trouble = reason(error)
        log.debug("no session with the server yet: %s", self.trouble)
