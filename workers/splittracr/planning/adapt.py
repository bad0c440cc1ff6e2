"""Mode Adaptive: a policy behind the edge worker's `Chooser`, and what it learns from the link."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from splittracr.experiment.codec import RAW, Codec, PictureCodec
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.profile import Profile
from splittracr.experiment.spec import AdaptiveObjective, AdaptiveSpec, ExperimentSpec
from splittracr.planning import cost
from splittracr.planning.choice import Choice, Outcome, Transfer
from splittracr.planning.cost import EDGE_ONLY, Candidates, Limits, Objective, Power, power
from splittracr.planning.estimate import Answer, Beliefs, Smoothed, Tracker
from splittracr.planning.plan import static_exclusions
from splittracr.planning.policy import Policy, Settings
from splittracr.planning.registry import create
from splittracr.planning.schedule import Step

HANDSHAKE_BYTES = (1_024, 32_768)
"""Probes with which a session begins, so that the first decision knows something of the link."""

_AROUND = ("load", "prepare", "edge_wait", "finish", "other")  # stages that every candidate has


class Adapting:
    """Asks the policy before each frame. Learns from frames, and from the link itself, which hears
    replies that come too late for theirs.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        candidates = policy.candidates
        self._tracker = Tracker(
            edge_ms=float(candidates.before_ms().max()),
            server_ms=float(candidates.server_ms.max()),
        )
        self._around = Smoothed(0.0)

    def beliefs(self, now: float) -> Beliefs:
        """What decisions are based on."""
        return self._tracker.beliefs(now * 1e3)

    def choose(self, step: Step, now: float) -> Choice:
        """What the policy decides for the next frame."""
        del step
        decision = self._policy.decide(now * 1e3, self.beliefs(now))
        return Choice(
            cut=decision.cut,
            codec=_codec(decision.cut, decision.codec, self._policy.candidates),
            epoch=decision.epoch,
            deadline_ms=decision.deadline_ms,
            hedge_ms=decision.hedge_ms,
            predicted_ms=decision.predicted_ms + self._around.value,
            reason=decision.reason.value,
            regret_ms=decision.regret_ms,
            probe_bytes=decision.probe_bytes,
        )

    def expected_ms(self, cut: int, now: float) -> float:
        """What a frame at `cut` is expected to take, with the best codec there."""
        candidates = self._policy.candidates
        latencies = candidates.latency_ms(self.beliefs(now))
        return float(latencies[candidates.cut == cut].min()) + self._around.value

    def observe(self, outcome: Outcome, now: float) -> None:
        """A frame has finished."""
        choice, stages = outcome.choice, outcome.stages
        if not outcome.ok:
            return
        i = self._candidate(choice)
        around = sum(stages.get(stage, 0.0) for stage in _AROUND)
        self._around.observe(around)
        candidates = self._policy.candidates
        measured, expected = stages.get("head", 0.0), float(candidates.edge_ms[i])
        if i == candidates.edge_only:
            measured += stages.get("reduce", 0.0)
        elif choice.hedge_ms is None:  # a hedged frame's encoder has the tail beside it
            measured += stages.get("encode", 0.0)
            expected += float(candidates.encode_ms[i])
        self._tracker.computed(measured, expected)
        latency = outcome.total_ms - around
        self._policy.learn(i, latency, self.beliefs(now))

    # --------------------------------------------------------------------- what the link tells

    def sent(self, number: int, cut: int | None, nbytes: int, now: float) -> None:
        """A request or a probe, which has no cut, begins to leave."""
        self._tracker.connected = True
        down, server = 0.0, 0.0
        if cut is not None:
            down, server = self._policy.candidates.bytes_down, self._expected(cut)
        self._tracker.sent(number, now * 1e3, nbytes, down, server)

    def heard(self, number: int, transfer: Transfer, now: float) -> None:
        """Its answer has arrived, or that there is none, even if nobody waits any more."""
        stages = transfer.stages
        served = sum(stages.get(stage, 0.0) for stage in ("decode", "tail", "reduce", "reply"))
        answer = Answer(
            bytes_up=transfer.bytes_up,
            bytes_down=transfer.bytes_down,
            network_ms=transfer.network_ms,
            server_wait_ms=stages.get("server_wait", 0.0),
            server_ms=served,
            expected_server_ms=self._expected(transfer.cut) if served else 0.0,
        )
        self._tracker.answered(number, now * 1e3, answer)

    def connection(self, alive: bool) -> None:
        """A session has begun, or ended: then nothing that was sent will be answered."""
        self._tracker.connected = alive
        if not alive:
            self._tracker.forget()

    def _expected(self, cut: int | None) -> float:
        """What the profile says of the server's time at a cut, 0 where it says nothing."""
        at = np.flatnonzero(self._policy.candidates.cut == cut)
        return float(self._policy.candidates.server_ms[at[0]]) if len(at) else 0.0

    def _candidate(self, choice: Choice) -> int:
        found = self._policy.candidates.find(choice.cut, str(choice.codec))
        return self._policy.candidates.edge_only if found is None else found


