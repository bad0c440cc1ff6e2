"""Policies: from estimates of link and server to the decision for the next frame.

A policy is asked before each frame and returns a `Decision`. It reads no clock and has no effects.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from statistics import NormalDist

import numpy as np

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.cascade import Cascade
from splittracr.planning.cost import LATENCY, Array, Candidates, Objective, lowest
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
    EXCLUDED = "excluded"  # the choice in use drifted, or keeps too little accuracy


@dataclass(frozen=True)
class PolicyOptions:
    """Options of all policies. `deadline` is a multiple of the expected wait for a reply.

    `accuracy` is the share that has to be kept, alone or together with a small model.
    `memory_beside_small` is what a head may take behind a small model, in bytes; None is unlimited.
    """

    objective: Objective = LATENCY
    hysteresis: float = 0.1
    min_dwell_ms: float = 0.0
    period_ms: float = 0.0
    deadline: float = 1.5
    probe_after_ms: float = 1_000.0
    latency_probe_after_ms: float = 30_000.0
    exploration: float = 0.5  # the bandit's
    accuracy: float | None = None
    memory_beside_small: float | None = None


class Policy(ABC):
    """Decides for one edge. `current` is the choice in use, `epoch` counts the switches.

    A choice is a candidate, alone or behind the small model of a cascade. The number of the latter
    is that of the candidate plus the number of candidates.
    """

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
        """Return the decision for the choice `chosen`, a number, and count a switch.

        `predicted` are the latencies of all choices in milliseconds, `predicted_regret` how much
        lower that of the best one is.
        """
        if self.current is not None and chosen != self.current:
            self.epoch += 1
        self.current = chosen
        behind, candidate = divmod(chosen, len(self.candidates))
        return Decision(
            cut=int(self.candidates.cut[candidate]),
            codec=self.candidates.codec(candidate),
            epoch=self.epoch,
            predicted_ms=float(predicted[chosen]),
            predicted_regret_ms=predicted_regret,
            reason=reason.value,
            small="first" if behind else None,
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

    If there is a small model, each candidate is also one for the samples that it does not answer.
    """

    def __init__(self, candidates: Candidates, settings: PolicyOptions) -> None:
        super().__init__(candidates, settings)
        self._switched = -np.inf
        self._decided = -np.inf
        self._probed = -np.inf  # when the last probe for the latency was sent

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        costs = self.costs_of_choices(beliefs)
        # Replies count in full here: a bound on the latency would make slow choices equal.
        latencies = _of_choices(self.candidates.latency_ms(beliefs), beliefs)
        chosen, reason = self._choose(now, costs, latencies, connected=beliefs.connected)
        if chosen != self.current:
            self._switched = now
        predicted = _of_choices(self._predicted(beliefs), beliefs)
        regret = max(0.0, float(predicted[chosen] - predicted[lowest(costs, latencies)]))
        decision = self.decided(chosen, predicted, regret, reason)
        decision = self._completed(decision, beliefs)
        return replace(decision, probe_bytes=self._probe_bytes(now, beliefs))

    def _choose(
        self, now: float, costs: Array, latencies: Array, *, connected: bool
    ) -> tuple[int, Reason]:
        """Return a choice and why; of equal costs the choice with the lowest mean latency."""
        if not connected:
            return self._without_server(costs), Reason.LOST
        best, current = lowest(costs, latencies), self.current
        if current is None or not _usable(costs, current):
            self._decided = now
            return best, Reason.START if current is None else Reason.EXCLUDED
        if now - self._decided < self.settings.period_ms:
            return current, Reason.PERIOD
        self._decided = now
        if best == current:
            return current, Reason.BEST
        if not self._gains(latencies if costs[best] == costs[current] else costs, best, current):
            return current, Reason.HYSTERESIS
        if now - self._switched < self.settings.min_dwell_ms:
            return current, Reason.DWELL
        return best, Reason.BETTER

    def _gains(self, costs: Array, best: int, current: int) -> bool:
        """Return whether a switch gains more than the hysteresis."""
        return bool(costs[best] * (1 + self.settings.hysteresis) <= costs[current])

    def _without_server(self, costs: Array) -> int:
        """Return the better of the edge alone and the small model with the edge behind it."""
        alone, current = self.candidates.edge_only, self.current
        choices = [i for i in (alone, alone + len(self.candidates)) if _usable(costs, i)]
        best = min(choices, key=lambda i: float(costs[i]))
        if current in choices and not self._gains(costs, best, current):
            return current
        return best

    def _probe_bytes(self, now: float, beliefs: Beliefs) -> int:
        """Return the size of a probe, 0 for none.

        An idle link is probed, because no request would show that it has recovered. A small probe
        is sent if the latency was last measured, or probed, long ago.
        """
        if not beliefs.connected or beliefs.backlog_ms > 0:
            return 0
        # Behind a small model few frames are sent.
        idle = self.current is not None and self.current >= self.candidates.edge_only
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

    def costs_behind(self, cascade: Cascade, beliefs: Beliefs) -> Array:
        """Return the same figure of a cascade, by the candidate for its rest."""
        return cascade.costs(self.settings.objective, self.candidates, beliefs)

    def costs_of_choices(self, beliefs: Beliefs) -> Array:
        """Return the figure of all candidates, then that of a cascade with each for its rest.

        It is infinite for a choice that keeps too little accuracy or takes too much memory.
        """
        least, cascade, c = self.settings.accuracy, beliefs.cascade, self.candidates
        alone = self.costs(beliefs)
        if least is not None:
            alone = np.where(c.accuracy >= least, alone, np.inf)
        if cascade is None:
            return alone
        behind = self.costs_behind(cascade, beliefs)
        if least is not None:
            behind = np.where(cascade.kept(c.accuracy) >= least, behind, np.inf)
        if self.settings.memory_beside_small is not None:
            fits = c.memory_bytes <= self.settings.memory_beside_small
            behind = np.where(fits, behind, np.inf)
        return np.append(alone, behind)

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

    def costs_behind(self, cascade: Cascade, beliefs: Beliefs) -> Array:
        objective = self.settings.objective
        if not objective.latency_alone:
            return super().costs_behind(cascade, beliefs)
        if not objective.z:
            return _behind(cascade, self.costs(beliefs), beliefs)
        # The same quantile of all samples is another one of those that go on.
        small, share = cascade.small_ms * beliefs.edge_factor, NormalDist().cdf(objective.z)
        if share <= cascade.sure:
            return np.full(len(self.candidates), small)
        z = NormalDist().inv_cdf((share - cascade.sure) / (1 - cascade.sure))
        return small + self._earlier(beliefs, z)

    def _predicted(self, beliefs: Beliefs) -> Array:
        return self._earlier(beliefs)

    def _earlier(self, beliefs: Beliefs, z: float = 0.0) -> Array:
        """Return a quantile of the latency, at most the time at which the edge finishes itself."""
        latest = self._latest(beliefs, self._wait(beliefs))
        return np.minimum(self.candidates.latency_ms(beliefs, z), latest)

    def _wait(self, beliefs: Beliefs) -> Array:
        return self.candidates.link_ms(beliefs) + self.candidates.after_ms(beliefs)

    def _completed(self, decision: Decision, beliefs: Beliefs) -> Decision:
        if self.current is None:
            return decision
        i = self.current % len(self.candidates)
        if i == self.candidates.edge_only:
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
        if decision.cut == self.candidates.cut[self.candidates.edge_only]:
            return decision
        return replace(decision, hedge_ms=0.0)


def _behind(cascade: Cascade, latencies: Array, beliefs: Beliefs) -> Array:
    """Return the mean latency of a cascade from those of the candidates for its rest."""
    return cascade.mean(latencies, cascade.small_ms * beliefs.edge_factor)


def _of_choices(latencies: Array, beliefs: Beliefs) -> Array:
    """Return mean latencies of all candidates, then those of a cascade with each for its rest."""
    if beliefs.cascade is None:
        return latencies
    return np.append(latencies, _behind(beliefs.cascade, latencies, beliefs))


def _usable(costs: Array, choice: int) -> bool:
    """Return whether a choice exists and may be used."""
    return choice < len(costs) and bool(np.isfinite(costs[choice]))


def probe_bytes(up: LinkEstimate) -> int:
    """Return the bytes that take about as long as the latency, between 4 and 64 KiB.

    Such a transfer shows both the rate and the latency.
    """
    return int(min(65_536, max(4_096, up.fixed_ms / up.ms_per_byte)))
