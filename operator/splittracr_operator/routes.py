"""HTTP routes of the results store.

Edges authenticate with the study's control token. `Readers` checks users.
"""

import logging

from aiohttp import web

from splittracr.experiment.contracts import RESULTS_PATH, edge_name
from splittracr.experiment.status import LOGS
from splittracr.security import bears
from splittracr_operator.keys import Keys
from splittracr_operator.readers import Readers
from splittracr_operator.store import MAX_BYTES, Store, TooLarge, is_archive, is_uid

log = logging.getLogger(__name__)


def application() -> web.Application:
    """An application without routes that accepts the largest archive."""
    return web.Application(client_max_size=MAX_BYTES)


class Routes:
    """The routes of one store."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store, self._keys = store, keys

    def add_for_edges(self, app: web.Application) -> None:
        """Add PUT and GET of an edge's archive, for the edge itself."""
        app.router.add_get(f"{RESULTS_PATH}/{{uid}}/{{edge}}", self._get_own)
        app.router.add_put(f"{RESULTS_PATH}/{{uid}}/{{edge}}", self._put)

    def add_for_users(self, app: web.Application, readers: Readers) -> None:
        """Add the list of a study's edges, and each archive, for users that `readers` accept."""
        study = f"{RESULTS_PATH}/{{namespace}}/{{name}}/{{uid}}"

        async def listed(request: web.Request) -> web.Response:
            await self._check_user(request, readers)
            return web.json_response({"edges": self._store.edges(_place(request)[0])})

        async def archive(request: web.Request) -> web.StreamResponse:
            await self._check_user(request, readers)
            return self._archive(request)

        app.router.add_get(study, listed)
        app.router.add_get(f"{study}/{{edge}}", archive)

    async def _get_own(self, request: web.Request) -> web.StreamResponse:
        uid, edge = _place(request)
        self._check_edge(request, uid, edge)
        return self._archive(request)

    def _archive(self, request: web.Request) -> web.FileResponse:
        uid, archive = _place(request)
        path = self._store.path(uid, archive)
        if not path.exists():
            raise web.HTTPNotFound(text=f"there are no results of {archive} of study {uid}")
        return web.FileResponse(path)

    async def _put(self, request: web.Request) -> web.Response:
        outcome = "failed"
        try:
            size = await self._receive(request)
            outcome = "ok"
        except web.HTTPException:
            outcome = "refused"
            raise
        finally:
            self._store.handovers[outcome] += 1
        return web.json_response({"bytes": size})

    async def _receive(self, request: web.Request) -> int:
        """Store an edge's archive, replacing an earlier one; returns its bytes."""
        uid, edge = _place(request)
        self._check_edge(request, uid, edge)
        if edge == LOGS:
            raise web.HTTPForbidden(text="only the operator writes logs")
        try:
            size = await self._store.receive(uid, edge, request.content)
        except TooLarge as error:
            text = f"{edge} of study {uid}: got {error.size} bytes, expected at most {MAX_BYTES}"
            raise web.HTTPRequestEntityTooLarge(MAX_BYTES, error.size, text=text) from error
        log.info("results of %s, %s: %d bytes", uid, edge, size)
        return size

    def _check_edge(self, request: web.Request, uid: str, edge: str) -> None:
        """Accept the token of the study's pods, and that of an edge outside of the cluster."""
        header = request.headers.get("Authorization", "")
        if not any(bears(header, t) for t in (self._keys.control(uid), self._keys.edge(uid, edge))):
            raise web.HTTPUnauthorized(text="the study's token is missing or wrong")

    async def _check_user(self, request: web.Request, readers: Readers) -> None:
        """Check the user first: others must not learn which results exist."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        await readers.check(request, namespace, name)
        uid, _ = _place(request)
        if self._store.noted(uid) != f"{namespace}/{name}":
            raise web.HTTPNotFound(
                text=f"there are no results of study {namespace}/{name} with uid {uid}"
            )


def _place(request: web.Request) -> tuple[str, str]:
    """The study's uid and the archive's name in a path."""
    uid, archive = request.match_info["uid"], request.match_info.get("edge", edge_name(0))
    if not is_uid(uid) or not is_archive(archive):
        expected = f"the uid of a study and an edge such as {edge_name(0)}, or {LOGS}"
        raise web.HTTPNotFound(text=f"got {uid}/{archive}, expected {expected}")
    return uid, archive
