"""Edges that join: the server's routes and the edge's side over real TLS."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

from splittracr import security
from splittracr.edge import handover, joining
from splittracr.edge.joining import Joined
from splittracr.experiment import manifest
from splittracr.experiment.contracts import AUTHORITY_PATH, JOIN_PATH
from splittracr.experiment.errors import (
    HandshakeRefused,
    InvalidInput,
    ServerLost,
    SplittracrError,
    Untrusted,
)
from splittracr.experiment.joining import Invitation, Pass, Passes
from splittracr.results.archive import unpack
from splittracr.security import SERVER, TlsFiles
from splittracr.server.reception import PASSES, Reception

UID = "7a0f2ce2-9ab6-4f5c-8f2e-3a3f0f2c9d51"
STUDY = f"""
apiVersion: splittracr.io/v1alpha1
kind: SplitExperiment
metadata: {{name: study, uid: {UID}}}
spec:
  model: {{name: alexnet}}
  partition: {{mode: ServerOnly}}
"""


@dataclass
class Server:
    """A server with two edges to come, which can start again."""

    folder: Path
    invitations: list[Invitation]
    asked: list[str]
    """Methods and paths of the requests that arrived."""

    def authority(self) -> str:
        return (self.folder / "ca.crt").read_text()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[list[Invitation]]:
        """Serve, and yield the invitations."""

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.asked.append(f"{request.method} {request.path}")
            return await handler(request)

        app = web.Application(middlewares=[note])
        Reception(manifest.parse(STUDY), self.folder, self.folder).add_routes(app)
        context = security.server_context(TlsFiles.of(self.folder, SERVER), datetime.now(UTC))
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
            port = runner.addresses[0][1]
            yield [replace(one, port=port) for one in self.invitations]
        finally:
            await runner.cleanup()


def serving(folder: Path, lifetime: timedelta = timedelta(hours=1)) -> Server:
    now = datetime.now(UTC)
    credentials = security.mint(["127.0.0.1"], now)
    security.write(credentials, folder)
    digest = security.authority_digest(credentials.authority.certificate)
    secrets = [security.new_secret() for _ in range(2)]
    passes = tuple(
        Pass(edge=f"edge-{i}", digest=security.secret_digest(secret), expires=now + lifetime)
        for i, secret in enumerate(secrets)
    )
    (folder / PASSES).write_text(Passes(passes=passes).model_dump_json())
    invitations = [Invitation("127.0.0.1", 1, digest, secret) for secret in secrets]
    return Server(folder, invitations, [])


async def join(invitation: Invitation, folder: Path) -> Joined:
    return await asyncio.to_thread(joining.join, invitation, folder)


def test_an_edge_gets_a_name_a_certificate_and_the_manifest(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path / "server").open() as invitations:
            first, second = [await join(one, tmp_path / one.secret) for one in invitations]
        assert (first.edge, second.edge) == ("edge-0", "edge-1")
        assert manifest.parse(first.manifest.read_text()) == manifest.parse(STUDY)
        assert first.folder.stat().st_mode & 0o777 == 0o700

    asyncio.run(body())


def test_a_secret_lets_one_edge_join_also_after_a_restart_of_the_server(tmp_path: Path) -> None:
    async def body() -> None:
        server = serving(tmp_path / "server")
        async with server.open() as (invitation, _):
            await join(invitation, tmp_path / "first")
            with pytest.raises(HandshakeRefused, match="the token was used already, by edge-0"):
                await join(invitation, tmp_path / "second")
        async with server.open() as (invitation, _):
            with pytest.raises(HandshakeRefused, match="the token was used already, by edge-0"):
                await join(invitation, tmp_path / "third")

    asyncio.run(body())


def test_an_edge_that_has_joined_asks_no_more(tmp_path: Path) -> None:
    async def body() -> None:
        server = serving(tmp_path / "server")
        async with server.open() as (invitation, _):
            joined = (await join(invitation, tmp_path / "edge")).keep(tmp_path / "out")
            asked = list(server.asked)
            again = await join(invitation, tmp_path / "edge")
        assert (again.edge, again.out) == (joined.edge, tmp_path / "out")
        assert server.asked == asked == [f"GET {AUTHORITY_PATH}", f"POST {JOIN_PATH}"]

    asyncio.run(body())


def test_an_edge_that_missed_the_answer_asks_again_with_the_same_key(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path / "server").open() as (invitation, _):
            await join(invitation, tmp_path / "edge")
            for file in (tmp_path / "edge").iterdir():
                if file.name != "edge.key":
                    file.unlink()
            assert (await join(invitation, tmp_path / "edge")).edge == "edge-0"

    asyncio.run(body())


def test_an_expired_secret_lets_nobody_join(tmp_path: Path) -> None:
    async def body() -> None:
        server = serving(tmp_path / "server", lifetime=timedelta(seconds=-1))
        async with server.open() as (invitation, _):
            with pytest.raises(HandshakeRefused, match=r"the token expired at \d{4}-\d\d-\d\d "):
                await join(invitation, tmp_path / "edge")

    asyncio.run(body())


def test_another_authority_gets_no_secret(tmp_path: Path) -> None:
    async def body() -> None:
        server = serving(tmp_path / "server")
        async with server.open() as (invitation, _):
            wrong = replace(invitation, digest="A" * 43)
            with pytest.raises(Untrusted, match=f"the digest {'A' * 43} of the token"):
                await join(wrong, tmp_path / "edge")
        assert server.asked == [f"GET {AUTHORITY_PATH}"]

    asyncio.run(body())


def test_a_server_that_shows_the_authority_of_another_one_gets_no_secret(tmp_path: Path) -> None:
    """A man in the middle knows the authority's certificate, but has none of it."""

    async def body() -> None:
        server = serving(tmp_path / "server")
        other = tmp_path / "other"
        security.write(security.mint(["127.0.0.1"], datetime.now(UTC)), other)
        shutil.copy(other / "server.crt", server.folder)
        shutil.copy(other / "server.key", server.folder)
        async with server.open() as (invitation, _):
            with pytest.raises(Untrusted, match="certificate of the authority"):
                await join(invitation, tmp_path / "edge")
        assert server.asked == [f"GET {AUTHORITY_PATH}"]

    asyncio.run(body())


