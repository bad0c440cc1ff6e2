"""Policies: from what is believed to what the next frame does. One interface, one registry.

A policy is asked before each frame and answers with a `Decision`. It reads no clock and does
nothing itself; what it remembers are the few fields that its class names.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

import numpy as np

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.cost import LATENCY, Array, Candidates, Objective
from splittracr.planning.estimate import Beliefs, LinkEstimate


class Reason(StrEnum):
    """Why a frame runs as it does; a label of metrics, and a word in records."""

    FIXED = "fixed"  # the policy never changes its mind
    START = "start"  # the first decision
    BETTER = "better"  # another candidate wins by more than the hysteresis
    BEST = "best"  # the one in use is still the best
    HYSTERESIS = "hysteresis"  # another one is better, but by too little
    DWELL = "dwell"  # another one is better, but the last switch was too short ago
    PERIOD = "period"  # between two decisions
    LOST = "server lost"  # no server: the edge alone
    EXPLORE = "explore"  # to learn what another candidate takes


@dataclass(frozen=True)
class Decision:
    """What the next frame does.

    `epoch` counts the switches. `predicted_ms` is the expected end-to-end latency, `regret_ms` how
    much less the best candidate is expected to take. The edge begins the tail itself: as a fallback
    `deadline_ms` after the hand-over to the link, as a hedge `hedge_ms` after the end of the head;
    None means never. `probe_bytes` above 0 asks for a small transfer beside the frame.
    """

    candidate: int
    cut: int
    codec: str
    epoch: int
    predicted_ms: float
    regret_ms: float
    reason: Reason
    deadline_ms: float | None = None
    hedge_ms: float | None = None
    probe_bytes: int = 0


@dataclass(frozen=True)
class Settings:
    """How a policy behaves. `deadline` is the multiple of the expected wait for a reply."""

    objective: Objective = LATENCY
    hysteresis: float = 0.1
    min_dwell_ms: float = 0.0
    period_ms: float = 0.0
    deadline: float = 1.5
    probe_after_ms: float = 1_000.0
    latency_probe_after_ms: float = 30_000.0
    exploration: float = 0.5  # the bandit's


class Policy(ABC):
    """Decides for one edge. `learn` hears of every frame that was measured end to end."""

    def __init__(self, candidates: Candidates, settings: Settings) -> None:
        self.candidates = candidates
        self.settings = settings
        self.epoch = 0
        self.current: int | None = None

    @abstractmethod
    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        """What the next frame does, `now` in ms."""

    def learn(self, candidate: int, latency_ms: float, beliefs: Beliefs) -> None:  # noqa: B027
        """A frame took so long. Most policies know enough from transfers alone."""

    def _switch(self, chosen: int) -> None:
        if self.current is not None and chosen != self.current:
            self.epoch += 1
        self.current = chosen

    def _decision(self, chosen: int, predicted: Array, regret: float, reason: Reason) -> Decision:
        self._switch(chosen)
        return Decision(
            candidate=chosen,
            cut=int(self.candidates.cut[chosen]),
            codec=self.candidates.codecs[chosen],
            epoch=self.epoch,
            predicted_ms=float(predicted[chosen]),
            regret_ms=regret,
            reason=reason,
        )


class Fixed(Policy):
    """Always the same candidate."""

    def __init__(self, candidates: Candidates, settings: Settings, chosen: int) -> None:
        super().__init__(candidates, settings)
        self._chosen = chosen

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        latencies = self.candidates.latency_ms(beliefs)
        regret = float(latencies[self._chosen] - latencies.min())
        return self._decision(self._chosen, latencies, regret, Reason.FIXED)


def edge_only(candidates: Candidates, settings: Settings) -> Policy:
    """Nothing is ever sent."""
    return Fixed(candidates, settings, candidates.edge_only)


def server_only(candidates: Candidates, settings: Settings) -> Policy:
    """Full offload, by the codec that is smallest and loses nothing of the input.

    Raises InvalidInput where the input cannot be sent.
    """
    whole = [i for i in range(candidates.edge_only) if candidates.cut[i] == 0]
    if not whole:
        raise InvalidInput("policy", "server-only", "a network whose cut `input` may be used")
    agreeing = [i for i in whole if candidates.agreement[i] == 1] or whole
    return Fixed(candidates, settings, min(agreeing, key=lambda i: float(candidates.bytes_up[i])))


class Adaptive(Policy):
    """The best candidate for what is believed of link and server, by enumeration.

    As Neurosurgeon (Kang et al., 2017) decides, and with the damping that a changing link needs:
    a switch has to pay more than `hysteresis`, and none follows another within `min_dwell_ms`.
    """

    def __init__(self, candidates: Candidates, settings: Settings) -> None:
        super().__init__(candidates, settings)
        self._switched = -np.inf
        self._decided = -np.inf
        self._probed = -np.inf  # for the latency

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        costs = self._costs(beliefs)
        chosen, reason = self._choose(now, costs, beliefs.connected)
        if chosen != self.current:
            self._switched = now
        predicted = self._predicted(beliefs)
        regret = max(0.0, float(predicted[chosen] - predicted[costs.argmin()]))
        decision = self._decision(chosen, predicted, regret, reason)
        decision = self._completed(decision, beliefs)
        return replace(decision, probe_bytes=self._probe_bytes(now, decision, beliefs))

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

    def _probe_bytes(self, now: float, decision: Decision, beliefs: Beliefs) -> int:
        """A probe where nothing else would show that the link has recovered, and a small one
        where the latency was last seen, or looked for, long ago.
        """
        if not beliefs.connected or beliefs.backlog_ms > 0:
            return 0
        idle = decision.candidate == self.candidates.edge_only
        if idle and beliefs.idle_ms >= self.settings.probe_after_ms:
            return probe_bytes(beliefs.up)
        age = min(beliefs.latency_age_ms, now - self._probed)
        if age < self.settings.latency_probe_after_ms:
            return 0
        self._probed = now
        return 1_024

    def _costs(self, beliefs: Beliefs) -> Array:
        return self.settings.objective.costs(self.candidates, beliefs)

    def _predicted(self, beliefs: Beliefs) -> Array:
        return self.candidates.latency_ms(beliefs)

    def _completed(self, decision: Decision, beliefs: Beliefs) -> Decision:
        return decision


class Deadline(Adaptive):
    """Adaptive, and a reply that is overdue is not waited for: the edge finishes the frame itself.

    The deadline is a multiple of the wait that was expected; whichever answer comes first counts.
    """

    def _latest(self, beliefs: Beliefs, wait: Array) -> Array:
        """By when the edge has finished a frame itself, for every candidate, where `wait` is how
        long a reply is expected to take.
        """
        rest = self.candidates.rest_ms * beliefs.edge_factor
        return self.candidates.before_ms(beliefs) + self.settings.deadline * wait + rest

    def _costs(self, beliefs: Beliefs) -> Array:
        objective = self.settings.objective
        if not objective.latency_alone:
            return super()._costs(beliefs)
        if objective.z:
            return self._earlier(beliefs, objective.z)
        return self.candidates.expected_ms(beliefs, partial(self._latest, beliefs))

    def _predicted(self, beliefs: Beliefs) -> Array:
        return self._earlier(beliefs)

    def _earlier(self, beliefs: Beliefs, z: float = 0.0) -> Array:
        """A quantile of the latency: that of the reply, unless the edge has finished by then."""
        latest = self._latest(beliefs, self._wait(beliefs))
        return np.minimum(self.candidates.latency_ms(beliefs, z), latest)

    def _wait(self, beliefs: Beliefs) -> Array:
        return self.candidates.network_ms(beliefs) + self.candidates.after_ms(beliefs)

    def _completed(self, decision: Decision, beliefs: Beliefs) -> Decision:
        i = decision.candidate
        if i == self.candidates.edge_only:
            return decision
        wait = float(self._wait(beliefs)[i])
        return replace(decision, deadline_ms=self.settings.deadline * wait)


class Hedge(Deadline):
    """Adaptive, and the edge always goes on with the frame it has sent: the first answer counts.

    A frame is then never later than on the edge alone, so that a chance to win is worth a try. It
    costs the edge's energy, and is not done for less than `LEAST_GAIN`.
    """

    LEAST_GAIN = 0.001

    def _latest(self, beliefs: Beliefs, wait: Array) -> Array:
        return (self.candidates.edge_ms + self.candidates.rest_ms) * beliefs.edge_factor

    def _costs(self, beliefs: Beliefs) -> Array:
        costs = super()._costs(beliefs)
        costs[self.candidates.edge_only] *= 1 - self.LEAST_GAIN
        return costs

    def _completed(self, decision: Decision, beliefs: Beliefs) -> Decision:
        if decision.candidate == self.candidates.edge_only:
            return decision
        return replace(decision, hedge_ms=0.0)


def probe_bytes(up: LinkEstimate) -> int:
    """The size that takes about as long as the latency, so that both can be told; 4 to 64 KiB."""
    return int(min(65_536, max(4_096, up.fixed_ms / up.ms_per_byte)))
