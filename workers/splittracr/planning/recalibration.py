"""Chooses a new threshold for a cascade while a study runs, after audits have refuted the promise.

The cascade answers until audits refute its promise. Then the large model answers all samples, and
pictures are judged after their answer, until they prove a threshold as those of `splittracr
calibrate` do. The cascade answers again from this threshold on, with new audits. All that decides
is in the records, so that a study that continues repeats it.
"""

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from splittracr.experiment.spec import CascadeSpec
from splittracr.planning.audit import Audit
from splittracr.planning.calibration import CONFIDENCE, Judged, min_pictures, proven

RARELY = 16
"""After a first attempt without success one picture in so many is judged."""

_HALVINGS = 30  # 1 less a smaller doubt could not be told from 1


class Seen(Protocol):
    """What a frame, or its record, shows of a cascade.

    `threshold` is the one in force as the small model or the exits ran. `judged` has sureness and
    agreement of the small model, or of each exit. It is None unless the frame was chosen to be
    judged, and empty if one of the models then had no result.
    """

    @property
    def threshold(self) -> int | None: ...

    @property
    def audit(self) -> str | None: ...

    @property
    def judged(self) -> Sequence[tuple[int, bool]] | None: ...


@dataclass(frozen=True)
class Change:
    """What a frame has changed: a drift began, or `pictures` were judged after one.

    `threshold` is the one that they prove, None without one. `before` is the one until then.
    """

    before: int
    pictures: int = 0
    threshold: int | None = None

    def __str__(self) -> str:
        if not self.pictures:
            return f"audits refute the promise of threshold {self.before / 1e6:g}"
        if self.threshold is None:
            return f"{self.pictures:,} judged pictures prove no threshold"
        return (
            f"recalibrated on {self.pictures:,} pictures: threshold {self.before / 1e6:g} -> "
            f"{self.threshold / 1e6:g}"
        )


def confidence(attempt: int) -> float:
    """The confidence of an attempt to recalibrate, from 1 on.

    The doubt halves from one to the next. So all attempts after a drift together break their
    promise as often as one calibration does.
    """
    return 1 - (1 - CONFIDENCE) * 0.5 ** min(attempt, _HALVINGS)


class Calibrated:
    """The threshold of a cascade on one edge and its audits, from frames in the order they end.

    `promised` is the largest share of disagreements, None without a promise. `pictures` is how many
    are judged for a new threshold; None if it stays as it is.
    """

    def __init__(self, threshold: int, promised: float | None, pictures: int | None = None) -> None:
        self.threshold, self._first_threshold = threshold, threshold
        self.audit = Audit(promised, recalibrates=pictures is not None)
        self.proven = self.unproven = 0
        self._pictures = pictures or 0
        self._attempt, self._begun = 1, 0
        self._judged: list[Judged] = []

    @property
    def judged(self) -> int:
        """The pictures that the running attempt has judged; 0 while the cascade answers."""
        return len(self._judged)

    @property
    def pictures(self) -> int | None:
        """The pictures that it needs; None while the cascade answers.

        They grow with the confidence, as the min number of pictures does.
        """
        promised = self.audit.promised
        if promised is None or not self.audit.judging:
            return None
        first, now = (min_pictures(promised, confidence(one)) for one in (1, self._attempt))
        return math.ceil(self._pictures * now / first)

    def judges(self, trial: int, sample: int, seed: int) -> bool:
        """Whether the frame that starts now is to be judged; `observe` has to follow.

        No more frames begin than are needed, so that no slow one is left out of the pictures.
        """
        wanted = self.pictures
        if wanted is None or self.judged + self._begun >= wanted:
            return False
        if self._attempt > 1 and not _drawn(trial, sample, seed):
            return False
        self._begun += 1
        return True

    def observe(self, seen: Seen) -> Change | None:
        """Learn from a frame that has ended; return what it has changed."""
        if seen.judged is not None:
            self._begun = max(0, self._begun - 1)
        if self.audit.judging:
            return self._judge(seen.judged) if seen.judged else None
        return self._audited(seen)

    def resume(self, earlier: Iterable[Seen]) -> None:
        """Learn from records in the order in which they were written."""
        for one in earlier:
            self.observe(one)

    def _audited(self, seen: Seen) -> Change | None:
        # An audit of an earlier threshold can end late. Old records have no threshold.
        ours = (seen.threshold or self._first_threshold) == self.threshold
        if seen.audit in ("agrees", "disagrees") and ours:
            self.audit.add(agrees=seen.audit == "agrees")
        return Change(self.threshold) if self.audit.judging else None

    def _judge(self, answers: Sequence[tuple[int, bool]]) -> Change | None:
        (sureness, agrees), *later = answers
        self._judged.append(Judged(sureness, agrees, later=tuple(later)))
        before, promised, judged = self.threshold, self.audit.promised, self._judged
        if promised is None or self.judged < (self.pictures or 0):
            return None
        found, self._judged = proven(judged, promised, confidence(self._attempt)), []
        if found is None:
            self.unproven += 1
            self._attempt += 1
            return Change(before, len(judged))
        self.proven += 1
        self._attempt = 1
        self.threshold = found.sureness
        self.audit.clear()
        return Change(before, len(judged), found.sureness)


def calibrated(wanted: CascadeSpec) -> Calibrated:
    """The calibration that a manifest has, before the first frame."""
    promised = wanted.max_disagreement_per_million
    share = None if promised is None else promised / 1e6
    return Calibrated(wanted.threshold_per_million, share, wanted.recalibrate)


def _drawn(trial: int, sample: int, seed: int) -> bool:
    """Draw one sample in RARELY. A study that starts again draws the same ones."""
    return random.Random(f"judged {seed} {trial} {sample}").random() * RARELY < 1
