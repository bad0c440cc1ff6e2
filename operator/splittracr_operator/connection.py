"""The connection to the API server. All requests but kopf's watches go through it.

Errors, all below ClusterError:
- Refused: the API server refused the request. Its message goes into the status.
- Unavailable: the request failed for now. The operator retries.
  - Forbidden: the operator's account lacks a permission.
  - Unreachable: there was no answer.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self

import aiohttp
from kubernetes.aio import client, config

from splittracr.experiment.errors import reason
from splittracr_operator.study import Body

_SECONDS = 20
_CHANNELS = "v4.channel.k8s.io"
"""Subprotocol of a port-forward: each message begins with the number of its channel."""

_MAX_MESSAGE = 500
"""Max characters of a message of the API server."""


class Permission(NamedTuple):
    """A verb on a resource (`jobs`, `pods/log`) of an API group, as a role allows it."""

    group: str
    resource: str
    verb: str


def permission(method: str, path: str) -> Permission:
    """The permission that a request needs. Server-side apply also needs that to create."""
    parts = path.partition("?")[0].strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    resource, name, *sub = [*rest, ""][:3] if len(rest) < 3 else rest
    verb = {"GET": "get" if name else "list", "POST": "create"}.get(method, method.lower())
    return Permission(group, "/".join([resource, *filter(None, sub[:1])]), verb)


class ClusterError(Exception):
    """A request to the API server failed."""


class Refused(ClusterError):
    """The API server refused, with an HTTP `status`. The text is its message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unavailable(ClusterError):
    """The API server did not answer, or failed for now."""


class Forbidden(Unavailable):
    """The operator's account lacks a permission, perhaps for a short time."""


class Unreachable(Unavailable):
    """There was no answer."""


def failure(status: int, message: str) -> ClusterError | None:
    """The error of an answer with this status and message; None if it succeeded."""
    # An API server that has just started also answers this, before it has loaded its roles.
    if status == 403 and 'forbidden: User "' in message:
        return Forbidden(brief(message))
    message = brief(message)
    # Server-side apply answers status 500 if the schema lacks a field.
    untyped = status == 500 and "failed to create typed patch object" in message
    if untyped:
        return Refused(400, message)
    if status >= 500 or status in (401, 429):
        return Unavailable(f"{status}: {message}")
    return Refused(status, message) if status >= 400 else None


def brief(message: str) -> str:
    """The first sentence of an API server's message, without the objects that it prints."""
    text = " ".join(_without_objects(message).split())
    sentence = re.split(r"(?<=[.!?]) (?=[A-Z])", text, maxsplit=1)[0]
    return sentence if len(sentence) <= _MAX_MESSAGE else f"{sentence[:_MAX_MESSAGE].rstrip()} ..."


def _without_objects(message: str) -> str:
    """`message` with `...` for each object in braces: values of Go or JSON."""
    kept, depth, quoted = [], 0, False
    for before, character in zip(f" {message}", message, strict=False):
        if depth and character == '"' and before != "\\":
            quoted = not quoted
        if character == "{" and not quoted:
            depth += 1
        if not depth:
            kept.append(character)
        if character == "}" and depth and not quoted:
            depth -= 1
            if not depth:
                kept.append("...")
    return message if depth else "".join(kept)


