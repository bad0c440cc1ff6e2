"""Access to results over real TLS, with a fake API server."""

import asyncio
import contextlib
import hashlib
import os
import socket
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splittracr import security
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.status import StoredResults
from splittracr_operator import client, readers, results_server
from splittracr_operator.cluster import Cluster
from splittracr_operator.keys import Keys
from splittracr_operator.readers import Readers, User, access_review, user_in
from splittracr_operator.results_server import ResultsServer
from splittracr_operator.routes import Routes
from splittracr_operator.store import Store
from tests.control.gateway import Gateway, user
from tests.control.studies import UID, settings
from tests.control.world import in_event_loop

KEYS = Keys(b"k" * 32)
PATH = f"/v1/results/lab/alexnet/{UID}"
AUTHORITY = KEYS.store_authority().certificate.decode()
BODY = os.urandom(2**20)


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_server, "HOST", "127.0.0.1")


class Clock:
    """Seconds that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextlib.asynccontextmanager
async def served(
    folder: Path, gateway: Gateway, clock: Clock | None = None
) -> AsyncIterator[tuple[Cluster, ResultsServer]]:
    """Serve a store with BODY as the results of lab/alexnet."""
    store, app = Store(folder), web.Application()
    (folder / UID).mkdir(exist_ok=True)
    (folder / UID / "edge-0.tar.gz").write_bytes(BODY)
    store.note(UID, "lab", "alexnet")
    gateway.port = free_port()
    async with gateway.open() as cluster:
        routes = Routes(store, KEYS)
        routes.add_for_edges(app)
        routes.add_for_users(app, Readers(cluster, clock or Clock()))
        chosen = settings(results_port=gateway.port)
        async with ResultsServer.open(chosen, cluster, KEYS.store_authority(), app) as server:
            yield cluster, server


async def ask(
    gateway: Gateway, header: str | None = None, files: tuple[str, str] | None = None
) -> tuple[int, str]:
    """Status of the answer, and its text if it is no archive."""
    tls = security.trusting(AUTHORITY)
    if files is not None:
        tls.load_cert_chain(*files)
    headers = {} if header is None else {"Authorization": header}
    url = f"https://localhost:{gateway.port}{PATH}/edge-0"
    async with (
        aiohttp.ClientSession() as session,
        session.get(url, ssl=tls, headers=headers) as answer,
    ):
        content = await answer.read()
        return answer.status, "archive" if content == BODY else content.decode()


@in_event_loop
async def test_each_user_gets_what_the_api_server_allows(tmp_path: Path) -> None:
    gateway = Gateway()
    gateway.users = {"ada": user("ada"), "bo": user("bo", "lab-staff"), "eve": user("eve")}
    gateway.rights = {("ada", "lab"), ("lab-staff", "lab"), ("eve", "elsewhere")}
    async with served(tmp_path, gateway):
        for header in (None, "", "Bearer ", "Basic YTpi", "Bearer \u00e4"):
            status, text = await ask(gateway, header)
            assert (status, gateway.asked) == (401, [])
            assert text.startswith("no credentials: send a bearer token")
        assert await ask(gateway, "Bearer ada") == (200, "archive")
        assert await ask(gateway, "bearer bo") == (200, "archive")
        assert await ask(gateway, "Bearer eve") == (
            403,
            'user "eve" may not get splitexperiments/results "alexnet" in namespace "lab"',
        )
        assert await ask(gateway, "Bearer nobody") == (
            401,
            "the API server of this cluster does not accept the token",
        )
        # The token of an edge is not valid for a user.
        assert (await ask(gateway, f"Bearer {KEYS.control(UID)}"))[0] == 401


@in_event_loop
async def test_the_review_has_the_study_and_all_attributes_of_the_user(tmp_path: Path) -> None:
    gateway = Gateway()
    gateway.users = {"ada": user("ada", "staff")}
    async with served(tmp_path, gateway):
        await ask(gateway, "Bearer ada")
    assert [review["kind"] for review in gateway.asked] == [
        "TokenReview",
        "SubjectAccessReview",
    ]
    assert gateway.asked[1]["spec"] == {
        "user": "ada",
        "groups": ["staff"],
        "uid": "7",
        "extra": {"via": ["a"]},
        "resourceAttributes": {
            "namespace": "lab",
            "verb": "get",
            "group": "splittracr.io",
            "resource": "splitexperiments",
            "subresource": "results",
            "name": "alexnet",
        },
    }


@in_event_loop
async def test_answers_are_cached_for_seconds_and_failures_are_not(tmp_path: Path) -> None:
    gateway, clock = Gateway(), Clock()
    gateway.users, gateway.rights = {"ada": user("ada")}, {("ada", "lab")}
    gateway.away = True
    async with served(tmp_path, gateway, clock):
        clock.now = 100
        status, text = await ask(gateway, "Bearer ada")
        assert status == 503
        assert text.startswith("the API server cannot be asked who may read results: 503")
        gateway.away = False
        for _ in range(3):
            assert await ask(gateway, "Bearer ada") == (200, "archive")
        assert len(gateway.asked) == 2
        gateway.rights.clear()
        clock.now += readers.CACHE_SECONDS
        assert (await ask(gateway, "Bearer ada"))[0] == 403
        gateway.away = True
        assert (await ask(gateway, "Bearer ada"))[0] == 403
        assert (await ask(gateway, "Bearer bo"))[0] == 503


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"authenticated": False, "user": {"username": "ada"}},
        {"authenticated": "true", "user": {"username": "ada"}},
        {"authenticated": True},
        {"authenticated": True, "user": {"username": ""}},
    ],
)
def test_only_a_user_with_a_name_is_one(status: dict[str, object]) -> None:
    assert user_in(status) is None


@in_event_loop
async def test_plain_http_is_refused(tmp_path: Path) -> None:
    gateway = Gateway()
    async with served(tmp_path, gateway):
        url = f"http://localhost:{gateway.port}{PATH}/edge-0"
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(url)


# ------------------------------------------------------------------------------- certificates


class Authority:
    """Signs the certificates of users, as the API server's does."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster")])
        made = self._builder(self._name, self._key)
        basic = x509.BasicConstraints(ca=True, path_length=None)
        root = made.add_extension(basic, critical=True).sign(self._key, hashes.SHA256())
        self.pem = root.public_bytes(serialization.Encoding.PEM).decode()

    def user(self, name: str, *groups: str, usage: x509.ObjectIdentifier) -> tuple[str, str]:
        """Files with a user's certificate and key."""
        key = ec.generate_private_key(ec.SECP256R1())
        parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        parts += [x509.NameAttribute(NameOID.COMMON_NAME, name)] if name else []
        made = self._builder(x509.Name(parts), key)
        extended = x509.ExtendedKeyUsage([usage])
        signed = made.add_extension(extended, critical=False).sign(self._key, hashes.SHA256())
        certificate, secret = self._folder / f"{name}.crt", self._folder / f"{name}.key"
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return str(certificate), str(secret)

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
        )


CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    folder = tmp_path / "users"
    folder.mkdir()
    return Authority(folder)


@in_event_loop
async def test_a_certificate_of_the_cluster_names_user_and_groups(
    tmp_path: Path, authority: Authority
) -> None:
    gateway = Gateway()
    gateway.authority(authority.pem)
    gateway.rights = {("staff", "lab"), ("system:authenticated", "elsewhere")}
    async with served(tmp_path, gateway):
        ada = authority.user("ada", "staff", "all", usage=CLIENT)
        assert await ask(gateway, files=ada) == (200, "archive")
        (review,) = gateway.asked
        assert review["spec"]["user"] == "ada"
        assert review["spec"]["groups"] == ["staff", "all", "system:authenticated"]
        bo = authority.user("bo", usage=CLIENT)
        assert (await ask(gateway, files=bo))[0] == 403
        nameless = authority.user("", "staff", usage=CLIENT)
        status, text = await ask(gateway, files=nameless)
        assert (status, "names no user" in text) == (401, True)


@in_event_loop
async def test_a_certificate_of_another_authority_or_use_is_refused(
    tmp_path: Path, authority: Authority
) -> None:
    gateway, other = Gateway(), tmp_path / "other"
    gateway.authority(authority.pem)
    gateway.rights = {("staff", "lab")}
    other.mkdir()
    async with served(tmp_path, gateway):
        for files in (
            Authority(other).user("ada", "staff", usage=CLIENT),
            authority.user("ada", "staff", usage=ExtendedKeyUsageOID.SERVER_AUTH),
        ):
            with pytest.raises(aiohttp.ClientError):
                await ask(gateway, files=files)
    assert gateway.asked == []


