"""The binomial distribution: its distribution function and exact bounds of a share."""

import math
from functools import lru_cache

_HALVINGS = 60


@lru_cache(maxsize=65536)
def distribution(successes: int, trials: int, share: float) -> float:
    """The probability of at most `successes` in `trials`, each with probability `share`.

    `share` is above 0 and below 1.
    """
    if successes >= trials:
        return 1.0
    odds = math.log(share) - math.log1p(-share)
    log_term = trials * math.log1p(-share)
    terms = [math.exp(log_term)]
    for k in range(successes):
        log_term += math.log((trials - k) / (k + 1)) + odds
        terms.append(math.exp(log_term))
    return min(1.0, math.fsum(terms))


def upper_bound(successes: int, trials: int, confidence: float) -> float:
    """The one-sided upper confidence bound of the share behind `successes` in `trials`.

    Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the
    binomial, Biometrika 26, 1934. It is 1 without trials.
    """
    if successes >= trials:
        return 1.0
    low, high = successes / trials, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if distribution(successes, trials, middle) > 1 - confidence:
            low = middle
        else:
            high = middle
    return high


def min_trials(share: float, confidence: float) -> int:
    """The min number of trials that prove a share below `share` if none of them succeeds."""
    return math.ceil(round(math.log(1 - confidence) / math.log1p(-share), 9))
