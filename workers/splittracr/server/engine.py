"""From requests to replies: a compute thread that takes waiting requests, edges in turn.

It takes as many at once as give the highest throughput. The thread fetches its next work itself, so
that only a lock is between two tails. While it is busy, a second thread decodes the requests that
arrive.
"""

import logging
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from splittracr.backends.protocol import Backend
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure.metrics import ServerMetrics
from splittracr.server.job import Job
from splittracr.server.queue import FairQueue
from splittracr.server.tails import Tails

log = logging.getLogger(__name__)

CANCELLED = "cancelled"


class Engine:
    """Computes the requests of all edges. `start` starts it, `stop` and `join` end it."""

    def __init__(self, backend: Backend, spec: ExperimentSpec, metrics: ServerMetrics) -> None:
        self._metrics = metrics
        self._tails = Tails(backend, spec, metrics)
        self._max_batch = spec.server.max_batch
        self._queue: FairQueue[int, Job] = FairQueue()  # all but the first are decoded
        self._ahead: dict[tuple[int, int], Job] = {}  # still being decoded, by edge and request
        self._changed = threading.Condition()
        self._busy = False
        self._busy_since = 0.0
        self._worked = 0.0  # seconds, without the present batch
        self._stopping = False
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)

    @property
    def queue_length(self) -> int:
        """Requests that wait for the compute thread, decoded or not."""
        with self._changed:
            return len(self._queue) + len(self._ahead)

    @property
    def busy_seconds(self) -> float:
        """Time that the compute thread has spent on requests, up to this moment."""
        with self._changed:
            now = time.perf_counter() - self._busy_since if self._busy else 0.0
            return self._worked + now

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """End after the waiting requests; does not wait for the end."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._decoder.shutdown(wait=False)

    def join(self, seconds: float) -> bool:
        """Wait for the end of the compute thread; returns whether it has ended."""
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Take a request. Its `done` is called once, from a thread of the engine."""
        with self._changed:
            if not self._busy and not len(self._queue):
                self._put(job)
                return
            self._ahead[job.key] = job
        self._decoder.submit(self._decode_ahead, job)

    def cancel(self, edge: int, ids: Iterable[int]) -> None:
        """Answer requests that have not begun with a failure."""
        unwanted = frozenset(ids)
        with self._changed:
            jobs = self._queue.remove(edge, lambda job: job.request.id in unwanted)
            ahead = (self._ahead.pop((edge, number), None) for number in unwanted)
            jobs += [job for job in ahead if job is not None]
        for job in jobs:
            job.fail(CANCELLED, "cancelled")

    def drop(self, edge: int) -> None:
        """Remove the waiting requests of an edge that is lost, without a reply."""
        with self._changed:
            self._queue.drop(edge)
            for key in [key for key in self._ahead if key[0] == edge]:
                del self._ahead[key]

    # ---------------------------------------------------------------------- in the two threads

    def _put(self, job: Job) -> None:
        self._queue.add(job.edge, job)
        self._changed.notify()

    def _decode_ahead(self, job: Job) -> None:
        with self._changed:
            if job.key not in self._ahead:
                return
        decoded = self._tails.decode(job)
        with self._changed:
            if self._ahead.pop(job.key, None) is not None and decoded:
                self._put(job)

    def _run(self) -> None:
        while jobs := self._next():
            try:
                ready = [job for job in jobs if self._tails.decode(job)]
                if ready:
                    self._tails.reply(ready)
            except Exception:  # no error may fail the next requests
                log.exception("requests %s failed", [job.request.id for job in jobs])
                for job in (job for job in jobs if not job.replied):
                    job.fail("the server failed; its log says why")

    def _next(self) -> list[Job]:
        with self._changed:
            if self._busy:
                self._worked += time.perf_counter() - self._busy_since
            self._busy = False
            self._changed.wait_for(lambda: len(self._queue) or self._stopping)
            jobs = self._queue.take(self._max_batch, self._tails.fit, self._tails.best)
            self._busy = bool(jobs)
            self._busy_since = started = time.perf_counter()
        for job in jobs:
            waited = max(0.0, (started - job.arrived) * 1e3 - job.stages.get("decode", 0.0))
            job.stages["server_wait"] = waited
            self._metrics.waited(waited / 1e3)
        return jobs
