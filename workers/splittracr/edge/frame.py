"""A frame and the values that it becomes, stage by stage.

A frame is one batch of samples on its way through the pipeline. Its stages (`stages.py`) turn one
value into the next:

    Given -> Loaded -> HeadDone -> Answered                                 (all on the edge)
    Given -> Loaded -> HeadDone -> Packed -> Encoded -> Replied -> Answered (tail on the server)
                                   Packed -> Answered                       (fallback on the edge)
             Loaded -> AtExit                                               (up to an exit)
             Begun  -> HeadDone                                             (from there on)

A stage that fails returns `Failed`. A value holds no tensors of the stages before it, with one
exception: `Encoded` keeps the live tensors, which the edge needs if it finishes the frame itself.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from splittracr.backends.protocol import Input, Live
from splittracr.data.contracts import Geometry, Mask, PostProcessor, Reduced, Sample
from splittracr.edge.link import ServerReply
from splittracr.experiment.errors import reason as reason_of
from splittracr.experiment.types import Cut
from splittracr.measure.stopwatch import Stopwatch
from splittracr.planning.decision import Decision
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.payload import Payload

LoadSample = Callable[[], Sample]
"""Loads one sample. Runs in the reading thread and may raise: the sample then fails."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What is fixed when a frame starts, and its stopwatch.

    Latency counts from `due`, in seconds of `time.perf_counter`; `started_at` is the same moment in
    Unix time. The operations of a `timed` one are timed one by one.
    """

    cut: Cut
    decision: Decision
    due: float
    started_at: float
    watch: Stopwatch
    timed: bool = False

    def fork(self, abandon: threading.Event) -> "Frame":
        """The frame with its own stopwatch, for one of two attempts at its tail.

        Setting `abandon` ends the attempt.
        """
        return replace(self, watch=self.watch.fork(abandon))


@dataclass(frozen=True, slots=True)
class Usable:
    """A sample that the model takes."""

    sample: Sample
    geometry: Geometry


@dataclass(frozen=True, slots=True)
class Batch:
    """The samples of a frame, by position in the batch: each is usable or has failed."""

    size: int
    usable: Mapping[int, Usable] = field(default_factory=dict)
    failures: Mapping[int, str] = field(default_factory=dict)


class HasBatch(Protocol):
    """A value on the way to an answer."""

    @property
    def batch(self) -> Batch:
        """The samples as far as they are known."""


@dataclass(frozen=True, slots=True)
class Given:
    """Samples that have not been loaded, or that the caller has at hand."""

    batch: Batch
    sources: Sequence[Sample | LoadSample]


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model's input `[N, *shape]`."""

    batch: Batch
    tensor: Input


@dataclass(frozen=True, slots=True)
class Begun:
    """A head that has run up to `cut`. `onward` runs it to a later cut, or begins anew, once."""

    batch: Batch
    cut: int
    onward: Callable[[int], Live]


@dataclass(frozen=True, slots=True)
class HeadDone:
    """The live tensors at the cut, on the edge's device."""

    batch: Batch
    live: Live


@dataclass(frozen=True, slots=True)
class Packed:
    """The live tensors as buffers in the host's memory."""

    batch: Batch
    live: Payload


@dataclass(frozen=True, slots=True)
class Encoded:
    """The payload of the request, and the live tensors that the edge's own tail starts from."""

    packed: Packed
    payload: EncodedPayload

    @property
    def batch(self) -> Batch:
        """The samples."""
        return self.packed.batch


@dataclass(frozen=True, slots=True)
class Replied:
    """The server's reply, not decoded yet."""

    batch: Batch
    received: ServerReply


@dataclass(frozen=True, slots=True)
class Truth:
    """The labels of a sample, as classes of the model; None for those that it does not have.

    `boxes` are JSON. `mask` reads the labelled mask for a picture of a height and width; it may
    raise.
    """

    label: int | None = None
    boxes: list[dict[str, Any]] | None = None
    mask: Callable[[tuple[int, int]], Mask] | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """The result of one sample.

    `described` is JSON as the post-processor describes it. `top1` and `top5` are None if the true
    class is unknown or the post-processor ranks no classes. `draws` is its post-processor if that
    is not the study's. `pixels` compares its mask with the labelled one, by class; None if it has
    not been compared.
    """

    reduced: Reduced
    geometry: Geometry
    described: Any
    truth: Truth = field(default_factory=Truth)
    top1: bool | None = None
    top5: bool | None = None
    draws: PostProcessor | None = None
    pixels: list[dict[str, int]] | None = None


@dataclass(frozen=True, slots=True)
class Answered:
    """The results of the usable samples, by position, and the digest of a raw output."""

    batch: Batch
    predictions: Mapping[int, Prediction]
    digest: str | None = None

    @property
    def failures(self) -> Mapping[int, str]:
        """Why the other samples have no result."""
        return self.batch.failures


@dataclass(frozen=True, slots=True)
class AtExit:
    """A head that has run up to an exit, and the result there, or no prediction if it is not sure.

    `tried` has sureness and result of each exit so far. An exit that failed has sureness 0.
    `exit_ms` are their times without the head.
    """

    begun: Begun
    answered: Answered
    tried: "tuple[tuple[int, Reduced | None], ...]"
    exit_ms: tuple[float, ...]

    @property
    def sureness(self) -> int:
        """The largest of the exits."""
        return max(sureness for sureness, _ in self.tried)

    @property
    def batch(self) -> Batch:
        """The samples."""
        return self.begun.batch


@dataclass(frozen=True, slots=True)
class Failed:
    """No sample has a result. `failures` has the reason of each, by position."""

    reason: str
    failures: Mapping[int, str]

    @classmethod
    def of(cls, batch: Batch, error: Exception) -> "Failed":
        """All samples fail with `error`, except those that had failed before."""
        reason = reason_of(error)
        return cls(reason, {i: batch.failures.get(i, reason) for i in range(batch.size)})
