"""Goodput and round-trip time of a link, measured from its transfers. No clock is read.

Metrics show these figures in all modes but Adaptive. In mode Adaptive they show the estimates of
`estimate.py`, which also learn from transfers too small to measure a rate.
"""

from collections import deque

from splittracr.planning.transfer import Transfer

_MIN_BYTES = 2**15
"""The smallest message whose rate is measured. Smaller ones can arrive in one piece."""

_KEPT = 0.8
"""The weight of earlier transfers when a new one is added to the mean."""

_WINDOW_MS = 10_000.0


class _Rate:
    """Bytes divided by time, as a mean in which the newest transfers have the largest weight."""

    def __init__(self) -> None:
        self._bytes = self._ms = 0.0

    def observe(self, nbytes: int, ms: float) -> None:
        if nbytes >= _MIN_BYTES and ms > 0:
            self._bytes = _KEPT * self._bytes + nbytes
            self._ms = _KEPT * self._ms + ms

    @property
    def bytes_per_second(self) -> float | None:
        return self._bytes / self._ms * 1e3 if self._ms else None


class LinkMeter:
    """Measures both directions of one link."""

    def __init__(self) -> None:
        self._up, self._down = _Rate(), _Rate()
        self._quickest: deque[tuple[float, float]] = deque()  # end and time, both increasing

    def observe(self, now: float, transfer: Transfer) -> None:
        """Learn from a transfer that ended `now`, in seconds.

        The rates come from the times over which the bytes arrived at each end. The remaining time
        is a round-trip time, perhaps with a wait for other transfers. The minimum of the last ten
        seconds is therefore used, a filter as in BBR (Cardwell et al., "BBR: congestion-based
        congestion control", 2016).
        """
        self._up.observe(transfer.bytes_up, transfer.receiving_up_ms)
        self._down.observe(transfer.bytes_down, transfer.receiving_down_ms)
        left = transfer.link_ms - transfer.receiving_up_ms - transfer.receiving_down_ms
        recent = self._quickest
        while recent and recent[-1][1] >= left:
            recent.pop()
        recent.append((now, max(0.0, left)))
        while recent[0][0] < now - _WINDOW_MS / 1e3:
            recent.popleft()

    @property
    def up_bytes_per_second(self) -> float | None:
        """Goodput from edge to server; None before the first large transfer."""
        return self._up.bytes_per_second

    @property
    def down_bytes_per_second(self) -> float | None:
        """Goodput from server to edge; None before the first large transfer."""
        return self._down.bytes_per_second

    @property
    def round_trip_ms(self) -> float | None:
        """Round-trip time of an empty message; None before the first transfer."""
        return self._quickest[0][1] if self._quickest else None
