"""Mode Adaptive: a `Chooser` that asks a policy and feeds it with measured transfers and frames."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import AdaptiveObjective, AdaptiveSpec, ExperimentSpec
from splittracr.planning import cost
from splittracr.planning.cost import Limits, Objective, Power, power
from splittracr.planning.decision import Decision, Outcome
from splittracr.planning.estimate import Beliefs, Smoothed, Tracker
from splittracr.planning.learner import Learner
from splittracr.planning.plan import check_accuracy, static_exclusions
from splittracr.planning.policy import Policy, PolicyOptions, Reason
from splittracr.planning.registry import Maker, create
from splittracr.planning.schedule import Step
from splittracr.planning.transfer import Transfer

HANDSHAKE_BYTES = (1_024, 32_768)
"""Sizes of the probes at the start of a session. They give the first decision an estimate."""

_AROUND = ("load", "prepare", "edge_wait", "finish", "other")  # stages that every candidate has
_PREPARED = ("prepare", "finish")  # of these, stages that a small model has, too


Ready = Callable[[Decision], bool]
"""Whether a decision can be carried out at once. If not, what it needs begins to be made."""


def always(decision: Decision) -> bool:
    """Nothing has to be made for any cut."""
    del decision
    return True


class _Before(NamedTuple):
    """Times in ms of a small model or exits that were not sure, before the candidate ran."""

    total: float  # without waits, with a head that is no part of the candidate's head
    waits: float  # waits between them, not in `total`
    head: float  # time of that head by the profile; 0 if there is none


class Adapting:
    """Asks the policy before each frame. A cut that is not ready at both ends is not waited for:
    the frame uses the cut of the one before, or else the edge alone.

    It learns from finished frames and, as a `LinkObserver`, from transfers. The latter include
    replies that arrive after the edge has finished their frame itself. With a `learner` the
    policy also decides whether the small model, or the exits, go first.
    """

    def __init__(
        self, policy: Policy, ready: Ready = always, learner: Learner | None = None
    ) -> None:
        self._policy, self._ready, self._learner = policy, ready, learner
        self._used: Decision | None = None
        candidates = policy.candidates
        self._tracker = Tracker(
            edge_ms=float(candidates.before_ms().max()),
            server_ms=float(candidates.server_ms.max()),
        )
        self._around = Smoothed(0.0)

    def beliefs(self, now: float) -> Beliefs:
        """Return the estimates that decisions are based on."""
        beliefs = self._tracker.beliefs(now * 1e3)
        if self._learner is None:
            return beliefs
        return replace(beliefs, cascade=self._learner.believed(beliefs.edge_factor))

    def choose(self, step: Step, now: float) -> Decision:
        """Return the policy's decision for the next frame, or one that is ready."""
        del step
        beliefs = self.beliefs(now)
        wanted = self._policy.decide(now * 1e3, beliefs)
        # Without a server there is one choice only, ready or not.
        taken = not beliefs.connected or self._ready(wanted)
        decision = wanted if taken else self._instead(wanted, beliefs)
        self._used = decision = replace(decision, epoch=self._epoch(decision))
        latency = decision.predicted_ms or 0.0
        decision = replace(decision, predicted_ms=latency + self._around.value)
        if self._learner is None or decision.small is not None:
            return decision
        # With another objective than latency a slower answer may pay, too.
        slowest = latency if self._policy.settings.objective.latency_alone else np.inf
        if not self._learner.is_due(slowest, beliefs.edge_factor):
            return decision
        return replace(decision, small="after", reason=Reason.EXPLORE.value)

    def _instead(self, wanted: Decision, beliefs: Beliefs) -> Decision:
        """Return a decision that is ready; `wanted` if there is none."""
        candidates = self._policy.candidates
        alone = candidates.edge_only
        local = Decision(cut=int(candidates.cut[alone]), codec=candidates.codec(alone))
        used, cascade = self._used, beliefs.cascade
        if used is not None and used.small and cascade is None:
            used = None  # it has drifted
        others = [one for one in (used, local) if one and one.cut != wanted.cut]
        kept = next(filter(self._ready, others), None)
        if kept is None:
            return wanted
        latencies = candidates.latency_ms(beliefs)
        means = latencies
        if kept.small and cascade is not None:
            means = cascade.latency_ms(candidates, beliefs)
        expected = float(means[candidates.position(kept.cut, str(kept.codec))])
        return replace(
            kept,
            predicted_ms=expected,
            predicted_regret_ms=max(0.0, expected - float(latencies.min())),
            reason=Reason.NOT_READY.value,
            probe_bytes=wanted.probe_bytes,
        )

    def _epoch(self, decision: Decision) -> int:
        """Return how often cut, codec, or what goes first, have changed."""
        used = self._used
        if used is None:
            return 0
        return used.epoch + (decision.choice != used.choice)

    def expected_ms(self, cut: int, now: float) -> float:
        """Return the expected latency of a frame at `cut` with the best codec there."""
        candidates = self._policy.candidates
        latencies = candidates.latency_ms(self.beliefs(now))
        return float(latencies[candidates.cut == cut].min()) + self._around.value

    def observe(self, outcome: Outcome, now: float) -> None:
        """Learn from a finished frame; ignore a failed one."""
        if not outcome.ok:
            return
        learner, first, stages = self._learner, outcome.first, outcome.stages
        if learner is not None and first is not None:
            learner.ran(first)
            if outcome.decision.small == "first" and first.sure:
                # The large model did not run, or only up to the exit.
                self._tracker.computed(stages.get("head", 0.0), learner.head_ms(first))
                return
        if learner is not None:
            learner.prepared(sum(stages.get(stage, 0.0) for stage in _PREPARED))
        self._observe_candidate(outcome, now)

    def _observe_candidate(self, outcome: Outcome, now: float) -> None:
        """Learn from a frame that the candidate of its decision has answered."""
        decision, stages, candidates = outcome.decision, outcome.stages, self._policy.candidates
        i = candidates.position(decision.cut, str(decision.codec))
        before = self._before(outcome)
        around = sum(stages.get(stage, 0.0) for stage in _AROUND) + before.waits
        self._around.observe(around)
        measured, expected = stages.get("head", 0.0), float(candidates.edge_ms[i]) + before.head
        if i == candidates.edge_only:
            measured += stages.get("reduce", 0.0)
        elif decision.hedge_ms is None:  # the encoder of a hedged frame shares the CPU with a tail
            measured += stages.get("encode", 0.0)
            expected += float(candidates.encode_ms[i])
        self._tracker.computed(measured, expected)
        latency = outcome.total_ms - around - before.total
        self._policy.learn(i, latency, self.beliefs(now))

    def _before(self, outcome: Outcome) -> _Before:
        """Return the times of a small model or exits that ran first; zeros if none did."""
        learner, first, stages = self._learner, outcome.first, outcome.stages
        if learner is None or first is None or outcome.decision.small != "first":
            return _Before(0.0, 0.0, 0.0)
        waits = stages.get("small", first.ms) - first.ms
        if outcome.decision.cut == 0:
            total = first.ms + stages.get("head", 0.0)
            return _Before(total, waits, learner.head_ms(first))
        return _Before(first.ms, waits, 0.0)

    # ---------------------------------------------------------------------- events of the link

    def sent(self, number: int, cut: int | None, nbytes: int, now: float) -> None:
        """A request, or a probe (without a cut), begins to leave."""
        self._tracker.connected = True
        down, server = 0.0, 0.0
        if cut is not None:
            down, server = self._policy.candidates.bytes_down, self._expected(cut)
        self._tracker.sent(number, now * 1e3, nbytes, down, server)

    def heard(self, number: int, transfer: Transfer, now: float) -> None:
        """An answer has arrived."""
        self._tracker.answered(number, now * 1e3, transfer, self._expected(transfer.cut))

    def connection(self, alive: bool) -> None:
        """A session has begun or ended. After its end no answers arrive to what it sent."""
        self._tracker.connected = alive
        if not alive:
            self._tracker.forget()

    def _expected(self, cut: int | None) -> float:
        """Return the server's time at a cut by the profile, 0 if it has none."""
        at = np.flatnonzero(self._policy.candidates.cut == cut)
        return float(self._policy.candidates.server_ms[at[0]]) if len(at) else 0.0


