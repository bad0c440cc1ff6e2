"""The result of one call of the pipeline."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from splittracr.edge.frame import Failed, Prediction
from splittracr.edge.link import ServerReply
from splittracr.edge.race import Attempt
from splittracr.experiment.types import Cut, Place
from splittracr.planning.decision import Decision, Fallback, Outcome


@dataclass(frozen=True, slots=True)
class Exchange:
    """A request and its reply: bytes on the wire, and the server's times in milliseconds.

    `batch` is the number of requests that the server computed together.
    """

    bytes_up: int = 0
    bytes_down: int = 0
    batch: int = 1
    stages: Mapping[str, float] = field(default_factory=dict)
    receiving_ms: float = 0.0
    resent: bool = False


_NONE = Exchange()


@dataclass(frozen=True, slots=True)
class Result:
    """The end of one frame.

    Each of its `size` samples has a prediction or a failure, by position in the batch. `exchange`
    is that with the server, None if the server's reply was not used. `fallback` is why the edge
    finished a frame that was meant for the server, `late` why it started the tail while the request
    was pending. `due` is on the scale of `time.perf_counter`, `started_at` the same moment in Unix
    time; `stages`, in milliseconds, add up to `total_ms`.
    """

    cut: Cut
    decision: Decision
    due: float
    started_at: float
    size: int
    predictions: Mapping[int, Prediction]
    failures: Mapping[int, str]
    digest: str | None
    finished_on: Place
    fallback: Fallback | None
    late: Fallback | None
    exchange: Exchange | None
    stages: Mapping[str, float]
    total_ms: float

    @property
    def bytes_up(self) -> int:
        """Bytes of the request, if there was a reply."""
        return (self.exchange or _NONE).bytes_up

    @property
    def bytes_down(self) -> int:
        """Bytes of the reply."""
        return (self.exchange or _NONE).bytes_down

    @property
    def server_batch(self) -> int:
        """Requests that the server computed together."""
        return (self.exchange or _NONE).batch

    @property
    def resent(self) -> bool:
        """Whether the request waited for a server that was lost."""
        return (self.exchange or _NONE).resent

    @property
    def source(self) -> str:
        """The origin of the result, as metrics name it."""
        if self.fallback is not None:
            return self.fallback
        return self.finished_on.value

    @property
    def own_stages(self) -> Mapping[str, float]:
        """The stages that the edge measured, without the server's share of them."""
        if self.exchange is None:
            return self.stages
        theirs = self.exchange.stages
        own = {s: elapsed - theirs.get(s, 0.0) for s, elapsed in self.stages.items()}
        return {s: elapsed for s, elapsed in own.items() if s not in theirs or elapsed > 0}

    def outcome(self) -> Outcome:
        """The result as a policy sees it."""
        return Outcome(
            decision=self.decision,
            ok=not self.failures,
            total_ms=self.total_ms,
            stages=self.stages,
            receiving_up_ms=(self.exchange or _NONE).receiving_ms,
        )


def conclude(attempt: Attempt, size: int, *, local: bool) -> Result:
    """Stop the clock. The rest of the total is `link` if a request was sent, else `other`."""
    frame, end = attempt.frame, attempt.end
    total_ms = (time.perf_counter() - frame.due) * 1e3
    rest = max(0.0, total_ms - sum(frame.watch.stages.values()))
    frame.watch.add("link" if attempt.submitted else "other", rest)
    on_edge = local or attempt.fallback is not None
    return Result(
        cut=frame.cut,
        decision=frame.decision,
        due=frame.due,
        started_at=frame.started_at,
        size=size,
        predictions={} if isinstance(end, Failed) else end.predictions,
        failures=end.failures,
        digest=None if isinstance(end, Failed) else end.digest,
        finished_on=Place.EDGE if on_edge else Place.SERVER,
        fallback=attempt.fallback,
        late=attempt.late,
        exchange=None if attempt.reply is None else _exchange(attempt.reply),
        stages=frame.watch.stages,
        total_ms=total_ms,
    )


def _exchange(received: ServerReply) -> Exchange:
    reply = received.reply
    return Exchange(
        received.sent,
        received.size,
        reply.batch,
        reply.stages,
        reply.receiving_ms,
        received.resent,
    )
