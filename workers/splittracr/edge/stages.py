"""The stages of a frame as functions: each takes one value and returns the next.

Each runs in a thread and adds its times to the frame's stopwatch. `then` chains them.
"""

import copy
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from splittracr.backends.protocol import Backend, Exits, Input, Live, Output
from splittracr.data.containment import contained
from splittracr.data.contracts import Geometry, Reduced, Sample
from splittracr.edge.frame import (
    Answered,
    AtExit,
    Batch,
    Begun,
    Encoded,
    Failed,
    Frame,
    Given,
    HasBatch,
    HeadDone,
    Loaded,
    LoadSample,
    Packed,
    Prediction,
    Replied,
    Truth,
    Usable,
)
from splittracr.experiment.errors import reason
from splittracr.wire import codec

log = logging.getLogger(__name__)

A = TypeVar("A")
B = TypeVar("B")
S = TypeVar("S", bound=HasBatch)
T = TypeVar("T")


class Counters(Protocol):
    """Counts what the stages do."""

    def operations(self, count: int) -> None:
        """Operations of the model that ran on the edge."""

    def encoded(self, raw: int, encoded: int) -> None:
        """Bytes of a frame's live tensors before and after the codec."""


@dataclass(frozen=True)
class Pipeline:
    """What the stages of all frames share.

    With `raw` the server replies with the raw output, whose digest is kept. `truth` returns what
    is known of a sample.
    """

    backend: Backend
    counters: Counters
    raw: bool
    truth: Callable[[Sample], Truth]


def then(value: S | Failed, stage: Callable[[S], T | Failed]) -> T | Failed:
    """Run the next stage. An error becomes `Failed`, which skips the later stages."""
    if isinstance(value, Failed):
        return value
    try:
        with contained():
            return stage(value)
    except Exception as error:  # noqa: BLE001 - the network's and the user's own code
        return Failed.of(value.batch, error)


def load(pipeline: Pipeline, frame: Frame, given: Given) -> Loaded | Failed:
    """Load and prepare the samples. One that cannot be used fails alone."""
    failures: dict[int, str] = {}
    with frame.watch.stage("load"):
        samples = _each(dict(enumerate(given.sources)), _sample, failures)
    with frame.watch.stage("prepare"):
        inputs = _each(samples, pipeline.backend.prepare, failures)
        if not inputs:
            return Failed(next(iter(failures.values())), failures)
        # The batch keeps its size: a good sample replaces a failed one.
        filler = next(iter(inputs.values()))
        size = given.batch.size
        tensor = pipeline.backend.stack([inputs.get(i, filler) for i in range(size)])
        usable = {i: Usable(samples[i], geometry(samples[i], tensor)) for i in inputs}
    return Loaded(Batch(size, usable, failures), tensor)


def head(pipeline: Pipeline, frame: Frame, loaded: Loaded) -> HeadDone:
    """Run the operations before the cut."""
    with frame.watch.stage("head"):
        live = pipeline.backend.head(frame.cut.index, loaded.tensor, timed=frame.timed)
    pipeline.counters.operations(frame.cut.index)
    return HeadDone(loaded.batch, live)


def onward(pipeline: Pipeline, frame: Frame, begun: Begun) -> HeadDone:
    """Run the other operations before the cut, none at `input`."""
    with frame.watch.stage("head"):
        live = begun.onward(frame.cut.index)
    pipeline.counters.operations(max(0, frame.cut.index - begun.cut))
    return HeadDone(begun.batch, live)


def at_exit(
    exits: Exits,
    sureness: Callable[[Reduced], int],
    threshold: int,
    pipeline: Pipeline,
    frame: Frame,
    loaded: Loaded,
) -> AtExit:
    """Run the head up to the first exit whose sureness reaches `threshold`, else to the last one.

    The pipeline is that of `exits.backend`, for one sample. An exit that fails is not sure.
    """
    live: Live = []
    tried: list[tuple[int, Reduced | None]] = []
    before, exit_ms = 0, list[float]()
    answered = Answered(loaded.batch, {})
    # Operations may write into the tensor, which is sent as a picture if no exit is sure.
    unchanged = copy.deepcopy(loaded.tensor) if frame.cut.index == 0 else None
    for number, cut in enumerate(exits.cuts):
        with frame.watch.stage("head"):
            if number == 0:
                live = pipeline.backend.head(cut.index, loaded.tensor)
            else:
                live = exits.between(before, live, cut.index)
        before = cut.index
        with frame.watch.stage("exit"):
            reduced = _exit(exits, number, live)
            sure = 0 if reduced is None else sureness(reduced)
        exit_ms.append(frame.watch.stages["exit"] - sum(exit_ms))
        tried.append((sure, reduced))
        if reduced is not None and sure >= threshold:
            answered = _answered(pipeline, frame, loaded.batch, [reduced])
            break
    pipeline.counters.operations(before)

    def onward(cut: int) -> Live:
        """The live values at a cut after the exit, or at `input`."""
        if unchanged is not None:
            return pipeline.backend.head(cut, unchanged)
        return exits.between(before, live, cut)

    return AtExit(Begun(loaded.batch, before, onward), answered, tuple(tried), tuple(exit_ms))


