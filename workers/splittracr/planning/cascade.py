"""A cascade as a candidate: sure samples end early on the edge, the others go on.

Either a small model answers first, or the model has exits. Every sample takes the small model's
time. An exit adds only its own time: the head up to it is part of the head of a sample that goes
on at a later cut. Samples that go on also take the time of the candidate for them. Means are exact
if the calibrated share of sure samples holds. Quantiles assume that sureness does not depend on
the link.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from splittracr.planning.cost import Array, Candidates, Objective
from splittracr.planning.estimate import Beliefs


@dataclass(frozen=True)
class Exit:
    """An exit at a cut. `share` is the part of the sure samples that it answers.

    `head_ms` is the time of the head up to the cut, `own_ms` that of the exit itself. `head_bytes`
    is the memory of that head, 0 if it is not limited.
    """

    name: str
    cut: int
    head_ms: float
    own_ms: float
    share: float
    head_bytes: int = 0


def ordered_exits(
    counts: Mapping[str, int],
    own_ms: Mapping[str, float],
    cuts: Mapping[str, int],
    heads_ms: Sequence[float],
) -> list[Exit]:
    """Exits in the order of their cuts.

    `counts` are the samples that each exit answers, `cuts` the index of each cut, and `heads_ms`
    the times of the heads by index.
    """
    answered = max(sum(counts.values()), 1)
    return [
        Exit(name, cuts[name], heads_ms[cuts[name]], own_ms[name], counts[name] / answered)
        for name in sorted(counts, key=lambda name: cuts[name])
    ]


@dataclass(frozen=True)
class Cascade:
    """A calibrated small model, or calibrated exits, on this edge.

    `small` names it. `small_ms` is the time that it adds to a sample that goes on. `sure` is the
    share of samples that it answers. `wrong` is the share of all samples for which its answer
    disagrees with that of the large model. `exits` are in the order of their cuts; a small model
    has none. `own_bytes` is the memory that the small model or the exits take beside a head, None
    if unknown.
    """

    small: str
    small_ms: float
    sure: float
    wrong: float
    exits: tuple[Exit, ...] = ()
    own_bytes: int | None = None

    @classmethod
    def of_exits(
        cls, exits: Sequence[Exit], sure: float, wrong: float, own_bytes: int | None = None
    ) -> Self:
        """The cascade of exits, which are in the order of their cuts."""
        small = f"{len(exits)} exit{'s' if len(exits) > 1 else ''}"
        return cls(small, sum(one.own_ms for one in exits), sure, wrong, tuple(exits), own_bytes)

    @property
    def answers(self) -> str:
        """`tiny answers 60 %` or `2 exits answer 60 %`."""
        answer = "answer" if len(self.exits) > 1 else "answers"
        return f"{self.small} {answer} {100 * self.sure:.0f} %"

    @property
    def rest(self) -> float:
        """The share of samples that go on."""
        return 1 - self.sure

    @property
    def ends(self) -> tuple[tuple[float, float], ...]:
        """Time and share for each exit, or for the small model.

        The time in ms is that of a sample that ends there, the share that of all samples that end
        there or earlier.
        """
        if not self.exits:
            return ((self.small_ms, self.sure),)
        own = accumulate(one.own_ms for one in self.exits)
        until = accumulate(one.share * self.sure for one in self.exits)
        heads = (one.head_ms for one in self.exits)
        return tuple((head + ms, at) for head, ms, at in zip(heads, own, until, strict=True))

    @property
    def own_ms(self) -> float:
        """The mean time in ms that the cascade adds to candidates `onward`, over all samples."""
        total, before = self.rest * self.small_ms, 0.0
        for ms, until in self.ends:
            total += (until - before) * ms
            before = until
        return total

    def end(self, quantile: float) -> int:
        """The number of the exit at which the sample at a quantile of all samples ends.

        It is the last one above `sure`, and 0 with a small model.
        """
        ends = self.ends
        return next((i for i, (_, until) in enumerate(ends) if quantile <= until), len(ends) - 1)

    def end_ms(self, quantile: float) -> float:
        """The time in ms of the sample at a quantile of all samples, which is at most `sure`."""
        return self.ends[self.end(quantile)][0]

    def follows(self, candidates: Candidates) -> NDArray[np.bool_]:
        """Whether each candidate can take the samples that go on.

        With exits its cut is `input` or after the last exit.
        """
        last = self.exits[-1].cut if self.exits else 0
        can: NDArray[np.bool_] = (candidates.cut == 0) | (candidates.cut > last)
        return can

    def onward(self, candidates: Candidates) -> Candidates:
        """The candidates for samples that go on.

        With exits the head runs up to the last one before the whole input is sent.
        """
        if not self.exits:
            return candidates
        last = self.exits[-1]
        head = np.where(candidates.cut == 0, last.head_ms, candidates.edge_ms)
        memory = np.maximum(candidates.memory_bytes, last.head_bytes)
        return replace(candidates, edge_ms=head, memory_bytes=memory)

    def memory_bytes(self, candidates: Candidates) -> Array:
        """The memory on the edge with each candidate for the samples that go on; nan if unknown."""
        own = np.nan if self.own_bytes is None else self.own_bytes
        memory: Array = self.onward(candidates).memory_bytes + own
        return memory

    def mean(self, figure: Array, own: float = 0.0) -> Array:
        """The mean of a figure of candidates, to which the cascade adds its `own`."""
        return own + self.rest * figure

    def kept(self, accuracy: Array) -> Array:
        """The share of the accuracy that is kept, at least.

        Answers that disagree with the large model count as wrong.
        """
        return self.sure - self.wrong + self.rest * accuracy

    def least_kept(self, accuracy: float) -> float:
        """The share that the candidate for the other samples has to keep for `accuracy` in all."""
        missing = accuracy - (self.sure - self.wrong)
        if self.rest > 0:
            return missing / self.rest
        return 0.0 if missing <= 0 else np.inf

    def latency_ms(self, candidates: Candidates, beliefs: Beliefs, z: float = 0.0) -> Array:
        """The mean latency in ms, or, if `z` is not 0, the quantile at `z` of all samples."""
        factor, candidates = beliefs.edge_factor, self.onward(candidates)
        if not z:
            return self.mean(candidates.latency_ms(beliefs), self.own_ms * factor)
        quantile = NormalDist().cdf(z)
        if quantile <= self.sure:
            return np.full(len(candidates), self.end_ms(quantile) * factor)
        later = NormalDist().inv_cdf((quantile - self.sure) / self.rest)
        return self.small_ms * factor + candidates.latency_ms(beliefs, later)

    def interval_ms(self, candidates: Candidates, beliefs: Beliefs) -> Array:
        """Mean time in ms from sample to sample in a full pipeline.

        The small model, or the exits, and the head take turns.
        """
        candidates = self.onward(candidates)
        head = candidates.edge_ms * beliefs.edge_factor
        edge = self.mean(head, self.own_ms * beliefs.edge_factor)
        return np.maximum(edge, self.mean(candidates.interval_ms(beliefs)))

    def millijoules(
        self, candidates: Candidates, beliefs: Beliefs, objective: Objective
    ) -> Array | None:
        """Modelled energy of a sample on the edge; None if the edge's power is not known."""
        power = objective.power
        if power is None:
            return None
        own = power.compute * self.own_ms * beliefs.edge_factor
        return self.mean(power.millijoules(self.onward(candidates), beliefs), own)

    def costs(self, objective: Objective, candidates: Candidates, beliefs: Beliefs) -> Array:
        """The figure to minimise, on the scale of the candidates' own costs.

        It is infinite for candidates that cannot take the samples that go on.
        """
        figures = [self.latency_ms(candidates, beliefs, objective.z)]
        if not objective.latency_alone:
            figures.append(self.interval_ms(candidates, beliefs))
        energy = self.millijoules(candidates, beliefs, objective) if objective.energy else None
        if energy is not None:
            figures.append(energy)
        units = objective.figures(candidates, beliefs)
        total = objective.weighted(figures, units, candidates.edge_only)
        return np.where(self.follows(candidates), total, np.inf)
