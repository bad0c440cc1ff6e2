"""Audits of a cascade: which sure samples also go to the large model, and how many disagree.

Sure samples that are audited are answered on the edge like the others. The large model's answer is
only compared with that one.
"""

import random
from collections import deque

from splittracr.planning.binomial import distribution, upper_bound

WINDOW = 200
"""The newest audits that count."""

CONFIDENCE = 0.999
"""Of the rolling bound. It is looked at after each audit, so a weaker one would often be wrong."""


def is_audited(trial: int, sample: int, percent: int, seed: int) -> bool:
    """Whether a sure sample is audited; the same at every start of a study.

    It does not depend on the sample's content, so that audits are a fair share of the answers.
    """
    return random.Random(f"{seed} {trial} {sample}").random() * 100 < percent


class Audit:
    """The audits of one edge, in the order in which they ended.

    `promised` is the largest share of disagreements, None without a promise. If the cascade
    `recalibrates`, a new threshold ends a drift, else later audits do.
    """

    def __init__(self, promised: float | None, *, recalibrates: bool = False) -> None:
        self.promised, self._recalibrates = promised, recalibrates
        self._agreed: deque[bool] = deque(maxlen=WINDOW)

    def add(self, *, agrees: bool) -> None:
        """Count an audit."""
        self._agreed.append(agrees)

    def clear(self) -> None:
        """Forget all audits, as those of another threshold."""
        self._agreed.clear()

    @property
    def audited(self) -> int:
        """The audits in the window."""
        return len(self._agreed)

    @property
    def disagreeing(self) -> int:
        """Those of them in which the large model gave another answer."""
        return self._agreed.count(False)

    @property
    def bound(self) -> float:
        """The lower bound of the share of disagreements (Clopper and Pearson); 0 without any."""
        return 1.0 - upper_bound(self.audited - self.disagreeing, self.audited, CONFIDENCE)

    @property
    def drifted(self) -> bool:
        """Whether the audits in the window refute the promise: their lower bound is above it."""
        if not self.disagreeing or self.promised is None:
            return False
        return distribution(self.disagreeing - 1, self.audited, self.promised) >= CONFIDENCE

    @property
    def judging(self) -> bool:
        """Whether pictures are judged for a new threshold. Until then the large model answers."""
        return self._recalibrates and self.drifted
