"""The session under TLS: which edges are accepted, and the errors of the others."""

import asyncio
import dataclasses
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiohttp import web

from splittracr import security
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.edge.dial import Endpoint
from splittracr.edge.link import Link
from splittracr.experiment.errors import HandshakeRefused, InvalidInput, ServerLost
from splittracr.experiment.spec import ExperimentSpec, Security
from splittracr.security import TlsFiles
from splittracr.server.worker import Server
from splittracr.splitting.live import pack
from splittracr.wire import codec
from splittracr.wire.messages import SESSION_PATH, Hello
from tests.workers.pair import proven, spec


@asynccontextmanager
async def serving_tls(of: ExperimentSpec, files: TlsFiles, token: str) -> AsyncIterator[str]:
    context = security.server_tls(Security.TLS, files)
    runner = web.AppRunner(Server(proven(of), of, token, certificates=True).app())
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"wss://127.0.0.1:{runner.addresses[0][1]}{SESSION_PATH}"
    finally:
        await runner.cleanup()


async def ask(
    url: str,
    edge: ProvenNetwork,
    of: ExperimentSpec,
    files: TlsFiles,
    token: str,
    *,
    changes: bool = False,
) -> int:
    """Bytes of the answer to one request."""
    tls = security.edge_tls(Security.TLS, files, url)
    hello = Hello(uid="u", edge="e", identity=edge.identity)
    payload = codec.encode(pack(edge.head(2, example_batch(edge.network, 1))))
    endpoint = Endpoint(url, token, tls, changes=changes)
    async with Link.open(endpoint, hello, of.transport, of.partition.server_loss) as link:
        return (await link.request(2, 0, payload)).size


def test_a_token_or_a_certificate_is_enough_and_neither_is_not(tmp_path: Path) -> None:
    async def body() -> None:
        of = spec()
        edge = proven(of)
        server, client, token = security.throw_away(tmp_path / "ours", ["127.0.0.1"])
        _, stranger, _ = security.throw_away(tmp_path / "theirs", ["127.0.0.1"])
        nobody = dataclasses.replace(client, certificate=None, key=None)
        async with serving_tls(of, server, token) as url:
            assert await ask(url, edge, of, client, "") > 0
            assert await ask(url, edge, of, nobody, token) > 0
            with pytest.raises(HandshakeRefused, match="does not accept the token"):
                await ask(url, edge, of, nobody, "wrong")
            with pytest.raises(InvalidInput, match="a certificate of the authority in --tls-ca"):
                await ask(url, edge, of, stranger, token)

    asyncio.run(asyncio.wait_for(body(), 60))


def test_an_edge_of_a_cluster_waits_for_a_server_that_it_can_trust(tmp_path: Path) -> None:
    """The server's certificate may be older than the edge's; Kubernetes replaces one of them."""

    async def body() -> None:
        of = spec(transport={"connectTimeoutSeconds": 1})
        edge = proven(of)
        for name, host in (("authority", "127.0.0.1"), ("host", "gpu.example")):
            server, client, token = security.throw_away(tmp_path / name, [host])
            _, stranger, _ = security.throw_away(tmp_path / f"{name}-later", ["127.0.0.1"])
            files = stranger if name == "authority" else client
            async with serving_tls(of, server, token) as url:
                with pytest.raises(ServerLost, match=r"no server answered .* certificate"):
                    await ask(url, edge, of, files, token, changes=True)

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_certificate_for_another_host_is_refused_by_name(tmp_path: Path) -> None:
    async def body() -> None:
        of = spec()
        server, client, token = security.throw_away(tmp_path / "ours", ["gpu.example"])
        async with serving_tls(of, server, token) as url:
            with pytest.raises(InvalidInput, match="a host that the server's certificate names"):
                await ask(url, proven(of), of, client, token)

    asyncio.run(asyncio.wait_for(body(), 60))


def test_a_server_whose_certificate_is_ahead_of_the_clock_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The certificate begins in two hours, which looks like a clock that is two hours behind."""

    async def body() -> None:
        of, begins = spec(transport={"connectTimeoutSeconds": 2}), datetime.now(UTC)
        late = security.mint(["127.0.0.1"], begins + timedelta(hours=2))
        folder = tmp_path / "late"
        security.write(late, folder)
        server = TlsFiles.of(folder, security.SERVER)
        client = ssl.create_default_context(cadata=late.authority.certificate.decode())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, (server.certificate, server.key)))
        runner = web.AppRunner(Server(proven(of), of, "t", certificates=True).app())
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            url = f"wss://127.0.0.1:{runner.addresses[0][1]}{SESSION_PATH}"
            hello = Hello(uid="u", edge="e", identity=proven(of).identity)
            opening = Link.open(
                Endpoint(url, "t", client), hello, of.transport, of.partition.server_loss
            )
            with pytest.raises(ServerLost, match=r"within 2 s .*it begins .*; the clock here is"):
                async with opening:
                    pass
            assert f"{begins + timedelta(minutes=115):%Y-%m-%d %H:%M}" in caplog.text
        finally:
            await runner.cleanup()

    asyncio.run(asyncio.wait_for(body(), 60))
