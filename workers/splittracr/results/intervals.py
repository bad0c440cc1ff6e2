"""Confidence intervals: of means and medians by bootstrap, of a share by Wilson's formula."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from splittracr.results.summary import MIN_FRAMES, Estimate, Mean

METHOD = (
    "95 % percentile bootstrap of the mean, 1,000 resamples, fixed seed. If a cut was measured "
    "several times, whole repeats are drawn first and frames within them second, since frames "
    "of one repeat share its moment; with fewer than five repeats such an interval is rather "
    "narrow, and below five frames there is none. The samples of a batch count as one frame."
)

_RESAMPLES, _MIN_RESAMPLES = 1000, 200
_VALUES = 20_000_000
"""Max values drawn in all; with more values there are fewer resamples."""

_BLOCK = 4_000_000
"""Most values drawn at once, to bound memory."""


def mean_interval(groups: Sequence[NDArray[np.float64]], seed: int = 0) -> Mean:
    """The mean over all values and, with enough values, its 95 % confidence interval.

    Each group holds the values of one repeat and is not empty. Two-level (hierarchical) bootstrap:
    Davison and Hinkley, Bootstrap Methods and their Application, section 3.8.
    """
    mean = float(np.concatenate(groups).mean())
    if sum(map(len, groups)) < MIN_FRAMES:
        return Mean(mean=mean, low=None, high=None)
    random = np.random.default_rng(seed)
    # chosen[r, j]: the group at place j of resample r
    chosen = random.integers(len(groups), size=(_RESAMPLES, len(groups)))
    sums, counts = np.zeros(chosen.shape), np.zeros(chosen.shape)
    for number, values in enumerate(groups):
        here = chosen == number
        sums[here] = _resampled_sums(values, int(here.sum()), random)
        counts[here] = len(values)
    means = sums.sum(axis=1) / counts.sum(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    # Rounding can put equal values a bit beside their own mean.
    return Mean(mean=mean, low=min(float(low), mean), high=max(float(high), mean))


def median_difference_interval(
    groups: Sequence[NDArray[np.float64]], seed: int = 0
) -> tuple[float, float]:
    """95 % confidence interval of the second column's median minus the first's.

    Each group holds the pairs of one repeat, shape (n, 2), and is not empty. Whole pairs are drawn,
    so that the common part of a pair (picture, moment) cancels; repeats are drawn first, as in
    `mean_interval`.
    """
    random = np.random.default_rng(seed)
    found = np.empty(_RESAMPLES)
    for resample in range(_RESAMPLES):
        chosen = [groups[i] for i in random.integers(len(groups), size=len(groups))]
        drawn = [pairs[random.integers(len(pairs), size=len(pairs))] for pairs in chosen]
        first, second = np.median(np.concatenate(drawn), axis=0)
        found[resample] = second - first
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def _resampled_sums(
    values: NDArray[np.float64], count: int, random: np.random.Generator
) -> NDArray[np.float64]:
    """Sums of `count` resamples of `values`, each as long as `values`."""
    rows = max(1, _BLOCK // len(values))
    blocks = [
        values[random.integers(len(values), size=(min(rows, count - done), len(values)))].sum(
            axis=1
        )
        for done in range(0, count, rows)
    ]
    return np.concatenate(blocks) if blocks else np.zeros(0)


def resamples(items: int, size: int = 1, seed: int = 0) -> NDArray[np.int64]:
    """How often each item is drawn: `[resample, item]`, for a bootstrap over whole items.

    `size` is the number of values of all items. With many there are fewer resamples.
    """
    count = min(_RESAMPLES, max(_MIN_RESAMPLES, _VALUES // max(1, size)))
    even = np.full(items, 1 / items)
    return np.random.default_rng(seed).multinomial(items, even, size=count)


def moved(value: float, resampled: NDArray[np.float64]) -> Estimate:
    """A figure from 0 to 1 with the 95 % interval from its resamples, or without one.

    The quantiles are moved by the bias of the resamples: drawing items twice makes some figures
    larger on average.
    """
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return Estimate(value=value, low=None, high=None)
    low, high = np.quantile(known, (0.025, 0.975)) - (known.mean() - value)
    return Estimate(
        value=value, low=max(0.0, min(float(low), value)), high=min(1.0, max(float(high), value))
    )


def share_interval(share: float, n: int) -> tuple[float, float]:
    """95 % confidence interval of a share of `n` trials (Wilson 1927), within 0 to 1."""
    z = 1.959964
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))
