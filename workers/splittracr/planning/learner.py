"""The small model or the exits of a cascade in mode Adaptive: figures learnt during the study.

Each run is learnt from: on frames for which the small model or the exits go first, and on a few
others, after their answer. Such a try costs the edge the time of the run. It sends nothing, delays
no answer, and is an audit if the run is sure.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace

from splittracr.planning.audit import Audit
from splittracr.planning.cascade import Cascade, Exit
from splittracr.planning.decision import FirstRun
from splittracr.planning.estimate import Smoothed

EVERY = 64
"""Frames from one try to the next while the small model, or the exits, do not go first.

They are fewer until there were as many runs. There are more if an answer would come later than that
of the large model.
"""
EVERY_DRIFTED = 16
"""The same after a drift, which only the audits of tries can end."""

_SPENT = 100
"""While a run seems too slow to pay, tries take one in so many parts of the time at most.

Without any, one slow run would shut the small model or the exits out for good.
"""

_MEMORY = 256  # samples, of which the share of sure ones is a mean


class Learner(ABC):
    """Learns how often the small model, or each exit, answers; `audit` counts disagreements.

    `exits` is their number, 1 for a small model. `memory_bytes` are those that the small model or
    the exits take beside the large model.
    """

    def __init__(self, audit: Audit, exits: int, memory_bytes: int) -> None:
        self.memory_bytes = memory_bytes
        self._audit = audit
        # A prior of two samples, one of them sure.
        self._sure, self._seen = [1.0 / exits] * exits, 2.0
        self._known, self._untried = 0, 0

    @property
    def sure(self) -> float:
        """The share of samples that are answered, over about the last 256 runs."""
        return sum(self._sure) / self._seen

    @property
    def shares(self) -> tuple[float, ...]:
        """The part of the answers that each exit gives; 1 for a small model."""
        answered = sum(self._sure)
        if answered == 0:  # after so many unsure runs that the prior has vanished
            return (1.0 / len(self._sure),) * len(self._sure)
        return tuple(one / answered for one in self._sure)

    @property
    def wrong(self) -> float:
        """The share of all samples whose answer disagrees with that of the large model.

        The share of disagreements is that of the audits, with a prior of two audits of which one
        disagrees. It is at most the promise.
        """
        audit = self._audit
        disagrees = (audit.disagreeing + 1) / (audit.audited + 2)
        return self.sure * min(disagrees, 1.0 if audit.promised is None else audit.promised)

    def believed(self, edge_factor: float) -> Cascade | None:
        """The cascade as it is now, None after a drift. `edge_factor` is that of the beliefs."""
        return None if self._audit.drifted else self._cascade(edge_factor)

    def is_due(self, latency_ms: float, edge_factor: float = 1.0) -> bool:
        """Count a frame without a run; return whether to try one after the answer.

        If answers take longer than `latency_ms`, the latency of the frame, they do not pay. None is
        tried while pictures are judged: these show more.
        """
        if self._audit.judging:
            return False
        self._untried += 1
        if self._untried < min(EVERY_DRIFTED if self._audit.drifted else EVERY, self._known):
            return False
        answer_ms = self._answer_ms(edge_factor)
        if answer_ms >= latency_ms and self._untried * latency_ms < _SPENT * answer_ms:
            return False
        self._untried = 0
        return True

    def ran(self, run: FirstRun) -> None:
        """Learn from a run."""
        self._learn_ms(run)
        self._saw(run.sure, max(0, len(run.exit_ms) - 1))

    def prepared(self, ms: float) -> None:  # noqa: B027
        """Learn the time in ms around the large model that an answer saves; exits save none."""

    def head_ms(self, run: FirstRun) -> float:
        """By the profile, the time of the large model's head in a run; 0 for a small model."""
        del run
        return 0.0

    def resume(self, runs: Iterable[tuple[bool, int | None]]) -> None:
        """Learn from the runs before the edge was started again.

        Each is whether it was sure, and the number of the exit that answered, None if unknown.
        """
        for sure, number in runs:
            self._saw(sure, number)

    def _saw(self, sure: bool, number: int | None) -> None:
        """Count a run that ended at exit `number`. An unknown one counts by the shares so far."""
        keep, shares = 1 - 1 / _MEMORY, self.shares
        for i, before in enumerate(self._sure):
            share = shares[i] if number is None else float(i == number)
            self._sure[i] = keep * before + sure * share
        self._seen = keep * self._seen + 1
        self._known += 1

    @abstractmethod
    def _cascade(self, edge_factor: float) -> Cascade:
        """The cascade as it is now."""

    @abstractmethod
    def _answer_ms(self, edge_factor: float) -> float:
        """The mean time in ms of a run that is sure."""

    @abstractmethod
    def _learn_ms(self, run: FirstRun) -> None:
        """Learn the time of a run."""


class SmallModel(Learner):
    """A small model. `ms` is its time as measured before the study, with preparing a sample.

    `memory_bytes` are those of its weights and live tensors.
    """

    def __init__(self, name: str, ms: float, audit: Audit, memory_bytes: int = 0) -> None:
        super().__init__(audit, 1, memory_bytes)
        self.name = name
        self._ms, self._around = _measured(ms), Smoothed(0.0)

    def prepared(self, ms: float) -> None:
        self._around.observe(ms)

    def _cascade(self, edge_factor: float) -> Cascade:
        """A sample that the small model answers is not prepared for the large one.

        This saving counts for the small model's time. That is as measured: its own profile may be
        right where that of the large model, which `edge_factor` corrects, is not.
        """
        return Cascade(self.name, self._own_ms(self.sure) / edge_factor, self.sure, self.wrong)

    def _answer_ms(self, edge_factor: float) -> float:
        del edge_factor
        return self._own_ms(1.0)

    def _own_ms(self, sure: float) -> float:
        """Its time in ms, less the time around the large model that this share of answers saves."""
        return max(0.0, self._ms.value - sure * self._around.value)

    def _learn_ms(self, run: FirstRun) -> None:
        self._ms.observe(run.ms)


class LearntExits(Learner):
    """Exits in the order of their cuts, with their own times as measured before the study.

    Their heads have the times of the profile. `memory_bytes` are those of the exits' weights.
    """

    def __init__(self, exits: Sequence[Exit], audit: Audit, memory_bytes: int = 0) -> None:
        super().__init__(audit, len(exits), memory_bytes)
        self._exits = tuple(exits)
        self._own_ms = [_measured(one.own_ms) for one in exits]

    def head_ms(self, run: FirstRun) -> float:
        return self._exits[len(run.exit_ms) - 1].head_ms

    def _cascade(self, edge_factor: float) -> Cascade:
        """The times of heads are those of the profile, those of exits are as measured."""
        exits = [
            replace(one, own_ms=own.value / edge_factor, share=share)
            for one, own, share in zip(self._exits, self._own_ms, self.shares, strict=True)
        ]
        return Cascade.of_exits(exits, self.sure, self.wrong)

    def _answer_ms(self, edge_factor: float) -> float:
        return replace(self._cascade(edge_factor), sure=1.0).own_ms * edge_factor

    def _learn_ms(self, run: FirstRun) -> None:
        for own, ms in zip(self._own_ms, run.exit_ms, strict=False):
            own.observe(ms)


def _measured(ms: float) -> Smoothed:
    """A time that was measured before the study: the next value must not replace it."""
    made = Smoothed(ms)
    made.observe(ms)
    return made