@in_event_loop
async def test_certificates_are_checked_once_the_authority_can_be_read(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = Gateway()
    gateway.rights = {("staff", "lab")}
    ada = authority.user("ada", "staff", usage=CLIENT)
    async with served(tmp_path, gateway) as (_, server):
        assert "client certificates cannot be checked: not found" in caplog.text
        assert (await ask(gateway, files=ada))[0] == 401
        gateway.authority(authority.pem)
        await server.renew(datetime.now(UTC))
        assert await ask(gateway, files=ada) == (200, "archive")
        gateway.pages.clear()  # the known authority stays
        await server.renew(datetime.now(UTC))
        assert await ask(gateway, files=ada) == (200, "archive")


@in_event_loop
async def test_the_certificate_is_renewed_by_the_same_authority(tmp_path: Path) -> None:
    gateway, now = Gateway(), datetime.now(UTC)
    gateway.users, gateway.rights = {"ada": user("ada")}, {("ada", "lab")}

    async def certificate() -> bytes:
        tls = security.trusting(AUTHORITY)
        tls.check_hostname, tls.verify_mode = (
            False,
            ssl.CERT_NONE,
        )  # it may be valid only in a month
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port, ssl=tls)
        found: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        with contextlib.suppress(ssl.SSLError):
            await writer.wait_closed()
        return found

    async with served(tmp_path, gateway) as (_, server):
        first = await certificate()
        await server.renew(now + timedelta(days=1))
        assert await certificate() == first
        await server.renew(now + timedelta(days=31))
        assert await certificate() != first
    async with served(tmp_path, gateway):  # the next operator has the same authority
        assert await ask(gateway, "Bearer ada") == (200, "archive")


# -------------------------------------------------------------------------- the command's way


def stored(**changed: object) -> StoredResults:
    made = {
        "edges": ("edge-0",),
        "path": PATH,
        "service": "splittracr-system/splittracr-operator",
        "authority": AUTHORITY,
    }
    return StoredResults.model_validate(made | changed)


@in_event_loop
async def test_results_are_fetched_through_the_api_server(
    tmp_path: Path, authority: Authority
) -> None:
    gateway = Gateway()
    gateway.authority(authority.pem)
    gateway.users = {"eve": user("eve"), "bo": user("bo")}
    gateway.rights = {("staff", "lab"), ("bo", "lab")}
    files = authority.user("ada", "staff", usage=CLIENT)
    async with served(tmp_path, gateway):
        for given in ({"token": "bo"}, {"certificate": files}):
            async with gateway.open(**given) as cluster:
                found = await client.fetch(cluster, "lab", "alexnet", stored())
                assert found == {"edge-0": BODY}
        async with gateway.open(token="eve") as cluster:
            with pytest.raises(SplittracrError, match=r"status 403\): user .eve. may not get"):
                await client.fetch(cluster, "lab", "alexnet", stored())
        async with gateway.open(token="bo") as cluster:
            with pytest.raises(SplittracrError, match="does not hold the results of alexnet"):
                await client.fetch(cluster, "lab", "alexnet", stored(edges=("edge-1",)))