def adapting(
    spec: ExperimentSpec,
    edge: Profile,
    server: Profile,
    named: Sequence[int],
    own: Maker | None = None,
    ready: Ready = always,
    learner: Learner | None = None,
) -> Adapting:
    """Build the chooser of mode Adaptive. `named` are the cuts it may use; empty means all.

    `own` makes the policy if the manifest names one of the user's. `ready` says which decisions
    can be carried out at once. `learner` has the small model of a cascade, or its exits.

    Raises InvalidInput if nothing that sends keeps the accuracy asked for.
    """
    adaptive = spec.partition.adaptive or AdaptiveSpec()
    offered = cost.candidates(edge, server, slowdown=spec.edge.slowdown_percent / 100)
    mebibytes = adaptive.edge_memory_mebibytes
    limits = Limits(
        cuts=tuple(named),
        memory_bytes=None if mebibytes is None else mebibytes * 2**20,
        agreement=_share(adaptive.agreement_percent),
        accuracy=_share(adaptive.accuracy_percent),
    )
    check_accuracy(offered, limits, "spec.partition.adaptive.accuracyPercent")
    if learner is not None and own is None:
        # Behind a small model or exits a candidate may keep less: the policy has the limit.
        limits = replace(limits, accuracy=None)
    excluded = static_exclusions(offered, limits)
    keep = np.array([reason is None for reason in excluded])
    keep[offered.edge_only] = True  # the only candidate that works without a server
    kept, options = offered.only(keep), settings(adaptive, _power(spec, edge))
    if learner is not None and limits.memory_bytes is not None:
        left = limits.memory_bytes - learner.memory_bytes
        options = replace(options, memory_beside_small=left)
    if own is not None:
        return Adapting(own(kept, options), ready, learner)
    return Adapting(create(adaptive.policy.lower(), kept, options), ready, learner)


