"""One request on its way through the server."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from splittracr.backends.protocol import Live
from splittracr.wire.codec import EncodedPayload
from splittracr.wire.messages import Failure, Request, encode
from splittracr.wire.session import Parts

Outcome = Literal["ok", "failed", "cancelled"]
Done = Callable[["Job", Parts, Outcome], None]
"""Called in a thread of the engine with a job, its reply and its outcome."""

_MAX_REASON = 4096  # characters


@dataclass
class Job:
    """A request that has arrived completely, at `arrived` on the scale of `time.perf_counter`.

    `live` are its live tensors once they are decoded, `stages` the milliseconds of each stage.
    """

    edge: int
    request: Request
    payload: EncodedPayload
    arrived: float
    receiving_ms: float
    done: Done
    live: Live | None = None
    stages: dict[str, float] = field(default_factory=dict)
    replied: bool = False

    @property
    def key(self) -> tuple[int, int]:
        """Edge and number of the request."""
        return self.edge, self.request.id

    def fits(self, other: "Job") -> bool:
        """Whether both may be one batch: the same cut, and live tensors of the same shapes."""
        mine, theirs = self.payload.header, other.payload.header
        return (
            self.request.cut == other.request.cut
            and [(t.shape, t.dtype) for t in mine.tensors]
            == [(t.shape, t.dtype) for t in theirs.tensors]
            and mine.values == theirs.values
        )

    def waited(self, ms: float) -> None:
        """Add to the time in which this request was not computed."""
        self.stages["server_wait"] = self.stages.get("server_wait", 0.0) + ms

    def reply(self, parts: Parts, outcome: Outcome) -> None:
        """Send the reply, once."""
        self.replied = True
        self.done(self, parts, outcome)

    def fail(self, reason: str, outcome: Outcome = "failed") -> None:
        """Answer with a failure. `reason` may have characters that UTF-8 cannot encode."""
        reason = reason.encode("utf-8", "backslashreplace").decode()[:_MAX_REASON]
        self.stages = {}
        waited = max(0.0, time.perf_counter() - self.arrived) * 1e3
        self.reply(encode(Failure(id=self.request.id, reason=reason, waited_ms=waited)), outcome)
