"""HTTP routes of the results port for edges outside of the cluster, and for users who invite them.

A token for joining needs no storage: it says for which study and edge it is and when it expires,
with a digest by the operator's key. Its use is stored before the edge gets its certificate.
"""

import base64
import binascii
import hmac
import logging
import struct
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from aiohttp import web

from splittracr import security
from splittracr.experiment.contracts import (
    AUTHORITY_PATH,
    JOIN_PATH,
    JOIN_TOKENS_PATH,
    REPORTS_PATH,
    SESSION_PORT,
    edge_name,
)
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.explain import parse_json
from splittracr.experiment.joining import (
    InCluster,
    Instructions,
    JoinReply,
    JoinRequest,
    Pass,
    Refused,
    Report,
    TokenReply,
    TokenRequest,
)
from splittracr.experiment.settings import LiveSettings
from splittracr.security import bears
from splittracr_operator import children
from splittracr_operator.cache import Cache
from splittracr_operator.keys import Keys
from splittracr_operator.outside import Outside
from splittracr_operator.readers import JOIN, Readers
from splittracr_operator.settings import Settings
from splittracr_operator.study import Study, read

log = logging.getLogger(__name__)

_MAX_BYTES = 2**18
_BEARER = "Bearer "
_WISH = struct.Struct(">16sHI")
"""What a token is for: the study's uid, the number of the edge, and the end, in Unix time."""

_DIGEST_BYTES = 16


def secret_for(keys: Keys, uid: str, edge: str, expires: datetime) -> str:
    """The secret of a token."""
    wish = _WISH.pack(uuid.UUID(uid).bytes, _number(edge), int(expires.timestamp()))
    return base64.urlsafe_b64encode(wish + keys.join(wish)[:_DIGEST_BYTES]).rstrip(b"=").decode()


def opened(keys: Keys, secret: str) -> tuple[str, Pass]:
    """The uid of the study that a secret is for, and its pass. Raises Refused for a wrong one."""
    try:
        content = base64.b64decode(secret + "=" * (-len(secret) % 4), b"-_", validate=True)
        wish, digest = content[: _WISH.size], content[_WISH.size :]
        uid, number, end = _WISH.unpack(wish)
    except (ValueError, binascii.Error, struct.error) as error:
        raise Refused("the token is not one of this operator") from error
    if not hmac.compare_digest(digest, keys.join(wish)[:_DIGEST_BYTES]):
        raise Refused("the token is not one of this operator")
    expires = datetime.fromtimestamp(end, UTC)
    found = Pass(edge=edge_name(number), digest=security.secret_digest(secret), expires=expires)
    return str(uuid.UUID(bytes=uid)), found


