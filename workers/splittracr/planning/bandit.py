"""A policy for links that cannot be observed: it learns from end-to-end latencies alone."""

import numpy as np

from splittracr.planning.cost import Array, Candidates
from splittracr.planning.estimate import Beliefs
from splittracr.planning.policy import Decision, Policy, Reason, Settings


class Bandit(Policy):
    """LinUCB (Li et al., 2010), discounted (Russac et al., 2019), after Autodidactic Neurosurgeon
    (Zhang et al., WWW 2021): what the edge computes is known, the rest of a frame's latency is
    taken as linear in its bytes and the server's work, and of all candidates the one is chosen
    whose latency may be least.

    The edge alone teaches nothing about the link, so that after every `FORCED` frames there one is
    sent anyhow. Assumes that only the profile's figures are known: of `beliefs` only whether there
    is a server is used.
    """

    FORCED = 20
    DISCOUNT = 0.95
    RIDGE = 0.01

    def __init__(self, candidates: Candidates, settings: Settings) -> None:
        super().__init__(candidates, settings)
        c = candidates
        self._before = c.edge_ms + c.encode_ms
        self._unit = max(float(self._before[c.edge_only]), 1e-9)
        columns = (np.ones(len(c)), c.bytes_up, c.server_ms)
        self._x = np.stack([column / max(float(column.max()), 1e-9) for column in columns], axis=1)
        self._gram = self.RIDGE * np.eye(3)
        self._sum = np.zeros(3)
        self._alone = 0  # frames on the edge alone since the last one that was sent

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        inverse = np.linalg.inv(self._gram)
        predicted = self._before + self._unit * (self._x @ (inverse @ self._sum))
        predicted[self.candidates.edge_only] = self._before[self.candidates.edge_only]
        doubt = np.sqrt(np.einsum("ij,jk,ik->i", self._x, inverse, self._x))
        optimistic: Array = predicted - self.settings.exploration * 0.1 * self._unit * doubt
        optimistic[self.candidates.edge_only] = self._before[self.candidates.edge_only]
        if self._alone >= self.FORCED:
            optimistic[self.candidates.edge_only] = np.inf
        chosen = int(optimistic.argmin())
        reason = Reason.BEST if predicted[chosen] == predicted.min() else Reason.EXPLORE
        if not beliefs.connected:
            chosen, reason = self.candidates.edge_only, Reason.LOST
        predicted = np.maximum(predicted, self._before)
        regret = float(predicted[chosen] - predicted.min())
        return self._decision(chosen, predicted, regret, reason)

    def learn(self, candidate: int, latency_ms: float, beliefs: Beliefs) -> None:
        keep = self.DISCOUNT
        self._gram = keep * self._gram + (1 - keep) * self.RIDGE * np.eye(3)
        self._sum = keep * self._sum
        if candidate == self.candidates.edge_only:
            self._alone += 1
            return
        self._alone = 0
        x = self._x[candidate]
        # At most ten times the edge alone: one outage must not outweigh a hundred frames.
        y = min((latency_ms - float(self._before[candidate])) / self._unit, 10.0)
        self._gram += np.outer(x, x)
        self._sum += x * y
