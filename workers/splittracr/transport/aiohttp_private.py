"""All uses of aiohttp's private names.

aiohttp opens a websocket, and a channel then takes over its transport. The transport of a client's
websocket is not public, and neither is the compiled masking function.
"""

import asyncio
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import aiohttp
import numpy as np
from aiohttp import ClientWebSocketResponse, web

from splittracr.experiment.errors import SplittracrError

MADE_FOR = "3.14"
"""The version of aiohttp whose private names are used here."""

Mask = Callable[[bytes, bytearray], None]


class Opened(NamedTuple):
    """The transport of an open websocket, and aiohttp's protocol, to be notified at the end."""

    transport: asyncio.Transport
    protocol: asyncio.BaseProtocol


def opened(socket: web.WebSocketResponse | ClientWebSocketResponse) -> Opened:
    """Return the transport and the protocol of `socket`.

    Raises ConnectionResetError if the connection is closed, and SplittracrError if this version
    of aiohttp keeps them in another place.
    """
    try:
        writer = socket._writer
        if writer is None or writer.transport.is_closing():
            raise ConnectionResetError("the connection was closed before its first message")
        return Opened(writer.transport, writer.protocol)
    except AttributeError as error:
        raise SplittracrError(
            f"aiohttp {aiohttp.__version__} cannot be used, expected {MADE_FOR}: {error}"
        ) from error


def slow_mask(key: bytes, data: bytearray) -> None:
    """Mask `data` in place with `key`, four bytes."""
    masked: Any = np.frombuffer(data, np.uint8)
    masked ^= np.resize(np.frombuffer(key, np.uint8), len(data))


def compiled_mask() -> Mask:
    """Return aiohttp's masking function; if there is none, warn and return `slow_mask`."""
    try:
        from aiohttp._websocket.helpers import websocket_mask
    except ImportError as error:
        warnings.warn(
            f"aiohttp {aiohttp.__version__} has no compiled websocket mask, expected aiohttp "
            f"{MADE_FOR} ({error}); sending will be slower",
            RuntimeWarning,
            stacklevel=2,
        )
        return slow_mask
    return websocket_mask


websocket_mask: Mask = compiled_mask()
"""Mask a bytearray in place with a key of four bytes (RFC 6455, section 5.3)."""
