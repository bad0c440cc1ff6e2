"""Frames through the edge: read, head, encode, link, finish.

Where several frames are under way, pictures are read, heads run and tensors are coded in three
threads, each one frame at a time and in the order of the schedule, while the link and the server
work on others. A frame alone is read, run and coded in one thread, and its answer is taken in the
event loop if that is quick, which saves the ways between them, unless it is hedged: then the edge's
own tail begins beside the encoder.
"""

import asyncio
import contextlib
import hashlib
import math
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_flatten

from splittracr.data import datasets
from splittracr.data.containment import contained
from splittracr.data.contracts import Dataset, Geometry, Reduced, Sample
from splittracr.data.labels import match
from splittracr.edge.agreement import SAMPLES, measure
from splittracr.edge.frame import Frame
from splittracr.edge.link import Answer, Link
from splittracr.edge.window import Window
from splittracr.experiment.codec import Codec, PictureCodec
from splittracr.experiment.errors import (
    CutRefused,
    FrameFailed,
    ServerLost,
    SplittracrError,
    Stopped,
)
from splittracr.experiment.spec import DatasetSource, ExperimentSpec, OnServerLoss, OpenLoop
from splittracr.experiment.types import Cut, Place, Record
from splittracr.measure.metrics import EdgeMetrics
from splittracr.measure.stopwatch import Stopwatch
from splittracr.planning.choice import Choice, Chooser, Fallback, Fixed
from splittracr.planning.schedule import Step, Trial, due_times
from splittracr.replica import Replica, prepared
from splittracr.results.summary import Agreement
from splittracr.splitting.live import as_buffer, pack, raw_bytes, unpack
from splittracr.wire import codec