def _share(percent: int | None) -> float | None:
    return None if percent is None else percent / 100


def _power(spec: ExperimentSpec, edge: Profile) -> Power | None:
    """Return the edge's power.

    Raises InvalidInput if the objective needs it and neither manifest nor sensor has it.
    """
    found = power(spec.declared_power, edge.power)
    adaptive = spec.partition.adaptive or AdaptiveSpec()
    if found is None and objective(adaptive).energy:
        expected = (
            "computeMilliwatts, and transmitMilliwatts or nanojoulesPerBit: the objective is "
            "energy, and this edge has no sensor of it"
        )
        raise InvalidInput("spec.edge.power", None, expected)
    return found


def settings(adaptive: AdaptiveSpec, drawn: Power | None = None) -> PolicyOptions:
    """Convert the manifest's settings to those of a policy. `drawn` is the edge's power."""
    return PolicyOptions(
        objective=objective(adaptive, drawn),
        hysteresis=adaptive.hysteresis_percent / 100,
        min_dwell_ms=adaptive.min_dwell_milliseconds,
        period_ms=adaptive.period_milliseconds,
        deadline=adaptive.deadline_percent / 100,
        probe_after_ms=adaptive.probe_after_milliseconds,
        accuracy=_share(adaptive.accuracy_percent),
    )


def objective(adaptive: AdaptiveSpec, drawn: Power | None = None) -> Objective:
    """Convert the manifest's objective and weights. `drawn` is the edge's power."""
    weights = {
        AdaptiveObjective.LATENCY: (1, 0, 0),
        AdaptiveObjective.THROUGHPUT: (0, 1, 0),
        AdaptiveObjective.ENERGY: (0, 0, 1),
        AdaptiveObjective.WEIGHTED: (
            adaptive.latency_weight,
            adaptive.throughput_weight,
            adaptive.energy_weight,
        ),
    }
    latency, throughput, energy = weights[adaptive.objective]
    z = NormalDist().inv_cdf(adaptive.latency_percentile / 100)
    return Objective(latency, throughput, energy, z, drawn)


def codec_names(spec: ExperimentSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the codecs of live tensors and of pictures that mode Adaptive chooses from."""
    adaptive = spec.partition.adaptive or AdaptiveSpec()
    return (
        adaptive.codecs or (spec.transport.codec,),
        adaptive.picture_codecs or (spec.transport.picture_codec,),
    )
