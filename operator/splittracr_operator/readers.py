"""Authenticates and authorises users of the results store with the API server.

A user sends a bearer token, or the client certificate for the API server. The API server checks a
token (TokenReview); TLS has already checked a certificate. Then a SubjectAccessReview decides
whether the user may get `splitexperiments/results`, or create `splitexperiments/join`.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import NameOID

from splittracr.experiment.crd import PLURAL
from splittracr.experiment.spec import GROUP
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import ClusterError

log = logging.getLogger(__name__)

READ, JOIN = ("get", "results"), ("create", "join")
"""Verb and subresource that a user needs to read results, and to let an edge join."""

TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

CACHE_SECONDS = 5.0
_MAX_CACHED = 1024
_AUTHENTICATED = "system:authenticated"
_NO_CREDENTIALS = (
    "no credentials: send a bearer token of this cluster, or the client certificate of a user "
    "that reaches its API server with one"
)


@dataclass(frozen=True)
class User:
    """A user with the attributes that the API server returns."""

    name: str
    groups: Sequence[str] = ()
    uid: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """An HTTP status and its message."""

    status: int
    text: str


class Readers:
    """Checks users. Caches answers of the API server for CACHE_SECONDS, and no tokens."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._clock = cluster, clock
        self._cached: dict[tuple[object, ...], tuple[float, Refusal | None]] = {}

    async def check(
        self, request: web.Request, namespace: str, name: str, right: tuple[str, str] = READ
    ) -> None:
        """Return if the user of the request has the right on a study.

        Raises HTTPUnauthorized without valid credentials, HTTPForbidden without the permission, and
        HTTPServiceUnavailable if the API server does not answer.
        """
        certificate, token = _certificate(request), _token(request)
        if certificate is None and token is None:
            raise _http_error(Refusal(401, _NO_CREDENTIALS))
        credentials = hashlib.sha256(certificate or f"Bearer {token}".encode()).digest()
        key = credentials, namespace, name, right
        until, refusal = self._cached.get(key, (0.0, None))
        if until <= self._clock():
            try:
                refusal = await self._ask(certificate, token, namespace, name, right)
            except ClusterError as error:
                log.warning("the API server cannot be asked who may read results: %s", error)
                message = f"the API server cannot be asked who may read results: {error}"
                raise _http_error(Refusal(503, message)) from error
            self._store(key, refusal)
        if refusal is not None:
            raise _http_error(refusal)

    async def _ask(
        self,
        certificate: bytes | None,
        token: str | None,
        namespace: str,
        name: str,
        right: tuple[str, str],
    ) -> Refusal | None:
        """Return the refusal; None if the user has the right. Raises ClusterError."""
        if certificate is not None:
            user = user_of(certificate)
            unknown = "the client certificate names no user (its common name is empty)"
        else:
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
            body = {**review, "spec": {"token": token}}
            user = user_in((await self._cluster.request("POST", TOKENS, body))["status"])
            unknown = "the API server of this cluster does not accept the token"
        if user is None:
            return Refusal(401, unknown)
        asked = access_review(user, namespace, name, right)
        status = (await self._cluster.request("POST", ACCESS, asked))["status"]
        if status.get("allowed") is True:
            return None
        verb, subresource = right
        access = f'{verb} {PLURAL}/{subresource} "{name}" in namespace "{namespace}"'
        return Refusal(403, f'user "{user.name}" may not {access}')

    def _store(self, key: tuple[object, ...], refusal: Refusal | None) -> None:
        if len(self._cached) >= _MAX_CACHED:
            self._cached.clear()
        self._cached[key] = self._clock() + CACHE_SECONDS, refusal


def user_of(certificate: bytes) -> User | None:
    """The user in a client certificate (DER), read as Kubernetes does; None without a name."""
    subject = x509.load_der_x509_certificate(certificate).subject
    names = [str(a.value) for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [str(a.value) for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    return User(names[0], (*groups, _AUTHENTICATED)) if names and names[0] else None


def user_in(status: Mapping[str, Any]) -> User | None:
    """The user in the status of a TokenReview; None if the token is not valid."""
    given = status.get("user") or {}
    if status.get("authenticated") is not True or not given.get("username"):
        return None
    groups, extra = given.get("groups") or (), given.get("extra") or {}
    return User(given["username"], tuple(groups), given.get("uid") or "", extra)


def access_review(
    user: User, namespace: str, name: str, right: tuple[str, str] = READ
) -> dict[str, Any]:
    """Return the SubjectAccessReview for a user and a right on a study."""
    attributes = {
        "namespace": namespace,
        "verb": right[0],
        "group": GROUP,
        "resource": PLURAL,
        "subresource": right[1],
        "name": name,
    }
    spec = {
        "user": user.name,
        "groups": list(user.groups),
        "uid": user.uid,
        "extra": dict(user.extra),
        "resourceAttributes": attributes,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": spec,
    }


def _certificate(request: web.Request) -> bytes | None:
    """The client certificate (DER) that TLS has verified."""
    connection = None if request.transport is None else request.transport.get_extra_info
    tls = None if connection is None else connection("ssl_object")
    shown: bytes | None = None if tls is None else tls.getpeercert(binary_form=True)
    return shown


def _token(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    token = token.strip()
    # Tokens are ASCII. Other characters cannot be sent to the API server.
    return token if scheme.lower() == "bearer" and token and token.isascii() else None


def _http_error(refusal: Refusal) -> web.HTTPException:
    match refusal.status:
        case 401:
            return web.HTTPUnauthorized(text=refusal.text, headers={"WWW-Authenticate": "Bearer"})
        case 403:
            return web.HTTPForbidden(text=refusal.text)
    return web.HTTPServiceUnavailable(text=refusal.text)
