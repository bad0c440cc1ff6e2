"""From requests to replies: a compute thread that takes what waits, edges in turn, and as many at
once as bring the most a second.

The thread fetches its next work itself, so that nothing lies between two tails but a lock. While it
is busy, what arrives is decoded by a second thread.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from splittracr.data.containment import contained
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure.stopwatch import Stopwatch
from splittracr.replica import Replica
from splittracr.server.pace import Pace
from splittracr.server.queue import FairQueue
from splittracr.splitting.batching import joined
from splittracr.splitting.live import pack, unpack
from splittracr.wire import codec
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import Failure, Reply, Request, encode
from splittracr.wire.session import Parts

log = logging.getLogger(__name__)

Done = Callable[["Job", Parts, bool], None]
"""Called in the compute thread with a job, its answer, and whether that is a reply."""

CANCELLED = "cancelled"


@dataclass
class Job:
    """One request on its way. `arrived` is when it was there as a whole, in perf_counter's time."""

    edge: int
    request: Request
    payload: EncodedPayload
    arrived: float
    receiving_ms: float
    size: int
    done: Done
    live: list[Any] | None = None
    stages: dict[str, float] = field(default_factory=dict)
    answered: bool = False

    def answer(self, parts: Parts, *, ok: bool) -> None:
        """Give the answer, once."""
        self.answered = True
        self.done(self, parts, ok)


class Engine:
    """Tails of one replica. Start it with `start`, end it with `stop`."""

    def __init__(self, replica: Replica, spec: ExperimentSpec) -> None:
        self._replica = replica
        self._raw = spec.results.outputs == "Raw"
        self._most = spec.server.max_batch
        self._size = spec.workload.batch_size
        self._queue: FairQueue[int, Job] = FairQueue()
        self._pace = Pace()
        self._ahead: dict[tuple[int, int], Job] = {}  # being decoded; by edge and request
        self._filled = threading.Condition()
        self._busy = False
        self._stopping = False
        self._decoder = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._thread = threading.Thread(target=self._run, name="tail", daemon=True)

    def start(self) -> None:
        """Begin to compute."""
        self._thread.start()

    def stop(self) -> None:
        """End when what waits is finished; does not wait for that."""
        with self._filled:
            self._stopping = True
            self._filled.notify()
        self._decoder.shutdown(wait=False)

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
            self._fail(job, CANCELLED)

    def refuse(self, job: Job) -> None:
        """Answer a request that was cancelled before it arrived."""
        self._fail(job, CANCELLED)

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
            self._busy = False
            self._filled.wait_for(lambda: len(self._queue) or self._stopping)
            self._busy = True
            jobs = self._queue.take(self._most, self._together, self._share)
        started = time.perf_counter()
        for job in jobs:
            waited = (started - job.arrived) * 1e3 - job.stages.get("decode", 0.0)
            job.stages["server_wait"] = max(0.0, waited)
        return jobs

    def _share(self, jobs: Sequence[Job]) -> int:
        return self._pace.best(jobs[0].request.cut, len(jobs))

    def _together(self, a: Job, b: Job) -> bool:
        """Whether two requests may be computed as one batch."""
        first, second = a.payload.header, b.payload.header
        return (
            a.request.cut == b.request.cut
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
                job.answer(parts, ok=True)
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
        self._pace.observe(jobs[0].request.cut, len(jobs), sum(watch.stages.values()))
        for job, result in zip(jobs, results, strict=True):
            reply = Stopwatch(self._replica.device)
            with reply.stage("reply"):
                payload = codec.encode(pack([result]))
            job.stages |= watch.stages | reply.stages
            message = Reply(
                id=job.request.id,
                stages=job.stages,
                receiving_ms=job.receiving_ms,
                batch=len(jobs),
            )
            yield encode(message, payload)

    def _shares(self, reduced: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """The results of each request."""
        plain = [dict(result) for result in reduced]
        return [plain[i : i + self._size] for i in range(0, len(plain), self._size)]

    def _fail(self, job: Job, reason: str) -> None:
        job.stages = {}
        waited = max(0.0, time.perf_counter() - job.arrived) * 1e3
        failure = Failure(id=job.request.id, reason=reason, waited_ms=waited)
        job.answer(encode(failure), ok=False)


def _reason(error: Exception) -> str:
    """The error as text that can travel, whatever a user's code has put into it."""
    own = isinstance(error, SplittracrError)
    text = str(error) if own else f"{type(error).__name__}: {error}"
    return text.encode("utf-8", "backslashreplace").decode()[:4096]
