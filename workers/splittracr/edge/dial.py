"""Opens the two connections of a session with a server and does the handshake.

Tensors travel on one connection, messages that must not wait behind them on the other.
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import aiohttp

from splittracr import security
from splittracr.experiment.errors import HandshakeRefused, InvalidInput, ProtocolError, Untrusted
from splittracr.experiment.spec import TransportSpec
from splittracr.planning.emulated_link import Conditions
from splittracr.transport.channel import ByteCounter, Channel
from splittracr.transport.sockets import connect
from splittracr.transport.websocket import WebSocketChannel
from splittracr.wire.messages import (
    CONTROL_PATH,
    LINK_AGE_HEADER,
    MAX_CONTROL,
    MAX_HEADER,
    REASON_HEADER,
    SESSION_PATH,
    Attach,
    Hello,
    Welcome,
    encode,
)
from splittracr.wire.session import EdgeSession

_ATTEMPT_SECONDS = (
    15  # a handshake takes a second on a slow link, and a stopped server never ends it
)

_SESSION_URL = f"the URL of a server's session, such as wss://192.0.2.7:8765{SESSION_PATH}"


@dataclass(frozen=True)
class Endpoint:
    """The server's address and credentials. `url` is that of its session."""

    url: str
    token: str | None = None
    tls: ssl.SSLContext | None = None
    uplink: Conditions | None = None  # of the emulated link to the server
    seed: str = ""  # of its random numbers
    changes: bool = False  # whether a server that cannot be trusted may be replaced by another


@dataclass
class Connections:
    """A session after its handshake: the data connection and the control connection."""

    channel: Channel
    control: Channel
    protocol: EdgeSession
    welcome: Welcome


Connect = Callable[
    [Endpoint, Hello, TransportSpec, float, ByteCounter], AbstractAsyncContextManager[Connections]
]
"""Opens the connections of a session, as `connected` does."""


@asynccontextmanager
async def connected(
    endpoint: Endpoint,
    hello: Hello,
    transport: TransportSpec,
    opened_at: float,
    traffic: ByteCounter,
) -> AsyncIterator[Connections]:
    """Yield both connections after the handshake.

    `opened_at` is when an emulated link began, on `time.perf_counter`. Bytes of the connections
    are added to `traffic`.

    Raises HandshakeRefused with the server's reason, or for a wrong token.
    Raises InvalidInput for an invalid URL or a server that cannot be trusted.
    Raises NotYetValid if the server's certificate begins after this machine's time.
    Raises ConnectionError, TimeoutError, aiohttp.ClientError or ProtocolError if another attempt
    may succeed.
    """
    age = time.perf_counter() - opened_at
    headers = {LINK_AGE_HEADER: str(int(age * 1e9))}
    if endpoint.token:
        headers["Authorization"] = f"Bearer {endpoint.token}"
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(aiohttp.ClientSession(headers=headers))
        uplink = aged(endpoint.uplink, age)
        async with asyncio.timeout(_ATTEMPT_SECONDS):
            try:
                made = await _shake_hands(
                    stack, client, replace(endpoint, uplink=uplink), hello, transport, traffic
                )
            except security.NotYetValid as error:
                begins = await asyncio.to_thread(security.begins, endpoint.url)
                now = datetime.now(UTC)
                raise security.NotYetValid("--server", endpoint.url, now, begins) from error
        yield made


async def _shake_hands(
    stack: contextlib.AsyncExitStack,
    client: aiohttp.ClientSession,
    endpoint: Endpoint,
    hello: Hello,
    transport: TransportSpec,
    traffic: ByteCounter,
) -> Connections:
    protocol = EdgeSession(hello)
    with explained(endpoint):
        socket = await connect(client, endpoint.url, tls=endpoint.tls)
        limit = transport.max_message_bytes + MAX_HEADER
        data = WebSocketChannel(
            socket,
            limit=limit,
            pacer_conditions=endpoint.uplink,
            seed=endpoint.seed,
            traffic=traffic,
        )
        channel = await stack.enter_async_context(data)
        await channel.send(protocol.opening())
        arrival = await channel.receive()
        if arrival is None:
            raise ConnectionResetError("the server closed the session before its welcome")
        welcome, _ = protocol.receive(arrival.data)
        if not isinstance(welcome, Welcome):
            raise ProtocolError(f"unexpected {welcome.type} instead of a welcome")
        url = endpoint.url.removesuffix(SESSION_PATH) + CONTROL_PATH
        control = WebSocketChannel(
            await connect(client, url, tls=endpoint.tls),
            limit=MAX_CONTROL,
            pacer_conditions=endpoint.uplink,
            seed=endpoint.seed,
            heartbeat=transport.heartbeat_seconds,
            traffic=traffic,
        )
        await stack.enter_async_context(control)
        await control.send(encode(Attach(session=welcome.session)))
    return Connections(channel, control, protocol, welcome)


def aged(conditions: Conditions | None, seconds: float) -> Conditions | None:
    """Return the conditions of an emulated link `seconds` after it began, for a new session."""
    if conditions is None:
        return None
    return replace(conditions, offset_ns=conditions.offset_ns + int(seconds * 1e9))


@contextlib.contextmanager
def explained(endpoint: Endpoint) -> Iterator[None]:
    """Turn errors of connecting into this project's errors."""
    url = endpoint.url
    try:
        yield
    except aiohttp.WSServerHandshakeError as error:
        if error.status == 401:
            fault = "does not accept the token" if endpoint.token else "wants a token"
            raise HandshakeRefused(f"the server at {url} {fault}") from error
        if error.status < 500:
            expected = f"{_SESSION_URL} (it answers {error.status})"
            raise InvalidInput("--server", url, expected) from error
        reason = error.headers.get(REASON_HEADER) if error.headers else None
        raise ConnectionRefusedError(reason or f"it answers {error.status}") from error
    except aiohttp.ClientConnectorSSLError as error:
        raise _untrusted(error.os_error, url) from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise _untrusted(error.certificate_error, url) from error
    except aiohttp.InvalidURL as error:
        raise InvalidInput("--server", url, _SESSION_URL) from error
    except ProtocolError as error:
        raise HandshakeRefused(f"there is no such server at {url}: {error}") from error


def _untrusted(error: Exception, url: str) -> Untrusted:
    if isinstance(error, ssl.SSLError):
        return security.explain(error, url)
    return Untrusted("--server", url, f"a server that speaks TLS 1.3 ({error})")
