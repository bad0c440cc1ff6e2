"""The only module that talks to the API server (kopf's watches apart).

Objects are plain dictionaries, so that a builder's manifest is what is sent. Everything here
raises `Refused` where the API server understood and said no, and `Unavailable` where it could not
be asked; the former is told to the user, the latter is tried again.
"""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio import client, config

from splittracr.experiment.crd import PLURAL
from splittracr.experiment.errors import reason
from splittracr.experiment.spec import API_VERSION, KIND
from splittracr_operator import names
from splittracr_operator.children import Manifest
from splittracr_operator.study import Body

_SECONDS = 20
_CHANNELS = "v4.channel.k8s.io"
"""Subprotocol of a port-forward: each message begins with the number of its channel."""

_PAGE = 500
"""Objects of one page of a list."""

_LONGEST = 500
"""Characters of a message of the API server that are kept."""

_RESOURCES = {
    "ConfigMap": ("v1", "configmaps"),
    "Deployment": ("apps/v1", "deployments"),
    "Event": ("v1", "events"),
    "Job": ("batch/v1", "jobs"),
    "Namespace": ("v1", "namespaces"),
    "NetworkPolicy": ("networking.k8s.io/v1", "networkpolicies"),
    "Pod": ("v1", "pods"),
    "Secret": ("v1", "secrets"),
    "Service": ("v1", "services"),
    KIND: (API_VERSION, PLURAL),
}
WATCHED = ("Pod", "Job", "Deployment", "Service", "ConfigMap", "NetworkPolicy")
"""Kinds of children whose changes are watched."""


class Permission(NamedTuple):
    """What a role has to allow: a verb on a resource (`jobs`, `pods/log`) of an API group."""

    group: str
    resource: str
    verb: str


def permission(method: str, path: str) -> Permission:
    """The permission that a request needs. `apply` needs the one to create, too."""
    parts = path.partition("?")[0].strip("/").split("/")
    group, rest = ("", parts[2:]) if parts[0] == "api" else (parts[1], parts[3:])
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    resource, name, *sub = [*rest, ""][:3] if len(rest) < 3 else rest
    verb = {"GET": "get" if name else "list", "POST": "create"}.get(method, method.lower())
    return Permission(group, "/".join([resource, *filter(None, sub[:1])]), verb)


class ClusterError(Exception):
    """The API server did not do what was asked."""


class Refused(ClusterError):
    """It said no, with an HTTP `status`; the text is its own message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Unavailable(ClusterError):
    """It did not answer, or was not able to."""


class Forbidden(Unavailable):
    """The operator's account lacks a right, at least for now."""


class Unreachable(Unavailable):
    """There was no answer at all."""


def failure(status: int, message: str) -> ClusterError | None:
    """What an answer's status and message mean; None where all is well."""
    # Also said by an API server that has just started and does not know its roles yet.
    if status == 403 and 'forbidden: User "' in message:
        return Forbidden(brief(message))
    message = brief(message)
    # What server-side apply says, with status 500, of a field that the schema does not have.
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
    return sentence if len(sentence) <= _LONGEST else f"{sentence[:_LONGEST].rstrip()} ..."


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


def resource(kind: str) -> tuple[str, str]:
    """API version and plural of a kind."""
    return _RESOURCES[kind]


Bodies = list[Body]
"""Objects; within `Cluster`, `list` is a method."""


