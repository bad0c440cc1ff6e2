"""A policy for links without measurements: it learns from end-to-end latencies alone."""

import numpy as np

from splittracr.planning.cost import Array, Candidates
from splittracr.planning.decision import Decision
from splittracr.planning.estimate import Beliefs
from splittracr.planning.policy import Policy, PolicyOptions, Reason


class Bandit(Policy):
    """LinUCB (Li et al., 2010), discounted (Russac et al., 2019).

    As in Autodidactic Neurosurgeon (Zhang et al., WWW 2021) the edge's time is known. The rest of
    the latency is modelled as linear in the bytes and the server's work. The candidate with the
    lowest optimistic latency (expected, less a multiple of its uncertainty) is chosen.

    Frames on the edge alone show nothing about the link. After `FORCED` of them in a row one is
    therefore sent. Of `beliefs` the policy uses only whether there is a server.
    """

    FORCED = 20
    DISCOUNT = 0.95
    RIDGE = 0.01

    def __init__(self, candidates: Candidates, settings: PolicyOptions) -> None:
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
        return self.decided(chosen, predicted, regret, reason)

    def learn(self, candidate: int, latency_ms: float, beliefs: Beliefs) -> None:
        keep = self.DISCOUNT
        self._gram = keep * self._gram + (1 - keep) * self.RIDGE * np.eye(3)
        self._sum = keep * self._sum
        if candidate == self.candidates.edge_only:
            self._alone += 1
            return
        self._alone = 0
        x = self._x[candidate]
        # Capped at ten times the edge alone: one outage must not outweigh a hundred frames.
        y = min((latency_ms - float(self._before[candidate])) / self._unit, 10.0)
        self._gram += np.outer(x, x)
        self._sum += x * y
