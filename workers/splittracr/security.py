"""Certificates, tokens and TLS settings of a study: made here, nowhere else asked for.

Each study has an authority of its own that signs one certificate for the server and one for its
edges. Who holds a certificate of the authority is let in, and so is who brings the token. Free
of torch, since the operator mints the same for pods.
"""

import hashlib
import hmac
import ipaddress
import secrets
import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splittracr.experiment.errors import InvalidInput, Untrusted, naming, why
from splittracr.experiment.spec import Security

T = TypeVar("T")

AUTHORITY, SERVER, EDGE, TOKEN = "ca", "server", "edge", "token"
"""Names of the files in a folder of credentials; certificates end in `.crt`, keys in `.key`."""

_NEEDED = (
    "the folder that `splittracr certs` made, or spec.transport.security to be Plain, which "
    "anybody on the way can read and change"
)
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_CLOCKS_APART = timedelta(minutes=5)
_LOOK_SECONDS = 5
_ALWAYS, _NO_END = datetime(2020, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Validity of an authority without an end, as RFC 5280 (4.1.2.5) writes it."""


class NotYetValid(Untrusted):
    """A certificate that begins later than this machine's clock: the clock may be behind.

    `begins` is when it begins; None if that is not known.
    """

    def __init__(self, field: str, value: object, now: datetime, begins: datetime | None) -> None:
        begin = f"it begins {_written(begins)}; " if begins else "it begins later; "
        expected = f"a certificate valid now ({begin}the clock here is at {_written(now)})"
        super().__init__(field, value, expected)
        self.begins = begins


def _written(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """All that a study needs: the authority, both ends' certificates, the token."""

    authority: Pair
    server: Pair
    edge: Pair
    token: str = field(repr=False)


def mint(
    hosts: Sequence[str], now: datetime, days: int = 365, seed: bytes | None = None
) -> Credentials:
    """New credentials, valid from `now` for `days`; `hosts` are the server's names and addresses.

    With a secret `seed` of at least 32 bytes, the authority's key is derived from it: certificates
    minted later with the same seed are trusted together with the earlier ones.

    Raises InvalidInput for a host that is neither.
    """
    if not hosts:
        raise InvalidInput("--host", None, "at least one name or address of the server")
    until = now + timedelta(days=days)
    root_key = ec.generate_private_key(ec.SECP256R1()) if seed is None else _derived(seed)
    root = _root(_name("splittracr authority"), root_key, now, until)
    server = _issue(root, SERVER, ExtendedKeyUsageOID.SERVER_AUTH, hosts, now, until)
    edge = _issue(root, EDGE, ExtendedKeyUsageOID.CLIENT_AUTH, [EDGE], now, until)
    return Credentials(root, server, edge, new_token())


def standing_authority(name: str, seed: bytes) -> Pair:
    """An authority that is a function of `name` and a secret `seed` of at least 32 bytes.

    Its certificate has no end, and the same bytes each time: it needs no place to be kept.
    """
    return _root(_name(name), _derived(seed), _ALWAYS, _NO_END, serial=_serial(seed))


def server_pair(authority: Pair, hosts: Sequence[str], now: datetime, days: int) -> Pair:
    """A certificate of `authority` for a server with these names, valid from `now` for `days`."""
    until = now + timedelta(days=days)
    return _issue(authority, SERVER, ExtendedKeyUsageOID.SERVER_AUTH, hosts, now, until)


def new_token() -> str:
    """A token that cannot be guessed: 256 random bits."""
    return secrets.token_urlsafe(32)


def bears(header: str, token: str) -> bool:
    """Whether an Authorization header carries the token; takes as long for a wrong one."""
    # What a header holds besides ASCII arrives as surrogates.
    given = header.encode(errors="surrogateescape")
    return hmac.compare_digest(given, f"Bearer {token}".encode())


def write(credentials: Credentials, folder: Path) -> None:
    """Write all of them into `folder`; keys and token are readable by their owner only.

    Raises InvalidInput where the folder holds credentials already.
    """
    files = {TOKEN: (credentials.token.encode() + b"\n", 0o600)}
    for name, pair in (
        (AUTHORITY, credentials.authority),
        (SERVER, credentials.server),
        (EDGE, credentials.edge),
    ):
        files[f"{name}.crt"] = pair.certificate, 0o644
        files[f"{name}.key"] = pair.key, 0o600
    if any((folder / name).exists() for name in files):
        raise InvalidInput("--out", str(folder), "a folder without credentials")
    folder.mkdir(parents=True, exist_ok=True)
    for name, (content, mode) in files.items():
        _create(folder / name, content, mode)


@dataclass(frozen=True)
class TlsFiles:
    """Where one end finds its certificate and key, and the authority that it trusts."""

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    @classmethod
    def of(cls, folder: Path, end: str) -> "TlsFiles":
        """What `write` left for SERVER or EDGE; also what Kubernetes calls `tls.crt`."""
        name = end if (folder / f"{end}.crt").exists() else "tls"
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        here = certificate.exists() or end == SERVER
        authority = folder / f"{AUTHORITY}.crt"
        return cls(certificate if here else None, key if here else None, authority)

    @classmethod
    def named(
        cls,
        folder: Path | None,
        end: str,
        certificate: Path | None,
        key: Path | None,
        authority: Path | None,
    ) -> "TlsFiles | None":
        """What a user named: files, and for those left out a folder. None where there is neither.

        Raises InvalidInput for a folder that is none.
        """
        if folder is not None and not folder.is_dir():
            raise InvalidInput("--tls", str(folder), "a folder that `splittracr certs` made")
        found = cls.of(folder, end) if folder is not None else cls()
        files = cls(
            certificate or found.certificate, key or found.key, authority or found.authority
        )
        return None if files == cls() else files


def server_tls(wanted: Security, files: TlsFiles | None) -> ssl.SSLContext | None:
    """The server's TLS as the manifest wants it; None for plain text.

    Raises InvalidInput where there is nothing to do it with, or something wrong with that.
    """
    if wanted is Security.PLAIN:
        return None
    if files is None:
        raise InvalidInput("--tls", None, _NEEDED)
    return server_context(files, datetime.now(UTC))


def edge_tls(wanted: Security, files: TlsFiles | None, url: str) -> ssl.SSLContext | None:
    """The edge's TLS for the server at `url`; None for plain text. Raises InvalidInput."""
    scheme = "ws" if wanted is Security.PLAIN else "wss"
    if url.partition("://")[0] not in (scheme, scheme.replace("ws", "http")):
        expected = f"a URL that begins {scheme}://, as spec.transport.security is {wanted}"
        raise InvalidInput("--server", url, expected)
    if wanted is Security.PLAIN:
        return None
    return client_context(files or TlsFiles(), datetime.now(UTC))


def server_context(files: TlsFiles, now: datetime) -> ssl.SSLContext:
    """TLS for the server. A client may show a certificate of the authority, where there is one.

    Raises InvalidInput for a file that is missing, unreadable, expired or no match.
    """
    if files.certificate is None or files.key is None:
        raise InvalidInput("--tls-cert", None, "the server's certificate and --tls-key its key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _load_own(context, files.certificate, files.key, now)
    if files.authority is not None:
        _load_authority(context, files.authority, now)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_context(files: TlsFiles, now: datetime) -> ssl.SSLContext:
    """TLS for an edge, which trusts `files.authority`, or the system's ones where there is none.

    Raises InvalidInput for a file that is missing, unreadable, expired or no match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if files.authority is not None:
        _load_authority(context, files.authority, now)
    else:
        context.load_default_certs()
    if (files.certificate is None) != (files.key is None):
        missing = "--tls-key" if files.key is None else "--tls-cert"
        raise InvalidInput(missing, None, "a certificate and its key, or neither")
    if files.certificate is not None and files.key is not None:
        _load_own(context, files.certificate, files.key, now)
    return context


def store_context(pair: Pair, clients: str | None) -> ssl.SSLContext:
    """TLS for the results store. A client may show a certificate of `clients` (PEM), if given.

    Raises ssl.SSLError if `clients` holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with tempfile.NamedTemporaryFile() as file:  # only its owner can read it
        file.write(pair.certificate + pair.key)
        file.flush()
        context.load_cert_chain(file.name)
    if clients is not None:
        _trust(context, clients)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def trusting(authority: str) -> ssl.SSLContext:
    """TLS for a client that trusts `authority` (PEM) and nothing else.

    Raises ssl.SSLError if it holds no certificate.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    _trust(context, authority)
    return context


def _trust(context: ssl.SSLContext, authority: str) -> None:
    """Trust the certificates in a PEM text. Raises ssl.SSLError if it holds none."""
    try:
        context.load_verify_locations(cadata=authority)
    except ValueError as error:  # an empty text
        raise ssl.SSLError(str(error)) from error


def explain(error: ssl.SSLError, url: str) -> Untrusted:
    """Why the edge's TLS handshake with the server at `url` failed, in words."""
    message = getattr(error, "verify_message", "") or error.reason or str(error)
    match getattr(error, "verify_code", 0):
        case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
            expected = f"a host that the server's certificate names ({message})"
            return Untrusted("--server", url, expected)
        case 9:  # X509_V_ERR_CERT_NOT_YET_VALID
            return NotYetValid("--server", url, datetime.now(UTC), None)
        case 10:
            clock = f"the clock here is at {_written(datetime.now(UTC))}"
            expected = f"a server whose certificate is valid now ({message}; {clock})"
            return Untrusted("--server", url, expected)
        case code if code:
            expected = f"a server with a certificate of the authority in --tls-ca ({message})"
            return Untrusted("--server", url, expected)
    return Untrusted("--server", url, f"a server that speaks TLS 1.3 ({message})")


def begins(url: str) -> datetime | None:
    """When the certificate of the server at `url` begins; None if the server shows none.

    Connects once more, without trust, and sends nothing.
    """
    parts = urlsplit(url)
    try:
        address = parts.hostname or "", parts.port or 443
        text = ssl.get_server_certificate(address, timeout=_LOOK_SECONDS)
        return x509.load_pem_x509_certificate(text.encode()).not_valid_before_utc
    except (OSError, ValueError):
        return None


def when_valid(make: Callable[[], T], seconds: float, say: Callable[[str], None]) -> T:
    """What `make` returns, which raises NotYetValid while a certificate begins in the future.

    A machine without a battery for its clock has the right time some moments after its start, so
    it tries for `seconds`, and calls `say` with the reason once.
    """
    deadline, said = time.monotonic() + seconds, False
    while True:
        try:
            return make()
        except NotYetValid as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            if not said:
                said = True
                say(f"{error}; waiting for up to {seconds:g} s")
            time.sleep(min(0.5, left))


def token_in(folder: Path | None) -> str | None:
    """The token in a folder that `write` filled; None if there is none."""
    path = None if folder is None else folder / TOKEN
    if path is None or not path.is_file():
        return None
    try:
        return _read("--tls", path).decode().strip() or None
    except UnicodeDecodeError as error:
        raise InvalidInput("--tls", str(path), "a token, which is text") from error


# ------------------------------------------------------------------------------------- minting


def _derived(seed: bytes) -> ec.EllipticCurvePrivateKey:
    """A private key made of a seed: 512 bits of its digest, modulo the order of the curve."""
    number = int.from_bytes(hashlib.sha512(b"authority" + seed).digest(), "big")
    return ec.derive_private_key(number % (_P256_ORDER - 1) + 1, ec.SECP256R1())


def _serial(seed: bytes) -> int:
    """A positive serial number of at most 20 bytes, made of a seed."""
    return int.from_bytes(hashlib.sha512(b"serial" + seed).digest()[:16], "big") | 1


def _root(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    start: datetime,
    end: datetime,
    serial: int | None = None,
) -> Pair:
    """An authority that signs itself; with the same arguments the same bytes, given a `serial`."""
    certificate = (
        _builder(name, name, key, start, end, serial)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return _pair(certificate, key)


def _issue(
    authority: Pair,
    name: str,
    purpose: x509.ObjectIdentifier,
    hosts: Sequence[str],
    start: datetime,
    end: datetime,
) -> Pair:
    """A certificate for `hosts` that `authority` signs. Raises InvalidInput for a bad host."""
    root = x509.load_pem_x509_certificate(authority.certificate)
    root_key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    alternatives = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
    certificate = (
        _builder(_name(f"splittracr {name}"), root.subject, key, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(issued_by, critical=False)
        .sign(root_key, hashes.SHA256())
    )
    return _pair(certificate, key)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removeprefix("*.").split(".")
    if not all(label and label.replace("-", "a").isalnum() and host.isascii() for label in labels):
        raise InvalidInput("--host", host, "a host name or an IP address")
    return x509.DNSName(host)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    now: datetime,
    until: datetime,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_APART)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _create(path: Path, content: bytes, mode: int) -> None:
    """A new file that no other user could read at any time."""
    path.touch(mode=mode, exist_ok=False)
    with naming(path):
        path.write_bytes(content)


# ------------------------------------------------------------------------------------- loading


def _load_own(context: ssl.SSLContext, certificate: Path, key: Path, now: datetime) -> None:
    _read_certificate("--tls-cert", certificate, now)
    _read("--tls-key", key)
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        expected = f"the private key of {certificate} ({error.reason or error})"
        raise InvalidInput("--tls-key", str(key), expected) from error


def _load_authority(context: ssl.SSLContext, authority: Path, now: datetime) -> None:
    context.load_verify_locations(cadata=_read_certificate("--tls-ca", authority, now).decode())


def _read_certificate(field: str, path: Path, now: datetime) -> bytes:
    """The PEM text of a certificate that is valid at `now`."""
    text = _read(field, path)
    try:
        certificate = x509.load_pem_x509_certificate(text)
    except ValueError as error:
        raise InvalidInput(field, str(path), "a certificate in PEM format") from error
    if now > certificate.not_valid_after_utc:
        expired = f"it expired {_written(certificate.not_valid_after_utc)}"
        expected = f"a certificate valid now ({expired}; the clock here is at {_written(now)})"
        raise InvalidInput(field, str(path), expected)
    if now < certificate.not_valid_before_utc - _CLOCKS_APART:
        raise NotYetValid(field, str(path), now, certificate.not_valid_before_utc)
    return text


def _read(field: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(field, str(path), f"a readable file ({why(error)})") from error


def throw_away(folder: Path, hosts: Sequence[str]) -> tuple[TlsFiles, TlsFiles, str]:
    """Credentials for one run, in `folder`: the server's files, the edge's, and the token."""
    credentials = mint(hosts, datetime.now(UTC), days=30)
    write(credentials, folder)
    return TlsFiles.of(folder, SERVER), TlsFiles.of(folder, EDGE), credentials.token