class Cluster:
    """A connection to the API server. Use as an asynchronous context manager."""

    def __init__(
        self, api: client.ApiClient, count: Callable[[Permission], None], kubeconfig: str | None
    ) -> None:
        self._api, self._count, self.kubeconfig = api, count, kubeconfig

    @classmethod
    async def connect(cls, count: Callable[[Permission], None] = lambda _: None) -> "Cluster":
        """As this pod's service account or, outside of a cluster, as the kubeconfig says.

        `count` is told of every permission that a request makes use of. The attribute `kubeconfig`
        says where the kubeconfig was; None where none was read.
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

    async def get(self, kind: str, namespace: str | None, name: str) -> Body:
        """One object. `Refused` with status 404 where it is not there."""
        return await self.ask("GET", _path(kind, namespace, name))

    async def list(self, kind: str, namespace: str | None, selector: str = "") -> Bodies:
        """All objects of a kind, of one namespace or of all, page by page."""
        try:
            return await self._list_pages(kind, namespace, selector, _PAGE)
        except Refused as error:
            if error.status != 410:
                raise
            # The pages took so long that the API server has forgotten the list.
            return await self._list_pages(kind, namespace, selector, 0)

    async def _list_pages(
        self, kind: str, namespace: str | None, selector: str, limit: int
    ) -> Bodies:
        """The same with `limit` objects a page; 0 means all at once."""
        version, _ = _RESOURCES[kind]
        items: Bodies = []
        token = ""
        while True:
            given = {"labelSelector": selector, "limit": limit, "continue": token}
            query = urlencode({key: value for key, value in given.items() if value})
            found = await self.ask("GET", f"{_path(kind, namespace)}?{query}")
            # Items of a list come without what they are.
            items += [{"apiVersion": version, "kind": kind, **item} for item in found["items"]]
            token = found.get("metadata", {}).get("continue", "")
            if not token:
                return items

    async def events(self, namespace: str, uid: str) -> Bodies:
        """The events about an object."""
        query = f"?fieldSelector=involvedObject.uid={uid}"
        found = await self.ask("GET", _path("Event", namespace) + query)
        items: Bodies = found["items"]
        return items

    async def create(self, manifest: Manifest) -> Body:
        """Make an object. `Refused` with status 409 where it is there."""
        path = _path(manifest["kind"], manifest["metadata"]["namespace"])
        return await self.ask("POST", path, manifest)

    async def apply(self, manifest: Manifest) -> Body:
        """Make the fields of an object what the manifest says (server-side apply)."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        query = f"?fieldManager={names.MANAGER}&force=true"
        self._count(permission("POST", _path(manifest["kind"], metadata["namespace"])))
        return await self.ask("PATCH", path + query, manifest, "application/apply-patch+yaml")

    async def patch(self, manifest: Manifest) -> Body:
        """Merge the fields of a manifest into an object that is there."""
        metadata = manifest["metadata"]
        path = _path(manifest["kind"], metadata["namespace"], metadata["name"])
        query = f"?fieldManager={names.MANAGER}"
        return await self.ask("PATCH", path + query, manifest, "application/merge-patch+json")

    async def delete(self, kind: str, namespace: str, name: str) -> None:
        """Delete an object and, in the background, what it owns; one that is gone is fine."""
        options = {"propagationPolicy": "Background"}
        try:
            await self.ask("DELETE", _path(kind, namespace, name), options)
        except Refused as error:
            if error.status != 404:
                raise

    async def patch_status(self, namespace: str, name: str, status: Mapping[str, Any]) -> Body:
        """Merge into a study's status."""
        path = _path(KIND, namespace, name) + "/status"
        return await self.ask("PATCH", path, {"status": status}, "application/merge-patch+json")

    async def ask(
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

    async def log(
        self, namespace: str, pod: str, container: str, most: int, *, previous: bool = False
    ) -> bytes:
        """The last `most` bytes that a container has written, from the start of a line.

        With `previous` of the container before its last restart.
        """
        query = urlencode({"container": container, "previous": str(previous).lower()})
        path = f"{_path('Pod', namespace, pod)}/log?{query}"
        self._count(permission("GET", path))
        call = await self._api.param_serialize("GET", path, auth_settings=["BearerToken"])
        tail, whole = b"", True
        try:
            answer = await self._api.call_api(*call, _request_timeout=_SECONDS)
            async for chunk in answer.response.content.iter_chunked(2**16):
                whole = whole and len(tail) + len(chunk) <= most
                tail = (tail + chunk)[-most:]
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
        """Status and content of an answer. Raises Unreachable where there is none."""
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
                )
                socket = await asyncio.wait_for(opening, _SECONDS)
                async with socket:
                    yield socket
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
    """What to say of a websocket that was not opened: the answer's body cannot be read."""
    needed = permission("GET", path)
    if status == 403:
        return f"it refuses to {needed.verb} {needed.resource} (status 403)"
    return f"it does not open {needed.resource} (status {status})"


async def pod_log(cluster: Cluster, namespace: str, pod: str, container: str, lines: int) -> str:
    """The last lines that a container of a pod has written."""
    query = urlencode({"container": container, "tailLines": lines})
    path = f"{_path('Pod', namespace, pod)}/log?{query}"
    status, content = await cluster.raw("GET", path)
    text = content.decode(errors="replace")
    if status >= 400:
        return f"({text.strip()[:500]})"
    return text


def _path(kind: str, namespace: str | None, name: str | None = None) -> str:
    version, plural = _RESOURCES[kind]
    parts: Sequence[str | None] = (
        "/api" if "/" not in version else "/apis",
        version,
        *(("namespaces", namespace) if namespace else ()),
        plural,
        name,
    )
    return "/".join(part for part in parts if part)
