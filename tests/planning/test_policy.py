from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.cost import LATENCY, Candidates, Objective, Power, candidates
from splittracr.planning.decision import Decision
from splittracr.planning.estimate import Beliefs
from splittracr.planning.policy import Adaptive, Deadline, PolicyOptions, Reason, probe_bytes
from splittracr.planning.registry import POLICIES, create
from tests.planning.profiles import links, profile, sets

AT_ONCE = PolicyOptions(hysteresis=0.0)


def three() -> Candidates:
    one = profile([1, 50], [1_000_000, 100_000])
    return candidates(one, one, slowdown=10)


def link(rate: float) -> Beliefs:
    return Beliefs.of_link(rate, 20)


def position(offered: Candidates, decision: Decision) -> int:
    return offered.position(decision.cut, str(decision.codec))


def times(decision: Decision) -> tuple[float, float]:
    """Its predicted latency and its regret."""
    assert decision.predicted_ms is not None
    assert decision.predicted_regret_ms is not None
    return decision.predicted_ms, decision.predicted_regret_ms


@given(sets(), st.lists(links(), min_size=1, max_size=5))
def test_adaptive_is_the_best_by_enumeration(offered: Candidates, seen: list[Beliefs]) -> None:
    policy = Adaptive(offered, AT_ONCE)
    for now, beliefs in enumerate(seen):
        decision = policy.decide(float(now), beliefs)
        latencies = offered.latency_ms(beliefs)
        assert latencies[position(offered, decision)] == latencies.min()
        assert decision.predicted_ms == latencies.min()
        assert decision.predicted_regret_ms == 0


@given(sets(), st.lists(links(), min_size=1, max_size=5), st.sampled_from(sorted(POLICIES)))
def test_every_policy_decides_for_something_that_exists(
    offered: Candidates, seen: list[Beliefs], name: str
) -> None:
    policy, epoch, last = create(name, offered, PolicyOptions()), 0, None
    for now, beliefs in enumerate(seen):
        decision = policy.decide(float(now), beliefs)
        i = position(offered, decision)
        policy.learn(i, 10.0, beliefs)
        assert (decision.cut, decision.codec) == (offered.cut[i], offered.codec(i))
        predicted, regret = times(decision)
        assert predicted >= 0
        assert regret >= -1e-9
        epoch += last not in (None, i)
        last = i
        assert decision.epoch == epoch


def test_hysteresis_keeps_what_is_hardly_worse() -> None:
    policy = Adaptive(three(), PolicyOptions(hysteresis=0.2))
    assert policy.decide(0, link(8e6)).reason == Reason.START
    barely = policy.decide(1, link(1e9))  # 80 ms as it is, 71 ms with full offload
    assert (barely.cut, barely.reason, barely.epoch) == (1, Reason.HYSTERESIS, 0)
    predicted, regret = times(barely)
    assert 0 < regret < 0.2 * predicted
    assert policy.decide(2, link(8e6)).reason == Reason.BEST
    clearly = policy.decide(3, link(1e5))
    assert (clearly.cut, clearly.reason, clearly.epoch) == (2, Reason.BETTER, 1)


def test_a_switch_waits_for_the_dwell_and_the_period() -> None:
    policy = Adaptive(three(), PolicyOptions(hysteresis=0.0, min_dwell_ms=1_000, period_ms=100))
    assert policy.decide(0, link(8e6)).cut == 1
    assert policy.decide(50, link(1e9)).reason == Reason.PERIOD
    assert policy.decide(500, link(1e9)).reason == Reason.DWELL
    assert policy.decide(1_000, link(1e9)).reason == Reason.BETTER
    kept = policy.decide(1_200, link(8e6))
    assert (kept.cut, kept.reason, kept.epoch) == (0, Reason.DWELL, 1)
    assert times(kept)[1] > 0


@pytest.mark.parametrize("name", ["adaptive", "deadline", "hedge", "bandit"])
def test_without_a_server_the_edge_is_alone(name: str) -> None:
    policy = create(name, three(), PolicyOptions())
    assert policy.decide(0, link(1e9)).cut == 0
    lost = policy.decide(1, replace(link(1e9), connected=False))
    assert (lost.cut, lost.reason, lost.probe_bytes) == (2, Reason.LOST, 0)


def test_a_quiet_link_is_probed() -> None:
    policy = Adaptive(three(), PolicyOptions(probe_after_ms=500))
    slow = link(1e4)
    assert policy.decide(0, replace(slow, idle_ms=499)).probe_bytes == 0
    probed = policy.decide(1, replace(slow, idle_ms=500))
    assert probed.cut == 2
    assert probed.probe_bytes == probe_bytes(slow.up) == 4_096
    assert policy.decide(2, replace(slow, idle_ms=500, backlog_ms=1)).probe_bytes == 0


