"""Files of credentials, TLS contexts of both ends, and TLS errors in words."""

import ssl
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from cryptography import x509

from splittracr.experiment.errors import InvalidInput, Untrusted, why
from splittracr.experiment.spec import Security
from splittracr.security.minting import (
    AUTHORITY,
    CLOCKS_APART,
    EDGE,
    SERVER,
    TOKEN,
    Pair,
    mint,
    write,
)

T = TypeVar("T")

_NEEDED = (
    "the folder that `splittracr certs` made, or spec.transport.security to be Plain, which "
    "any machine on the link can read and change"
)
_LOOK_SECONDS = 5


class NotYetValid(Untrusted):
    """A certificate that begins later than this machine's clock: the clock may be behind.

    `begins` is when it begins; None if unknown.
    """

    def __init__(self, field: str, value: object, now: datetime, begins: datetime | None) -> None:
        begin = f"it begins {_written(begins)}; " if begins else "it begins later; "
        expected = f"a certificate valid now ({begin}the clock here is at {_written(now)})"
        super().__init__(field, value, expected)
        self.begins = begins


def _written(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


@dataclass(frozen=True)
class TlsFiles:
    """The files of one end: its certificate and key, and the authority that it trusts."""

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None

    @classmethod
    def of(cls, folder: Path, end: str) -> "TlsFiles":
        """The files that `write` made for SERVER or EDGE; also under Kubernetes' name `tls.crt`."""
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
        """The files that a user named, and from the folder those that were left out.

        None without file and folder. Raises InvalidInput if the folder does not exist.
        """
        if folder is not None and not folder.is_dir():
            raise InvalidInput("--tls", str(folder), "a folder that `splittracr certs` made")
        found = cls.of(folder, end) if folder is not None else cls()
        files = cls(
            certificate or found.certificate, key or found.key, authority or found.authority
        )
        return None if files == cls() else files


def server_tls(wanted: Security, files: TlsFiles | None) -> ssl.SSLContext | None:
    """The server's TLS by the manifest; None for plain text.

    Raises InvalidInput if files are missing or wrong.
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
    """TLS for the server. A client may show a certificate of the authority, if there is one.

    Raises InvalidInput for a file that is missing, unreadable or expired, or for a key that does
    not match.
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
    """TLS for an edge, which trusts `files.authority`, or the system's ones without it.

    Raises InvalidInput for a file that is missing, unreadable or expired, or for a key that does
    not match.
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
    """Trust the certificates in a PEM text. Raises ssl.SSLError if it has none."""
    try:
        context.load_verify_locations(cadata=authority)
    except ValueError as error:  # an empty text
        raise ssl.SSLError(str(error)) from error


def explain(error: ssl.SSLError, url: str, field: str = "--server") -> Untrusted:
    """The reason in words why the edge's TLS handshake with the server at `url`, named in `field`,
    failed.
    """
    message = getattr(error, "verify_message", "") or error.reason or str(error)
    match getattr(error, "verify_code", 0):
        case 62 | 64:  # X509_V_ERR_HOSTNAME_MISMATCH, IP_ADDRESS_MISMATCH
            expected = f"a host that the server's certificate names ({message})"
            return Untrusted(field, url, expected)
        case 9:  # X509_V_ERR_CERT_NOT_YET_VALID
            return NotYetValid(field, url, datetime.now(UTC), None)
        case 10:
            clock = f"the clock here is at {_written(datetime.now(UTC))}"
            expected = f"a server whose certificate is valid now ({message}; {clock})"
            return Untrusted(field, url, expected)
        case code if code:
            expected = f"a server with a certificate of the authority in --tls-ca ({message})"
            return Untrusted(field, url, expected)
    return Untrusted(field, url, f"a server that speaks TLS 1.3 ({message})")


def begins(url: str) -> datetime | None:
    """When the certificate of the server at `url` begins; None if the server has none.

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
    """The result of `make`, which raises NotYetValid while a certificate begins in the future.

    The clock of a machine without a battery is set some time after its start. So this retries for
    `seconds`, and calls `say` with the reason once.
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
    """The token in a folder that `write` filled; None without one."""
    path = None if folder is None else folder / TOKEN
    if path is None or not path.is_file():
        return None
    try:
        return _read("--tls", path).decode().strip() or None
    except UnicodeDecodeError as error:
        raise InvalidInput("--tls", str(path), "a token, which is text") from error


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
    if now < certificate.not_valid_before_utc - CLOCKS_APART:
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
