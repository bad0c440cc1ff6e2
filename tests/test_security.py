"""Credentials as files, and real TLS handshakes between the two ends."""

import asyncio
import contextlib
import shutil
import ssl
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from splittracr import security
from splittracr.experiment.errors import InvalidInput
from splittracr.security import (
    EDGE,
    SERVER,
    NotYetValid,
    TlsFiles,
    client_context,
    explain,
    server_context,
    token_in,
    when_valid,
)

NOW = datetime.now(UTC)
LOOPBACK = ("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("credentials")
    security.write(security.mint(LOOPBACK, NOW), folder)
    return folder


@asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server that tells each client whether it showed a certificate."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        shown = writer.get_extra_info("peercert")
        writer.write(b"certificate" if shown else b"stranger")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


def shake_hands(server: TlsFiles, client: TlsFiles, host: str = "127.0.0.1") -> str:
    now = datetime.now(UTC)  # some credentials are younger than NOW
    return answer(server_context(server, now), client_context(client, now), host)


def answer(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    async def go() -> str:
        async with serving(server) as port:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", port, ssl=client, server_hostname=host
            )
            try:
                return (await reader.read()).decode()
            finally:
                writer.close()

    return asyncio.run(go())


def test_an_authority_is_derived_from_its_seed(tmp_path: Path) -> None:
    """An edge with a later certificate of the authority trusts a server with an earlier one."""
    for name, seed in (("first", b"a" * 32), ("second", b"a" * 32), ("other", b"b" * 32)):
        later = NOW + timedelta(seconds=len(name))
        security.write(security.mint(LOOPBACK, later, seed=seed), tmp_path / name)
    server = TlsFiles.of(tmp_path / "first", SERVER)
    assert shake_hands(server, TlsFiles.of(tmp_path / "second", EDGE)) == "certificate"
    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(server, TlsFiles.of(tmp_path / "other", EDGE))
    keys = {(tmp_path / name / "server.key").read_bytes() for name in ("first", "second")}
    assert len(keys) == 2  # only the authority's is derived


def test_both_ends_trust_each_other(folder: Path) -> None:
    server, edge = TlsFiles.of(folder, SERVER), TlsFiles.of(folder, EDGE)
    assert shake_hands(server, edge) == "certificate"
    assert shake_hands(server, edge, "localhost") == "certificate"


def test_an_edge_without_a_certificate_is_a_stranger_that_the_token_may_let_in(
    folder: Path,
) -> None:
    alone = TlsFiles(authority=folder / "ca.crt")
    assert shake_hands(TlsFiles.of(folder, SERVER), alone) == "stranger"


def test_names_as_kubernetes_has_them(folder: Path, tmp_path: Path) -> None:
    for name, other in (("server.crt", "tls.crt"), ("server.key", "tls.key"), ("ca.crt",) * 2):
        shutil.copy(folder / name, tmp_path / other)
    assert TlsFiles.of(tmp_path, SERVER) == TlsFiles(
        tmp_path / "tls.crt", tmp_path / "tls.key", tmp_path / "ca.crt"
    )


def test_keys_and_token_are_for_their_owner_only(folder: Path) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {name for name, mode in modes.items() if mode == 0o600} == {
        "ca.key",
        "server.key",
        "edge.key",
        "token",
    }
    assert len(modes) == 7


def test_nothing_secret_shows_in_a_representation() -> None:
    credentials = security.mint(LOOPBACK, NOW)
    assert credentials.token not in repr(credentials)
    assert "PRIVATE" not in repr(credentials)


def test_credentials_are_never_overwritten(folder: Path) -> None:
    before = (folder / "ca.key").read_bytes()
    with pytest.raises(InvalidInput, match="a folder without credentials"):
        security.write(security.mint(LOOPBACK, NOW), folder)
    assert (folder / "ca.key").read_bytes() == before


def test_a_host_is_added_and_edges_keep_their_certificates(tmp_path: Path) -> None:
    security.write(security.mint(["127.0.0.1"], NOW, days=30), tmp_path)
    edge = client_context(TlsFiles.of(tmp_path, EDGE), NOW)
    before = (tmp_path / "ca.crt").read_bytes()
    for name in ("edge.crt", "edge.key", "token"):
        (tmp_path / name).unlink()
    every = security.add_hosts(tmp_path, ["tower.example", "127.0.0.1", "::1"], NOW, days=365)
    assert every == ["127.0.0.1", "tower.example", "::1"]
    assert (tmp_path / "ca.crt").read_bytes() == before
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600
    server = server_context(TlsFiles.of(tmp_path, SERVER), NOW)
    for host in every:
        assert answer(server, edge, host) == "certificate"
    made = x509.load_pem_x509_certificate((tmp_path / "server.crt").read_bytes())
    assert made.not_valid_after_utc == x509.load_pem_x509_certificate(before).not_valid_after_utc


@pytest.mark.parametrize("missing", ["ca.crt", "ca.key", "server.crt"])
def test_a_host_is_added_to_a_whole_folder_only(tmp_path: Path, missing: str) -> None:
    security.write(security.mint(LOOPBACK, NOW), tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(InvalidInput, match=rf"with {missing} \(No such file"):
        security.add_hosts(tmp_path, ["tower.example"], NOW, days=1)


def test_an_authority_that_has_expired_signs_nothing(tmp_path: Path) -> None:
    security.write(security.mint(LOOPBACK, NOW, days=30), tmp_path)
    with pytest.raises(InvalidInput, match=r"a folder whose authority is valid \(it expired"):
        security.add_hosts(tmp_path, ["tower.example"], NOW + timedelta(days=31), days=1)


@pytest.mark.parametrize("host", ["", "two words", "käse.example", "a..b", "http://x"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(InvalidInput, match="--host"):
        security.mint([host], NOW)


def test_no_host_at_all_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least one"):
        security.mint([], NOW)


def refused(server: TlsFiles, client: TlsFiles, host: str = "127.0.0.1") -> str:
    with pytest.raises(ssl.SSLError) as caught:
        shake_hands(server, client, host)
    return str(explain(caught.value, "wss://127.0.0.1:8765"))


def test_the_wrong_host_is_explained(folder: Path) -> None:
    words = refused(TlsFiles.of(folder, SERVER), TlsFiles.of(folder, EDGE), "example.org")
    assert "--server: got 'wss://127.0.0.1:8765'" in words
    assert "a host that the server's certificate names" in words


def test_another_authority_is_explained(folder: Path, tmp_path: Path) -> None:
    server, _, _ = security.throw_away(tmp_path / "other", LOOPBACK)
    words = refused(server, TlsFiles.of(folder, EDGE))
    assert "a certificate of the authority in --tls-ca" in words


def test_an_edge_of_another_authority_is_not_let_in(folder: Path, tmp_path: Path) -> None:
    _, edge, _ = security.throw_away(tmp_path / "other", LOOPBACK)
    mixed = TlsFiles(edge.certificate, edge.key, folder / "ca.crt")
    with contextlib.suppress(ssl.SSLError, ConnectionError):  # the alert may win the race
        assert shake_hands(TlsFiles.of(folder, SERVER), mixed) == ""


def test_a_server_that_speaks_plain_text_is_explained(folder: Path) -> None:
    async def go() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            context = client_context(TlsFiles.of(folder, EDGE), NOW)
            port = server.sockets[0].getsockname()[1]
            await asyncio.open_connection("127.0.0.1", port, ssl=context)

    with pytest.raises(ssl.SSLError) as caught:
        asyncio.run(go())
    assert "a server that speaks TLS 1.3" in str(explain(caught.value, "wss://x"))


@pytest.mark.parametrize("context", [server_context, client_context])
@pytest.mark.parametrize(
    ("days", "expected"), [(400, "it expired"), (-1, "it begins")], ids=["expired", "early"]
)
def test_a_certificate_of_another_time_is_named(
    folder: Path,
    context: Callable[[TlsFiles, datetime], ssl.SSLContext],
    days: int,
    expected: str,
) -> None:
    with pytest.raises(InvalidInput, match=expected):
        context(TlsFiles.of(folder, SERVER), NOW + timedelta(days=days))


@pytest.mark.parametrize(
    ("spoil", "field", "expected"),
    [
        (lambda folder: (folder / "server.crt").unlink(), "--tls-cert", "No such file"),
        (lambda folder: (folder / "server.key").unlink(), "--tls-key", "No such file"),
        (lambda folder: (folder / "ca.crt").write_text("x"), "--tls-ca", "PEM"),
        (lambda folder: (folder / "server.crt").write_text("x"), "--tls-cert", "PEM"),
        (
            lambda folder: shutil.copy(folder / "edge.key", folder / "server.key"),
            "--tls-key",
            "the private key of",
        ),
    ],
    ids=["no-cert", "no-key", "bad-ca", "bad-cert", "other-key"],
)
def test_a_file_that_will_not_do_is_named(
    folder: Path, tmp_path: Path, spoil: Callable[[Path], object], field: str, expected: str
) -> None:
    for path in folder.iterdir():
        shutil.copy(path, tmp_path / path.name)
    files = TlsFiles.of(tmp_path, SERVER)
    spoil(tmp_path)
    with pytest.raises(InvalidInput, match=expected) as caught:
        server_context(files, NOW)
    assert caught.value.field == field


def test_half_a_pair_is_named(folder: Path) -> None:
    with pytest.raises(InvalidInput, match="--tls-key"):
        client_context(TlsFiles(certificate=folder / "edge.crt"), NOW)
    with pytest.raises(InvalidInput, match="--tls-cert"):
        server_context(TlsFiles(), NOW)


def test_a_clock_that_is_behind_is_waited_for_and_both_times_are_named(folder: Path) -> None:
    files, said = TlsFiles.of(folder, SERVER), list[str]()
    clock = iter([NOW - timedelta(days=2), NOW - timedelta(hours=3), NOW])
    made = when_valid(lambda: server_context(files, next(clock)), 10, said.append)
    assert isinstance(made, ssl.SSLContext)
    (words,) = said
    for moment in (NOW - timedelta(minutes=5), NOW - timedelta(days=2)):
        assert f"{moment:%Y-%m-%d %H:%M:%S} UTC" in words
    assert "waiting for up to 10 s" in words


def test_a_clock_that_stays_behind_ends_the_wait_and_an_expired_certificate_none(
    folder: Path,
) -> None:
    files, said = TlsFiles.of(folder, EDGE), list[str]()
    with pytest.raises(NotYetValid, match="the clock here is at"):
        when_valid(lambda: client_context(files, NOW - timedelta(days=1)), 0.1, said.append)
    assert len(said) == 1
    with pytest.raises(InvalidInput, match=r"it expired .*; the clock here is at"):
        when_valid(lambda: client_context(files, NOW + timedelta(days=400)), 100, said.append)
    assert len(said) == 1


def test_the_token_of_a_folder_is_read(folder: Path, tmp_path: Path) -> None:
    assert token_in(folder) == (folder / "token").read_text().strip()
    assert token_in(tmp_path) is None
    assert token_in(None) is None
    (tmp_path / "token").write_bytes(b"\xff")
    with pytest.raises(InvalidInput, match="a token, which is text"):
        token_in(tmp_path)


# ------------------------------------------------------------------------- the results store


def test_a_standing_authority_is_a_function_of_its_seed() -> None:
    made = [security.standing_authority("store", bytes([i]) * 32) for i in (1, 1, 2)]
    assert made[0] == made[1]
    assert made[0].certificate != made[2].certificate
    certificate = x509.load_pem_x509_certificate(made[0].certificate)
    assert certificate.not_valid_before_utc.year == 2019
    assert certificate.not_valid_after_utc.year == 9999
    certificate.verify_directly_issued_by(certificate)


def test_a_standing_authority_signs_for_all_names_of_a_server() -> None:
    authority = security.standing_authority("store", b"s" * 32)
    pair = security.server_pair(authority, ["a.b.svc", "localhost", "::1"], NOW, 90)
    certificate = x509.load_pem_x509_certificate(pair.certificate)
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority.certificate))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.b.svc", "localhost"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["::1"]
    assert certificate.not_valid_after_utc == NOW.replace(microsecond=0) + timedelta(days=90)


@pytest.mark.parametrize("text", ["", "nothing"])
def test_what_is_no_certificate_is_no_authority(text: str) -> None:
    with pytest.raises(ssl.SSLError):
        security.trusting(text)
    pair = security.server_pair(security.standing_authority("a", b"s" * 32), ["b"], NOW, 1)
    with pytest.raises(ssl.SSLError):
        security.store_context(pair, text)
