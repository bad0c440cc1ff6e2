"""One exchange over the link, as the edge measured it, and the interface that learns from them.

Every time is a difference on one machine's clock, so that the clocks need not agree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

_SERVING = ("decode", "tail", "reduce", "reply")


@dataclass(frozen=True)
class Transfer:
    """A request or a probe with its answer. A probe has no cut and no stages.

    `link_ms` runs from the first byte sent to the last byte of the answer, less the server's
    `stages`. `receiving_up_ms` and `receiving_down_ms` are the times over which the bytes of each
    message arrived, 0 if they arrived in one piece.
    """

    cut: int | None
    bytes_up: int
    bytes_down: int
    link_ms: float
    stages: Mapping[str, float]
    receiving_up_ms: float = 0.0
    receiving_down_ms: float = 0.0

    @property
    def server_wait_ms(self) -> float:
        """Time that the request waited on the server for other requests."""
        return self.stages.get("server_wait", 0.0)

    @property
    def server_ms(self) -> float:
        """Time that the server computed; 0 for a probe and for a request that failed."""
        return sum(self.stages.get(stage, 0.0) for stage in _SERVING)


class LinkObserver(Protocol):
    """Learns from all transfers. `now` is in seconds from any origin and never decreases."""

    def sent(self, number: int, cut: int | None, nbytes: int, now: float) -> None:
        """A request, or a probe (without a cut), begins to leave."""

    def heard(self, number: int, transfer: Transfer, now: float) -> None:
        """An answer has arrived: a reply, a failure or a probe's. It may be past its deadline."""

    def connection(self, alive: bool) -> None:
        """A session has begun or ended."""