class Connection:
    """A connection to the API server. Use as an asynchronous context manager."""

    def __init__(
        self, api: client.ApiClient, count: Callable[[Permission], None], kubeconfig: str | None
    ) -> None:
        self._api, self._count, self.kubeconfig = api, count, kubeconfig

    @classmethod
    async def connect(cls, count: Callable[[Permission], None] = lambda _: None) -> Self:
        """Connect as this pod's service account or, outside of a cluster, with the kubeconfig.

        `count` is called with each permission that a request uses. The attribute `kubeconfig` is
        the path of the kubeconfig, or None if none was read.
        """
        settings, kubeconfig = client.Configuration(), None
        try:
            config.load_incluster_config(client_configuration=settings)
        except config.ConfigException:
            kubeconfig = config.KUBE_CONFIG_DEFAULT_LOCATION
            await config.load_kube_config(kubeconfig, client_configuration=settings)
        return cls(client.ApiClient(settings), count, kubeconfig)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._api.close()

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self._api.configuration.host)

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
    ) -> Body:
        """One request; `path` with its query."""
        status, content = await self.raw(method, path, body, content_type)
        try:
            answer: Body = json.loads(content)
        except ValueError:
            answer = {"message": content.decode(errors="replace")[:500]}
        found = failure(status, str(answer.get("message")))
        if found is not None:
            raise found
        return answer

    async def tail(self, path: str, size: int) -> bytes:
        """The last `size` bytes of a long answer, from the start of a line."""
        self._count(permission("GET", path))
        call = await self._api.param_serialize("GET", path, auth_settings=["BearerToken"])
        tail, whole = b"", True
        try:
            answer = await self._api.call_api(*call, _request_timeout=_SECONDS)
            async for chunk in answer.response.content.iter_chunked(2**16):
                whole = whole and len(tail) + len(chunk) <= size
                tail = (tail + chunk)[-size:]
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise Unreachable(reason(error)) from error
        if answer.status >= 400:
            raise failure(answer.status, _message(tail)) or Unavailable(str(answer.status))
        return tail if whole else tail.partition(b"\n")[2] or tail

    async def raw(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        seconds: float = _SECONDS,
    ) -> tuple[int, bytes]:
        """Status and content of an answer. Raises Unreachable if there is none."""
        self._count(permission(method, path))
        call = await self._api.param_serialize(
            method,
            path,
            header_params={"Content-Type": content_type, "Accept": "application/json"},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._api.call_api(*call, _request_timeout=seconds)
            return int(answer.status), bytes(await answer.read())
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            raise Unreachable(reason(error)) from error

    async def token(self) -> str | None:
        """The bearer token with which this client reaches the API server; None without one."""
        call = await self._api.param_serialize("GET", "/", auth_settings=["BearerToken"])
        scheme, _, token = str(call[2].get("authorization", "")).partition(" ")
        return token if scheme.lower() == "bearer" and token else None

    @property
    def certificate(self) -> tuple[str, str | None] | None:
        """Files with this client's certificate and key; None without one."""
        settings = self._api.configuration
        return (settings.cert_file, settings.key_file) if settings.cert_file else None

    @asynccontextmanager
    async def websocket(self, path: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """A websocket to a path with its query. Raises ClusterError if it is not opened."""
        self._count(permission("GET", path))
        call = await self._api.param_serialize("GET", path, auth_settings=["BearerToken"])
        rest = self._api.rest_client
        connector = aiohttp.TCPConnector(ssl=rest.ssl_context)
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                opening = session.ws_connect(
                    call[1],
                    headers={k: v for k, v in call[2].items() if k.lower() == "authorization"},
                    protocols=[_CHANNELS],
                    proxy=rest.proxy,
                    proxy_headers=rest.proxy_headers,
                    max_msg_size=0,
                    autoclose=False,
                )
                socket = await asyncio.wait_for(opening, _SECONDS)
                try:
                    yield socket
                finally:
                    with contextlib.suppress(aiohttp.ClientError, OSError):
                        await socket.send_frame(b"", aiohttp.WSMsgType.CLOSE)
                    # Closing the websocket first would hand its TLS connection back to the event
                    # loop, which may end before that does. The session waits for it.
                    await session.close()
                    await socket.close()
        except aiohttp.WSServerHandshakeError as error:
            raise failure(error.status, _refused(error.status, path)) or error from error
        except (aiohttp.ClientConnectionError, TimeoutError) as error:
            raise Unreachable(reason(error)) from error


def _message(content: bytes) -> str:
    """The message of an API server's refusal."""
    with contextlib.suppress(ValueError, AttributeError):
        return str(json.loads(content).get("message"))
    return content.decode(errors="replace")[:500]


def _refused(status: int, path: str) -> str:
    """Message for a websocket that was not opened: aiohttp drops the body of the answer."""
    needed = permission("GET", path)
    if status == 403:
        return f"it refuses to {needed.verb} {needed.resource} (status 403)"
    return f"it does not open {needed.resource} (status {status})"
