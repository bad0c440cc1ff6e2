"""From requests to replies: a compute thread that takes what waits, edges in turn, and as many at
once as bring the most a second.

The thread fetches its next work itself, so that nothing lies between two tails but a lock. While it
is busy, what arrives is decoded by a second thread.
"""

import copy
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from splittracr.data.containment import contained
from splittracr.experiment.errors import reason
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure.metrics import ServerMetrics
from splittracr.measure.stopwatch import Stopwatch
from splittracr.replica import Replica
from splittracr.server.pace import Pace
from splittracr.server.queue import FairQueue
from splittracr.splitting.batching import agree, joined
from splittracr.splitting.live import pack, unpack
from splittracr.wire import codec
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import Failure, Reply, Request, encode
from splittracr.wire.session import Parts

log = logging.getLogger(__name__)

Outcome = Literal["ok", "failed", "cancelled"]
Done = Callable[["Job", Parts, Outcome], None]
"""Called in the compute thread with a job, its answer, and its outcome: a reply is `ok`."""

CANCELLED = "cancelled"

_FIRST_BATCHES = 8
_ONE_BATCH_IN = 64
"""Batches of a cut that are compared with single requests: the first ones, then one in so many."""


@dataclass
class Job:
    """One request on its way. `arrived` is when it was there as a whole, in perf_counter's time."""

    edge: int
    request: Request
    payload: EncodedPayload
    arrived: float
    receiving_ms: float
    done: Done
    live: list[Any] | None = None
    stages: dict[str, float] = field(default_factory=dict)
    answered: bool = False

    def answer(self, parts: Parts, outcome: Outcome) -> None:
        """Give the answer, once."""
        self.answered = True
        self.done(self, parts, outcome)


