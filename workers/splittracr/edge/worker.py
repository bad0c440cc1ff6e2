"""Frames through the edge: load, prepare, head, link, finish, record.

One thread computes, for one frame at a time and in the order of the schedule; the event loop
keeps as many frames under way as the manifest allows.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_flatten

from splittracr.data.contracts import Dataset, Geometry, Reduced, Sample
from splittracr.data.labels import label_map
from splittracr.edge.link import Answer, Link
from splittracr.experiment.errors import FrameFailed, ServerLost, SplittracrError, Stopped
from splittracr.experiment.spec import ExperimentSpec, OpenLoop
from splittracr.experiment.types import Cut, Place, Record
from splittracr.measure.metrics import Metrics
from splittracr.measure.stopwatch import Stopwatch
from splittracr.planning.schedule import Step, Trial, due_times, in_flight
from splittracr.replica import Replica
from splittracr.splitting.live import as_buffer, pack, raw_bytes, unpack

log = logging.getLogger(__name__)

_WARM_UP = Trial(number=-1, cut=0, repeat=0)


@dataclass
class Frame:
    """One frame on its way: its samples, its stages so far, and how it ended."""

    step: Step
    cut: Cut
    due: float  # on time.perf_counter's scale
    due_unix: float
    watch: Stopwatch
    samples: list[Sample | None] = field(default_factory=list)  # None: could not be read
    errors: dict[int, str] = field(default_factory=dict)  # by position in the batch
    geometry: list[Geometry] = field(default_factory=list)
    request: tuple[int, bytes] | None = None  # number and encoded frame, when the tail is elsewhere
    reduced: list[Reduced] = field(default_factory=list)
    digest: str | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    total_ms: float = 0.0


@dataclass(frozen=True)
class Drawable:
    """A prediction kept to be drawn when the measurement is over."""

    sample: Sample
    reduced: Reduced
    geometry: Geometry


class EdgeWorker:
    """Runs the frames of a study. `link` is None where nothing leaves the edge."""

    def __init__(
        self,
        replica: Replica,
        spec: ExperimentSpec,
        dataset: Dataset,
        link: Link | None,
        metrics: Metrics,
    ) -> None:
        self._labels = label_map(dataset.classes, replica.network.classes)
        self._replica = replica
        self._spec = spec
        self._dataset = dataset
        self._link = link
        self._metrics = metrics
        self._slowdown = spec.edge.slowdown_percent / 100
        self._numbers = count()
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="head")
        self.drawables: dict[int, Drawable] = {}

    async def warm_up(self, cuts: Sequence[Cut]) -> None:
        """Run the first frames at every cut without a record, so that caches are warm."""
        for cut in cuts:
            for i in range(self._spec.workload.warm_up):
                await self._run(self._new(Step(_WARM_UP, i), cut, time.perf_counter()))

    async def run(
        self, steps: Sequence[Step], cuts: dict[int, Cut], stop: asyncio.Event
    ) -> AsyncIterator[Frame]:
        """Yield every finished frame, in order of completion.

        Raises Stopped when `stop` was set before the last frame, after those under way have
        finished, and ServerLost when the server is gone.
        """
        slots = asyncio.Semaphore(in_flight(self._spec.workload.arrival))
        finished: asyncio.Queue[Frame | BaseException] = asyncio.Queue()
        feeder = asyncio.create_task(self._feed(steps, cuts, slots, finished, stop))
        try:
            for done in range(len(steps)):
                outcome = await finished.get()
                if isinstance(outcome, Stopped):
                    raise Stopped(f"stopped after {done} of {len(steps)} frames")
                if isinstance(outcome, ServerLost):
                    policy = self._spec.partition.on_server_loss
                    raise ServerLost(
                        f"{outcome} after {done} of {len(steps)} frames, and "
                        f"spec.partition.onServerLoss is {policy}"
                    ) from outcome
                if isinstance(outcome, BaseException):
                    raise outcome
                yield outcome
        finally:
            feeder.cancel()

    async def _feed(
        self,
        steps: Sequence[Step],
        cuts: dict[int, Cut],
        slots: asyncio.Semaphore,
        finished: "asyncio.Queue[Frame | BaseException]",
        stop: asyncio.Event,
    ) -> None:
        async def run(frame: Frame) -> None:
            try:
                await self._run(frame)
                await finished.put(frame)
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for the frame
                await finished.put(error)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as group:
            for step, due in zip(steps, self._due(), strict=False):
                await asyncio.sleep(max(0.0, (due or 0.0) - time.perf_counter()))
                await slots.acquire()
                if stop.is_set():
                    break
                frame = self._new(step, cuts[step.trial.cut], due or time.perf_counter())
                group.create_task(run(frame))
        if stop.is_set():
            await finished.put(Stopped())

    def _due(self) -> Iterator[float | None]:
        """When each frame is due; None where the next starts as soon as there is room."""
        arrival = self._spec.workload.arrival
        if isinstance(arrival, OpenLoop):
            start = time.perf_counter()
            yield from (start + at for at in due_times(arrival))
        while True:
            yield None

    def _new(self, step: Step, cut: Cut, due: float) -> Frame:
        watch = Stopwatch(self._replica.device, self._slowdown)
        due_unix = time.time() - (time.perf_counter() - due)
        return Frame(step, cut, due, due_unix, watch)

    async def _run(self, frame: Frame) -> None:
        """Take one frame to its end; what fails about a single frame ends up in its errors."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._compute, self._begin, frame)
        if frame.request is not None and self._link is not None:
            number, encoded = frame.request
            frame.request, frame.bytes_up = None, len(encoded)
            try:
                self._accept(frame, await self._link.request(number, encoded))
            except FrameFailed as error:
                frame.errors |= {i: str(error) for i in range(len(frame.samples))}
        frame.total_ms = (time.perf_counter() - frame.due) * 1e3
        stages = frame.watch.stages
        stages["network"] = max(0.0, frame.total_ms - sum(stages.values()))
        outcome = "failed" if frame.errors else "ok"
        self._metrics.frame(outcome, stages, frame.bytes_up, frame.bytes_down)

    def _begin(self, frame: Frame) -> None:
        """The edge's computation, in the compute thread."""
        watch, cut = frame.watch, frame.cut
        watch.add("edge_wait", (time.perf_counter() - frame.due) * 1e3)
        with watch.stage("load"):
            self._load(frame)
        readable = [sample for sample in frame.samples if sample is not None]
        if not readable:
            return
        with watch.stage("prepare"):
            # A batch keeps its shape: an unreadable picture is filled in and not reported.
            batch = torch.stack([self._prepare(s or readable[0]) for s in frame.samples])
            frame.geometry = [_geometry(s or readable[0], batch) for s in frame.samples]
        with watch.stage("head"):
            live = self._replica.head(cut.index, batch)
        self._metrics.operations(cut.index)
        if cut.index == self._replica.last:
            self._finish_here(frame, live)
            return
        if self._link is None:
            raise SplittracrError(f"cut {cut.name} needs a server and this edge has none")
        with watch.stage("encode"):
            number = next(self._numbers)
            frame.request = number, self._link.encode(number, cut.index, pack(live))

    def _load(self, frame: Frame) -> None:
        batch = self._spec.workload.batch_size
        for i in range(batch):
            index = (frame.step.frame * batch + i) % len(self._dataset)
            try:
                frame.samples.append(self._dataset.load(index))
            except Exception as error:  # noqa: BLE001 - a user's data set can raise anything
                frame.samples.append(None)
                frame.errors[i] = str(error) or type(error).__name__

    def _prepare(self, sample: Sample) -> Tensor:
        if sample.data is not None:
            return sample.data
        assert sample.picture is not None
        return self._replica.network.prepare(sample.picture)

    def _finish_here(self, frame: Frame, live: list[Any]) -> None:
        """Edge only: the head was everything, what is alive is the output."""
        self._reduce(frame, self._replica.tail(frame.cut.index, live))

    def _accept(self, frame: Frame, answer: Answer) -> None:
        """Take the server's answer."""
        frame.bytes_down = answer.size
        for stage, elapsed in answer.stages.items():
            frame.watch.add(stage, elapsed)
        with frame.watch.stage("finish"):
            (result,) = unpack(answer.payload, self._replica.device)
        if self._spec.results.outputs == "Raw":
            self._reduce(frame, result)
        else:
            frame.reduced = result

    def _reduce(self, frame: Frame, output: Any) -> None:
        if self._spec.results.outputs == "Raw":
            frame.digest = _digest(output)
        with frame.watch.stage("reduce"):
            reduced = self._replica.reduce(output)
            frame.reduced = [{k: v.cpu() for k, v in r.items()} for r in reduced]

    def records(self, frame: Frame, uid: str, edge: str) -> list[Record]:
        """One record a sample; also keeps what is to be drawn later."""
        return [self._record(frame, i, uid, edge) for i in range(len(frame.samples))]

    def _record(self, frame: Frame, i: int, uid: str, edge: str) -> Record:
        number = frame.step.frame * self._spec.workload.batch_size + i
        step, error = frame.step, frame.errors.get(i)
        sample = frame.samples[i]
        record = Record(
            uid=uid,
            edge=edge,
            trial=step.trial.number,
            repeat=step.trial.repeat,
            sample=number,
            name=self._dataset.name(number % len(self._dataset)),
            cut=frame.cut.name,
            cut_index=frame.cut.index,
            outcome="failed" if error else "ok",
            error=error,
            finished_on=Place.EDGE if frame.cut.index == self._replica.last else Place.SERVER,
            emulated=self._slowdown > 1,
            started_at=frame.due_unix,
            bytes_up=frame.bytes_up,
            bytes_down=frame.bytes_down,
            total_ms=frame.total_ms,
            stages=frame.watch.stages,
            label=self._label(sample),
            output_digest=frame.digest,
        )
        if error or sample is None:
            return record
        return record.model_copy(update=self._predicted(frame, i, number, sample))

    def _predicted(self, frame: Frame, i: int, number: int, sample: Sample) -> dict[str, Any]:
        reduced, geometry = frame.reduced[i], frame.geometry[i]
        post = self._replica.postprocessor
        first = number < min(len(self._dataset), self._spec.results.pictures)
        if first and sample.picture is not None:
            self.drawables.setdefault(number, Drawable(sample, reduced, geometry))
        found: dict[str, Any] = {"prediction": post.describe(reduced, geometry)}
        ranking = post.ranking(reduced)
        label = self._label(sample)
        if label is not None and ranking is not None:
            found |= {"top1": label in ranking[:1], "top5": label in ranking[:5]}
        return found

    def _label(self, sample: Sample | None) -> int | None:
        if sample is None or sample.label is None:
            return None
        return sample.label if self._labels is None else self._labels[sample.label]

    def draw(self, drawable: Drawable) -> Image.Image:
        """The picture with its prediction."""
        assert drawable.sample.picture is not None
        return self._replica.postprocessor.draw(
            drawable.sample.picture, drawable.reduced, drawable.geometry
        )


def _geometry(sample: Sample, batch: Tensor) -> Geometry:
    height, width = (int(n) for n in batch.shape[-2:]) if batch.dim() >= 2 else (1, 1)
    if sample.picture is None:
        return Geometry((height, width), (height, width))
    return Geometry((sample.picture.height, sample.picture.width), (height, width))


def _digest(output: Any) -> str:
    digest = hashlib.sha256()
    for leaf in tree_flatten(output)[0]:
        if isinstance(leaf, Tensor):
            digest.update(as_buffer(raw_bytes(leaf)))
    return f"sha256:{digest.hexdigest()}"
