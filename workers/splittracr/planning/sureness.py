"""How sure a small model is of its result for one sample: one integer, larger is surer.

Millionths from 0 to 1,000,000, so that a manifest can hold a threshold and both ends compare the
same integers.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from splittracr.experiment.contracts import Statistic

SURE = 1_000_000
"""The largest sureness."""


def sureness(statistic: Statistic, scores: Sequence[float]) -> int:
    """The sureness of a result with these scores, each from 0 to 1.

    A result without scores, such as a picture in which nothing was detected, has a sureness of 0:
    no score says whether something was missed. So has one with a score that is not finite.
    """
    if not scores or not all(map(math.isfinite, scores)):
        return 0
    return max(0, min(SURE, math.floor(SURE * _STATISTICS[statistic](scores))))


def _margin(probabilities: Sequence[float]) -> float:
    """The probability of the first class less that of the second."""
    first, second = sorted([*probabilities, 0.0], reverse=True)[:2]
    return first - second


def _certainty(probabilities: Sequence[float]) -> float:
    """1 less the entropy as a share of the largest one.

    Results contain the best classes only: the others count as one more class.
    """
    rest = max(0.0, 1.0 - sum(probabilities))
    entropy = -sum(p * math.log(p) for p in (*probabilities, rest) if p > 0)
    return 1.0 - entropy / math.log(len(probabilities) + 1)


def _mean(scores: Sequence[float]) -> float:
    return math.fsum(scores) / len(scores)


def _lower_quartile(scores: Sequence[float]) -> float:
    """Interpolated between scores, as numpy does by default."""
    return float(np.quantile(scores, 0.25))


_STATISTICS: Mapping[Statistic, Callable[[Sequence[float]], float]] = {
    Statistic.MARGIN: _margin,
    Statistic.PROBABILITY: max,
    Statistic.ENTROPY: _certainty,
    Statistic.MEAN_SCORE: _mean,
    Statistic.MIN_SCORE: min,
    Statistic.LOWER_QUARTILE: _lower_quartile,
}
