"""Makes authorities, certificates and tokens."""

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from splittracr.experiment.errors import InvalidInput, naming, why

AUTHORITY, SERVER, EDGE, TOKEN = "ca", "server", "edge", "token"
"""Names of the files in a folder of credentials; certificates end in `.crt`, keys in `.key`."""

CLOCKS_APART = timedelta(minutes=5)
"""Certificates begin this long before they are made, for machines whose clock is behind."""

_FILLED = "a folder that `splittracr certs` made"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_ALWAYS, _NO_END = datetime(2020, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
"""Validity of an authority without an end, as RFC 5280 (4.1.2.5) writes it."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True)
class Credentials:
    """The credentials of a study: the authority, both ends' certificates, the token."""

    authority: Pair
    server: Pair
    edge: Pair
    token: str = field(repr=False)


def mint(
    hosts: Sequence[str], now: datetime, days: int = 365, seed: bytes | None = None
) -> Credentials:
    """New credentials, valid from `now` for `days`; `hosts` are the server's names and addresses.

    With a secret `seed` of at least 32 bytes, the authority's key is derived from it: certificates
    minted later with the same seed are trusted together with the earlier ones. Raises InvalidInput
    for a host that is neither a name nor an address.
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
    """An authority derived from `name` and a secret `seed` of at least 32 bytes.

    Its certificate does not expire, and has the same bytes each time, so it need not be stored.
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
    """Whether an Authorization header carries the token; a wrong one takes the same time."""
    # What a header holds besides ASCII arrives as surrogates.
    given = header.encode(errors="surrogateescape")
    return hmac.compare_digest(given, f"Bearer {token}".encode())


def write(credentials: Credentials, folder: Path) -> None:
    """Write all of them into `folder`; only the owner can read keys and token.

    Raises InvalidInput if the folder holds credentials already.
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


def add_hosts(folder: Path, hosts: Sequence[str], now: datetime, days: int) -> list[str]:
    """Sign a new server's certificate for `hosts` and the present ones; return all of them.

    `folder` was written by `write`. The new certificate is valid from `now` for `days`, or as long
    as the authority. Raises InvalidInput if the folder has no valid authority, or for a bad host.
    """
    authority = Pair(*(_made_before(folder, f"{AUTHORITY}.{end}") for end in ("crt", "key")))
    server = _made_before(folder, f"{SERVER}.crt")
    try:
        known = x509.load_pem_x509_certificate(server).extensions
        names = known.get_extension_for_class(x509.SubjectAlternativeName).value
        end = min(now + timedelta(days=days), expiry(authority))
    except (ValueError, x509.ExtensionNotFound) as error:
        raise InvalidInput("--out", str(folder), f"{_FILLED} ({error})") from error
    if end <= now:
        expected = f"a folder whose authority is valid (it expired {end:%Y-%m-%d %H:%M:%S} UTC)"
        raise InvalidInput("--out", str(folder), expected)
    every = list(dict.fromkeys([*(str(name.value) for name in names), *hosts]))
    made = _issue(authority, SERVER, ExtendedKeyUsageOID.SERVER_AUTH, every, now, end)
    _replace(folder / f"{SERVER}.key", made.key, 0o600)
    _replace(folder / f"{SERVER}.crt", made.certificate, 0o644)
    return every


def _made_before(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        expected = f"{_FILLED}, with {name} ({why(error)})"
        raise InvalidInput("--out", str(folder), expected) from error


def _replace(path: Path, content: bytes, mode: int) -> None:
    """Replace a file by `content`. The new one has the permissions `mode` from the start."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    _create(new, content, mode)
    new.replace(path)


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
        _builder(name, name, key.public_key(), start, end, serial)
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
    """A key, and its certificate for `hosts` that `authority` signs.

    Raises InvalidInput for a bad host.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    made = certificate_for(authority, name, purpose, hosts, start, end, key.public_key())
    return _pair(made, key)


def certificate_for(
    authority: Pair,
    name: str,
    purpose: x509.ObjectIdentifier,
    hosts: Sequence[str],
    start: datetime,
    end: datetime,
    key: ec.EllipticCurvePublicKey,
) -> x509.Certificate:
    """A certificate of `key` for `hosts` that `authority` signs. Raises InvalidInput."""
    root = x509.load_pem_x509_certificate(authority.certificate)
    root_key = serialization.load_pem_private_key(authority.key, None)
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    issued_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key())
    alternatives = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
    return (
        _builder(_name(common_name(name)), root.subject, key, start, end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(alternatives, critical=False)
        .add_extension(issued_by, critical=False)
        .sign(root_key, hashes.SHA256())
    )


def expiry(authority: Pair) -> datetime:
    """When a certificate ends."""
    return x509.load_pem_x509_certificate(authority.certificate).not_valid_after_utc


def common_name(name: str) -> str:
    """The common name in the certificate of a server or an edge."""
    return f"splittracr {name}"


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
    key: ec.EllipticCurvePublicKey,
    now: datetime,
    until: datetime,
    serial: int | None = None,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(now - CLOCKS_APART)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
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
    return Pair(certificate.public_bytes(serialization.Encoding.PEM), private_pem(key))


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key in PEM format, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _create(path: Path, content: bytes, mode: int) -> None:
    """Write a new file that no other user can read at any time."""
    path.touch(mode=mode, exist_ok=False)
    with naming(path):
        path.write_bytes(content)
