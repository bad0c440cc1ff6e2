"""The frames of a study: each is decided, run by the pipeline, counted and recorded."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

from splittracr.backends.protocol import Backend
from splittracr.data import datasets
from splittracr.data.contracts import Dataset, Sample
from splittracr.data.labels import match
from splittracr.edge import agreement, masks, recording, truths
from splittracr.edge.agreement import LossyCodec
from splittracr.edge.cascade import Cascade, First
from splittracr.edge.feed import Feed
from splittracr.edge.infer import Inferencer, Options
from splittracr.edge.lanes import Lanes
from splittracr.edge.link import Link
from splittracr.edge.recording import Finished
from splittracr.edge.window import Window
from splittracr.experiment.errors import ServerLost, Stopped
from splittracr.experiment.spec import DatasetSource, ExperimentSpec
from splittracr.experiment.types import Cut, Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.planning.decision import Chooser, Decision, Scheduled
from splittracr.planning.schedule import Step, Trial
from splittracr.results.summary import Agreement

log = logging.getLogger(__name__)

_WARM_UP = -1  # number of the trial


def class_names(own: Backend, spec: ExperimentSpec, dataset: Dataset) -> tuple[str, ...]:
    """The network's class names, or those of a labelled folder if it has none of its own and they
    count by position (data/labels.py).
    """
    names, folders = dataset.classes, spec.dataset.source is DatasetSource.LABELLED_FOLDER
    if not folders or not names or own.network.classes or own.outputs != len(names):
        return own.network.classes
    classes = match(names, (), own.outputs, folders=True).classes
    in_order = classes in (None, tuple(range(len(names))))
    numbers = all(name.isdecimal() for name in names)  # `class 3` says more than `3`
    return () if numbers or not in_order else tuple(names)


def labelled(own: Backend, spec: ExperimentSpec, dataset: Dataset) -> Backend:
    """The network with its `class_names`."""
    names = class_names(own, spec, dataset)
    return own if names == own.network.classes else own.named(names)


class StudyRunner:
    """Runs the frames of a study. `link` is None if nothing leaves the edge.

    `first` answers before the model in a cascade.
    """

    def __init__(
        self,
        backend: Backend,
        spec: ExperimentSpec,
        dataset: Dataset,
        link: Link | None,
        metrics: EdgeMetrics,
        chooser: Chooser,
        first: First | None = None,
    ) -> None:
        self._matching = truths.matching(backend, spec, dataset)
        self._backend, self._spec, self._dataset = backend, spec, dataset
        self._link, self._metrics, self._chooser = link, metrics, chooser
        if link is not None:
            metrics.use(link)
        self._window = Window(spec.workload.arrival)
        self._feed = Feed(spec.workload.arrival, self._window, self._start, self._give_up)
        options = Options(
            pipelined=not self._window.single,
            slowdown=spec.edge.slowdown_percent / 100,
            raw=spec.results.outputs == "Raw",
            server_loss=spec.partition.server_loss,
        )
        truth = partial(truths.truth, self._matching, backend.network)
        lanes = Lanes(pipelined=options.pipelined)
        self._inferencer = Inferencer(backend, link, metrics, options, truth, lanes)
        self._cascade: Cascade | None = None
        if first is not None:
            reduced = replace(options, raw=False)
            runs = Inferencer(first.backend, None, metrics, reduced, truth, lanes)
            self._cascade = Cascade(first, runs, self._inferencer, spec.partition.seed)
        self._lossy: set[LossyCodec] = set()
        self._probes: set[asyncio.Task[None]] = set()

    @property
    def labels(self) -> str | None:
        """How labels were matched with classes and what the data set left out, in sentences."""
        said = (self._matching.rule, getattr(self._dataset, "left_out", None))
        return " ".join(filter(None, said)) or None

    async def warm_up(self, cuts: Sequence[Cut]) -> None:
        """Run frames at every cut without a record, so that caches are warm."""
        fixed = Scheduled(self._spec, self._backend.network.pictures)
        for cut in cuts:
            left = self._spec.workload.warm_up
            for i in range(len(self._dataset)):
                if left == 0:
                    break
                step = Step(Trial(_WARM_UP, cut.index, 0), i)
                decision = fixed.choose(step, time.perf_counter())
                left -= await self._warm(step, decision, timed=True)
                if self._cascade is not None:
                    load = partial(datasets.load, self._dataset, i)
                    await self._cascade.warm_up(load, decision)

    async def repeat(self, cut: Cut, seconds: float) -> int:
        """Run frames at a cut without a record, one after the other, for at least `seconds`.

        Returns how many had a sample that could be loaded.
        """
        fixed = Scheduled(self._spec, self._backend.network.pictures)
        end = time.perf_counter() + seconds
        frames = 0
        for i in count():
            now = time.perf_counter()
            if now >= end:
                break
            step = Step(Trial(_WARM_UP, cut.index, 0), i)
            frames += await self._warm(step, fixed.choose(step, now))
        return frames

    async def _warm(self, step: Step, decision: Decision, *, timed: bool = False) -> bool:
        """Run a frame; return whether it had a sample that could be loaded."""
        loaded: list[Sample] = []

        def load(index: int) -> Sample:
            loaded.append(datasets.load(self._dataset, index))
            return loaded[-1]

        sources = [partial(load, index) for index in self._indices(step)]
        await self._inferencer.infer(sources, decision, timed=timed)
        return bool(loaded)

    async def run(
        self, steps: Iterable[Step], total: int, stop: asyncio.Event
    ) -> AsyncGenerator[Finished, None]:
        """Yield every finished frame of `total`, in order of completion.

        Raises Stopped if `stop` was set before the last frame started, once the frames in flight
        have finished. Raises ServerLost or HandshakeRefused if there is no server to wait for.
        """
        done = 0
        try:
            async with contextlib.aclosing(self._feed.run(steps, total, stop)) as frames:
                async for finished in frames:
                    done += 1
                    self._learn(finished)
                    yield finished
        except ServerLost as error:
            policy = self._spec.partition.server_loss
            raise ServerLost(
                f"{error} after {done} of {total} frames, and "
                f"spec.partition.onServerLoss is {policy}"
            ) from error

    def records(self, finished: Finished, uid: str, edge: str) -> list[Record]:
        """One record a sample."""
        names = [self._dataset.name(index) for index in self._indices(finished.step)]
        slowed = self._spec.edge.slowdown_percent > 100
        return recording.records(finished, uid, edge, names, emulated=slowed)

    def agreement(self) -> tuple[Agreement, ...]:
        """The agreement of each lossy codec that was used, by cut and codec."""
        return agreement.of_codecs(self._backend, self._dataset, self._lossy)

    def close(self) -> None:
        """Release the threads."""
        self._inferencer.close()

    def _start(self, step: Step, due: float) -> Coroutine[Any, Any, Finished]:
        """Decide a frame now, and return its work."""
        decision = self._chooser.choose(step, time.perf_counter())
        self._metrics.decided(decision, self._backend.proof.cuts[decision.cut].name)
        if decision.probe_bytes:
            self._probe(decision.probe_bytes)
        return self._finished(step, decision, due)

    async def _finished(self, step: Step, decision: Decision, due: float) -> Finished:
        sources = [partial(datasets.load, self._dataset, index) for index in self._indices(step)]
        if self._cascade is not None:
            return await self._cascade.finish(step, sources[0], decision, due)
        result = await self._inferencer.infer(sources, decision, due)
        return Finished(step, await masks.judged(result))

    def _indices(self, step: Step) -> list[int]:
        """The samples of a frame, from the beginning of the data set again after its end."""
        size = self._spec.workload.batch_size
        return [(step.frame * size + i) % len(self._dataset) for i in range(size)]

    def _probe(self, size: int) -> None:
        """Measure the link by a transfer beside the frames."""
        if self._link is not None and self._link.connected:
            task = asyncio.create_task(self._link.learn(size))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    def _learn(self, finished: Finished) -> None:
        result = finished.result
        outcome, codec = finished.outcome(), result.decision.codec
        if result.exchange is not None and codec.lossy:
            self._lossy.add((result.cut.index, codec))
        self._chooser.observe(outcome, time.perf_counter())
        self._window.observe(outcome)
        if log.isEnabledFor(logging.DEBUG):
            _log_frame(finished)
        self._metrics.finished(outcome, result.own_stages, result.source, result.late)

    def _give_up(self) -> None:
        if self._link is not None:
            self._link.give_up(Stopped("stopped while samples waited for the server"))


def _log_frame(finished: Finished) -> None:
    result, step = finished.result, finished.step
    log.debug(
        "frame %d of trial %d: cut %s, codec %s, %s, %.2f ms; %s",
        step.frame, step.trial.number, result.cut.name, result.decision.codec, result.source,
        result.total_ms, ", ".join(f"{k} {v:.2f}" for k, v in result.own_stages.items()),
    )  # fmt: skip
