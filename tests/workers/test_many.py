"""Many edges at one server process: all served, none by another's leave."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import pytest
from msgspec import structs

from splittracr import security
from splittracr.backends.torch import build
from splittracr.backends.torch.examples import example_batch
from splittracr.experiment import manifest as manifests
from splittracr.experiment.spec import Security
from splittracr.splitting.live import pack
from splittracr.transport.sockets import connect
from splittracr.transport.websocket import WebSocketChannel
from splittracr.wire import codec
from splittracr.wire.messages import (
    CONTROL_PATH,
    SESSION_PATH,
    Attach,
    Hello,
    Request,
    Welcome,
    decode,
    encode,
)
from tests.cli.processes import ROOT, environment, event, manifest, start
from tests.wire.frames import frame

EDGES, REQUESTS = 64, 20
CUT = 60


@dataclass(frozen=True)
class Served:
    """A server process, and a request that it takes, recorded with its hello."""

    url: str
    credentials: Path
    recorded: Path
    hello: Hello
    request: bytes
    process: psutil.Process


@contextmanager
def server(folder: Path, **spec: object) -> Iterator[Served]:
    """A small network behind TLS in a process of its own."""
    file = manifest(folder, spec)
    experiment = manifests.parse(file.read_text())
    own = build.build(experiment.spec, "edge", folder)
    hello = Hello(uid="u", edge="e", identity=own.identity)
    live = pack(own.head(CUT, example_batch(own.network, 1)))
    request = frame(Request(id=0, cut=CUT), codec.encode(live))
    greeting = frame(hello)
    recorded = folder / "recorded"
    recorded.write_bytes(len(greeting).to_bytes(4, "big") + greeting + request)
    credentials = folder / "tls"
    security.throw_away(credentials, ["127.0.0.1"])
    process = start("server", str(file), "--tls", str(credentials), cwd=folder)
    try:
        url = event(process.stdout, "serving")["url"]
        known = psutil.Process(process.pid)
        yield Served(url, credentials, recorded, hello, request, known)
    finally:
        process.terminate()
        process.communicate(timeout=100)


def replay(served: Served, edges: int, requests: int) -> dict[str, object]:
    """What the edges, in another process, have to say."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.workers.replay", served.url, str(served.credentials)),
            *(str(served.recorded), str(edges), str(requests)),
        ],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(300)
def test_64_edges_get_the_answer_that_one_gets(tmp_path: Path) -> None:
    with server(tmp_path) as served:
        alone = replay(served, 1, 1)
        crowd = replay(served, EDGES, REQUESTS)
        assert crowd["digests"] == alone["digests"]


@pytest.mark.timeout(300)
def test_batches_give_64_edges_the_answer_that_one_gets(tmp_path: Path) -> None:
    with server(tmp_path, server={"maxBatch": 8}) as served:
        assert replay(served, EDGES, REQUESTS)["digests"], "reduced results, rounded or not"


@pytest.mark.timeout(300)
def test_an_edge_that_stops_reading_harms_nobody(tmp_path: Path) -> None:
    """It asks all that its window allows and reads no answer, while others are served."""

    async def deaf(served: Served) -> None:
        files = security.TlsFiles.of(served.credentials, security.EDGE)
        tls = security.edge_tls(Security.TLS, files, served.url)
        control_url = served.url.removesuffix(SESSION_PATH) + CONTROL_PATH
        async with (
            aiohttp.ClientSession() as client,
            WebSocketChannel(await connect(client, served.url, tls=tls), limit=2**20) as channel,
            WebSocketChannel(await connect(client, control_url, tls=tls), limit=2**20) as control,
        ):
            await channel.send(encode(structs.replace(served.hello, edge="deaf")))
            arrival = await channel.receive()
            assert arrival is not None
            welcome, _ = decode(arrival.data)
            assert isinstance(welcome, Welcome)
            await control.send(encode(Attach(session=welcome.session)))
            _, payload = decode(served.request)
            for number in range(welcome.window):
                await channel.send(encode(Request(id=number, cut=CUT), payload))
            before = served.process.memory_info().rss
            found = await asyncio.to_thread(replay, served, 4, 50)
            assert found["digests"]
            assert served.process.memory_info().rss < before + 200 * 2**20

    with server(tmp_path) as served:
        asyncio.run(deaf(served))