def test_the_latency_is_not_looked_for_with_every_frame() -> None:
    policy = Adaptive(three(), PolicyOptions(latency_probe_after_ms=1_000))
    jittery = replace(link(8e6), latency_age_ms=5_000)  # no probe was quicker for so long
    sent = [now for now in range(0, 3_000, 100) if policy.decide(now, jittery).probe_bytes]
    assert sent == [0, 1_000, 2_000]


def test_regret_is_time_whatever_the_objective() -> None:
    objective = Objective(latency=0, throughput=1)
    policy = Adaptive(three(), PolicyOptions(objective, hysteresis=0, min_dwell_ms=1_000))
    assert policy.decide(0, link(8e6)).cut == 1
    kept = policy.decide(1, link(1e5))  # 8,080 ms against 510 ms on the edge alone
    assert kept.reason == Reason.DWELL
    assert kept.predicted_regret_ms == pytest.approx(8_088 - 510)


def test_a_reply_that_is_waited_for_is_predicted_in_full() -> None:
    policy = create("deadline", three(), PolicyOptions(min_dwell_ms=1_000))
    policy.decide(0, link(8e6))
    kept = policy.decide(1, link(1e5))
    assert kept.cut == 1
    assert kept.predicted_ms == pytest.approx(8_088)
    assert kept.deadline_ms is not None
    assert kept.deadline_ms > times(kept)[0]  # an edge that begins then is not earlier


@pytest.mark.parametrize("name", ["deadline", "hedge"])
@pytest.mark.parametrize(
    "objective", [Objective(power=Power(5, 1)), Objective(latency=3), Objective(z=1.6)]
)
def test_a_fallback_counts_for_every_objective_of_latency_alone(
    name: str, objective: Objective
) -> None:
    slow = replace(link(1e5), up=replace(link(1e5).up, spread=1.0))
    policy, usual = (create(name, three(), PolicyOptions(one)) for one in (objective, LATENCY))
    assert isinstance(policy, Deadline)
    assert isinstance(usual, Deadline)
    bounded = policy.costs(slow)
    assert (bounded < objective.costs(three(), slow) - 1)[:-1].all()
    if not objective.z:
        np.testing.assert_array_equal(bounded, usual.costs(slow))


def test_deadline_is_a_multiple_of_the_expected_wait() -> None:
    policy = create("deadline", three(), PolicyOptions(deadline=2.0))
    decision = policy.decide(0, link(8e6))
    waits = three().link_ms(link(8e6)) + three().after_ms(link(8e6))
    assert decision.deadline_ms == pytest.approx(2 * waits[1])
    assert decision.hedge_ms is None
    assert policy.decide(1, link(1e3)).deadline_ms is None  # the edge alone


def test_hedge_sends_where_it_may_win_and_says_so() -> None:
    policy = create("hedge", three(), PolicyOptions(hysteresis=0.0))
    hopeless = link(2e5)
    certain = policy.decide(0, hopeless)
    assert certain.cut == three().edge_only
    unsure = replace(hopeless, up=replace(hopeless.up, spread=1.0))
    tried = policy.decide(1, unsure)
    assert (tried.cut, tried.hedge_ms) == (1, 0.0)
    assert times(tried)[0] <= three().edge_ms[2]


def test_server_only_sends_what_loses_nothing() -> None:
    assert create("server-only", three(), PolicyOptions()).decide(0, link(1e3)).cut == 0
    with pytest.raises(InvalidInput, match="server-only"):
        create("server-only", three().only(np.array([False, True, True])), PolicyOptions())


def test_bandit_finds_the_best_and_comes_back_to_it() -> None:
    policy = create("bandit", three(), PolicyOptions())

    def frames(beliefs: Beliefs, count: int) -> list[int]:
        truth = three().latency_ms(beliefs)
        chosen = []
        for now in range(count):
            i = policy.decide(float(now), beliefs).cut
            policy.learn(i, float(truth[i]), beliefs)
            chosen.append(i)
        return chosen

    assert frames(link(8e6), 60)[-20:].count(1) >= 18
    assert frames(link(1e4), 100)[-20:].count(2) >= 18
    assert frames(link(8e6), 100)[-20:].count(1) >= 15


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(InvalidInput, match=r"one of: .*hedge"):
        create("hedg", three(), PolicyOptions())