_GRACE_SECONDS = 3
_MOST_IN_LOOP_MS = 2.0
_WARM_UP = Trial(number=-1, cut=0, repeat=0)
Work = Callable[[Frame], None]


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
        metrics: EdgeMetrics,
        chooser: Chooser,
    ) -> None:
        self._matching = match(
            dataset.classes,
            replica.network.classes,
            replica.outputs,
            folders=spec.dataset.source is DatasetSource.LABELLED_FOLDER,
        )
        self._replica = replica
        self._spec = spec
        self._dataset = dataset
        self._link = link
        self._metrics = metrics
        if link is not None:
            metrics.use(link)
        self._chooser = chooser
        self._fixed = Fixed(spec, replica.network.pictures)
        self._slowdown = spec.edge.slowdown_percent / 100
        self._window = Window(spec.workload.arrival)
        self._compute = ThreadPoolExecutor(1, thread_name_prefix="head")
        alone = self._window.alone
        self._reader = self._compute if alone else ThreadPoolExecutor(1, thread_name_prefix="read")
        self._coder = ThreadPoolExecutor(1, thread_name_prefix="code")
        self._accepting_ms = math.inf  # what the last answer took
        self._lossy: set[tuple[int, Codec | PictureCodec]] = set()
        self._given_up: set[asyncio.Task[None]] = set()
        self._probes: set[asyncio.Task[None]] = set()
        self.drawables: dict[int, Drawable] = {}

    @property
    def labels(self) -> str | None:
        """How labels were matched with classes and what the data set left out, in sentences."""
        said = (self._matching.rule, getattr(self._dataset, "left_out", None))
        return " ".join(filter(None, said)) or None

    async def warm_up(self, cuts: Sequence[Cut]) -> None:
        """Run frames at every cut without a record, so that caches are warm."""
        for cut in cuts:
            left = self._spec.workload.warm_up
            for i in range(len(self._dataset)):  # unreadable pictures warm nothing
                if left == 0:
                    break
                step = Step(Trial(_WARM_UP.number, cut.index, 0), i)
                frame = await self._run(self._new(self._fixed, step, time.perf_counter()))
                left -= any(sample is not None for sample in frame.samples)

    async def run(
        self, steps: Iterable[Step], total: int, stop: asyncio.Event
    ) -> AsyncGenerator[Frame, None]:
        """Yield every finished frame of `total`, in order of completion.

        Raises Stopped when `stop` was set before the last frame, after those under way have
        finished, and ServerLost or HandshakeRefused when there is no server to wait for.
        """
        finished: asyncio.Queue[Frame | Exception] = asyncio.Queue()
        feeder = asyncio.create_task(self._feed(steps, finished, stop))
        stopper = asyncio.create_task(self._give_up_when(stop))
        try:
            for done in range(total):
                outcome = await finished.get()
                match outcome:
                    case Stopped():
                        raise Stopped(f"stopped after {done} of {total} frames")
                    case ServerLost():
                        policy = self._spec.partition.server_loss
                        raise ServerLost(
                            f"{outcome} after {done} of {total} frames, and "
                            f"spec.partition.onServerLoss is {policy}"
                        ) from outcome
                    case Exception():
                        raise outcome
                    case _:
                        self._learn(outcome)
                        yield outcome
        finally:
            feeder.cancel()
            stopper.cancel()
            await asyncio.wait([feeder, stopper])

    async def _give_up_when(self, stop: asyncio.Event) -> None:
        """Once told to stop, wait for a server's answers no longer than a moment."""
        await stop.wait()
        await asyncio.sleep(_GRACE_SECONDS)
        if self._link is not None:
            self._link.give_up(Stopped("stopped while samples waited for the server"))

    def close(self) -> None:
        """Release the threads."""
        for executor in (self._reader, self._compute, self._coder):
            executor.shutdown(wait=False)

    async def _feed(
        self,
        steps: Iterable[Step],
        finished: "asyncio.Queue[Frame | Exception]",
        stop: asyncio.Event,
    ) -> None:
        """Start every frame when it is due and there is room; outcomes go to `finished`."""

        async def run(frame: Frame) -> None:
            try:
                await finished.put(await self._run(frame))
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for the frame
                await finished.put(error)
            finally:
                self._window.leave()

        try:
            async with asyncio.TaskGroup() as group:
                for step, due in zip(steps, self._due(), strict=False):
                    await _until(due, stop)
                    await self._window.enter()
                    if stop.is_set():
                        break
                    start = time.perf_counter() if due is None else due
                    group.create_task(run(self._new(self._chooser, step, start)))
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

    def _new(self, chooser: Chooser, step: Step, due: float) -> Frame:
        now = time.perf_counter()
        choice = chooser.choose(step, now)
        cut = self._replica.proof.cuts[choice.cut]
        here = choice.cut == self._replica.last
        if chooser is self._chooser:
            self._metrics.decided(choice, cut.name)
            if choice.probe_bytes:
                self._probe(choice.probe_bytes)
        return Frame(
            step=step,
            cut=cut,
            choice=choice,
            due=due,
            due_unix=time.time() - (now - due),
            watch=Stopwatch(self._replica.device, self._slowdown),
            finished_on=Place.EDGE if here else Place.SERVER,
        )

    def _probe(self, size: int) -> None:
        """See what the link is like, beside the frames."""
        if self._link is not None and self._link.connected:
            task = asyncio.create_task(self._link.learn(size))
            self._probes.add(task)
            task.add_done_callback(self._probes.discard)

    def _learn(self, frame: Frame) -> None:
        outcome = frame.outcome()
        if frame.answer is not None and frame.choice.codec.lossy:
            self._lossy.add((frame.cut.index, frame.choice.codec))
        self._chooser.observe(outcome, time.perf_counter())
        self._window.observe(outcome)
        self._metrics.finished(outcome, frame.own_stages(), frame.source, frame.late)

    # ------------------------------------------------------------------------------- one frame

    async def _run(self, frame: Frame) -> Frame:
        """Take one frame to its end; what fails about this frame alone ends up in its errors.

        Returns the attempt at it that came first.
        """
        works: list[tuple[ThreadPoolExecutor, Work]] = [
            (self._reader, self._read),
            (self._compute, self._head),
        ]
        here = frame.cut.index == self._replica.last
        if here:
            works.append((self._compute, self._finish))
        elif frame.choice.hedge_ms is not None:  # `_request` encodes it
            works.append((self._compute, self._pack))
        else:
            coder = self._compute if self._window.alone else self._coder
            works += [(coder, self._pack), (coder, self._encode)]
        await self._through(frame, works)
        if not here and not frame.failed:
            frame = await self._ask(frame)
        frame.close()
        return frame

    async def _through(
        self, frame: Frame, works: Sequence[tuple[ThreadPoolExecutor, Work]]
    ) -> None:
        """Run parts of a frame in their threads, those of one thread in one go."""
        since = time.perf_counter()
        start = 0
        while start < len(works):
            executor = works[start][0]
            stop = start + 1
            while stop < len(works) and works[stop][0] is executor:
                stop += 1
            parts = [work for _, work in works[start:stop]]
            await asyncio.get_running_loop().run_in_executor(
                executor, self._guarded, frame, parts, since
            )
            since, start = time.perf_counter(), stop

    def _guarded(self, frame: Frame, works: Sequence[Work], since: float) -> None:
        frame.watch.add("edge_wait", (time.perf_counter() - since) * 1e3)
        try:
            for work in works:
                if not frame.failed:
                    with contained():
                        work(frame)
        except Exception as error:  # noqa: BLE001 - the network's and the user's own code
            frame.fail(error)

    async def _ask(self, frame: Frame) -> Frame:
        """Have the frame finished by the server, or by the edge where that takes too long.

        The two work on forks of the frame; returns the one that came first.
        """
        if self._link is None:
            raise SplittracrError(f"cut {frame.cut.name} needs a server and this edge has none")
        refused = self._link.welcome.refused if self._link.welcome else {}
        if frame.cut.name in refused:
            reason = f"the server refuses cut {frame.cut.name}: {refused[frame.cut.name]}"
            frame.fail(CutRefused(reason))
            return frame
        handed_over, abandon = asyncio.Event(), threading.Event()
        if frame.choice.hedge_ms is None and frame.choice.deadline_ms is None:
            return await self._take(frame, self._request(self._link, frame, handed_over))
        there = self._fork(frame, abandon)
        asked = asyncio.create_task(self._request(self._link, there, handed_over))
        helping = asyncio.create_task(_help(frame.choice, handed_over))
        try:
            await asyncio.wait([asked, helping], return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return await self._take(there, asked)
            return await self._race(there, asked, helping.result())
        finally:
            abandon.set()  # the encoder, where it is still at it
            asked.cancel()
            helping.cancel()

    def _fork(self, frame: Frame, abandon: threading.Event) -> Frame:
        return frame.fork(Stopwatch(self._replica.device, self._slowdown, abandon))

    async def _request(self, link: Link, frame: Frame, handed_over: asyncio.Event) -> Answer:
        """The server's answer. Errors are those of `Link.request`, and FrameFailed where the frame
        cannot be encoded.
        """
        if frame.encoded is None:
            await self._through(frame, [(self._coder, self._encode)])
        if frame.encoded is None:
            raise FrameFailed(next(iter(frame.errors.values())))
        frame.handed_over = True
        handed_over.set()
        return await link.request(frame.cut.index, frame.choice.epoch, frame.encoded)

    async def _take(self, frame: Frame, asked: Awaitable[Answer]) -> Frame:
        """The frame's end by what becomes of its request."""
        try:
            answer = await asked
        except FrameFailed as error:
            frame.fail(error)
        except ServerLost:
            if self._spec.partition.server_loss is not OnServerLoss.FINISH_ON_EDGE:
                raise
            await self._through(frame, [(self._compute, partial(self._finish_late, "server-lost"))])
        else:
            await self._accepted(frame, answer)
        return frame

    async def _accepted(self, frame: Frame, answer: Answer) -> None:
        """Take the server's answer; where no other frame is under way and that takes no time, as
        the last one told, without the way to a thread and back.
        """
        accept = partial(self._accept, answer)
        if self._window.alone and self._accepting_ms < _MOST_IN_LOOP_MS:
            self._guarded(frame, [accept], time.perf_counter())
        else:
            await self._through(frame, [(self._coder, accept)])

    async def _race(self, there: Frame, asked: "asyncio.Task[Answer]", name: Fallback) -> Frame:
        """Begin the tail here, too; the first result counts and the other one is given up."""
        abandon = threading.Event()
        there.late = name
        here = self._fork(there, abandon)
        finish = partial(self._finish_late, name, abandon=abandon)
        own = asyncio.create_task(self._through(here, [(self._compute, finish)]))
        await asyncio.wait([asked, own], return_when=asyncio.FIRST_COMPLETED)
        if not own.done() and _succeeded(asked):
            abandon.set()
            self._given_up.add(own)
            own.add_done_callback(self._given_up.discard)
            return await self._take(there, asked)
        await own
        if not here.failed:
            return here
        await asyncio.wait([asked])  # the server may still do what this end cannot
        return await self._take(there, asked)

    # ------------------------------------------------------------------------- in the threads

    def _read(self, frame: Frame) -> None:
        """The network's input."""
        with frame.watch.stage("load"):
            self._load(frame)
        with frame.watch.stage("prepare"):
            made = [self._prepared(frame, i, sample) for i, sample in enumerate(frame.samples)]
            usable = [one for one in made if one is not None]
            if not usable:
                return
            # A batch keeps its shape: what cannot be used is filled in and not reported.
            frame.batch = torch.stack([usable[0] if one is None else one for one in made])
            frame.geometry = [_geometry(sample, frame.batch) for sample in frame.samples]

    def _head(self, frame: Frame) -> None:
        with frame.watch.stage("head"):
            frame.batch = self._replica.head(frame.cut.index, frame.batch)
        self._metrics.operations(frame.cut.index)

    def _pack(self, frame: Frame) -> None:
        with frame.watch.stage("encode"):
            frame.live = pack(frame.batch)
        frame.batch = None

    def _encode(self, frame: Frame) -> None:
        assert frame.live is not None
        with frame.watch.stage("encode"):
            frame.encoded = codec.encode(frame.live, frame.choice.codec)
        self._metrics.encoded(frame.live.nbytes, frame.encoded.nbytes)

    def _finish(self, frame: Frame) -> None:
        """The end of a frame that was never meant for the server."""
        self._reduce(frame, self._replica.tail(frame.cut.index, frame.batch))

    def _finish_late(
        self, name: Fallback, frame: Frame, abandon: threading.Event | None = None
    ) -> None:
        """The end of a frame that was: the tail, from a copy of the kept live tensors."""
        assert frame.live is not None
        with frame.watch.stage("tail"):
            # A copy: the tail may write into its input, which may still have to be sent again.
            live = unpack(frame.live, self._replica.device)
            output = self._replica.tail(frame.cut.index, live, abandon)
        self._metrics.operations(self._replica.last - frame.cut.index)
        self._reduce(frame, output)
        frame.fallback, frame.finished_on = name, Place.EDGE

    def _load(self, frame: Frame) -> None:
        batch = self._spec.workload.batch_size
        for i in range(batch):
            index = (frame.step.frame * batch + i) % len(self._dataset)
            try:
                with contained():
                    frame.samples.append(datasets.load(self._dataset, index))
            except Exception as error:  # noqa: BLE001 - a user's data set can raise anything
                frame.samples.append(None)
                frame.errors[i] = str(error) or type(error).__name__

    def _prepared(self, frame: Frame, i: int, sample: Sample | None) -> Tensor | None:
        """The input of the frame's sample `i`; None where it failed, which is noted."""
        if sample is None:
            return None
        try:
            with contained():
                return prepared(self._replica.network, sample)
        except Exception as error:  # noqa: BLE001 - a user's own transform can raise anything
            frame.errors[i] = str(error) or type(error).__name__
            return None

    def _accept(self, answer: Answer, frame: Frame) -> None:
        """Take the server's answer."""
        started = time.perf_counter()
        frame.answer = answer
        for stage, elapsed in answer.reply.stages.items():
            frame.watch.add(stage, elapsed)
        with frame.watch.stage("finish"):
            (result,) = unpack(codec.decode(answer.payload), self._replica.device, take=True)
        if self._spec.results.outputs == "Raw":
            self._reduce(frame, result)
        else:
            self._describe(frame, result)
        self._accepting_ms = (time.perf_counter() - started) * 1e3

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
        classes = self._matching.classes
        count = len(classes or self._replica.network.classes) or sample.label + 1
        if not 0 <= sample.label < count:
            raise SplittracrError(f"{sample.name} has label {sample.label}, not 0 to {count - 1}")
        return sample.label if classes is None else classes[sample.label]

    # -------------------------------------------------------------------------------- results

    def records(self, frame: Frame, uid: str, edge: str) -> list[Record]:
        """One record a sample; also keeps what is to be drawn later."""
        first = frame.step.frame * self._spec.workload.batch_size
        kept = min(len(self._dataset), self._spec.results.pictures)
        for i in range(len(frame.samples)):
            if i not in frame.errors and first + i < kept:
                drawable = Drawable(frame.reduced[i], frame.geometry[i])
                self.drawables.setdefault(first + i, drawable)
        size = len(self._dataset)
        names = [self._dataset.name((first + i) % size) for i in range(len(frame.samples))]
        return frame.records(uid, edge, names, first, self._slowdown > 1)

    def agreement(self) -> tuple[Agreement, ...]:
        """What the lossy codecs that were used did to the results, by cut and codec."""
        cuts, frames = self._replica.proof.cuts, range(min(len(self._dataset), SAMPLES))
        return tuple(
            measure(self._replica, cuts[cut], lossy, self._inputs(frames))
            for cut, lossy in sorted(self._lossy, key=lambda used: (used[0], str(used[1])))
        )

    def _inputs(self, indices: Iterable[int]) -> Iterator[Tensor]:
        """The network's inputs for pictures that can be read, a batch each."""
        size = self._spec.workload.batch_size
        for index in indices:
            try:
                with contained():
                    sample = datasets.load(self._dataset, index)
                    one = prepared(self._replica.network, sample)
            except Exception:  # noqa: BLE001 - a user's data set can raise anything, it has before
                continue
            yield torch.stack([one] * size)

    def draw(self, number: int, drawable: Drawable) -> Image.Image | None:
        """The picture of a sample with its prediction; None where the sample is no picture."""
        picture = datasets.load(self._dataset, number).picture
        if picture is None:
            return None
        return self._replica.postprocessor.draw(picture, drawable.reduced, drawable.geometry)


def _succeeded(asked: "asyncio.Task[Answer]") -> bool:
    return asked.done() and asked.exception() is None


async def _help(choice: Choice, handed_over: asyncio.Event) -> Fallback:
    """Wait until the edge begins the tail itself, perhaps for ever; returns why it does.

    Called at the end of the head, from where a hedge counts.
    """
    hedge, deadline = choice.hedge_ms, choice.deadline_ms
    try:
        async with asyncio.timeout(None if hedge is None else hedge / 1e3):
            await handed_over.wait()
            await asyncio.sleep(math.inf if deadline is None else deadline / 1e3)
    except TimeoutError:
        return "hedge"
    return "deadline"


async def _until(due: float | None, stop: asyncio.Event) -> None:
    """Wait for a time on `time.perf_counter`, never less; `stop` ends the wait."""
    while due is not None and (left := due - time.perf_counter()) > 0 and not stop.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), left)


def _geometry(sample: Sample | None, batch: Tensor) -> Geometry:
    height, width = (int(n) for n in batch.shape[-2:]) if batch.dim() >= 2 else (1, 1)
    if sample is None or sample.picture is None:
        return Geometry((height, width), (height, width))
    return Geometry((sample.picture.height, sample.picture.width), (height, width))


def _digest(output: Any) -> str:
    digest = hashlib.sha256()
    for leaf in tree_flatten(output)[0]:
        if isinstance(leaf, Tensor):
            digest.update(as_buffer(raw_bytes(leaf)))
    return f"sha256:{digest.hexdigest()}"
