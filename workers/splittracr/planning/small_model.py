"""The small model of a cascade in mode Adaptive: its figures, learnt while the study runs.

Each run of the small model is learnt from: on frames for which it goes first, and on a few others,
after their answer. Such a try costs the edge the time of the small model. It sends nothing, delays
no answer, and is an audit if the small model is sure.
"""

from collections.abc import Iterable

from splittracr.planning.audit import Audit
from splittracr.planning.cascade import Cascade
from splittracr.planning.decision import SmallRun
from splittracr.planning.estimate import Smoothed

EVERY = 64
"""Frames from one try to the next while the small model does not go first.

They are fewer until the small model has run on as many samples. There are more if its answer would
come later than that of the large model.
"""
EVERY_DRIFTED = 16
"""The same after a drift, which only the audits of tries can end."""

_SPENT = 100
"""While the small model seems too slow to pay, tries take one in so many parts of the time at most.

Without any, one slow run would shut it out for good.
"""

_MEMORY = 256  # samples, of which the share of sure ones is a mean


class SmallModel:
    """Learns how often a small model is sure, and its time; `audit` counts its disagreements.

    `ms` is its time in milliseconds as measured before the study, with the preparation of a sample.
    `memory_bytes` are those of its weights and live tensors.
    """

    def __init__(self, name: str, ms: float, audit: Audit, memory_bytes: int = 0) -> None:
        self.name, self.memory_bytes = name, memory_bytes
        self._audit = audit
        self._ms, self._around = Smoothed(ms), Smoothed(0.0)
        self._ms.observe(ms)  # counts as a run: the next one must not replace it
        # A prior of two samples, one of them sure.
        self._sure, self._seen = 1.0, 2.0
        self._known, self._untried = 0, 0

    @property
    def sure(self) -> float:
        """The share of samples that it is sure of, over about the last 256 of its runs."""
        return self._sure / self._seen

    @property
    def wrong(self) -> float:
        """The share of all samples for which its answer disagrees with that of the large model.

        The share of disagreements is that of the audits, with a prior of two audits of which one
        disagrees. It is at most the promise.
        """
        audit = self._audit
        disagrees = (audit.disagreeing + 1) / (audit.audited + 2)
        return self.sure * min(disagrees, 1.0 if audit.promised is None else audit.promised)

    def believed(self, edge_factor: float) -> Cascade | None:
        """The cascade as it is now, None after a drift. `edge_factor` is that of the beliefs.

        A sample that the small model answers is not prepared for the large one. This saving counts
        for the small model's time. That is as measured: its own profile may be right where that of
        the large model, which `edge_factor` corrects, is not.
        """
        if self._audit.drifted:
            return None
        return Cascade(self.name, self._own_ms(self.sure) / edge_factor, self.sure, self.wrong)

    def is_due(self, latency_ms: float) -> bool:
        """Count a frame without the small model; return whether to try it after the answer.

        A small model that takes longer than `latency_ms`, the latency of the frame, does not pay.
        None is tried while pictures are judged: these show more.
        """
        if self._audit.judging:
            return False
        self._untried += 1
        if self._untried < min(EVERY_DRIFTED if self._audit.drifted else EVERY, self._known):
            return False
        own_ms = self._own_ms(1.0)
        if own_ms >= latency_ms and self._untried * latency_ms < _SPENT * own_ms:
            return False
        self._untried = 0
        return True

    def _own_ms(self, sure: float) -> float:
        """Its time in ms, less the time around the large model that this share of answers saves."""
        return max(0.0, self._ms.value - sure * self._around.value)

    def ran(self, run: SmallRun) -> None:
        """Learn from one of its runs."""
        self._ms.observe(run.ms)
        self._saw(run.sure)

    def prepared(self, ms: float) -> None:
        """Learn the time in ms around the large model that an answer of the small one saves."""
        self._around.observe(ms)

    def resume(self, sure: Iterable[bool]) -> None:
        """Learn from its runs before the edge was started again."""
        for one in sure:
            self._saw(one)

    def _saw(self, sure: bool) -> None:
        keep = 1 - 1 / _MEMORY
        self._sure, self._seen = keep * self._sure + sure, keep * self._seen + 1
        self._known += 1
