"""Runs tails: decodes live tensors, computes one or several requests, and encodes the replies."""

import copy
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from splittracr.backends.protocol import Backend
from splittracr.data.containment import contained
from splittracr.experiment.errors import reason
from splittracr.experiment.spec import ExperimentSpec
from splittracr.measure.metrics import ServerMetrics
from splittracr.measure.stopwatch import Stopwatch
from splittracr.server.job import Job
from splittracr.server.pace import Pace
from splittracr.wire import codec
from splittracr.wire.messages import Reply, encode
from splittracr.wire.session import Parts

log = logging.getLogger(__name__)

_FIRST_BATCHES = 8
_ONE_BATCH_IN = 64
"""Batches of a cut that are compared with single requests: the first ones, then one in so many."""


class Tails:
    """Tails of one network. `batching` becomes False once a batch gave other results."""

    def __init__(self, backend: Backend, spec: ExperimentSpec, metrics: ServerMetrics) -> None:
        self._backend = backend
        self._metrics = metrics
        self._raw = spec.results.outputs == "Raw"
        self._samples = spec.workload.batch_size  # of a request
        self._pace = Pace()
        self._batches: Counter[int] = Counter()  # by cut
        self._warm_up = spec.workload.warm_up
        self._warmed: Counter[int] = Counter()  # by cut
        self.batching = True

    def fit(self, a: Job, b: Job) -> bool:
        """Whether two requests may be computed as one batch."""
        return self.batching and a.request.cut in self._backend.batchable and a.fits(b)

    def best(self, jobs: Sequence[Job]) -> int:
        """How many of these to compute at once."""
        return self._pace.best(jobs[0].request.cut, len(jobs))

    def decode(self, job: Job) -> bool:
        """Decode the live tensors. On an error, reply with it and return False."""
        if job.live is not None:
            return True
        watch = Stopwatch(self._backend.device)
        try:
            with watch.stage("decode"):
                # A tail that writes into it spoils the payload; a batch is a copy, and what was
                # computed alone is not computed again.
                job.live = self._backend.unpack(codec.decode(job.payload), take=True)
        except Exception as error:  # noqa: BLE001 - a hostile payload may cause any in a library
            job.fail(reason(error))
            return False
        job.stages |= watch.stages
        return True

    def reply(self, jobs: Sequence[Job]) -> None:
        """Compute decoded requests as one batch and reply to them.

        If a batch fails, each of its requests is computed alone.
        """
        started = time.perf_counter()
        try:
            for job, parts in zip(jobs, self._replies(jobs), strict=True):
                job.reply(parts, "ok")
            return
        except Exception as error:  # of the model's own code; the session continues
            if len(jobs) == 1:
                log.exception("request %d failed", jobs[0].request.id)
                jobs[0].fail(reason(error))
                return
            log.exception("a batch of %d failed, its requests are computed alone", len(jobs))
        # Not above: the error would keep the tensors of the batch in memory.
        for job in [job for job in jobs if not job.replied]:
            job.live = None  # the tail may have written into it
            job.waited((time.perf_counter() - started) * 1e3)
            if self.decode(job):
                self.reply([job])

    def _replies(self, jobs: Sequence[Job]) -> Iterable[Parts]:
        watch = Stopwatch(self._backend.device)
        with watch.stage("tail"), contained():
            lives = [job.live for job in jobs if job.live is not None]
            live = lives[0] if len(lives) == 1 else self._backend.join(lives)
            assert live is not None, "requests that do not fit are not taken together"
            timed = len(jobs) == 1 and self._is_warm_up(jobs[0].request.cut)
            output = self._backend.tail(jobs[0].request.cut, live, timed=timed)
        with watch.stage("reduce"), contained():
            results = [output] if self._raw else self._split(self._backend.reduce(output))
        self._metrics.computed(len(jobs))
        self._pace.observe(jobs[0].request.cut, len(jobs), sum(watch.stages.values()))
        if log.isEnabledFor(logging.DEBUG):
            ids, spent = [job.request.id for job in jobs], sum(watch.stages.values())
            log.debug("requests %s at cut %d: %.2f ms", ids, jobs[0].request.cut, spent)
        size, alone = len(jobs), self._recheck(jobs, output)
        if alone is not None:
            size, results = 1, alone
        for job, result in zip(jobs, results, strict=True):
            reply = Stopwatch(self._backend.device)
            with reply.stage("reply"):
                payload = codec.encode(self._backend.pack([result]))
            job.stages |= watch.stages | reply.stages
            message = Reply(
                id=job.request.id,
                stages=job.stages,
                receiving_ms=job.receiving_ms,
                batch=size,
            )
            yield encode(message, payload)

    def _is_warm_up(self, cut: int) -> bool:
        """Count a request, and return whether it is a warm-up of an edge.

        The first requests at a cut are, and their times are no measurements.
        """
        if self._warmed[cut] >= self._warm_up:
            return False
        self._warmed[cut] += 1
        return True

    def _recheck(self, jobs: Sequence[Job], output: Any) -> list[Any] | None:
        """The result of each request alone if it differs from that of the batch; then batching
        ends.

        Checks the first batches of each cut, then one in many.
        """
        cut = jobs[0].request.cut
        if len(jobs) == 1:
            return None
        self._batches[cut] += 1
        if self._batches[cut] > _FIRST_BATCHES and self._batches[cut] % _ONE_BATCH_IN:
            return None
        started = time.perf_counter()
        # On copies: a tail may write into its input, which may be decoded again.
        alone = [self._backend.tail(cut, copy.deepcopy(job.live or [])) for job in jobs]
        results = None
        if not self._backend.agree(output, alone):
            self.batching = False
            log.warning(
                "at cut %s a request gives another result in a batch than alone: "
                "spec.server.maxBatch has no effect from now on",
                self._backend.proof.cuts[cut].name,
            )
            results = [share for one in alone for share in self._split(self._backend.reduce(one))]
        for job in jobs:
            job.waited((time.perf_counter() - started) * 1e3)
        return results

    def _split(self, reduced: Sequence[Any]) -> list[list[dict[str, Any]]]:
        """The results of each request."""
        plain, size = [dict(result) for result in reduced], self._samples
        return [plain[i : i + size] for i in range(0, len(plain), size)]