def _exit(exits: Exits, number: int, live: Live) -> "Reduced | None":
    """The result of an exit; None if it has none, such as logits that are not finite."""
    try:
        with contained():
            (reduced,) = exits.backend.on_host(exits.backend.reduce(exits.classify(number, live)))
    except Exception as error:  # noqa: BLE001 - the user's own code
        log.debug("exit %s: %s", exits.cuts[number].name, reason(error))
        return None
    return reduced


def output(pipeline: Pipeline, frame: Frame, done: HeadDone) -> Answered:
    """Take the output of a frame whose head is the whole model."""
    return _reduced(pipeline, frame, done.batch, pipeline.backend.tail(frame.cut.index, done.live))


def packed(pipeline: Pipeline, frame: Frame, done: HeadDone) -> Packed:
    """Bring the live tensors into the host's memory."""
    with frame.watch.stage("encode"):
        return Packed(done.batch, pipeline.backend.pack(done.live))


def encoded(pipeline: Pipeline, frame: Frame, live: Packed) -> Encoded:
    """Encode the live tensors with the frame's codec."""
    with frame.watch.stage("encode"):
        payload = codec.encode(live.live, frame.decision.codec)
    pipeline.counters.encoded(live.live.nbytes, payload.nbytes)
    return Encoded(live, payload)


def tail(pipeline: Pipeline, frame: Frame, live: Packed) -> Answered:
    """Run the operations after the cut on the edge, as a fallback.

    Raises Abandoned if the frame's `abandon` is set before they end.
    """
    backend = pipeline.backend
    with frame.watch.stage("tail"):
        # On a copy: the tail may write into its input, which may still have to be sent again.
        own = backend.unpack(live.live)
        made = backend.tail(frame.cut.index, own, frame.watch.abandon)
    pipeline.counters.operations(backend.proof.last - frame.cut.index)
    return _reduced(pipeline, frame, live.batch, made)


def decoded(pipeline: Pipeline, frame: Frame, replied: Replied) -> Answered:
    """Decode the server's reply."""
    for stage, elapsed in replied.received.reply.stages.items():
        frame.watch.add(stage, elapsed)
    with frame.watch.stage("finish"):
        payload = codec.decode(replied.received.payload)
        (result,) = pipeline.backend.unpack(payload, take=True)
    if pipeline.raw:
        return _reduced(pipeline, frame, replied.batch, result)
    return _answered(pipeline, frame, replied.batch, result)


def _reduced(pipeline: Pipeline, frame: Frame, batch: Batch, made: Output) -> Answered:
    """Post-process a raw output on the edge."""
    with frame.watch.stage("reduce"):
        reduced = pipeline.backend.on_host(pipeline.backend.reduce(made))
    digest = None
    if pipeline.raw:
        with frame.watch.stage("finish"):
            digest = _digest(pipeline.backend, made)
    return _answered(pipeline, frame, batch, reduced, digest)


def _answered(
    pipeline: Pipeline,
    frame: Frame,
    batch: Batch,
    reduced: Sequence[Reduced],
    digest: str | None = None,
) -> Answered:
    with frame.watch.stage("finish"):
        describe = partial(prediction, pipeline.backend, pipeline.truth)
        predictions = {i: describe(one, reduced[i]) for i, one in batch.usable.items()}
    return Answered(batch, predictions, digest)


def prediction(
    backend: Backend, truth_of: Callable[[Sample], Truth], usable: Usable, reduced: Reduced
) -> Prediction:
    """The result of a sample, compared with what is known of it. `reduced` is on the host."""
    post = backend.postprocessor
    described = post.describe(reduced, usable.geometry)
    truth = truth_of(usable.sample)
    ranking = None if truth.label is None else post.ranking(reduced)
    if ranking is None:
        return Prediction(reduced, usable.geometry, described, truth)
    top1, top5 = truth.label in ranking[:1], truth.label in ranking[:5]
    return Prediction(reduced, usable.geometry, described, truth, top1, top5)


def _sample(source: Sample | LoadSample) -> Sample:
    return source if isinstance(source, Sample) else source()


def _each(
    values: Mapping[int, A], function: Callable[[A], B], failures: dict[int, str]
) -> dict[int, B]:
    """Apply `function` to every value; note the reason in `failures` if it raises."""
    made: dict[int, B] = {}
    for i, value in values.items():
        try:
            with contained():
                made[i] = function(value)
        except Exception as error:  # noqa: BLE001 - a user's own code can raise anything
            failures[i] = reason(error)
    return made


def geometry(sample: Sample, tensor: Input) -> Geometry:
    """Sizes of the sample's picture and of the model's input."""
    height, width = (int(n) for n in tensor.shape[-2:]) if len(tensor.shape) >= 2 else (1, 1)
    if sample.picture is None:
        return Geometry((height, width), (height, width))
    return Geometry((sample.picture.height, sample.picture.width), (height, width))


def _digest(backend: Backend, made: Output) -> str:
    digest = hashlib.sha256()
    for buffer in backend.buffers(made):
        digest.update(buffer)
    return f"sha256:{digest.hexdigest()}"
