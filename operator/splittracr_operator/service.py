"""The operator as a running whole: its workers, its web server, and what is done now and then.

kopf's watches only fill the cache and the queue (`main`); the one background task here takes
studies from the queue and reconciles them.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from splittracr.experiment.backoff import Backoff
from splittracr.experiment.contracts import HEALTH_PATH, METRICS_PATH
from splittracr.experiment.spec import KIND
from splittracr.experiment.status import LOGS
from splittracr_operator import identity
from splittracr_operator.cache import Cache
from splittracr_operator.cluster import (
    WATCHED,
    Cluster,
    ClusterError,
    Forbidden,
    Refused,
    Unavailable,
)
from splittracr_operator.edges import Edges
from splittracr_operator.metrics import Metrics
from splittracr_operator.names import UID_LABEL
from splittracr_operator.port import ResultsPort
from splittracr_operator.readers import Readers
from splittracr_operator.reconcile import Reconciler
from splittracr_operator.settings import Settings
from splittracr_operator.store import MOST_BYTES, Store
from splittracr_operator.study import Body
from splittracr_operator.watches import Watches
from splittracr_operator.work_queue import WorkQueue

log = logging.getLogger(__name__)

_AT_ONCE = 8
_AGAIN_SECONDS = 2.0
_BACKOFF = Backoff(first=_AGAIN_SECONDS, longest=30.0)
_LASTING_FAILURES = 3
"""Failures in a row after which a missing right is not due to an API server that starts."""

_DENIED_SECONDS = 10.0
_ALIVE_SECONDS = 60.0


class Service:
    """Looks after studies until it is cancelled. Made by `running`."""

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        store: Store,
        reconciler: Reconciler,
        cache: Cache,
        metrics: Metrics,
    ) -> None:
        self._settings, self._cluster, self._store = settings, cluster, store
        self._reconciler, self._metrics = reconciler, metrics
        self._cache = cache
        self._queue = WorkQueue(metrics.waited)
        metrics.use(self._queue, store)
        self._failures: dict[str, int] = {}  # in a row, by uid
        self._denied: dict[str, int] = {}
        """Namespaces that may not be read: how often in a row that was so."""

        self._compared = asyncio.Event()
        self._turned = time.monotonic()

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, settings: Settings, watches: Watches) -> AsyncIterator["Service"]:
        """A service at work, and its web server.

        Raises InvalidInput if the key secret or the results folder cannot be used, ClusterError if
        the API server refuses or does not answer, and OSError if a port cannot be bound.
        """
        metrics = Metrics()
        metrics.count(watches)
        async with (
            await Cluster.connect(metrics.request) as cluster,
            aiohttp.ClientSession() as session,
        ):
            keys = await identity.keys(cluster, settings)
            store, cache = Store(settings.results, keys), Cache()
            store.check()
            reconciler = Reconciler(cluster, cache, Edges(session), store, keys, settings, metrics)
            service = cls(settings, cluster, store, reconciler, cache, metrics)
            app = web.Application(client_max_size=MOST_BYTES)
            store.add_edge_routes(app)
            store.add_user_routes(app, Readers(cluster))
            authority = keys.store_authority()
            async with service._serving(), ResultsPort.open(settings, cluster, authority, app):
                work = asyncio.create_task(service._work())
                try:
                    yield service
                finally:
                    work.cancel()
                    await asyncio.wait([work])

    def seen(self, kind: str, change: str | None, body: Body) -> None:
        """A watch has seen a study or a child; `change` is the API server's word for it."""
        uid = self._cache.drop(kind, body) if change == "DELETED" else self._cache.put(kind, body)
        if uid is not None:
            self._queue.add(uid)

    # ------------------------------------------------------------------------------------ work

    async def _work(self) -> None:
        """The background task: some looks at once, and the comparison with the API server."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._looks())
            group.create_task(self._resyncs())

    async def _looks(self) -> None:
        await self._compared.wait()  # before, every child would seem to be missing
        while True:
            uid = await self._queue.take()
            try:
                again = await self._look(uid)
            finally:
                self._queue.done(uid)
            if again is not None:
                self._queue.add(uid, after=again)

    async def _look(self, uid: str) -> float | None:
        """One look; seconds until the next. No error of one study ends the others."""
        study = self._cache.study(uid)
        if study is not None and study["metadata"]["namespace"] in self._denied:
            return None  # its children are not known; the resync asks for a look once they are
        try:
            with self._metrics.reconcile.time():
                again = await self._reconciler.reconcile(uid)
            self._failures.pop(uid, None)
            return again
        except Refused as error:
            if error.status == 404:  # deleted meanwhile; the watch will say so
                return None
            kind, what = "refused", str(error)
        except Forbidden as error:
            kind, what = "forbidden", str(error)
            if self._failures.get(uid, 0) >= _LASTING_FAILURES:
                await self._reconciler.forbidden(uid, what)
        except Unavailable as error:
            kind, what = "unavailable", str(error)
        except Exception:
            log.exception("the look at study %s failed", uid)
            kind, what = "internal", "see above"
        failures = self._failures.get(uid, 0)
        self._failures[uid] = failures + 1
        pause = _BACKOFF.seconds(failures)
        self._metrics.errors.labels(kind).inc()
        log.warning("study %s: %s (%s); again in %.0f s", uid, kind, what, pause)
        return pause

    async def _resyncs(self) -> None:
        """Now and then compare what is remembered with what is there: a watch can miss things."""
        while True:
            self._turned = time.monotonic()
            try:
                await self._resync()
                self._compared.set()
                await self._sweep()
            except (ClusterError, OSError) as error:
                self._metrics.errors.labels("resync").inc()
                log.warning("no comparison with the API server, or no sweep: %s", error)
            pause = float(self._settings.resync_seconds)
            if not self._compared.is_set():
                pause = _AGAIN_SECONDS
            elif self._denied:
                pause = min(pause, _DENIED_SECONDS)
            for _ in range(max(1, round(pause))):
                self._turned = time.monotonic()
                await asyncio.sleep(1)

    async def _resync(self) -> None:
        """Compare all namespaces. One that may not be read holds up no other."""
        if not self._settings.watch_namespaces:
            await self._resync_in(None)
        for space in self._settings.watch_namespaces:
            try:
                await self._resync_in(space)
            except (Refused, Forbidden) as error:
                await self._deny(space, error)
            else:
                self._admit(space)

    async def _resync_in(self, space: str | None) -> None:
        """Compare one namespace, or all: studies last, whose children are known then."""
        for kind in (*WATCHED, KIND):
            remembered = {
                body["metadata"]["uid"]: body
                for body in self._cache.all(kind)
                if space is None or body["metadata"]["namespace"] == space
            }
            selector = "" if kind == KIND else UID_LABEL
            listed = await self._cluster.list(kind, space, selector)
            for body in listed:
                old = remembered.pop(body["metadata"]["uid"], None)
                if old is None or _version(old) != _version(body):
                    self.seen(kind, "MODIFIED", body)
            for body in remembered.values():
                self.seen(kind, "DELETED", body)

    async def _deny(self, space: str, error: ClusterError) -> None:
        """Name a namespace that may not be read; its studies wait until it may."""
        self._denied[space] = times = self._denied.get(space, 0) + 1
        self._metrics.errors.labels("resync").inc()
        self._metrics.denied(self._denied)
        log.warning("namespace %s cannot be read, its studies wait: %s", space, error)
        if times > 1:  # the first may be of an API server that has just started
            for uid in self._studies_in(space):
                await self._reconciler.forbidden(uid, f"namespace {space}: {error}")

    def _admit(self, space: str) -> None:
        if self._denied.pop(space, None) is None:
            return
        log.info("namespace %s can be read again", space)
        self._metrics.denied(self._denied)
        for uid in self._studies_in(space):
            self._queue.add(uid)

    def _studies_in(self, space: str) -> list[str]:
        studies = self._cache.studies().items()
        return [uid for uid, body in studies if body["metadata"]["namespace"] == space]

    async def _sweep(self) -> None:
        """Remove old results, and look at studies whose status does not list what is there."""
        keep = self._settings.keep_deleted_days * 86400
        studies = dict(self._cache.studies())
        await asyncio.to_thread(self._store.sweep, list(studies), keep)
        kept = await asyncio.to_thread(self._store.index)
        for uid, body in studies.items():
            results = (body.get("status") or {}).get("results") or {}
            there = [archive.model_dump(mode="json") for archive in kept.get(uid, ())]
            edges = [archive["name"] for archive in there if archive["name"] != LOGS]
            lost = results.get("claim") is None and results.get("edges", []) != edges
            if lost or results.get("archives", []) != there:
                self._queue.add(uid)

    # -------------------------------------------------------------------------------- web server

    @contextlib.asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        """The port for probes and monitoring. It also takes results from edges
        whose pods were made before the store had TLS."""
        app = web.Application(client_max_size=MOST_BYTES)
        app.router.add_get(HEALTH_PATH, self._healthz)
        app.router.add_get(METRICS_PATH, self._exposition)
        self._store.add_edge_routes(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, None, self._settings.port).start()
            yield
        finally:
            await runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        """Whether the background task turns."""
        since = time.monotonic() - self._turned
        status = 200 if since < _ALIVE_SECONDS else 503
        return web.json_response({"seconds_since_last_turn": round(since, 1)}, status=status)

    async def _exposition(self, request: web.Request) -> web.Response:
        accept = request.headers.get("Accept", "")
        body, content_type = self._metrics.exposition.render(accept)
        return web.Response(body=body, headers={"Content-Type": content_type})


def _version(body: Body) -> str:
    return str(body["metadata"]["resourceVersion"])
