"""Chooses the sureness from which a small model's answers count, on pictures without labels.

A picture is judged by the large model: the small model's answer agrees with its answer, or not.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from splittracr.planning.binomial import distribution, min_trials, upper_bound

CONFIDENCE = 0.95
LEARNING_SHARE = 0.2
"""The share of the pictures that chooses where the tests begin. The others prove the promise."""

_ROOM = 10
"""By how much the first test should be clearer than it has to be: the learning part is small."""
_MAX_PICTURES = 1_000_000
_THRESHOLDS = 50
"""Max thresholds that are tried."""

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Judged:
    """One picture: how sure the small model is (millionths), whether it agrees with the large one,
    and the bytes that are sent if it is not sure enough. A sureness of 0 is never enough.

    With several exits these are of the first one, and `later` has sureness and agreement of the
    others in their order. The first exit that is sure enough answers. All pictures have as many.
    """

    sureness: int
    agrees: bool
    bytes: int = 0
    later: tuple[tuple[int, bool], ...] = ()

    @property
    def answers(self) -> tuple[tuple[int, bool], ...]:
        """Sureness and agreement of each exit, in order."""
        return ((self.sureness, self.agrees), *self.later)

    @property
    def surest(self) -> int:
        """The largest sureness: up to it the picture is answered."""
        return max(sureness for sureness, _ in self.answers)

    def exit(self, threshold: int) -> int | None:
        """The number of the exit that answers at this threshold; None if none does."""
        sure = (i for i, (sureness, _) in enumerate(self.answers) if sureness >= threshold)
        return next(sure, None)


@dataclass(frozen=True)
class Threshold:
    """A sureness from which answers count, and what `pictures` show of it.

    `sure` of them are answered by the small model, `disagreeing` of these in another way than the
    large one would. `bound` is the upper bound of that share among all pictures of the kind.
    """

    sureness: int
    pictures: int
    sure: int
    disagreeing: int
    bound: float


def proven(
    judged: Sequence[Judged], share: float, confidence: float = CONFIDENCE, seed: int = 0
) -> Threshold | None:
    """The lowest threshold with this promise, None if the pictures prove it for none.

    The promise: with probability `confidence` over the pictures, at most `share` of the answers
    from the threshold on disagree with the large model. It holds for any model and statistic, if
    the pictures are independent and of the kind that comes later.

    Split fixed-sequence testing (Angelopoulos, Bates, Candès, Jordan and Lei, Learn then Test:
    Calibrating Predictive Algorithms to Achieve Risk Control, 2021). The learning part fixes a
    sequence of thresholds, from the strictest on that will probably succeed. The other part tests
    them in that order, down to the first that fails. Each test is exact: the upper
    bound of Clopper and Pearson is not above `share`.
    """
    learning, testing = _split(judged, seed)
    sequence = _sequence(learning, len(testing), share, 1 - confidence)
    found = None
    for sureness, sure, disagreeing in zip(sequence, *_counts(testing, sequence), strict=True):
        if distribution(int(disagreeing), int(sure), share) > 1 - confidence:
            break
        bound = upper_bound(int(disagreeing), int(sure), confidence)
        found = Threshold(int(sureness), len(testing), int(sure), int(disagreeing), bound)
    return found


def within(judged: Sequence[Judged], mean_bytes: float) -> Threshold | None:
    """The highest threshold with which these pictures take at most `mean_bytes` on average; None
    if too many of them are never sure.

    It promises nothing: its bound ignores that the same pictures have chosen it.
    """
    surest = np.array([one.surest for one in judged], dtype=np.int64)
    sizes = np.array([one.bytes for one in judged], dtype=np.int64)
    candidates = np.unique(np.append(surest[surest > 0], surest.max(initial=0) + 1))[::-1]
    for candidate in candidates:
        if int(sizes[surest < candidate].sum()) <= mean_bytes * len(judged):
            return at(judged, int(candidate))
    return None


def at(judged: Sequence[Judged], sureness: int, confidence: float = CONFIDENCE) -> Threshold:
    """What all pictures show of a threshold that was chosen without them."""
    sure, disagreeing = (int(count[0]) for count in _counts(judged, np.array([sureness])))
    bound = upper_bound(disagreeing, sure, confidence)
    return Threshold(sureness, len(judged), sure, disagreeing, bound)


def min_pictures(share: float, confidence: float = CONFIDENCE) -> int:
    """The min number of pictures that can prove a promise: all are sure, and all agree."""
    testing = min_trials(share, confidence)
    count = math.ceil(testing / (1 - LEARNING_SHARE))
    return count if count - learning_pictures(count) >= testing else count + 1


def pictures_needed(
    judged: Sequence[Judged], share: float, confidence: float = CONFIDENCE
) -> int | None:
    """The min number of pictures that prove the promise for some threshold, if their shares of
    sure and of disagreeing ones are those of `judged`. Other pictures may need three times as many.

    None if no threshold has fewer disagreements, or only more than a million pictures prove one.
    """
    sequence = _thresholds(judged)
    needed = []
    for sure, disagreeing in zip(*_counts(judged, sequence), strict=True):
        trials = _trials_needed(int(disagreeing) / int(sure), share, confidence)
        if trials is not None:
            needed.append(math.ceil(trials * len(judged) / int(sure) / (1 - LEARNING_SHARE)))
    return min(needed, default=None)


def learning_pictures(count: int) -> int:
    """How many of `count` pictures belong to the learning part."""
    return math.ceil(LEARNING_SHARE * count)


def _split(judged: Sequence[Judged], seed: int) -> tuple[list[Judged], list[Judged]]:
    order = np.random.default_rng(seed).permutation(len(judged))
    learning = learning_pictures(len(judged))
    return [judged[i] for i in order[:learning]], [judged[i] for i in order[learning:]]


def _sequence(learning: Sequence[Judged], testing: int, share: float, level: float) -> Counts:
    """The thresholds to test, the strictest first: those of the learning part, from the first that
    `testing` pictures like these prove clearly, or else from the one that they prove best.
    """
    sequence = _thresholds(learning)
    expected = []
    for sure, disagreeing in zip(*_counts(learning, sequence), strict=True):
        trials = int(testing * sure / len(learning))
        successes = int(trials * (disagreeing + 0.5) / (sure + 1))
        expected.append(distribution(successes, trials, share))
    if not expected:
        return sequence
    easiest = int(np.argmin(expected))
    return sequence[next((i for i, p in enumerate(expected) if p <= level / _ROOM), easiest) :]


def _thresholds(judged: Sequence[Judged]) -> Counts:
    """The sureness of pictures that are evenly spread in the order of it, the strictest first.

    There is none of 0.
    """
    surest = np.sort(np.array([one.surest for one in judged], dtype=np.int64))
    surest = surest[surest > 0]
    places = np.linspace(0, len(surest) - 1, min(len(surest), _THRESHOLDS)).astype(np.int64)
    return np.unique(surest[places])[::-1]


def _counts(judged: Sequence[Judged], sequence: Counts) -> tuple[Counts, Counts]:
    """By threshold: the pictures that are answered, and those of them whose answer disagrees."""
    sure = disagreeing = np.zeros(len(sequence), dtype=np.int64)
    before = np.zeros(len(judged), dtype=np.int64)
    for surest, wrong in _exits(judged):
        # An exit answers at thresholds up to its sureness, from above that of the exits before it.
        earlier = np.minimum(surest, before)
        sure = sure + _at_least(surest, sequence) - _at_least(earlier, sequence)
        disagreeing = disagreeing + _at_least(surest[wrong], sequence)
        disagreeing = disagreeing - _at_least(earlier[wrong], sequence)
        before = np.maximum(before, surest)
    return sure, disagreeing


def _exits(judged: Sequence[Judged]) -> Iterator[tuple[Counts, NDArray[np.bool_]]]:
    """For each exit the sureness of all pictures, and whether its answer disagrees."""
    for answers in zip(*(one.answers for one in judged), strict=True):
        yield (
            np.array([sureness for sureness, _ in answers], dtype=np.int64),
            np.array([not agrees for _, agrees in answers], dtype=bool),
        )


def _at_least(values: Counts, sequence: Counts) -> Counts:
    return len(values) - np.searchsorted(np.sort(values), sequence, side="left")


def _trials_needed(observed: float, share: float, confidence: float) -> int | None:
    """How many trials prove a share below `share` if the `observed` one is that of all trials."""
    if observed >= share:
        return None

    def enough(trials: int) -> bool:
        return distribution(math.ceil(observed * trials), trials, share) <= 1 - confidence

    low, high = 0, min_trials(share, confidence)
    while not enough(high):
        low, high = high, 2 * high
        if high > _MAX_PICTURES:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
