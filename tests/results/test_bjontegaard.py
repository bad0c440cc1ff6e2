"""The Bjontegaard delta rate: cases by hand, and scipy's interpolation and integration."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import quad  # type: ignore[import-untyped]
from scipy.interpolate import PchipInterpolator  # type: ignore[import-untyped]

from splittracr.results.bjontegaard import Curve, Point, front


def curve(*points: tuple[float, float]) -> Curve:
    made = Curve.through([Point(*one) for one in points])
    assert made is not None
    return made


def by_scipy(points: Sequence[tuple[float, float]], anchor: Sequence[tuple[float, float]]) -> float:
    """The same figure by other code: PCHIP of scipy in log10, integrated numerically."""
    low = max(points[0][1], anchor[0][1])
    high = min(points[-1][1], anchor[-1][1])

    def mean(which: Sequence[tuple[float, float]]) -> float:
        sizes, accuracies = zip(*which, strict=True)
        interpolated = PchipInterpolator(accuracies, np.log10(sizes))
        inner = [a for a in accuracies if low < a < high]
        ends = [low, *inner, high]
        parts = [quad(interpolated, a, b)[0] for a, b in pairwise(ends)]
        return math.fsum(parts) / (high - low)

    return float(10 ** (mean(points) - mean(anchor)) - 1)


JPEG = ((1000, 0.5), (2000, 0.7), (4000, 0.8), (8000, 0.82))


@pytest.mark.parametrize("factor", [0.25, 0.5, 1, 3])
def test_the_same_share_of_bytes_at_every_accuracy_is_the_figure(factor: float) -> None:
    other = curve(*((factor * size, accuracy) for size, accuracy in JPEG))
    assert other.delta_rate(curve(*JPEG)) == pytest.approx(factor - 1, abs=1e-12)


def test_two_lines_by_hand() -> None:
    # ln bytes rise by 2 from 0.4 to 0.8, and by 1 from 0.6 to 1.0. Both have 0.6 to 0.8, where
    # they are 1 to 2 and 0 to 0.5: the means are 1.5 and 0.25.
    first = curve((1, 0.4), (math.e**2, 0.8))
    second = curve((1, 0.6), (math.e, 1.0))
    assert second.delta_rate(first) == pytest.approx(math.exp(0.25 - 1.5) - 1)
    assert first.delta_rate(second) == pytest.approx(math.exp(1.5 - 0.25) - 1)


def test_three_points_by_hand() -> None:
    # ln bytes are 0, 1, 3 at 0, 1, 2: secants 1 and 2. Slopes: inside the harmonic mean 4/3, at the
    # ends (3 * 1 - 2) / 2 = 1/2 and (3 * 2 - 1) / 2 = 5/2. A piece's integral is the mean of its
    # ends plus a twelfth of the difference of its slopes: 1/2 - 5/72 and 2 - 7/72.
    bent = curve((1, 0), (math.e, 1), (math.e**3, 2))
    flat = curve((1, 0), (1 + 1e-12, 2))
    assert bent.slopes == pytest.approx([1 / 2, 4 / 3, 5 / 2])
    mean = (1 / 2 - 5 / 72 + 2 - 7 / 72) / 2
    assert bent.delta_rate(flat) == pytest.approx(math.expm1(mean))


def test_curves_without_a_common_accuracy_have_no_figure() -> None:
    high = curve((10, 0.9), (20, 0.95))
    assert high.delta_rate(curve(*JPEG)) is None
    assert curve(*JPEG).delta_rate(high) is None
    touching = curve((10, 0.82), (20, 0.95))
    assert touching.delta_rate(curve(*JPEG)) is None


def test_a_point_that_is_beaten_is_left_out() -> None:
    points = [Point(*one) for one in JPEG]
    worse = [Point(3000, 0.7), Point(2000, 0.69), Point(9000, 0.5), Point(4000, 0.8)]
    assert front([*points, *worse]) == [0, 1, 2, 3]
    assert front([*worse, *points]) == [4, 5, 3, 7]
    with_worse, without = Curve.through([*worse, *points]), Curve.through(points)
    assert with_worse is not None
    assert without is not None
    assert with_worse.delta_rate(without) == 0
    assert front([]) == []
    assert Curve.through([]) is None
    assert Curve.through([Point(10, 0.5), Point(20, 0.5)]) is None


def test_a_point_is_compared_at_its_accuracy() -> None:
    anchor = curve((1, 0.4), (math.e**2, 0.8))
    assert anchor.excess(Point(2 * math.e, 0.6)) == pytest.approx(1)
    assert anchor.excess(Point(0.5, 0.4)) == pytest.approx(-0.5)
    assert anchor.excess(Point(math.e**2, 0.8)) == pytest.approx(0)
    assert anchor.excess(Point(1, 0.39)) is None
    assert anchor.excess(Point(1, 0.81)) is None


def rising() -> st.SearchStrategy[list[tuple[float, float]]]:
    """Points with more accuracy for more bytes."""
    steps = st.tuples(st.floats(1.01, 5), st.floats(0.001, 0.2))

    def summed(
        start: tuple[float, float], each: list[tuple[float, float]]
    ) -> list[tuple[float, float]]:
        made = [start]
        for factor, more in each:
            made.append((made[-1][0] * factor, made[-1][1] + more))
        return made

    start = st.tuples(st.floats(100, 1e5), st.floats(0, 0.5))
    return st.builds(summed, start, st.lists(steps, min_size=1, max_size=8))


@given(rising(), rising())
def test_it_is_what_scipy_makes_of_the_same_points(
    points: list[tuple[float, float]], anchor: list[tuple[float, float]]
) -> None:
    low, high = max(points[0][1], anchor[0][1]), min(points[-1][1], anchor[-1][1])
    assume(high - low > 1e-3)
    found = curve(*points).delta_rate(curve(*anchor))
    assert found == pytest.approx(by_scipy(points, anchor), rel=1e-6, abs=1e-9)