def test_an_address_that_was_changed_is_named(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path / "server").open() as (invitation, _):
            with pytest.raises(Untrusted, match=r"STUDY: got .*a host that the server.s certif"):
                await join(replace(invitation, host="localhost"), tmp_path / "edge")

    asyncio.run(body())


def test_an_unknown_secret_is_refused(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path / "server").open() as (invitation, _):
            with pytest.raises(HandshakeRefused, match="the token is not one of this study"):
                await join(replace(invitation, secret="B" * 22), tmp_path / "edge")

    asyncio.run(body())


@pytest.mark.parametrize("body", ["", "[]", '{"request": "nothing"}', "x" * 100_000])
def test_a_request_that_is_none_is_refused_and_uses_up_nothing(tmp_path: Path, body: str) -> None:
    async def ask() -> None:
        server = serving(tmp_path / "server")
        async with server.open() as (invitation, _), aiohttp.ClientSession() as client:
            url = invitation.server.replace("wss", "https") + JOIN_PATH
            tls = security.trusting(server.authority())
            header = {"Authorization": f"Bearer {invitation.secret}"}
            async with client.post(url, data=body, headers=header, ssl=tls) as answer:
                assert answer.status == (413 if len(body) > 2**16 else 400)
            assert (await join(invitation, tmp_path / "edge")).edge == "edge-0"

    asyncio.run(ask())


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ServerLost, match=r"no server answers at wss://127\.0\.0\.1:1: .*refused"):
        joining.join(Invitation("127.0.0.1", 1, "A" * 43, "B" * 22), tmp_path / "edge")


def test_an_edge_brings_its_own_results_and_no_others(tmp_path: Path) -> None:
    async def body() -> None:
        server, out = serving(tmp_path / "server"), tmp_path / "out"
        out.mkdir()
        (out / "records.jsonl").write_text("a record")
        async with server.open() as invitations:
            first, second = [await join(one, tmp_path / one.secret) for one in invitations]

            async def bring(url: str, by: Joined) -> None:
                await handover.bring(out, lambda: url, None, 10, by.tls)

            await bring(first.results_url(UID), first)
            for url, status in (
                (first.results_url(UID), 401),
                (second.results_url("another"), 404),
            ):
                with pytest.raises(SplittracrError, match=f"it answers {status}"):
                    await bring(url, second)
            trust, url = security.trusting(server.authority()), first.results_url(UID)
            with pytest.raises(SplittracrError, match="it answers 401"):
                await handover.bring(out, lambda: url, None, 10, lambda: trust)
        unpack((server.folder / "edge-0.tar.gz").read_bytes(), tmp_path / "there")
        assert (tmp_path / "there" / "records.jsonl").read_text() == "a record"
        assert list(server.folder.glob("edge-1*")) == []

    asyncio.run(body())


def test_a_request_with_another_key_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a certificate request in PEM format"):
        security.requested_key(b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n")
