import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.contracts import DETECTED, RANKED, Statistic
from splittracr.planning.sureness import SURE, sureness

HALF = [0.5, 0.25, 0.125]
"""The rest, 0.125, belongs to classes that the result does not contain."""

ENTROPY = 0.5 * math.log(2) + 0.25 * math.log(4) + 2 * 0.125 * math.log(8)

scores = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@pytest.mark.parametrize(
    ("statistic", "given_scores", "expected"),
    [
        (Statistic.MARGIN, HALF, 0.25),
        (Statistic.MARGIN, [0.75], 0.75),
        (Statistic.PROBABILITY, HALF, 0.5),
        (Statistic.ENTROPY, HALF, 1 - ENTROPY / math.log(4)),
        (Statistic.ENTROPY, [0.25, 0.25, 0.25], 0.0),
        (Statistic.ENTROPY, [1.0, 0.0], 1.0),
        (Statistic.MEAN_SCORE, [0.75, 0.5, 0.25], 0.5),
        (Statistic.MIN_SCORE, [0.75, 0.5, 0.25], 0.25),
        (Statistic.LOWER_QUARTILE, [1.0, 0.75, 0.5, 0.25, 0.0], 0.25),
        (Statistic.LOWER_QUARTILE, [0.5, 0.25], 0.3125),
    ],
)
def test_a_statistic_is_its_value_by_hand(
    statistic: Statistic, given_scores: list[float], expected: float
) -> None:
    assert sureness(statistic, given_scores) == math.floor(SURE * expected)


def test_every_statistic_is_for_one_kind_of_result() -> None:
    assert sorted(RANKED + DETECTED) == sorted(Statistic)


@pytest.mark.parametrize("statistic", Statistic)
@pytest.mark.parametrize("unknown", [[], [math.nan], [0.9, math.inf]])
def test_a_result_without_finite_scores_is_not_sure(
    statistic: Statistic, unknown: list[float]
) -> None:
    assert sureness(statistic, unknown) == 0


@given(scores)
def test_the_order_of_scores_does_not_count(values: list[float]) -> None:
    for statistic in Statistic:
        there, back = (sureness(statistic, one) for one in (values, values[::-1]))
        assert abs(there - back) <= 1  # sums round in another way
        assert 0 <= there <= SURE


@given(scores)
def test_the_lower_quartile_is_that_of_numpy(values: list[float]) -> None:
    found = sureness(Statistic.LOWER_QUARTILE, values)
    assert found == math.floor(SURE * float(np.percentile(values, 25)))