def described(name: str, content: bytes) -> dict[str, object]:
    return {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


@in_event_loop
async def test_logs_are_fetched_with_the_records(tmp_path: Path) -> None:
    gateway = Gateway()
    gateway.users, gateway.rights = {"bo": user("bo")}, {("bo", "lab")}
    kept = stored(archives=(described("edge-0", BODY), described("logs", b"packed")))
    async with served(tmp_path, gateway), gateway.open(token="bo") as cluster:
        (tmp_path / UID / "logs.tar.gz").write_bytes(b"packed")
        found = await client.fetch(cluster, "lab", "alexnet", kept)
        assert found == {"edge-0": BODY, "logs": b"packed"}


@in_event_loop
async def test_an_archive_that_is_newer_than_the_status_is_fetched_once_that_follows(
    tmp_path: Path,
) -> None:
    gateway = Gateway()
    gateway.users, gateway.rights = {"bo": user("bo")}, {("bo", "lab")}
    statuses = iter(
        stored(archives=(described("logs", content),)).model_dump(mode="json", by_alias=True)
        for content in (b"older", b"newer")
    )
    page = "/apis/splittracr.io/v1alpha1/namespaces/lab/splitexperiments/alexnet"
    gateway.pages[page] = lambda: {"status": {"results": next(statuses)}}
    async with served(tmp_path, gateway), gateway.open(token="bo") as cluster:
        (tmp_path / UID / "logs.tar.gz").write_bytes(b"newer")
        found = await client.fetch_described(cluster, "lab", "alexnet")
    assert found == {"logs": b"newer"}
    assert next(statuses, None) is None


@pytest.mark.parametrize("name", ["edge-0", "logs"])
@pytest.mark.parametrize("damage", [b"", b"as it w", b"as it was!", b"as it is!"])
@in_event_loop
async def test_an_archive_that_is_torn_or_another_one_is_named(
    tmp_path: Path, name: str, damage: bytes
) -> None:
    gateway = Gateway()
    gateway.users, gateway.rights = {"bo": user("bo")}, {("bo", "lab")}
    kept = stored(archives=(described(name, b"as it was"),))
    async with served(tmp_path, gateway), gateway.open(token="bo") as cluster:
        (tmp_path / UID / f"{name}.tar.gz").write_bytes(damage)
        with pytest.raises(SplittracrError) as caught:
            await client.fetch(cluster, "lab", "alexnet", kept)
    assert str(caught.value) == (
        f"the archive {name} of alexnet is damaged or was replaced: it has {len(damage)} bytes "
        f"with SHA-256 {hashlib.sha256(damage).hexdigest()}, the study's status lists 9 bytes "
        f"with {hashlib.sha256(b'as it was').hexdigest()}"
    )


@in_event_loop
async def test_why_results_are_not_reached(tmp_path: Path) -> None:
    gateway = Gateway()
    async with served(tmp_path, gateway), gateway.open(token="bo") as cluster:

        async def fault(**changed: object) -> str:
            with pytest.raises(SplittracrError) as caught:
                await client.fetch(cluster, "lab", "alexnet", stored(**changed))
            return str(caught.value)

        assert "it is older than this command" in await fault(service=None)
        other = Keys(b"o" * 32).store_authority().certificate.decode()
        assert "certificate verify failed" in await fault(authority=other)
        gateway.may_forward = False
        assert await fault() == (
            "the results store cannot be reached: it refuses to get pods/portforward (status "
            "403); a Role in namespace splittracr-system gives the right (`results.readers` "
            "of the chart)"
        )
        gateway.may_forward, gateway.port = True, free_port()
        assert "failed: " in await fault()


def test_access_is_of_the_subresource() -> None:
    asked = access_review(User("ada"), "lab", "alexnet")["spec"]["resourceAttributes"]
    assert (asked["resource"], asked["subresource"]) == ("splitexperiments", "results")
