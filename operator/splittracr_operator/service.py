"""The running operator: its background tasks and its two ports.

kopf's watches (`main`) only update the cache and the work queue. The tasks here take studies from
the queue and reconcile them.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

import aiohttp

from splittracr.experiment.backoff import Backoff
from splittracr_operator import identity, routes
from splittracr_operator.cache import Cache
from splittracr_operator.cluster import Cluster
from splittracr_operator.connection import Forbidden, Refused, Unavailable
from splittracr_operator.edges import Edges
from splittracr_operator.join_routes import JoinRoutes
from splittracr_operator.metrics import Metrics
from splittracr_operator.outside import Outside
from splittracr_operator.pages import Pages, serving
from splittracr_operator.readers import Readers
from splittracr_operator.reconcile import Reconciler
from splittracr_operator.results_server import ResultsServer
from splittracr_operator.resync import Resync
from splittracr_operator.settings import Settings
from splittracr_operator.store import Store
from splittracr_operator.study import Body
from splittracr_operator.watches import Watches
from splittracr_operator.work_queue import WorkQueue

log = logging.getLogger(__name__)

_MAX_CONCURRENT = 8
_BACKOFF = Backoff(first=2.0, longest=30.0)
_LASTING_FAILURES = 3
"""Failures in a row after which a missing permission is not due to a starting API server."""


class Service:
    """Reconciles studies until it is cancelled. Created by `running`."""

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        store: Store,
        reconciler: Reconciler,
        cache: Cache,
        metrics: Metrics,
    ) -> None:
        self._reconciler, self._metrics, self._cache = reconciler, metrics, cache
        self._failures: dict[str, int] = {}
        """Failures in a row, by uid."""

        self.queue = WorkQueue(metrics.waited)
        self.resync = Resync(settings, cluster, cache, self.queue, store, reconciler, metrics)
        self.pages = Pages(metrics, self.resync.idle)
        metrics.add_sources(self.queue, store)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, settings: Settings, watches: Watches) -> AsyncIterator["Service"]:
        """Start a service, its background tasks and its ports.

        Raises InvalidInput if the key secret or the results folder cannot be used, ClusterError if
        the API server refuses or does not answer, and OSError if a port cannot be bound.
        """
        metrics = Metrics()
        metrics.add_watches(watches)
        async with (
            await Cluster.connect(metrics.request) as cluster,
            aiohttp.ClientSession() as session,
        ):
            keys = await identity.keys(cluster, settings)
            store, cache = Store(settings.results), Cache()
            store.check()
            outside, readers = Outside(settings.results), Readers(cluster)
            reconciler = Reconciler(
                cluster, cache, Edges(session), store, keys, settings, metrics, outside
            )
            service = cls(settings, cluster, store, reconciler, cache, metrics)
            results = routes.Routes(store, keys)
            plain, secure = routes.application(), routes.application()
            service.pages.add(plain)
            # Pods from before the store had TLS send their results to the plain port.
            results.add_for_edges(plain)
            results.add_for_edges(secure)
            results.add_for_users(secure, readers)
            complete = service.resync.compared.is_set
            JoinRoutes(settings, keys, cache, outside, readers, complete).add(secure)
            authority = keys.store_authority()
            async with (
                serving(plain, settings.port),
                ResultsServer.open(settings, cluster, authority, secure),
            ):
                work = asyncio.create_task(service.work())
                try:
                    yield service
                finally:
                    work.cancel()
                    await asyncio.wait([work])

    def observe(self, kind: str, change: str | None, body: Body) -> None:
        """Handle a watch event of type `change`."""
        self.resync.observe(kind, change, body)

    async def work(self) -> None:
        """Reconcile studies, several at once, and compare the cache with the API server."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_MAX_CONCURRENT):
                group.create_task(self._reconcile_studies())
            group.create_task(self.resync.run())

    async def _reconcile_studies(self) -> None:
        await self.resync.compared.wait()
        while True:
            uid = await self.queue.take()
            try:
                next_run = await self.reconcile(uid)
            finally:
                self.queue.done(uid)
            if next_run is not None:
                self.queue.add(uid, after=next_run)

    async def reconcile(self, uid: str) -> float | None:
        """Reconcile a study. Returns the seconds until the next time; None waits for a change.

        An error of one study does not affect the others.
        """
        study = self._cache.study(uid)
        if study is not None and self.resync.denied(study["metadata"]["namespace"]):
            return None  # the resync requeues it once its children are known
        try:
            with self._metrics.reconcile.time():
                next_run = await self._reconciler.reconcile(uid)
            self._failures.pop(uid, None)
            return next_run
        except Refused as error:
            if error.status == 404:  # the study was deleted; the watch reports it
                return None
            kind, cause = "refused", str(error)
        except Forbidden as error:
            kind, cause = "forbidden", str(error)
            if self._failures.get(uid, 0) >= _LASTING_FAILURES:
                await self._reconciler.forbidden(uid, cause)
        except Unavailable as error:
            kind, cause = "unavailable", str(error)
        except Exception:
            log.exception("the reconcile of study %s failed", uid)
            kind, cause = "internal", "see the traceback above"
        failures = self._failures.get(uid, 0)
        self._failures[uid] = failures + 1
        pause = _BACKOFF.seconds(failures)
        self._metrics.errors.labels(kind).inc()
        log.warning("study %s: %s (%s); retry in %.0f s", uid, kind, cause, pause)
        return pause