class Engine:
    """Tails of one replica. Start it with `start`, end it with `stop`."""

    def __init__(self, replica: Replica, spec: ExperimentSpec, metrics: ServerMetrics) -> None:
        self._replica = replica
        self._metrics = metrics
        self._raw = spec.results.outputs == "Raw"
        self._most = spec.server.max_batch
        self._size = spec.workload.batch_size
        self._queue: FairQueue[int, Job] = FairQueue()
        self._pace = Pace()
        self._batching = True
        self._batches: Counter[int] = Counter()  # by cut
        self._ahead: dict[tuple[int, int], Job] = {}  # being decoded; by edge and request
        self._filled = threading.Condition()
        self._busy = False
        self._busy_since = 0.0
        self._worked = 0.0  # seconds, without what is being worked on
        self._stopping = False
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)

    @property
    def queue_length(self) -> int:
        """Requests that wait for the compute thread, decoded or not."""
        with self._filled:
            return len(self._queue) + len(self._ahead)

    @property
    def busy_seconds(self) -> float:
        """Time that the compute thread has spent on requests, up to this moment."""
        with self._filled:
            now = time.perf_counter() - self._busy_since if self._busy else 0.0
            return self._worked + now

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """End when what waits is finished; does not wait for that."""
        with self._filled:
            self._stopping = True
            self._filled.notify()
        self._decoder.shutdown(wait=False)

    def join(self, seconds: float) -> bool:
        """Wait for the end of the compute thread; returns whether it has ended."""
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    def submit(self, job: Job) -> None:
        """Take a request; its `done` will be called."""
        with self._filled:
            if not self._busy and not len(self._queue):
                self._put(job)
                return
            self._ahead[job.edge, job.request.id] = job
        self._decoder.submit(self._decode_ahead, job)

    def cancel(self, edge: int, ids: Iterable[int]) -> None:
        """Answer what has not begun with a failure: nobody waits for it any more."""
        unwanted = frozenset(ids)
        with self._filled:
            jobs = self._queue.remove(edge, lambda job: job.request.id in unwanted)
            ahead = (self._ahead.pop((edge, number), None) for number in unwanted)
            jobs += [job for job in ahead if job is not None]
        for job in jobs:
            self._fail(job, CANCELLED, "cancelled")

    def refuse(self, job: Job) -> None:
        """Answer a request that was cancelled before it arrived."""
        self._fail(job, CANCELLED, "cancelled")

    def drop(self, edge: int) -> None:
        """Forget what an edge that is gone has waiting."""
        with self._filled:
            self._queue.drop(edge)
            for key in [key for key in self._ahead if key[0] == edge]:
                del self._ahead[key]

    # ---------------------------------------------------------------------- in the two threads

    def _put(self, job: Job) -> None:
        self._queue.add(job.edge, job)
        self._filled.notify()

    def _decode_ahead(self, job: Job) -> None:
        key = job.edge, job.request.id
        with self._filled:
            if key not in self._ahead:
                return
        decoded = self._decode(job)
        with self._filled:
            if self._ahead.pop(key, None) is not None and decoded:
                self._put(job)

    def _run(self) -> None:
        while jobs := self._next():
            try:
                ready = [job for job in jobs if self._decode(job)]
                if ready:
                    self._answer(ready)
            except Exception:  # whatever it was, the next requests are not to blame
                log.exception("requests %s failed", [job.request.id for job in jobs])
                for job in (job for job in jobs if not job.answered):
                    self._fail(job, "the server failed; its log says why")

    def _next(self) -> list[Job]:
        with self._filled:
            if self._busy:
                self._worked += time.perf_counter() - self._busy_since
            self._busy = False
            self._filled.wait_for(lambda: len(self._queue) or self._stopping)
            jobs = self._queue.take(self._most, self._together, self._share)
            self._busy = bool(jobs)
            self._busy_since = started = time.perf_counter()
        for job in jobs:
            waited = max(0.0, (started - job.arrived) * 1e3 - job.stages.get("decode", 0.0))
            job.stages["server_wait"] = waited
            self._metrics.waited(waited / 1e3)
        return jobs

    def _share(self, jobs: Sequence[Job]) -> int:
        return self._pace.best(jobs[0].request.cut, len(jobs))

    def _together(self, a: Job, b: Job) -> bool:
        """Whether two requests may be computed as one batch."""
        first, second = a.payload.header, b.payload.header
        return (
            a.request.cut == b.request.cut
            and self._batching
            and a.request.cut in self._replica.batchable
            and [(t.shape, t.dtype) for t in first.tensors]
            == [(t.shape, t.dtype) for t in second.tensors]
            and first.values == second.values
        )

    def _decode(self, job: Job) -> bool:
        """Fill in the job's live values; False where its request was broken, and answered so."""
        if job.live is not None:
            return True
        watch = Stopwatch(self._replica.device)
        try:
            with watch.stage("decode"):
                # A tail that writes into it spoils the payload; a batch is a copy, and what was
                # computed alone is not computed again.
                job.live = unpack(codec.decode(job.payload), self._replica.device, take=True)
        except Exception as error:  # noqa: BLE001 - whatever a hostile payload makes of libraries
            self._fail(job, _reason(error))
            return False
        job.stages |= watch.stages
        return True

    def _answer(self, jobs: Sequence[Job]) -> None:
        started = time.perf_counter()
        try:
            for job, parts in zip(jobs, self._computed(jobs), strict=True):
                job.answer(parts, "ok")
        except Exception as error:  # the network's own code; the edge is told, the session lives
            left = [job for job in jobs if not job.answered]
            if len(jobs) == 1:
                log.exception("request %d failed", jobs[0].request.id)
                self._fail(jobs[0], _reason(error))
                return
            log.exception("a batch of %d failed, its requests are computed alone", len(jobs))
            for job in left:
                job.live = None  # the tail may have written into it
                waited = (time.perf_counter() - started) * 1e3
                job.stages["server_wait"] = job.stages.get("server_wait", 0.0) + waited
                if self._decode(job):
                    self._answer([job])

    def _computed(self, jobs: Sequence[Job]) -> Iterable[Parts]:
        watch = Stopwatch(self._replica.device)
        with watch.stage("tail"), contained():
            lives = [job.live for job in jobs if job.live is not None]
            live = lives[0] if len(lives) == 1 else joined(lives)
            assert live is not None, "requests that do not fit are not taken together"
            output = self._replica.tail(jobs[0].request.cut, live)
        with watch.stage("reduce"), contained():
            results = [output] if self._raw else self._shares(self._replica.reduce(output))
        self._metrics.computed(len(jobs))
        self._pace.observe(jobs[0].request.cut, len(jobs), sum(watch.stages.values()))
        size, alone = len(jobs), self._recheck(jobs, output)
        if alone is not None:
            size, results = 1, alone
        for job, result in zip(jobs, results, strict=True):
            reply = Stopwatch(self._replica.device)
            with reply.stage("reply"):
                payload = codec.encode(pack([result]))
            job.stages |= watch.stages | reply.stages
            message = Reply(
                id=job.request.id,
                stages=job.stages,
                receiving_ms=job.receiving_ms,
                batch=size,
            )
            yield encode(message, payload)

    def _recheck(self, jobs: Sequence[Job], output: Any) -> list[Any] | None:
        """The result of each request alone if it is not that of the batch, and then batches end.

        The first batches of each cut are looked at, and one in so many after them.
        """
        cut = jobs[0].request.cut
        if len(jobs) == 1:
            return None
        self._batches[cut] += 1
        if self._batches[cut] > _FIRST_BATCHES and self._batches[cut] % _ONE_BATCH_IN:
            return None
        started = time.perf_counter()
        # On copies: a tail may write into its input, which may be decoded again.
        alone = [self._replica.tail(cut, copy.deepcopy(job.live or [])) for job in jobs]
        results = None
        if not agree(output, alone):
            self._batching = False
            log.warning(
                "at cut %s a request gives another result in a batch than alone: "
                "spec.server.maxBatch has no effect from now on",
                self._replica.proof.cuts[cut].name,
            )
            results = [share for one in alone for share in self._shares(self._replica.reduce(one))]
        elapsed = (time.perf_counter() - started) * 1e3
        for job in jobs:
            job.stages["server_wait"] = job.stages.get("server_wait", 0.0) + elapsed
        return results

    def _shares(self, reduced: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """The results of each request."""
        plain = [dict(result) for result in reduced]
        return [plain[i : i + self._size] for i in range(0, len(plain), self._size)]

    def _fail(self, job: Job, reason: str, outcome: Outcome = "failed") -> None:
        job.stages = {}
        waited = max(0.0, time.perf_counter() - job.arrived) * 1e3
        failure = Failure(id=job.request.id, reason=reason, waited_ms=waited)
        job.answer(encode(failure), outcome)


def _reason(error: Exception) -> str:
    """The error as text that can travel, whatever a user's code has put into it."""
    return reason(error).encode("utf-8", "backslashreplace").decode()[:4096]
