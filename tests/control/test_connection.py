"""The connection to the API server with a real server behind it."""

import asyncio
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest
from aiohttp import web
from kubernetes.aio import client

from splittracr import security
from splittracr_operator.cluster import Cluster

PATH = "/api/v1/namespaces/lab/pods/operator/portforward"


class Silent:
    """A TLS server in a thread that stands still once a websocket is open. Ends with `stop`."""

    def __init__(self, folder: Path) -> None:
        security.write(security.mint(["127.0.0.1"], datetime.now(UTC)), folder)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "server.crt", folder / "server.key")
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._up, self._ended = threading.Event(), threading.Event()
        self.port = 0
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])
        self._thread.start()
        assert self._up.wait(60)

    def stop(self) -> None:
        self._ended.set()
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self._loop.close()

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get(PATH, self._silent)
        runner = web.AppRunner(app, shutdown_timeout=0)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._context).start()
        self.port = runner.addresses[0][1]
        self._up.set()
        await self._stopped.wait()
        await runner.cleanup()

    async def _silent(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(autoclose=False)
        await socket.prepare(request)
        await socket.send_bytes(b"here")
        self._ended.wait()  # the thread answers nothing
        return socket


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Silent]:
    server = Silent(tmp_path / "tls")
    yield server
    server.stop()


def test_a_websocket_leaves_no_connection_when_the_event_loop_ends(
    silent: Silent, tmp_path: Path
) -> None:
    settings = client.Configuration(host=f"https://127.0.0.1:{silent.port}")
    settings.ssl_ca_cert = str(tmp_path / "tls" / "ca.crt")

    def connections() -> list[object]:
        mine = psutil.Process().net_connections("tcp4")
        return [one for one in mine if getattr(one.raddr, "port", None) == silent.port]

    async def scenario() -> int:
        async with (
            Cluster(client.ApiClient(settings), lambda _: None, None) as cluster,
            cluster.websocket(PATH) as socket,
        ):
            assert await socket.receive_bytes() == b"here"
            return len(connections())

    assert asyncio.run(scenario()) == 1
    assert connections() == []
