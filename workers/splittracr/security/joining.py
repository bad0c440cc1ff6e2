"""Certificates for edges that join: the edge makes the key, the server's authority signs."""

import base64
import hashlib
import re
import secrets
import ssl
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from splittracr.experiment.errors import InvalidInput, Untrusted
from splittracr.security.minting import (
    Pair,
    certificate_for,
    common_name,
    expiry,
    private_pem,
)


def new_secret() -> str:
    """A new secret: 128 random bits in 22 characters."""
    return secrets.token_urlsafe(16)


def authority_digest(authority: bytes) -> str:
    """The SHA-256 of a certificate (PEM), in 43 characters. Raises ValueError for other text."""
    found = x509.load_pem_x509_certificate(authority)
    return base64.urlsafe_b64encode(found.fingerprint(hashes.SHA256())).rstrip(b"=").decode()


def secret_digest(secret: str) -> str:
    """The SHA-256 of a secret: a server stores this, not the secret."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def check_authority(authority: bytes, digest: str, url: str) -> None:
    """Raise Untrusted if `authority`, as the server at `url` sent it, has another digest."""
    try:
        found = authority_digest(authority)
    except ValueError:
        found = "no certificate"
    if found != digest:
        expected = f"a server whose authority has the digest {digest} of the token, not {found}"
        raise Untrusted("STUDY", url, expected)


def new_key() -> bytes:
    """A private key (PEM)."""
    return private_pem(ec.generate_private_key(ec.SECP256R1()))


def certificate_request(key: bytes) -> bytes:
    """A request (PEM) for a certificate of the private key `key` (PEM)."""
    private = serialization.load_pem_private_key(key, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(request: bytes) -> ec.EllipticCurvePublicKey:
    """The public key in a request (PEM). Raises InvalidInput for another kind of key or without
    one.
    """
    expected = "a certificate request in PEM format, with a P-256 key and signed by it"
    try:
        found = x509.load_pem_x509_csr(request)
        key = found.public_key()
        signed = found.is_signature_valid
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise InvalidInput("request", None, expected) from error
    if not signed or not isinstance(key, ec.EllipticCurvePublicKey):
        raise InvalidInput("request", None, expected)
    if not isinstance(key.curve, ec.SECP256R1):
        raise InvalidInput("request", key.curve.name, expected)
    return key


def key_digest(key: ec.EllipticCurvePublicKey) -> str:
    """The SHA-256 of a public key."""
    info = key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(info).hexdigest()


def edge_certificate(
    authority: Pair, edge: str, key: ec.EllipticCurvePublicKey, now: datetime
) -> bytes:
    """A certificate (PEM) for the public key of `edge`, valid as long as the authority."""
    made = certificate_for(
        authority, edge, ExtendedKeyUsageOID.CLIENT_AUTH, [edge], now, expiry(authority), key
    )
    return made.public_bytes(serialization.Encoding.PEM)


def shown_name(certificate: Mapping[str, Any] | None) -> str | None:
    """The name in a client's certificate, as `ssl` describes it: `edge-0`. None without one."""
    names = dict(pair for part in (certificate or {}).get("subject", ()) for pair in part)
    found = re.fullmatch(common_name("(.*)"), names.get("commonName", ""))
    return found[1] if found else None


def untrusting() -> ssl.SSLContext:
    """TLS that trusts every server: to get its authority, whose digest is then checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
