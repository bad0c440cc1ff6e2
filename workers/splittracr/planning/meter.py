"""Goodput and round-trip time of a link as its transfers show them. No clock is read.

This is what metrics show in all modes but Adaptive. There they show the estimate that decisions are
based on (`estimate.py`), which also learns from transfers too small to show a rate.
"""

from collections import deque

from splittracr.planning.choice import Transfer

_MIN_BYTES = 2**15
"""Of a message whose rate is measured. Smaller ones can arrive in one piece."""

_KEPT = 0.8
"""Share of the earlier transfers in the mean when a new one is added."""

_WINDOW_MS = 10_000.0


class _Rate:
    """Bytes over the time that they took; the newest transfers count most."""

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
    """What was seen of both directions of one link."""

    def __init__(self) -> None:
        self._up, self._down = _Rate(), _Rate()
        self._quickest: deque[tuple[float, float]] = deque()  # when, how long; ever longer

    def observe(self, now: float, transfer: Transfer) -> None:
        """Learn from a transfer that ended `now`, in seconds.

        Its rates are taken from how long the bytes came in at either end. What is left is the
        round-trip time; as other transfers may have been in the way, the shortest of the last ten
        seconds counts, a filter as in BBR (Cardwell et al., "BBR: congestion-based congestion
        control", 2016).
        """
        self._up.observe(transfer.bytes_up, transfer.receiving_up_ms)
        self._down.observe(transfer.bytes_down, transfer.receiving_down_ms)
        left = transfer.network_ms - transfer.receiving_up_ms - transfer.receiving_down_ms
        recent = self._quickest
        while recent and recent[-1][1] >= left:
            recent.pop()
        recent.append((now, max(0.0, left)))
        while recent[0][0] < now - _WINDOW_MS / 1e3:
            recent.popleft()

    @property
    def up_bytes_per_second(self) -> float | None:
        """Goodput from edge to server; None before a transfer has shown it."""
        return self._up.bytes_per_second

    @property
    def down_bytes_per_second(self) -> float | None:
        """Goodput from server to edge; None before a transfer has shown it."""
        return self._down.bytes_per_second

    @property
    def round_trip_ms(self) -> float | None:
        """Round-trip time of a message without size; None before the first transfer."""
        return self._quickest[0][1] if self._quickest else None