class JoinRoutes:
    """The routes. `complete` returns whether the cache has all studies."""

    def __init__(
        self,
        settings: Settings,
        keys: Keys,
        cache: Cache,
        outside: Outside,
        readers: Readers,
        complete: Callable[[], bool],
    ) -> None:
        self._settings, self._keys, self._cache = settings, keys, cache
        self._outside, self._readers, self._complete = outside, readers, complete

    def add(self, app: web.Application) -> None:
        """Add the authority, joining, reports, and tokens for joining."""
        app.router.add_get(AUTHORITY_PATH, self._get_authority)
        app.router.add_post(JOIN_PATH, self._join)
        app.router.add_put(f"{REPORTS_PATH}/{{uid}}/{{edge}}", self._report)
        path = f"{JOIN_TOKENS_PATH}/{{namespace}}/{{name}}/{{uid}}"
        app.router.add_post(path, self._make_token)

    async def _get_authority(self, _: web.Request) -> web.Response:
        authority = self._keys.store_authority().certificate
        return web.Response(body=authority, content_type="application/x-pem-file")

    async def _join(self, request: web.Request) -> web.Response:
        secret = request.headers.get("Authorization", "").removeprefix(_BEARER)
        now = datetime.now(UTC)
        try:
            uid, wanted = opened(self._keys, secret)
            asked = parse_json(JoinRequest, await _limited(request).read(), "request")
            key = security.requested_key(asked.request.encode())
            study = self._study(uid)
            if study is None or study.status.completion_time is not None:
                raise Refused("the study has ended" if study else "the study was deleted")
            if study.closed is not None or wanted.edge not in study.outside:
                raise Refused(study.closed or f"{wanted.edge} is no edge outside of the cluster")
            server = self._server(study)
            passes = self._outside.passes(uid).offering(wanted)
            passes, used = passes.admit(wanted.digest, security.key_digest(key), now)
        except InvalidInput as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        except Refused as error:
            log.warning("an edge at %s may not join: %s", request.remote, error)
            raise web.HTTPForbidden(text=str(error)) from error
        # Before the reply: after a restart, the operator must not admit another edge.
        self._outside.keep_passes(uid, passes)
        log.info("%s of study %s joined from %s", used.edge, study.name, request.remote)
        seed = self._keys.authority(uid)
        authority = security.mint(children.server_hosts(study), now, seed=seed).authority
        certificate = security.edge_certificate(authority, used.edge, key, now)
        reply = JoinReply(
            edge=used.edge,
            certificate=certificate.decode(),
            manifest=study.text,
            cluster=InCluster(
                server=server,
                authority=authority.certificate.decode(),
                token=self._keys.edge(uid, used.edge),
            ),
        )
        return web.json_response(text=reply.model_dump_json())

    async def _report(self, request: web.Request) -> web.Response:
        uid, edge = request.match_info["uid"], request.match_info["edge"]
        if not bears(request.headers.get("Authorization", ""), self._keys.edge(uid, edge)):
            raise web.HTTPUnauthorized(text="the edge's token is missing or wrong")
        study = self._study(uid)
        if study is None or study.status.completion_time is not None:
            ending = "was deleted" if study is None else f"has ended: {study.status.standing()}"
            raise web.HTTPGone(text=f"the study {ending}")
        try:
            sent = parse_json(Report, await _limited(request).read(), "report")
        except InvalidInput as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        if sent.report.edge != edge:
            raise web.HTTPBadRequest(text=f"got a report of {sent.report.edge}, expected {edge}")
        self._outside.hear(uid, edge, sent)
        settings = LiveSettings.of(study.spec).at(study.generation)
        answer = Instructions(settings=settings)
        return web.json_response(text=answer.model_dump_json(by_alias=True))

    async def _make_token(self, request: web.Request) -> web.Response:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        await self._readers.check(request, namespace, name, JOIN)
        study = self._study(request.match_info["uid"])
        if study is None or (study.namespace, study.name) != (namespace, name):
            raise web.HTTPNotFound(text=f"there is no study {namespace}/{name} of this uid")
        try:
            wish = parse_json(TokenRequest, await _limited(request).read(), "request")
        except InvalidInput as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        edge = self._edge(study, wish.edge)
        expires = (datetime.now(UTC) + timedelta(seconds=wish.seconds)).replace(microsecond=0)
        digest = security.authority_digest(self._keys.store_authority().certificate)
        reply = TokenReply(
            edge=edge,
            token=f"{digest}.{secret_for(self._keys, study.uid, edge, expires)}",
            expires=expires,
            address=self._settings.join_address,
        )
        return web.json_response(text=reply.model_dump_json())

    def _edge(self, study: Study, wanted: str | None) -> str:
        """The edge that a token is for. Raises HTTPBadRequest if none can join."""
        if not study.outside:
            text = "spec.edge.outside: got 0, expected the number of edges outside of the cluster"
            raise web.HTTPBadRequest(text=text)
        if study.closed is not None:
            raise web.HTTPBadRequest(text=study.closed)
        if study.status.completion_time is not None:
            raise web.HTTPBadRequest(text="the study has ended")
        joined = self._outside.passes(study.uid).joined
        if wanted is None:
            wanted = next((edge for edge in study.outside if edge not in joined), None)
            if wanted is None:
                text = "all edges have joined; --edge names one that another machine takes over"
                raise web.HTTPBadRequest(text=text)
        if wanted not in study.outside:
            shown = f"{study.outside[0]} to {study.outside[-1]}"
            raise web.HTTPBadRequest(text=f"--edge: got {wanted}, expected one of {shown}")
        return wanted

    def _study(self, uid: str) -> Study | None:
        """The study in the cache; None if it was deleted.

        Raises HTTPServiceUnavailable if that is not known yet, or its manifest cannot be read.
        """
        body = self._cache.study(uid)
        if body is None:
            if self._complete():
                return None
            raise web.HTTPServiceUnavailable(text="the operator starts")
        try:
            return read(body)
        except InvalidInput as error:
            raise web.HTTPServiceUnavailable(text=f"the study cannot be read: {error}") from error

    def _server(self, study: Study) -> str:
        """URL of the study's server. Raises HTTPServiceUnavailable while it has no Service."""
        wanted = study.spec.server.service
        port: int | None = SESSION_PORT
        if wanted.type == "NodePort":
            found = self._cache.children(study.uid).items()
            services = [body for (kind, _), body in found if kind == "Service"]
            ports = services[0]["spec"]["ports"] if services else [{}]
            port = ports[0].get("nodePort")
        if port is None:
            raise web.HTTPServiceUnavailable(text="the server has no Service yet")
        return f"wss://{wanted.host}:{port}"


def _number(edge: str) -> int:
    return int(edge.rpartition("-")[2])


def _limited(request: web.Request) -> web.Request:
    """The request with a limit on its body; that of the application lets archives in."""
    return request.clone(client_max_size=_MAX_BYTES)
