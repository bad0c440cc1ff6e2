"""Exponential backoff: how long to wait before an attempt is repeated."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Waits of `first`, then twice as long each time, up to `longest` seconds."""

    first: float
    longest: float

    def seconds(self, attempt: int, draw: float = 1.0) -> float:
        """Seconds before attempt `attempt + 1`, counted from 0.

        With `draw`, a random number in [0, 1), half of the wait is random, so that peers that
        failed together do not retry together.
        """
        wait = min(self.longest, self.first * 2.0 ** min(attempt, 60))
        return wait * (0.5 + draw / 2)
