"""Frames through the edge: load, prepare, head, link, finish, record.

One thread computes, for one frame at a time and in the order of the schedule; the event loop
keeps as many frames under way as the manifest allows.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
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
    predictions: dict[int, dict[str, Any]] = field(default_factory=dict)  # fields of records
    digest: str | None = None
    bytes_up: int = 0
    bytes_down: int = 0
    total_ms: float = 0.0

    def fail(self, error: Exception) -> None:
        """Every sample failed, for this reason where none was known."""
        reason = str(error) or type(error).__name__
        self.errors = dict.fromkeys(range(len(self.samples)), reason) | self.errors


@dataclass(frozen=True)
class Drawable:
    """A prediction kept to be drawn when the measurement is over."""

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
        """Run frames at every cut without a record, so that caches are warm."""
        for cut in cuts:
            left = self._spec.workload.warm_up
            for i in range(len(self._dataset)):  # unreadable pictures warm nothing
                if left == 0:
                    break
                frame = self._new(Step(_WARM_UP, i), cut, time.perf_counter())
                await self._run(frame)
                left -= any(sample is not None for sample in frame.samples)

    async def run(
        self, steps: Iterable[Step], total: int, cuts: dict[int, Cut], stop: asyncio.Event
    ) -> AsyncIterator[Frame]:
        """Yield every finished frame of `total`, in order of completion.

        Raises Stopped when `stop` was set before the last frame, after those under way have
        finished, and ServerLost when the server is gone.
        """
        finished: asyncio.Queue[Frame | Exception] = asyncio.Queue()
        feeder = asyncio.create_task(self._feed(steps, cuts, finished, stop))
        try:
            for done in range(total):
                outcome = await finished.get()
                match outcome:
                    case Stopped():
                        raise Stopped(f"stopped after {done} of {total} frames")
                    case ServerLost():
                        policy = self._spec.partition.on_server_loss
                        raise ServerLost(
                            f"{outcome} after {done} of {total} frames, and "
                            f"spec.partition.onServerLoss is {policy}"
                        ) from outcome
                    case Exception():
                        raise outcome
                    case _:
                        self._count(outcome)
                        yield outcome
        finally:
            feeder.cancel()
            await asyncio.wait([feeder])

    def close(self) -> None:
        """Release the compute thread."""
        self._compute.shutdown(wait=False)

    async def _feed(
        self,
        steps: Iterable[Step],
        cuts: dict[int, Cut],
        finished: "asyncio.Queue[Frame | Exception]",
        stop: asyncio.Event,
    ) -> None:
        """Start every frame when it is due and there is room; outcomes go to `finished`."""
        slots = asyncio.Semaphore(in_flight(self._spec.workload.arrival))

        async def run(frame: Frame) -> None:
            try:
                await self._run(frame)
                await finished.put(frame)
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for the frame
                await finished.put(error)
            finally:
                slots.release()

        try:
            async with asyncio.TaskGroup() as group:
                for step, due in zip(steps, self._due(), strict=False):
                    await _until(due, stop)
                    await slots.acquire()
                    if stop.is_set():
                        break
                    start = time.perf_counter() if due is None else due
                    group.create_task(run(self._new(step, cuts[step.trial.cut], start)))
            if stop.is_set():
                await finished.put(Stopped())
        except Exception as error:  # noqa: BLE001 - or whoever waits would wait for ever
            await finished.put(error)

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
        """Take one frame to its end; what fails about this frame alone ends up in its errors."""
        await self._in_thread(self._begin, frame, frame.due)
        if frame.request is not None and self._link is not None:
            number, encoded = frame.request
            frame.request, frame.bytes_up = None, len(encoded)
            try:
                answer = await self._link.request(number, encoded)
            except FrameFailed as error:
                frame.fail(error)
            else:
                await self._in_thread(partial(self._accept, answer), frame, time.perf_counter())
        frame.total_ms = (time.perf_counter() - frame.due) * 1e3
        left = max(0.0, frame.total_ms - sum(frame.watch.stages.values()))
        frame.watch.add("network" if frame.bytes_up else "other", left)

    def _count(self, frame: Frame) -> None:
        outcome = "failed" if frame.errors else "ok"
        self._metrics.frame(outcome, frame.watch.stages, frame.bytes_up, frame.bytes_down)

    async def _in_thread(self, work: Callable[[Frame], None], frame: Frame, since: float) -> None:
        """Run a part of a frame in the compute thread, which it waits for since `since`."""

        def guarded() -> None:
            frame.watch.add("edge_wait", (time.perf_counter() - since) * 1e3)
            try:
                work(frame)
            except ServerLost:
                raise
            except Exception as error:  # noqa: BLE001 - the network's and the user's own code
                frame.fail(error)

        await asyncio.get_running_loop().run_in_executor(self._compute, guarded)

    def _begin(self, frame: Frame) -> None:
        """Everything before the link; all there is where nothing is sent."""
        watch, cut = frame.watch, frame.cut
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
            self._reduce(frame, self._replica.tail(cut.index, live))
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
        """The network's input for a sample; SplittracrError where it is of another shape."""
        network = self._replica.network
        if sample.picture is not None:
            made = network.prepare(sample.picture)
        elif sample.data is not None:
            made = sample.data
        else:
            raise SplittracrError(f"{sample.name} has neither a picture nor data")
        fits = network.variable_shape or tuple(made.shape) == network.shape
        if made.dtype is not network.input_dtype or not fits:
            raise SplittracrError(
                f"{sample.name} became {made.dtype} {list(made.shape)}, the network takes "
                f"{network.input_dtype} {list(network.shape)}"
            )
        return made

    def _accept(self, answer: Answer, frame: Frame) -> None:
        """Take the server's answer."""
        frame.bytes_down = answer.size
        for stage, elapsed in answer.stages.items():
            frame.watch.add(stage, elapsed)
        with frame.watch.stage("finish"):
            (result,) = unpack(answer.payload, self._replica.device)
        if self._spec.results.outputs == "Raw":
            self._reduce(frame, result)
        else:
            self._describe(frame, result)

    def _reduce(self, frame: Frame, output: Any) -> None:
        with frame.watch.stage("reduce"):
            reduced = [{k: v.cpu() for k, v in r.items()} for r in self._replica.reduce(output)]
        if self._spec.results.outputs == "Raw":
            with frame.watch.stage("finish"):
                frame.digest = _digest(output)
        self._describe(frame, reduced)

    def _describe(self, frame: Frame, reduced: Sequence[Reduced]) -> None:
        frame.reduced = list(reduced)
        with frame.watch.stage("finish"):
            for i, sample in enumerate(frame.samples):
                if sample is not None and i not in frame.errors:
                    frame.predictions[i] = self._predicted(sample, reduced[i], frame.geometry[i])

    def _predicted(self, sample: Sample, reduced: Reduced, geometry: Geometry) -> dict[str, Any]:
        """The fields of a record that come from the prediction and the label."""
        post = self._replica.postprocessor
        found: dict[str, Any] = {"prediction": post.describe(reduced, geometry)}
        label = self._label(sample)
        ranking = None if label is None else post.ranking(reduced)
        if label is not None:
            found["label"] = label
        if ranking is not None:
            found |= {"top1": label in ranking[:1], "top5": label in ranking[:5]}
        return found

    def _label(self, sample: Sample) -> int | None:
        """The label as a class of the network; SplittracrError where it is none."""
        if sample.label is None:
            return None
        count = len(self._labels or self._replica.network.classes) or sample.label + 1
        if not 0 <= sample.label < count:
            raise SplittracrError(f"{sample.name} has label {sample.label}, not 0 to {count - 1}")
        return sample.label if self._labels is None else self._labels[sample.label]

    def records(self, frame: Frame, uid: str, edge: str) -> list[Record]:
        """One record a sample; also keeps what is to be drawn later."""
        return [self._record(frame, i, uid, edge) for i in range(len(frame.samples))]

    def _record(self, frame: Frame, i: int, uid: str, edge: str) -> Record:
        number = frame.step.frame * self._spec.workload.batch_size + i
        step, error = frame.step, frame.errors.get(i)
        if error is None and number < min(len(self._dataset), self._spec.results.pictures):
            self.drawables.setdefault(number, Drawable(frame.reduced[i], frame.geometry[i]))
        return Record(
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
            output_digest=frame.digest,
            **frame.predictions.get(i, {}),
        )

    def draw(self, number: int, drawable: Drawable) -> Image.Image | None:
        """The picture of a sample with its prediction; None where the sample is no picture."""
        picture = self._dataset.load(number).picture
        if picture is None:
            return None
        return self._replica.postprocessor.draw(picture, drawable.reduced, drawable.geometry)


async def _until(due: float | None, stop: asyncio.Event) -> None:
    """Wait for a time on `time.perf_counter`, never less; `stop` ends the wait."""
    while due is not None and (left := due - time.perf_counter()) > 0 and not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), left)


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
