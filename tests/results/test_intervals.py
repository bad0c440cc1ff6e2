import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splittracr.results import intervals
from splittracr.results.intervals import (
    mean_interval,
    median_difference_interval,
    share_interval,
)
from splittracr.results.summary import Mean

GROUPS = st.lists(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=8).map(np.array), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(GROUPS)
def test_the_interval_holds_the_mean_and_stays_among_the_values(groups: list[np.ndarray]) -> None:
    found = mean_interval(groups)
    values = np.concatenate(groups)
    slack = 1e-9 * (1 + values.max())
    if len(values) < 5:
        assert found.interval is None
    else:
        low, high = bounds(found)
        assert values.min() - slack <= low <= found.mean <= high <= values.max() + slack
    assert found.mean == pytest.approx(values.mean())
    assert mean_interval(groups) == found


def bounds(found: Mean) -> tuple[float, float]:
    assert found.interval is not None
    return found.interval


def covered(repeats: int, drift: float) -> float:
    """How often the interval holds the true mean, 10, over 200 studies."""
    random = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        levels = 10 + drift * random.standard_normal(repeats)
        found = mean_interval([level + random.standard_normal(40) for level in levels])
        low, high = bounds(found)
        hits += low <= 10 <= high
    return hits / 200


def test_nineteen_of_twenty_intervals_hold_the_true_mean() -> None:
    assert 0.9 <= covered(repeats=1, drift=0) <= 0.98


def test_intervals_of_repeats_allow_for_what_samples_of_one_repeat_share() -> None:
    assert covered(repeats=8, drift=1) > 0.85


def test_the_interval_of_a_median_difference_is_seeded_and_keeps_pairs_together() -> None:
    first = np.random.default_rng(2).uniform(0, 1000, 50)
    pairs = [np.column_stack((first, first + 3))]
    assert median_difference_interval(pairs) == pytest.approx((3, 3))
    noisy = [pairs[0] + np.random.default_rng(3).normal(0, 50, (50, 2))]
    low, high = median_difference_interval(noisy)
    assert low < high
    assert median_difference_interval(noisy) == (low, high)


def test_intervals_of_equal_medians_hold_0_nineteen_times_of_twenty() -> None:
    random = np.random.default_rng(4)
    hits = 0
    for _ in range(60):
        low, high = median_difference_interval([random.normal(0, 1, (40, 2))])
        hits += low <= 0 <= high
    assert hits >= 52


def test_blocks_bound_memory_and_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [np.arange(100.0)]
    whole = mean_interval(values)
    monkeypatch.setattr(intervals, "_BLOCK", 1000)
    assert mean_interval(values) == whole


@given(st.integers(1, 500), st.floats(0, 1))
def test_a_share_lies_in_its_interval(n: int, share: float) -> None:
    low, high = share_interval(share, n)
    assert 0 <= low <= share <= high <= 1


def test_wilson_against_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20
    assert share_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
