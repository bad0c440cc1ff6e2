"""Compares the cache with the API server periodically, since a watch can miss a change."""

import asyncio
import logging
import time

from splittracr.experiment.spec import KIND
from splittracr.experiment.status import LOGS
from splittracr_operator.cache import Cache
from splittracr_operator.cluster import WATCHED, Cluster
from splittracr_operator.connection import ClusterError, Forbidden, Refused
from splittracr_operator.metrics import Metrics
from splittracr_operator.names import UID_LABEL
from splittracr_operator.reconcile import Reconciler
from splittracr_operator.settings import Settings
from splittracr_operator.store import Store
from splittracr_operator.study import Body
from splittracr_operator.work_queue import WorkQueue

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
"""Seconds until the next try before the first comparison."""

DENIED_SECONDS = 10.0
"""Seconds until the next try if a namespace cannot be read."""


class Resync:
    """Keeps the cache and the results store in line with the API server."""

    def __init__(
        self,
        settings: Settings,
        cluster: Cluster,
        cache: Cache,
        queue: WorkQueue,
        store: Store,
        reconciler: Reconciler,
        metrics: Metrics,
    ) -> None:
        self._settings, self._cluster, self._store = settings, cluster, store
        self._cache, self._queue = cache, queue
        self._reconciler, self._metrics = reconciler, metrics
        self._denied: dict[str, int] = {}
        """Namespaces that cannot be read, with the number of failures in a row."""

        self._last_run = time.monotonic()
        self.compared = asyncio.Event()
        """Set after the first comparison. Before, the cache lacks children that exist."""

    def observe(self, kind: str, change: str | None, body: Body) -> None:
        """Update the cache, and add the study to the work queue if it has changed.

        `change` is the type of the watch event.
        """
        uid = self._cache.drop(kind, body) if change == "DELETED" else self._cache.put(kind, body)
        if uid is not None:
            self._queue.add(uid)

    def denied(self, namespace: str) -> bool:
        """Whether a namespace cannot be read, so that the children of its studies are unknown."""
        return namespace in self._denied

    def idle(self) -> float:
        """Seconds since the background task last ran."""
        return time.monotonic() - self._last_run

    async def run(self) -> None:
        """Compare and sweep until cancelled."""
        while True:
            self._last_run = time.monotonic()
            try:
                await self.compare()
                self.compared.set()
                await self.sweep()
            except (ClusterError, OSError) as error:
                self._metrics.errors.labels("resync").inc()
                log.warning("the comparison with the API server or the sweep failed: %s", error)
            pause = float(self._settings.resync_seconds)
            if not self.compared.is_set():
                pause = RETRY_SECONDS
            elif self._denied:
                pause = min(pause, DENIED_SECONDS)
            for _ in range(max(1, round(pause))):
                self._last_run = time.monotonic()
                await asyncio.sleep(1)

    async def compare(self) -> None:
        """Compare all watched namespaces. One that cannot be read does not delay the others."""
        if not self._settings.watch_namespaces:
            await self._compare_in(None)
        for space in self._settings.watch_namespaces:
            try:
                await self._compare_in(space)
            except (Refused, Forbidden) as error:
                await self._set_denied(space, error)
            else:
                self._set_readable(space)

    async def sweep(self) -> None:
        """Remove old results, and reconcile studies whose status lists other results."""
        keep = self._settings.keep_deleted_days * 86400
        studies = dict(self._cache.studies())
        await asyncio.to_thread(self._store.sweep, list(studies), keep)
        kept = await asyncio.to_thread(self._store.index)
        for uid, body in studies.items():
            results = (body.get("status") or {}).get("results") or {}
            archives = [archive.model_dump(mode="json") for archive in kept.get(uid, ())]
            edges = [archive["name"] for archive in archives if archive["name"] != LOGS]
            differs = results.get("claim") is None and results.get("edges", []) != edges
            if differs or results.get("archives", []) != archives:
                self._queue.add(uid)

    async def _compare_in(self, space: str | None) -> None:
        """Compare one namespace, or all: the studies last, after their children."""
        for kind in (*WATCHED, KIND):
            cached = {
                body["metadata"]["uid"]: body
                for body in self._cache.all(kind)
                if space is None or body["metadata"]["namespace"] == space
            }
            selector = "" if kind == KIND else UID_LABEL
            for body in await self._cluster.list(kind, space, selector):
                old = cached.pop(body["metadata"]["uid"], None)
                if old is None or _version(old) != _version(body):
                    self.observe(kind, "MODIFIED", body)
            for body in cached.values():
                self.observe(kind, "DELETED", body)

    async def _set_denied(self, space: str, error: ClusterError) -> None:
        """Report a namespace that cannot be read. Its studies wait until it can."""
        self._denied[space] = times = self._denied.get(space, 0) + 1
        self._metrics.errors.labels("resync").inc()
        self._metrics.denied(self._denied)
        log.warning("namespace %s cannot be read, its studies wait: %s", space, error)
        if times > 1:  # the first failure may come from an API server that has just started
            for uid in self._studies_in(space):
                await self._reconciler.forbidden(uid, f"namespace {space}: {error}")

    def _set_readable(self, space: str) -> None:
        if self._denied.pop(space, None) is None:
            return
        log.info("namespace %s can be read again", space)
        self._metrics.denied(self._denied)
        for uid in self._studies_in(space):
            self._queue.add(uid)

    def _studies_in(self, space: str) -> list[str]:
        studies = self._cache.studies().items()
        return [uid for uid, body in studies if body["metadata"]["namespace"] == space]


def _version(body: Body) -> str:
    return str(body["metadata"]["resourceVersion"])