def adapting(
    spec: ExperimentSpec, edge: Profile, server: Profile, named: Sequence[int]
) -> Adapting:
    """The chooser of mode Adaptive. `named` are the cuts it may choose from; empty means all."""
    adaptive = spec.partition.adaptive or AdaptiveSpec()
    offered = cost.candidates(edge, server, slowdown=spec.edge.slowdown_percent / 100)
    mebibytes, percent = adaptive.edge_memory_mebibytes, adaptive.agreement_percent
    limits = Limits(
        cuts=tuple(named),
        memory_bytes=None if mebibytes is None else mebibytes * 2**20,
        agreement=None if percent is None else percent / 100,
    )
    excluded = static_exclusions(offered, limits)
    keep = np.array([reason is None for reason in excluded])
    keep[offered.edge_only] = True  # without a server there is nothing else
    return Adapting(
        create(adaptive.policy.lower(), offered.only(keep), settings(adaptive, _power(spec, edge)))
    )


def _power(spec: ExperimentSpec, edge: Profile) -> Power | None:
    """What the edge draws. Raises InvalidInput if the objective needs it and nothing tells it."""
    found = power(spec.declared_power, edge.power)
    adaptive = spec.partition.adaptive or AdaptiveSpec()
    if found is None and objective(adaptive).energy:
        expected = (
            "computeMilliwatts, and transmitMilliwatts or nanojoulesPerBit: the objective is "
            "energy, and this edge has no sensor of it"
        )
        raise InvalidInput("spec.edge.power", None, expected)
    return found


def settings(adaptive: AdaptiveSpec, drawn: Power | None = None) -> Settings:
    """The manifest's settings as a policy takes them. `drawn` is what the edge draws."""
    return Settings(
        objective=objective(adaptive, drawn),
        hysteresis=adaptive.hysteresis_percent / 100,
        min_dwell_ms=adaptive.min_dwell_milliseconds,
        period_ms=adaptive.period_milliseconds,
        deadline=adaptive.deadline_percent / 100,
        probe_after_ms=adaptive.probe_after_milliseconds,
    )


def objective(adaptive: AdaptiveSpec, drawn: Power | None = None) -> Objective:
    """What the manifest wants to be small. `drawn` is what the edge draws."""
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
    """The codecs of live tensors and of pictures that mode Adaptive chooses from."""
    adaptive = spec.partition.adaptive or AdaptiveSpec()
    return (
        adaptive.codecs or (spec.transport.codec,),
        adaptive.picture_codecs or (spec.transport.picture_codec,),
    )


def _codec(cut: int, name: str, candidates: Candidates) -> Codec | PictureCodec:
    if name == EDGE_ONLY:
        return RAW
    return PictureCodec.parse(name) if cut == 0 and candidates.pictures else Codec.parse(name)
