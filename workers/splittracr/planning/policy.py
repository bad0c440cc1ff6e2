"""Policies: from estimates of link and server to the decision for the next frame.

A policy is asked before each frame and returns a `Decision`. It reads no clock and has no effects.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import numpy as np

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.cost import LATENCY, Array, Candidates, Objective
from splittracr.planning.decision import Decision
from splittracr.planning.estimate import Beliefs, LinkEstimate


class Reason(StrEnum):
    """Why a candidate was chosen. A label of metrics and a value in records."""

    FIXED = "fixed"  # the policy always chooses the same
    START = "start"  # the first decision
    BETTER = "better"  # another candidate is better by more than the hysteresis
    BEST = "best"  # the candidate in use is still the best
    HYSTERESIS = "hysteresis"  # another one is better, but by less than the hysteresis
    DWELL = "dwell"  # another one is better, but the last switch is too recent
    PERIOD = "period"  # between two decisions
    LOST = "server lost"  # no server: the edge alone
    EXPLORE = "explore"  # to measure another candidate
    NOT_READY = "not ready"  # an end still makes what another candidate needs


@dataclass(frozen=True)
class PolicyOptions:
    """Options of all policies. `deadline` is a multiple of the expected wait for a reply."""

    objective: Objective = LATENCY
    hysteresis: float = 0.1
    min_dwell_ms: float = 0.0
    period_ms: float = 0.0
    deadline: float = 1.5
    probe_after_ms: float = 1_000.0
    latency_probe_after_ms: float = 30_000.0
    exploration: float = 0.5  # the bandit's


class Policy(ABC):
    """Decides for one edge. `current` is the candidate in use, `epoch` counts the switches."""

    def __init__(self, candidates: Candidates, settings: PolicyOptions) -> None:
        self.candidates = candidates
        self.settings = settings
        self.epoch = 0
        self.current: int | None = None

    @abstractmethod
    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        """Return the decision for the next frame; `now` is in milliseconds."""

    def learn(self, candidate: int, latency_ms: float, beliefs: Beliefs) -> None:  # noqa: B027
        """Learn the measured latency of a frame. Policies that need only `beliefs` ignore it."""

    def decided(
        self, chosen: int, predicted: Array, predicted_regret: float, reason: Reason
    ) -> Decision:
        """Return the decision for the candidate `chosen`, an index, and count a switch.

        `predicted` are the latencies of all candidates in milliseconds, `predicted_regret` how
        much lower that of the best one is.
        """
        if self.current is not None and chosen != self.current:
            self.epoch += 1
        self.current = chosen
        return Decision(
            cut=int(self.candidates.cut[chosen]),
            codec=self.candidates.codec(chosen),
            epoch=self.epoch,
            predicted_ms=float(predicted[chosen]),
            predicted_regret_ms=predicted_regret,
            reason=reason.value,
        )


class Fixed(Policy):
    """Always chooses the same candidate."""

    def __init__(self, candidates: Candidates, settings: PolicyOptions, chosen: int) -> None:
        super().__init__(candidates, settings)
        self._chosen = chosen

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        latencies = self.candidates.latency_ms(beliefs)
        regret = float(latencies[self._chosen] - latencies.min())
        return self.decided(self._chosen, latencies, regret, Reason.FIXED)


def edge_only(candidates: Candidates, settings: PolicyOptions) -> Policy:
    """Always choose the edge alone."""
    return Fixed(candidates, settings, candidates.edge_only)


def server_only(candidates: Candidates, settings: PolicyOptions) -> Policy:
    """Always send the whole input, by the smallest of the codecs whose results agree.

    Raises InvalidInput if no candidate sends the input.
    """
    whole = [i for i in range(candidates.edge_only) if candidates.cut[i] == 0]
    if not whole:
        raise InvalidInput("policy", "server-only", "a model whose cut `input` may be used")
    agreeing = [i for i in whole if candidates.agreement[i] == 1] or whole
    return Fixed(candidates, settings, min(agreeing, key=lambda i: float(candidates.bytes_up[i])))


class Adaptive(Policy):
    """Chooses the best candidate by the current estimates, as Neurosurgeon (Kang et al., 2017).

    Two settings damp it on a changing link. A switch has to gain more than `hysteresis`, and
    `min_dwell_ms` have to pass between two switches.
    """

    def __init__(self, candidates: Candidates, settings: PolicyOptions) -> None:
        super().__init__(candidates, settings)
        self._switched = -np.inf
        self._decided = -np.inf
        self._probed = -np.inf  # when the last probe for the latency was sent

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        costs = self.costs(beliefs)
        chosen, reason = self._choose(now, costs, beliefs.connected)
        if chosen != self.current:
            self._switched = now
        predicted = self._predicted(beliefs)
        regret = max(0.0, float(predicted[chosen] - predicted[costs.argmin()]))
        decision = self.decided(chosen, predicted, regret, reason)
        decision = self._completed(decision, beliefs)
        return replace(decision, probe_bytes=self._probe_bytes(now, beliefs))

    def _choose(self, now: float, costs: Array, connected: bool) -> tuple[int, Reason]:
        if not connected:
            return self.candidates.edge_only, Reason.LOST
        best, current = int(costs.argmin()), self.current
        if current is None:
            self._decided = now
            return best, Reason.START
        if now - self._decided < self.settings.period_ms:
            return current, Reason.PERIOD
        self._decided = now
        if best == current:
            return current, Reason.BEST
        if costs[best] * (1 + self.settings.hysteresis) > costs[current]:
            return current, Reason.HYSTERESIS
        if now - self._switched < self.settings.min_dwell_ms:
            return current, Reason.DWELL
        return best, Reason.BETTER

    def _probe_bytes(self, now: float, beliefs: Beliefs) -> int:
        """Return the size of a probe, 0 for none.

        An idle link is probed, because no request would show that it has recovered. A small probe
        is sent if the latency was last measured, or probed, long ago.
        """
        if not beliefs.connected or beliefs.backlog_ms > 0:
            return 0
        idle = self.current == self.candidates.edge_only
        if idle and beliefs.idle_ms >= self.settings.probe_after_ms:
            return probe_bytes(beliefs.up)
        age = min(beliefs.latency_age_ms, now - self._probed)
        if age < self.settings.latency_probe_after_ms:
            return 0
        self._probed = now
        return 1_024

    def costs(self, beliefs: Beliefs) -> Array:
        """Return the figure to be minimised, one entry a candidate."""
        return self.settings.objective.costs(self.candidates, beliefs)

    def _predicted(self, beliefs: Beliefs) -> Array:
        return self.candidates.latency_ms(beliefs)

    def _completed(self, decision: Decision, beliefs: Beliefs) -> Decision:
        return decision


class Deadline(Adaptive):
    """Adaptive with a deadline: if the reply is overdue, the edge finishes the frame itself.

    The deadline is a multiple of the expected wait. The first result counts.
    """

    def _latest(self, beliefs: Beliefs, wait: Array) -> Array:
        """Return when the edge finishes a frame itself if the reply does not arrive.

        `wait` is the expected time from hand-over to reply. One entry a candidate.
        """
        rest = self.candidates.rest_ms * beliefs.edge_factor
        return self.candidates.before_ms(beliefs) + self.settings.deadline * wait + rest

    def costs(self, beliefs: Beliefs) -> Array:
        """Return the figure to be minimised, with the latency bounded by the deadline."""
        objective = self.settings.objective
        if not objective.latency_alone:
            return super().costs(beliefs)
        if objective.z:
            return self._earlier(beliefs, objective.z)
        return self.candidates.expected_ms(beliefs, partial(self._latest, beliefs))

    def _predicted(self, beliefs: Beliefs) -> Array:
        return self._earlier(beliefs)

    def _earlier(self, beliefs: Beliefs, z: float = 0.0) -> Array:
        """Return a quantile of the latency, at most the time at which the edge finishes itself."""
        latest = self._latest(beliefs, self._wait(beliefs))
        return np.minimum(self.candidates.latency_ms(beliefs, z), latest)

    def _wait(self, beliefs: Beliefs) -> Array:
        return self.candidates.link_ms(beliefs) + self.candidates.after_ms(beliefs)

    def _completed(self, decision: Decision, beliefs: Beliefs) -> Decision:
        i = self.current
        if i is None or i == self.candidates.edge_only:
            return decision
        wait = float(self._wait(beliefs)[i])
        return replace(decision, deadline_ms=self.settings.deadline * wait)


class Hedge(Deadline):
    """Adaptive with a hedge: the edge always runs the tail as well. The first result counts.

    A frame then never takes longer than on the edge alone, even if the link is slower than
    expected. The hedge costs energy on the edge, so it has to gain at least `MIN_GAIN`.
    """

    MIN_GAIN = 0.001

    def _latest(self, beliefs: Beliefs, wait: Array) -> Array:
        return (self.candidates.edge_ms + self.candidates.rest_ms) * beliefs.edge_factor

    def costs(self, beliefs: Beliefs) -> Array:
        """Return the figure to be minimised; the edge alone wins unless `MIN_GAIN` is gained."""
        costs = super().costs(beliefs)
        costs[self.candidates.edge_only] *= 1 - self.MIN_GAIN
        return costs

    def _completed(self, decision: Decision, beliefs: Beliefs) -> Decision:
        if self.current == self.candidates.edge_only:
            return decision
        return replace(decision, hedge_ms=0.0)


def probe_bytes(up: LinkEstimate) -> int:
    """Return the bytes that take about as long as the latency, between 4 and 64 KiB.

    Such a transfer shows both the rate and the latency.
    """
    return int(min(65_536, max(4_096, up.fixed_ms / up.ms_per_byte)))
