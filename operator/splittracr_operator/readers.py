"""Decides who may read results, by asking the API server.

A user shows a bearer token, or the client certificate with which it reaches the API server. The
API server checks a token (TokenReview); the TLS of the port has checked a certificate. Then the API
server says whether this user may get `splitexperiments/results` (SubjectAccessReview).
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

SUBRESOURCE = "results"
TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

KEEP_SECONDS = 5.0
_MAX_KEPT = 1024
_AUTHENTICATED = "system:authenticated"
_NO_CREDENTIALS = (
    "no credentials: send a bearer token of this cluster, or the client certificate of a user "
    "that reaches its API server with one"
)


@dataclass(frozen=True)
class User:
    """A user as the API server knows it."""

    name: str
    groups: Sequence[str] = ()
    uid: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refusal:
    """An HTTP status and the sentence with it."""

    status: int
    text: str


class Readers:
    """Checks users. Answers of the API server are kept for a few seconds, tokens never."""

    def __init__(self, cluster: Cluster, clock: Callable[[], float] = time.monotonic) -> None:
        self._cluster, self._clock = cluster, clock
        self._known: dict[tuple[bytes, str, str], tuple[float, Refusal | None]] = {}

    async def check(self, request: web.Request, namespace: str, name: str) -> None:
        """Return if the user of the request may read the results of a study.

        Raises HTTPUnauthorized without valid credentials, HTTPForbidden without the right, and
        HTTPServiceUnavailable if the API server cannot be asked.
        """
        certificate, token = _certificate(request), _token(request)
        if certificate is None and token is None:
            raise _answer(Refusal(401, _NO_CREDENTIALS))
        shown = hashlib.sha256(certificate or f"Bearer {token}".encode()).digest()
        key = shown, namespace, name
        until, refusal = self._known.get(key, (0.0, None))
        if until <= self._clock():
            try:
                refusal = await self._ask(certificate, token, namespace, name)
            except ClusterError as error:
                log.warning("the API server cannot be asked who may read results: %s", error)
                why = f"the API server cannot be asked who may read results: {error}"
                raise _answer(Refusal(503, why)) from error
            self._keep(key, refusal)
        if refusal is not None:
            raise _answer(refusal)

    async def _ask(
        self, certificate: bytes | None, token: str | None, namespace: str, name: str
    ) -> Refusal | None:
        """Return why the user may not read; None if it may. Raises ClusterError."""
        if certificate is not None:
            user = user_of(certificate)
            unknown = "the client certificate names no user (its common name is empty)"
        else:
            review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
            body = {**review, "spec": {"token": token}}
            user = user_in((await self._cluster.ask("POST", TOKENS, body))["status"])
            unknown = "the API server of this cluster does not accept the token"
        if user is None:
            return Refusal(401, unknown)
        asked = access_review(user, namespace, name)
        status = (await self._cluster.ask("POST", ACCESS, asked))["status"]
        if status.get("allowed") is True:
            return None
        what = f'get {PLURAL}/{SUBRESOURCE} "{name}" in namespace "{namespace}"'
        return Refusal(403, f'user "{user.name}" may not {what}')

    def _keep(self, key: tuple[bytes, str, str], refusal: Refusal | None) -> None:
        if len(self._known) >= _MAX_KEPT:
            self._known.clear()
        self._known[key] = self._clock() + KEEP_SECONDS, refusal


def user_of(certificate: bytes) -> User | None:
    """The user that a client certificate (DER) names, as Kubernetes reads it; None without one."""
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


def access_review(user: User, namespace: str, name: str) -> dict[str, Any]:
    """Return the SubjectAccessReview that asks whether the user may get this study's results."""
    attributes = {
        "namespace": namespace,
        "verb": "get",
        "group": GROUP,
        "resource": PLURAL,
        "subresource": SUBRESOURCE,
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
    # What is not ASCII is no token: it could not be sent on.
    return token if scheme.lower() == "bearer" and token and token.isascii() else None


def _answer(refusal: Refusal) -> web.HTTPException:
    match refusal.status:
        case 401:
            return web.HTTPUnauthorized(text=refusal.text, headers={"WWW-Authenticate": "Bearer"})
        case 403:
            return web.HTTPForbidden(text=refusal.text)
    return web.HTTPServiceUnavailable(text=refusal.text)
