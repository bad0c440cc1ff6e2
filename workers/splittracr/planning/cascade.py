"""A cascade as a candidate: a small model answers if it is sure enough, other samples go on.

Every sample takes the small model's time. Samples that go on also take the time of the candidate
for them. Means are exact if the calibrated share of sure samples holds. Quantiles assume that
sureness does not depend on the link.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.cost import Array, Candidates, Objective
from splittracr.planning.estimate import Beliefs


@dataclass(frozen=True)
class Cascade:
    """A calibrated small model on this edge.

    `sure` is the share of samples that it answers, `wrong` the share (of all of them) that it
    answers in another way than the large model.
    """

    small: str
    small_ms: float
    sure: float
    wrong: float

    @property
    def rest(self) -> float:
        """The share of samples that go on."""
        return 1 - self.sure

    def mean(self, figure: Array, own: float = 0.0) -> Array:
        """The mean of a figure of candidates, to which the small model adds its `own`."""
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
        """The mean latency; at a normal quantile `z` above 0 that quantile of all samples."""
        small = self.small_ms * beliefs.edge_factor
        if not z:
            return self.mean(candidates.latency_ms(beliefs), small)
        share = NormalDist().cdf(z)
        if share <= self.sure:
            return np.full(len(candidates), small)
        return small + candidates.latency_ms(
            beliefs, NormalDist().inv_cdf((share - self.sure) / self.rest)
        )

    def interval_ms(self, candidates: Candidates, beliefs: Beliefs) -> Array:
        """Mean time from sample to sample in a full pipeline. Small model and head take turns."""
        head = candidates.edge_ms * beliefs.edge_factor
        own = self.mean(head, self.small_ms * beliefs.edge_factor)
        return np.maximum(own, self.mean(candidates.interval_ms(beliefs)))

    def millijoules(
        self, candidates: Candidates, beliefs: Beliefs, objective: Objective
    ) -> Array | None:
        """Modelled energy of a sample on the edge; None if the edge's power is not known."""
        power = objective.power
        if power is None:
            return None
        own = power.compute * self.small_ms * beliefs.edge_factor
        return self.mean(power.millijoules(candidates, beliefs), own)

    def costs(self, objective: Objective, candidates: Candidates, beliefs: Beliefs) -> Array:
        """The figure to minimise, on the scale of the candidates' own costs."""
        latency = self.latency_ms(candidates, beliefs, objective.z)
        if objective.latency_alone:
            return latency
        alone = candidates.edge_only
        whole = candidates.latency_ms(beliefs, objective.z)[alone]
        total: Array = objective.latency * latency / max(whole, 1e-9)
        apart = candidates.interval_ms(beliefs)[alone]
        interval = self.interval_ms(candidates, beliefs)
        total += objective.throughput * interval / max(apart, 1e-9)
        energy = self.millijoules(candidates, beliefs, objective)
        if objective.energy:
            if energy is None or objective.power is None:
                raise InvalidInput("objective", "energy", "the watts of the edge as well")
            drawn = objective.power.millijoules(candidates, beliefs)[alone]
            total += objective.energy * energy / max(drawn, 1e-9)
        return total
