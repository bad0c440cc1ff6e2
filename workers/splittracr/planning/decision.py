"""The decision for one frame, and the outcome that a policy learns from.

Times are milliseconds. `now` is in seconds from any origin and never decreases.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, Self

from splittracr.experiment.codec import RAW, Codec, PictureCodec
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.schedule import Step

Fallback = Literal["deadline", "hedge", "server-lost"]
"""Why the edge finished a frame that was planned for the server."""

When = Literal["first", "after", "judge"]
"""When the small model of a cascade, or its exits, run on a sample: before the large model, or
after its answer. That is a try, or the sample is judged with all exits, for a new threshold.
"""


@dataclass(frozen=True)
class Decision:
    """Cut and codec of one frame, and when the edge begins to run the tail as well.

    The edge begins the tail at the earlier of two times: `hedge_ms` after the end of the head, and
    `deadline_ms` after the request was handed to the link. None means never. `epoch` counts the
    changes of cut or codec, and of whether the small model, or the exits, go first. `small` is when
    these run, None for never. If they go first, the other fields are for samples that they do not
    answer. `predicted_ms` is the expected end-to-end latency, and `predicted_regret_ms` how much
    lower that of the best candidate is. With `probe_bytes` above 0 the link sends a probe of that
    size beside the frame.
    """

    cut: int
    codec: Codec | PictureCodec = RAW
    epoch: int = 0
    deadline_ms: float | None = None
    hedge_ms: float | None = None
    predicted_ms: float | None = None
    reason: str | None = None
    predicted_regret_ms: float | None = None
    probe_bytes: int = 0
    small: When | None = None

    @property
    def choice(self) -> tuple[int, Codec | PictureCodec, bool]:
        """Cut, codec, and whether the small model, or the exits, go first."""
        return self.cut, self.codec, self.small == "first"

    def answered_at(self, cut: int) -> Self:
        """The decision for an answer of the small model or of an exit: nothing is sent."""
        return replace(self, cut=cut, codec=RAW, deadline_ms=None, hedge_ms=None)


@dataclass(frozen=True)
class FirstRun:
    """A run of the small model, or of exits: whether it was sure, and its time in milliseconds.

    The time is that from preparing the sample to its result. For exits it is the sum of `exit_ms`,
    the times of those that ran, without the head. If exits are sure, the last of these answers.
    """

    sure: bool
    ms: float
    exit_ms: tuple[float, ...] = ()

    @classmethod
    def of_exits(cls, exit_ms: tuple[float, ...], *, sure: bool) -> Self:
        """A run of exits."""
        return cls(sure, sum(exit_ms), exit_ms)


@dataclass(frozen=True)
class Outcome:
    """One finished frame.

    `stages` are those of its record. `receiving_up_ms` is the time over which the request arrived,
    by the server's clock. `first` is None unless the small model of a cascade, or its exits, ran.
    """

    decision: Decision
    ok: bool
    total_ms: float
    stages: Mapping[str, float]
    receiving_up_ms: float
    first: FirstRun | None = None


class Chooser(Protocol):
    """Decides before each frame and learns after it."""

    def choose(self, step: Step, now: float) -> Decision:
        """Return the decision for the next frame."""

    def observe(self, outcome: Outcome, now: float) -> None:
        """Learn from a finished frame."""


class Scheduled:
    """Uses the cut of the schedule and the codec of the manifest, in all modes but Adaptive.

    If there is a small model, or exits, they go first.
    """

    def __init__(self, spec: ExperimentSpec, pictures: bool) -> None:
        """`pictures`: the inputs of the network are pictures, so cut 0 uses the picture codec."""
        self._codec = Codec.parse(spec.transport.codec)
        self._pictures = PictureCodec.parse(spec.transport.picture_codec) if pictures else None
        self._partition = spec.partition

    def choose(self, step: Step, now: float) -> Decision:
        """Return the step's cut with its codec."""
        del now
        full_offload = step.trial.cut == 0
        return Decision(
            cut=step.trial.cut,
            codec=self._pictures if self._pictures and full_offload else self._codec,
            deadline_ms=self._partition.deadline_milliseconds,
            hedge_ms=self._partition.hedge_delay_milliseconds,
            small=None if self._partition.cascade is None else "first",
        )

    def observe(self, outcome: Outcome, now: float) -> None:
        """Ignore the outcome."""
