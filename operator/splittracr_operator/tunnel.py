"""Forwards a local port to the operator's results port, as `kubectl port-forward` does.

The API server passes the bytes on to the pod. So TLS is end to end, with the client's certificate
or token. The API server's proxy for Services would remove both.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp

from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import Refused, Unavailable
from splittracr_operator.study import Body

PORT_NAME = "results"
_CHUNK = 2**16
_DATA, _ERROR = 0, 1
"""Channels of the protocol for one port."""


async def find(cluster: Cluster, namespace: str, service: str) -> tuple[str, int]:
    """Return a running pod behind the Service, and its results port.

    Raises ClusterError, Unavailable if there is none.
    """
    selector = (await cluster.get("Service", namespace, service))["spec"].get("selector") or {}
    labels = ",".join(f"{key}={value}" for key, value in sorted(selector.items()))
    for pod in await cluster.list("Pod", namespace, labels):
        port = _port(pod)
        if port is not None and pod.get("status", {}).get("phase") == "Running":
            return pod["metadata"]["name"], port
    raise Unavailable(f"no pod of Service {namespace}/{service} runs")


def _port(pod: Body) -> int | None:
    """The results port of a pod; None without one, or if the pod is being deleted."""
    if "deletionTimestamp" in pod["metadata"]:
        return None
    for container in pod["spec"]["containers"]:
        for port in container.get("ports", ()):
            if port.get("name") == PORT_NAME:
                return int(port["containerPort"])
    return None


@contextlib.asynccontextmanager
async def forward(cluster: Cluster, namespace: str, pod: str, port: int) -> AsyncIterator[int]:
    """Forward a port of 127.0.0.1 to a pod's port, with a websocket for each connection.

    Raises ClusterError if the API server refuses the first connection.
    """
    path = f"/api/v1/namespaces/{namespace}/pods/{pod}/portforward?ports={port}"
    async with cluster.websocket(path):  # raises if the permission is missing
        pass

    relays = set[asyncio.Task[None]]()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(relay(reader, writer))
        relays.add(task)
        task.add_done_callback(relays.discard)

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with cluster.websocket(path) as socket:
                await _relay(socket, reader, writer)
        except (Unavailable, Refused, OSError, aiohttp.ClientError):
            pass  # the client's connection is closed
        finally:
            writer.close()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in relays:
            task.cancel()
        await asyncio.gather(*relays, return_exceptions=True)


async def _relay(
    socket: aiohttp.ClientWebSocketResponse,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
) -> None:
    """Copy bytes both ways until one end closes."""

    async def out() -> None:
        while content := await reader.read(_CHUNK):
            await socket.send_bytes(bytes([_DATA]) + content)

    async def back() -> None:
        numbered: set[int] = set()
        async for message in socket:
            if message.type is not aiohttp.WSMsgType.BINARY or not message.data:
                continue
            channel, content = message.data[0], message.data[1:]
            if channel not in numbered:  # the first message of each channel is the port's number
                numbered.add(channel)
                content = content[2:]
            if channel == _ERROR and content:
                return
            if channel == _DATA and content:
                writer.write(content)
                await writer.drain()

    tasks = [asyncio.create_task(out()), asyncio.create_task(back())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
