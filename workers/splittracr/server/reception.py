"""Admits edges to a study, and takes their results.

An edge shows its secret once, and gets a certificate of the study's authority and the manifest.
With that certificate it opens sessions, and sends its archive at the end.
"""

import asyncio
import logging
import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from aiohttp import web
from aiohttp.streams import StreamReader

from splittracr import process, security
from splittracr.experiment import manifest
from splittracr.experiment.contracts import AUTHORITY_PATH, JOIN_PATH, RESULTS_PATH
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.explain import parse_json
from splittracr.experiment.joining import JoinReply, JoinRequest, Passes, Refused
from splittracr.experiment.spec import SplitExperiment
from splittracr.results.files import write_atomically
from splittracr.security import AUTHORITY, Pair

log = logging.getLogger(__name__)

PASSES = "passes.json"
"""File in the reception's folder: who may join."""

_MAX_REQUEST = 2**16
_MAX_ARCHIVE = 4 * 2**30
_CHUNK = 2**20
_BEARER = "Bearer "


class Reception:
    """The routes for edges that join `experiment`, which has a uid.

    `folder` holds the passes and gets the archives, `credentials` holds the authority. Raises
    OSError or InvalidInput if they cannot be read.
    """

    def __init__(self, experiment: SplitExperiment, folder: Path, credentials: Path) -> None:
        self._manifest = manifest.dump(experiment)
        self._uid = experiment.metadata.uid
        self._folder = folder
        self._authority = Pair(
            (credentials / f"{AUTHORITY}.crt").read_bytes(),
            (credentials / f"{AUTHORITY}.key").read_bytes(),
        )
        self._passes = parse_json(Passes, (folder / PASSES).read_bytes(), PASSES)

    def add_routes(self, app: web.Application) -> None:
        """The authority, joining, and results."""
        app.router.add_get(AUTHORITY_PATH, self._get_authority)
        app.router.add_post(JOIN_PATH, self._join)
        app.router.add_put(f"{RESULTS_PATH}/{{uid}}/{{edge}}", self._put)

    async def _get_authority(self, _: web.Request) -> web.Response:
        return web.Response(body=self._authority.certificate, content_type="application/x-pem-file")

    async def _join(self, request: web.Request) -> web.Response:
        header = request.headers.get("Authorization", "")
        now = datetime.now(UTC)
        try:
            body = await request.clone(client_max_size=_MAX_REQUEST).read()
            asked = parse_json(JoinRequest, body, "request")
            key = security.requested_key(asked.request.encode())
            secret = security.secret_digest(header.removeprefix(_BEARER))
            passes, used = self._passes.admit(secret, security.key_digest(key), now)
        except InvalidInput as error:
            raise web.HTTPBadRequest(text=str(error)) from error
        except Refused as error:
            log.warning("an edge at %s may not join: %s", request.remote, error)
            raise web.HTTPForbidden(text=str(error)) from error
        # Before the reply: a server that starts again must not admit another edge.
        write_atomically(self._folder / PASSES, passes.model_dump_json().encode())
        self._passes = passes
        certificate = security.edge_certificate(self._authority, used.edge, key, now)
        process.emit("joined", edge=used.edge, address=request.remote)
        reply = JoinReply(edge=used.edge, certificate=certificate.decode(), manifest=self._manifest)
        return web.Response(text=reply.model_dump_json(), content_type="application/json")

    async def _put(self, request: web.Request) -> web.Response:
        edge = request.match_info["edge"]
        if security.shown_name(request.get_extra_info("peercert")) != edge:
            raise web.HTTPUnauthorized(text=f"only {edge} itself may bring its results")
        if request.match_info["uid"] != self._uid:
            raise web.HTTPNotFound(text="the results are of another study")
        archive = self._folder / f"{edge}.tar.gz"
        part = archive.with_name(f"{archive.name}.{secrets.token_hex(8)}.part")
        try:
            with part.open("wb") as file:
                size = await _receive(request.content, file)
            part.replace(archive)
        finally:
            part.unlink(missing_ok=True)
        process.emit("results", edge=edge, archive=str(archive))
        return web.json_response({"bytes": size})


async def _receive(content: StreamReader, file: IO[bytes]) -> int:
    """Write a body to `file`; returns its bytes."""
    size = 0
    async for chunk in content.iter_chunked(_CHUNK):
        size += len(chunk)
        if size > _MAX_ARCHIVE:
            raise web.HTTPRequestEntityTooLarge(_MAX_ARCHIVE, size)
        await asyncio.to_thread(file.write, chunk)
    return size
