"""An API server that is a web server of the test, with users, a Service and a port-forward.

The test sets which tokens and which access it accepts. It forwards the bytes of a port-forward to a
port of this machine, as the API server and kubelet do.
"""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp import web
from kubernetes.aio import client

from splittracr_operator.cluster import Cluster
from splittracr_operator.readers import ACCESS, TOKENS
from splittracr_operator.results_server import CLIENT_AUTHORITY

_SYSTEM = "/api/v1/namespaces/splittracr-system"


class Gateway:
    """`users` by token; `rights` are pairs of a user or group and a study's namespace."""

    def __init__(self) -> None:
        self.users: dict[str, dict[str, Any]] = {}
        self.rights: set[tuple[str, str]] = set()
        self.pages: dict[str, Any] = {}
        self.port = 0
        """Of the pod behind the Service."""

        self.away = False
        self.may_forward = True
        self.asked: list[dict[str, Any]] = []
        """The reviews that were requested."""

    def authority(self, pem: str) -> None:
        """Publish the authority of users' certificates."""
        space, name, key = CLIENT_AUTHORITY
        self.pages[f"/api/v1/namespaces/{space}/configmaps/{name}"] = {"data": {key: pem}}

    @contextlib.asynccontextmanager
    async def open(
        self, token: str = "", certificate: tuple[str, str] | None = None
    ) -> AsyncIterator[Cluster]:
        """Serve, and connect a client with a token or with the files of a certificate."""
        app = web.Application()
        app.router.add_post(TOKENS, self._token)
        app.router.add_post(ACCESS, self._access)
        app.router.add_get(f"{_SYSTEM}/pods/operator/portforward", self._forward)
        app.router.add_get("/{path:.*}", self._page)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        settings = client.Configuration(host=f"http://127.0.0.1:{runner.addresses[0][1]}")
        if token:
            settings.api_key["BearerToken"] = f"Bearer {token}"
        if certificate is not None:
            settings.cert_file, settings.key_file = certificate
        try:
            async with Cluster(client.ApiClient(settings), lambda _: None, None) as cluster:
                yield cluster
        finally:
            await runner.cleanup()

    async def _token(self, request: web.Request) -> web.Response:
        review = await self._review(request)
        user = self.users.get(review["spec"]["token"])
        status = {"authenticated": user is not None, "user": user or {}}
        return web.json_response({"status": status}, status=201)

    async def _access(self, request: web.Request) -> web.Response:
        spec = (await self._review(request))["spec"]
        space = spec["resourceAttributes"]["namespace"]
        names = (spec["user"], *spec["groups"])
        allowed = any((name, space) in self.rights for name in names)
        return web.json_response({"status": {"allowed": allowed}}, status=201)

    async def _review(self, request: web.Request) -> dict[str, Any]:
        if self.away:
            raise web.HTTPServiceUnavailable
        review: dict[str, Any] = await request.json()
        self.asked.append(review)
        return review

    async def _page(self, request: web.Request) -> web.Response:
        if request.path == f"{_SYSTEM}/services/splittracr-operator":
            return web.json_response({"spec": {"selector": {"app": "operator"}}})
        if request.path == f"{_SYSTEM}/pods":
            assert request.query["labelSelector"] == "app=operator"
            return web.json_response({"items": [self._deleted_pod(), self._pod("operator")]})
        if request.path not in self.pages:
            return web.json_response({"message": "not found"}, status=404)
        page = self.pages[request.path]
        return web.json_response(page() if callable(page) else page)

    def _pod(self, name: str) -> dict[str, Any]:
        ports = [{"name": "http", "containerPort": 8080}]
        ports.append({"name": "results", "containerPort": self.port})
        return {
            "metadata": {"name": name},
            "spec": {"containers": [{"ports": ports}]},
            "status": {"phase": "Running"},
        }

    def _deleted_pod(self) -> dict[str, Any]:
        pod = self._pod("deleted")
        pod["metadata"]["deletionTimestamp"] = "2026-03-01T12:00:00Z"
        return pod

    async def _forward(self, request: web.Request) -> web.WebSocketResponse:
        assert request.query == {"ports": str(self.port)}
        if not self.may_forward:
            raise web.HTTPForbidden
        socket = web.WebSocketResponse(protocols=["v4.channel.k8s.io"])
        await socket.prepare(request)
        number = self.port.to_bytes(2, "little")
        await socket.send_bytes(b"\0" + number)
        await socket.send_bytes(b"\1" + number)
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError as error:
            await socket.send_bytes(b"\1" + str(error).encode())
            await socket.close()
            return socket

        async def back() -> None:
            while content := await reader.read(5000):
                await socket.send_bytes(b"\0" + content)
            await socket.close()

        task = asyncio.create_task(back())
        async for message in socket:
            if message.type is aiohttp.WSMsgType.BINARY and message.data[:1] == b"\0":
                writer.write(message.data[1:])
        writer.close()
        task.cancel()
        await asyncio.wait([task])
        return socket


def user(name: str, *groups: str) -> dict[str, Any]:
    """A user as in a TokenReview."""
    return {"username": name, "uid": "7", "groups": list(groups), "extra": {"via": ["a"]}}


def der(pem: bytes) -> bytes:
    """The certificate of a PEM text, as bytes."""
    return base64.b64decode(b"".join(pem.strip().splitlines()[1:-1]))
