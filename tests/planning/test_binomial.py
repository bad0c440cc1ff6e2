import math

import pytest

from splittracr.planning.binomial import distribution, min_trials, upper_bound


@pytest.mark.parametrize(
    ("successes", "trials", "share", "expected"),
    [
        (0, 3, 0.5, 1 / 8),
        (1, 3, 0.5, 4 / 8),
        (2, 3, 0.5, 7 / 8),
        (3, 3, 0.5, 1),
        (0, 0, 0.1, 1),
        (1, 4, 0.1, 0.9**4 + 4 * 0.1 * 0.9**3),
    ],
)
def test_the_distribution_by_hand(
    successes: int, trials: int, share: float, expected: float
) -> None:
    assert distribution(successes, trials, share) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("trials", [1, 59, 1000])
def test_the_bound_without_a_success_is_the_closed_form(trials: int) -> None:
    assert upper_bound(0, trials, 0.95) == pytest.approx(1 - 0.05 ** (1 / trials), rel=1e-9)


def test_nothing_is_known_without_trials_or_failures() -> None:
    assert upper_bound(0, 0, 0.95) == 1
    assert upper_bound(7, 7, 0.95) == 1


@pytest.mark.parametrize(
    ("share", "trials"), [(0.05, 59), (0.01, 299), (0.1, 29), (0.02, 149), (0.95, 1)]
)
def test_the_min_trials_are_those_of_the_rule_of_three(share: float, trials: int) -> None:
    assert min_trials(share, 0.95) == trials
    assert upper_bound(0, trials, 0.95) <= share + 1e-12
    assert trials == 1 or upper_bound(0, trials - 1, 0.95) > share


def test_both_are_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for trials in (1, 10, 300, 5000):
        for successes in sorted({0, trials // 20, trials // 3, trials - 1}):
            exact = stats.beta.ppf(0.95, successes + 1, trials - successes)
            assert upper_bound(successes, trials, 0.95) == pytest.approx(exact, rel=1e-7)
            for share in (0.001, 0.05, 0.5):
                found = distribution(successes, trials, share)
                exact = stats.binom.cdf(successes, trials, share)
                assert math.isclose(found, exact, rel_tol=1e-7, abs_tol=1e-300)
