"""What is decided for one frame, and what is learnt from it. Policies turn one into the other.

Times are milliseconds; `now` is in seconds from any origin and never goes back.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from splittracr.experiment.codec import RAW, Codec, PictureCodec
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.schedule import Step

Fallback = Literal["deadline", "hedge", "server-lost"]
"""Why the edge finished a frame that was meant for the server."""


@dataclass(frozen=True)
class Choice:
    """Where one frame is cut, how its tensors travel, and when the edge helps itself.

    The edge begins the tail too, `hedge_ms` after the end of the head or `deadline_ms` after the
    hand-over to the link, whichever comes first; None is never. `epoch` counts the changes of cut
    or codec. `regret_ms` is how much less the best candidate is expected to take, and `probe_bytes`
    above 0 asks for a transfer beside the frame that shows what the link is like.
    """

    cut: int
    codec: Codec | PictureCodec = RAW
    epoch: int = 0
    deadline_ms: float | None = None
    hedge_ms: float | None = None
    predicted_ms: float | None = None
    reason: str | None = None
    regret_ms: float | None = None
    probe_bytes: int = 0


@dataclass(frozen=True)
class Outcome:
    """One finished frame, as a policy sees it.

    `stages` are those of its record; `receiving_up_ms` is how long the bytes of the request took
    to come in, on the server's clock.
    """

    choice: Choice
    ok: bool
    total_ms: float
    stages: Mapping[str, float]
    receiving_up_ms: float


@dataclass(frozen=True)
class Transfer:
    """A request or a probe and its answer, as the link saw them.

    `network_ms` runs from when the request began to leave until its answer had arrived, without
    the server's `stages`. `receiving_up_ms` and `receiving_down_ms` are how long the bytes of each
    took to come in, 0 if they came in one piece. A probe has no cut.
    """

    cut: int | None
    bytes_up: int
    bytes_down: int
    network_ms: float
    stages: Mapping[str, float]
    receiving_up_ms: float = 0.0
    receiving_down_ms: float = 0.0


class LinkObserver(Protocol):
    """Learns from everything that crosses the link; `now` as for a chooser."""

    def sent(self, number: int, cut: int | None, nbytes: int, now: float) -> None:
        """A request or a probe, which has no cut, begins to leave."""

    def heard(self, number: int, transfer: Transfer, now: float) -> None:
        """Its answer has arrived, or that there is none, even if nobody waits any more."""

    def connection(self, alive: bool) -> None:
        """A session has begun or ended."""


class Chooser(Protocol):
    """Decides before each frame and learns after it."""

    def choose(self, step: Step, now: float) -> Choice:
        """The decision for the next frame."""

    def observe(self, outcome: Outcome, now: float) -> None:
        """A frame has finished."""


class Fixed:
    """The schedule's cut and the manifest's codec, whatever happens: modes other than Adaptive."""

    def __init__(self, spec: ExperimentSpec, pictures: bool) -> None:
        """`pictures`: the network's input are pictures, which travel by the picture codec."""
        self._codec = Codec.parse(spec.transport.codec)
        self._pictures = PictureCodec.parse(spec.transport.picture_codec) if pictures else None
        self._partition = spec.partition

    def choose(self, step: Step, now: float) -> Choice:
        """The step's cut."""
        del now
        full_offload = step.trial.cut == 0
        return Choice(
            cut=step.trial.cut,
            codec=self._pictures if self._pictures and full_offload else self._codec,
            deadline_ms=self._partition.deadline_milliseconds,
            hedge_ms=self._partition.hedge_delay_milliseconds,
        )

    def observe(self, outcome: Outcome, now: float) -> None:
        """Learns nothing."""
