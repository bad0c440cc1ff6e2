"""The Bjontegaard delta rate: how many more bytes one curve needs than another one, on average.

    BD-rate = exp(1 / (high - low) * integral from low to high of (ln r2(a) - ln r1(a)) da) - 1

`r(a)` are the bytes at accuracy `a`, and `low` to `high` is the range of accuracies that both
curves have (G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", ITU-T
VCEG-M33, 2001). As JVET does (JVET-T2001), ln r is interpolated by piecewise cubic Hermite
polynomials that keep it monotone, PCHIP (F. N. Fritsch and J. Butland, "A method for constructing
local monotone piecewise cubic interpolants", SIAM J. Sci. Stat. Comput. 5, 1984), not by one cubic
fitted to four points. The integral is exact.

Accuracy is noisy and reaches a ceiling. So a curve is the Pareto front of its points: a point that
takes more bytes than another one without being more accurate is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Point:
    """The bytes of a sample, above 0, and the accuracy that they give."""

    bytes: float
    accuracy: float


def front(points: Sequence[Point]) -> list[int]:
    """The places of the points that no other one beats, from the fewest bytes on.

    A point beats another one that has at least its bytes and at most its accuracy. Of equal points
    the first one stays.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i].bytes, -points[i].accuracy, i))
    kept: list[int] = []
    for i in order:
        if not kept or points[i].accuracy > points[kept[-1]].accuracy:
            kept.append(i)
    return kept


@dataclass(frozen=True)
class Curve:
    """The logarithm of bytes over accuracy, between the least and the highest accuracy."""

    accuracy: Array
    log_bytes: Array
    slopes: Array

    @classmethod
    def through(cls, points: Sequence[Point]) -> Self | None:
        """The curve through the front of `points`; None if that is a single point."""
        kept = [points[i] for i in front(points)]
        if len(kept) < 2:
            return None
        x = np.array([point.accuracy for point in kept])
        y = np.array([math.log(point.bytes) for point in kept])
        return cls(x, y, _slopes(np.diff(x), np.diff(y) / np.diff(x)))

    def delta_rate(self, anchor: "Curve") -> float | None:
        """The BD-rate of this curve against `anchor`: -0.1 is 10 % fewer bytes.

        None if they have no range of accuracy in common.
        """
        low = max(self.accuracy[0], anchor.accuracy[0])
        high = min(self.accuracy[-1], anchor.accuracy[-1])
        if high <= low:
            return None
        mean = (self._integral(low, high) - anchor._integral(low, high)) / (high - low)
        return math.expm1(mean)

    def excess(self, point: Point) -> float | None:
        """How many more bytes `point` takes than this curve does for the same accuracy, as a share.

        None if the curve does not have that accuracy.
        """
        if not self.accuracy[0] <= point.accuracy <= self.accuracy[-1]:
            return None
        here = self._at(np.array([point.accuracy]))[0]
        return math.expm1(math.log(point.bytes) - here)

    def _integral(self, low: float, high: float) -> float:
        """The integral, by Simpson's rule, which is exact for each cubic piece."""
        inner = self.accuracy[(self.accuracy > low) & (self.accuracy < high)]
        ends = np.concatenate(([low], inner, [high]))
        left, right = ends[:-1], ends[1:]
        values = self._at(left) + 4 * self._at((left + right) / 2) + self._at(right)
        return float(((right - left) / 6 * values).sum())

    def _at(self, accuracy: Array) -> Array:
        """The value of the Hermite polynomials."""
        x, y, slopes = self.accuracy, self.log_bytes, self.slopes
        i = np.clip(np.searchsorted(x, accuracy, side="right") - 1, 0, len(x) - 2)
        width = x[i + 1] - x[i]
        t = (accuracy - x[i]) / width
        ends = y[i] * (1 + 2 * t) * (1 - t) ** 2 + y[i + 1] * t**2 * (3 - 2 * t)
        rises = slopes[i] * t * (1 - t) ** 2 - slopes[i + 1] * t**2 * (1 - t)
        made: Array = ends + width * rises
        return made


def _slopes(widths: Array, secants: Array) -> Array:
    """The slope at each point: a weighted harmonic mean of the secants beside it.

    All secants are above 0, since a front rises. At the ends it is that of a parabola, at least 0.
    """
    if len(secants) == 1:
        return np.repeat(secants, 2)
    first, second = 2 * widths[1:] + widths[:-1], widths[1:] + 2 * widths[:-1]
    inner = (first + second) / (first / secants[:-1] + second / secants[1:])
    return np.concatenate(([_end(widths, secants)], inner, [_end(widths[::-1], secants[::-1])]))


def _end(widths: Array, secants: Array) -> float:
    (h0, h1), (d0, d1) = widths[:2], secants[:2]
    return max(0.0, float(((2 * h0 + h1) * d0 - h0 * d1) / (h0 + h1)))
