"""Chooses the size of batches from measured times. Pure."""

from collections import Counter

_SHARE = 0.3
"""Of the newest time in the mean of a size."""

_EXPLORE_EVERY = 64
"""After so many decisions all waiting requests are taken: measured times may be out of date."""


class Pace:
    """Milliseconds that each cut took by the size of its batch.

    A larger batch does not always have a higher throughput: with a few rows a processor's BLAS can
    be slower than one row after the other.
    """

    def __init__(self) -> None:
        self._ms: dict[tuple[int, int], float] = {}
        self._warm: set[tuple[int, int]] = set()
        self._asked: Counter[int] = Counter()

    def observe(self, cut: int, size: int, ms: float) -> None:
        """Learn that a batch of `size` requests took `ms`. The first of a size only warms up."""
        key = cut, size
        if key in self._warm:
            mean = self._ms.get(key, ms)
            self._ms[key] = mean + _SHARE * (ms - mean)
        self._warm.add(key)

    def best(self, cut: int, waiting: int) -> int:
        """How many of `waiting` requests to compute at once for the highest throughput.

        All of them if their number was not measured yet.
        """
        self._asked[cut] += 1
        if (cut, waiting) not in self._ms or self._asked[cut] % _EXPLORE_EVERY == 0:
            return waiting
        known = [size for size in range(1, waiting + 1) if (cut, size) in self._ms]
        return max(known, key=lambda size: size / self._ms[cut, size])
