"""The running operator: its background tasks and its two ports.

kopf's watches (`main`) only fill the cache and the work queue. The tasks here take studies from
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
from splittracr_operator.metrics import Metrics
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

_AT_ONCE = 8
_BACKOFF = Backoff(first=2.0, longest=30.0)
_LASTING_FAILURES = 3
"""Failures in a row after which a missing right is not due to an API server that starts."""


class Service:
    """Reconciles studies until it is cancelled. Made by `running`."""

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
        metrics.use(self.queue, store)

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, settings: Settings, watches: Watches) -> AsyncIterator["Service"]:
        """A service at work, and its ports.

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
            store, cache = Store(settings.results), Cache()
            store.check()
            reconciler = Reconciler(cluster, cache, Edges(session), store, keys, settings, metrics)
            service = cls(settings, cluster, store, reconciler, cache, metrics)
            results = routes.Routes(store, keys)
            plain, secure = routes.application(), routes.application()
            service.pages.add(plain)
            # Edges whose pods were made before the store had TLS bring their results here.
            results.add_for_edges(plain)
            results.add_for_edges(secure)
            results.add_for_users(secure, Readers(cluster))
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

    def seen(self, kind: str, change: str | None, body: Body) -> None:
        """Take over what a watch has seen; `change` is the API server's word for it."""
        self.resync.seen(kind, change, body)

    async def work(self) -> None:
        """Reconcile studies, several at once, and compare the cache with the API server."""
        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(self._take_turns())
            group.create_task(self.resync.run())

    async def _take_turns(self) -> None:
        await self.resync.compared.wait()
        while True:
            uid = await self.queue.take()
            try:
                again = await self.reconcile(uid)
            finally:
                self.queue.done(uid)
            if again is not None:
                self.queue.add(uid, after=again)

    async def reconcile(self, uid: str) -> float | None:
        """Reconcile a study. Returns the seconds until the next time; None waits for a change.

        An error of one study does not affect the others.
        """
        study = self._cache.study(uid)
        if study is not None and self.resync.denied(study["metadata"]["namespace"]):
            return None  # the resync puts it into the queue when its children are known
        try:
            with self._metrics.reconcile.time():
                again = await self._reconciler.reconcile(uid)
            self._failures.pop(uid, None)
            return again
        except Refused as error:
            if error.status == 404:  # deleted meanwhile; the watch will report it
                return None
            kind, what = "refused", str(error)
        except Forbidden as error:
            kind, what = "forbidden", str(error)
            if self._failures.get(uid, 0) >= _LASTING_FAILURES:
                await self._reconciler.forbidden(uid, what)
        except Unavailable as error:
            kind, what = "unavailable", str(error)
        except Exception:
            log.exception("the reconcile of study %s failed", uid)
            kind, what = "internal", "see above"
        failures = self._failures.get(uid, 0)
        self._failures[uid] = failures + 1
        pause = _BACKOFF.seconds(failures)
        self._metrics.errors.labels(kind).inc()
        log.warning("study %s: %s (%s); again in %.0f s", uid, kind, what, pause)
        return pause
