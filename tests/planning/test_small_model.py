"""Whether the small model goes first: decisions with values computed by hand."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from splittracr.experiment.codec import PictureCodec
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.adapt import Adapting, adapting
from splittracr.planning.audit import Audit
from splittracr.planning.cascade import Cascade
from splittracr.planning.cost import Z95, Candidates, Objective, candidates
from splittracr.planning.decision import Decision, FirstRun, Outcome
from splittracr.planning.emulated_link import Span, constant
from splittracr.planning.estimate import Beliefs
from splittracr.planning.learner import EVERY, EVERY_DRIFTED, SmallModel
from splittracr.planning.own_policy import OwnPolicy
from splittracr.planning.policy import Adaptive, Deadline, Hedge, Policy, PolicyOptions
from splittracr.planning.registry import create
from splittracr.planning.schedule import Step, Trial
from splittracr.planning.simulate import oracle, simulate
from splittracr.planning.transfer import Transfer
from tests.planning.profiles import codec, profile

STEP = Step(Trial(0, 2, 0), 0)
TINY = Cascade("tiny", small_ms=8, sure=0.6, wrong=0.03)
AT_ONCE = PolicyOptions(hysteresis=0.0)


def three() -> Candidates:
    """At 8 Mbit/s `cut1` takes 180.1 ms, the whole input 1,071.1 ms, the edge alone 510 ms."""
    one = profile([1, 50], [1_000_000, 100_000])
    return candidates(one, one, slowdown=10)


def link(rate: float, cascade: Cascade | None = TINY) -> Beliefs:
    return replace(Beliefs.of_link(rate, 20), cascade=cascade)


def choice(decision: Decision) -> tuple[int, bool]:
    """The cut, and whether the small model goes first."""
    return decision.cut, decision.small == "first"


SLOW, MIDDLE, FAST = 1e5, 8e6, 1e9


@pytest.mark.parametrize(
    ("rate", "small_ms", "expected", "predicted"),
    [
        (MIDDLE, 8, (1, True), 8 + 0.4 * 180.1),
        (SLOW, 8, (2, True), 8 + 0.4 * 510),  # nothing is sent
        (SLOW, 320, (2, False), 510),
        (MIDDLE, 110, (1, False), 180.1),  # it takes longer than it saves
        (FAST, 8, (0, True), 8 + 0.4 * 79.0008),
        (FAST, 50, (0, False), 79.0008),  # a fast link and a slow edge
    ],
)
def test_the_better_way_is_taken(
    rate: float, small_ms: float, expected: tuple[int, bool], predicted: float
) -> None:
    beliefs = link(rate, replace(TINY, small_ms=small_ms))
    decision = Adaptive(three(), AT_ONCE).decide(0.0, beliefs)
    assert choice(decision) == expected
    assert decision.predicted_ms == pytest.approx(predicted, rel=1e-3)
    assert decision.predicted_regret_ms == 0
    slowed = replace(beliefs, edge_factor=2.0)
    assert Adaptive(three(), AT_ONCE).costs_of_choices(slowed)[4] == pytest.approx(
        2 * small_ms + 0.4 * (three().latency_ms(slowed)[1])
    )


def test_without_beliefs_of_a_small_model_nothing_changes() -> None:
    decision = Adaptive(three(), AT_ONCE).decide(0.0, link(MIDDLE, None))
    assert (choice(decision), decision.small) == ((1, False), None)


@pytest.mark.parametrize("made", [Deadline, Hedge])
def test_policies_that_bound_the_latency_bound_it_behind_the_small_model(
    made: type[Deadline],
) -> None:
    """The samples that go on are late at most as late as without the small model."""
    policy, varies = made(three(), AT_ONCE), link(MIDDLE)
    varies = replace(varies, up=replace(varies.up, spread=0.5))
    alone, behind = policy.costs(varies), policy.costs_of_choices(varies)[3:]
    np.testing.assert_allclose(behind, 8 + 0.4 * alone)
    decision = policy.decide(0.0, varies)
    assert choice(decision) == (1, True)
    assert (decision.deadline_ms is None) is (made is Hedge)
    assert decision.hedge_ms == (0.0 if made is Hedge else None)
    assert policy.decide(1.0, link(SLOW)).hedge_ms is None  # the edge alone is behind it


def test_a_percentile_of_all_samples_is_bounded_too() -> None:
    varies = replace(link(MIDDLE), up=replace(link(MIDDLE).up, spread=0.5))
    options = replace(AT_ONCE, objective=Objective(z=Z95))
    behind = Deadline(three(), options).costs_of_choices(varies)[3:]
    latest = 10 + 1.5 * 170.1 + 500  # the deadline, then the rest on the edge
    z = 1.15034938  # of 87.5 %: the rest is 40 % of the samples
    expected = 8 + min(latest, 10 + 50 + 20.1 + 100 * np.exp(z * 0.5))
    assert behind[1] == pytest.approx(expected)
    rarely = replace(varies, cascade=replace(TINY, sure=0.96))
    assert Deadline(three(), options).costs_of_choices(rarely)[3:].tolist() == [8, 8, 8]


@pytest.mark.parametrize("made", [Adaptive, Deadline, Hedge])
def test_of_ways_with_the_same_percentile_the_mean_decides(made: type[Adaptive]) -> None:
    """97 of 100 samples take 8 ms, and so does the 95th, at any latency of the other three."""
    policy = made(three(), PolicyOptions(objective=Objective(z=Z95)))
    rarely = replace(TINY, sure=0.97)
    start = policy.decide(0.0, link(MIDDLE, rarely))
    assert (choice(start), start.reason) == ((1, True), "start")
    slower = policy.decide(1.0, link(SLOW, rarely))
    assert (choice(slower), slower.reason) == ((2, True), "better")
    assert slower.predicted_ms == pytest.approx(8 + 0.03 * 510)
    near = policy.decide(2.0, link(MIDDLE, replace(rarely, small_ms=170)))  # 175.4 against 185.3
    assert (choice(near), near.reason) == ((2, True), "hysteresis")


def test_a_switch_has_to_gain_more_than_the_hysteresis() -> None:
    policy = Adaptive(three(), PolicyOptions(hysteresis=0.1))
    slower = replace(TINY, small_ms=110)  # 182.04 against 180.1
    near = replace(TINY, small_ms=98)  # 170.04: less than a tenth better
    decided = [policy.decide(float(i), link(MIDDLE, one)) for i, one in enumerate((slower, near))]
    assert [choice(one) for one in decided] == [(1, False), (1, False)]
    assert [one.reason for one in decided] == ["start", "hysteresis"]
    better = policy.decide(2.0, link(MIDDLE))
    assert (choice(better), better.reason, better.epoch) == ((1, True), "better", 1)
    kept = policy.decide(3.0, link(MIDDLE, slower))  # 182.04 against 180.1 once more
    assert (choice(kept), kept.reason, kept.epoch) == ((1, True), "hysteresis", 1)
    assert kept.predicted_regret_ms == pytest.approx(182.04 - 180.1)


def test_a_drifted_small_model_is_left_at_once() -> None:
    policy = Adaptive(three(), PolicyOptions(min_dwell_ms=1e6, period_ms=1e6))
    assert choice(policy.decide(0.0, link(MIDDLE))) == (1, True)
    left = policy.decide(1.0, link(MIDDLE, None))
    assert (choice(left), left.reason, left.epoch) == ((1, False), "excluded", 1)


@pytest.mark.parametrize(
    ("accuracy", "wrong", "expected"),
    [
        (0.969, 0.03, (1, True)),  # it keeps 0.97
        (0.98, 0.03, (0, False)),
        (0.99, 0.03, (1, False)),
        (0.99, 0.0, (0, True)),  # behind it a codec may keep less than alone
        (None, 0.5, (0, True)),
    ],
)
def test_both_ways_keep_the_accuracy(
    accuracy: float | None, wrong: float, expected: tuple[int, bool]
) -> None:
    jpeg = codec("jpeg90", [50_000], accuracy=[0.98])
    one = profile([1, 50], [1_000_000, 100_000], pictures=[jpeg])
    offered = candidates(one, one, slowdown=10)
    policy = Adaptive(offered, replace(AT_ONCE, accuracy=accuracy))
    decision = policy.decide(0.0, link(MIDDLE, replace(TINY, wrong=wrong)))
    kept = offered.accuracy[offered.position(decision.cut, str(decision.codec))]
    if accuracy is not None:
        share = 0.6 - wrong + 0.4 * kept if decision.small else kept
        assert share >= accuracy - 1e-9
    assert choice(decision) == expected


def test_heads_behind_the_small_model_have_less_memory() -> None:
    """Heads take 1,000, 2,000 and 3,000 bytes."""
    policy = Adaptive(three(), replace(AT_ONCE, memory_beside_small=1_500))
    costs = policy.costs_of_choices(link(MIDDLE))
    assert np.isfinite(costs).tolist() == [True, True, True, True, False, False]


def test_without_a_server_the_small_model_may_still_go_first() -> None:
    policy, lost = Adaptive(three(), PolicyOptions()), replace(link(MIDDLE), connected=False)
    decision = policy.decide(0.0, lost)
    assert (choice(decision), decision.reason) == ((2, True), "server lost")
    slow = replace(lost, cascade=replace(TINY, small_ms=310))  # 514 against 510
    assert choice(policy.decide(1.0, slow)) == (2, True)
    assert choice(policy.decide(2.0, replace(lost, cascade=None))) == (2, False)
    assert choice(policy.decide(3.0, slow)) == (2, False)


def test_a_link_that_few_samples_use_is_probed() -> None:
    policy = Adaptive(three(), PolicyOptions())
    assert policy.decide(0.0, link(MIDDLE)).probe_bytes == 0
    idle = replace(link(MIDDLE), idle_ms=2_000.0)
    assert policy.decide(1.0, idle).probe_bytes >= 4_096


# ------------------------------------------------------------------------------------ learning


def seen(model: SmallModel, sure: int, unsure: int, ms: float = 8.0) -> None:
    for number in range(sure + unsure):
        model.ran(FirstRun(number < sure, ms))


def test_the_share_of_sure_samples_has_a_prior_and_follows_the_stream() -> None:
    model = SmallModel("tiny", 8.0, Audit(0.05))
    assert model.believed(1.0) == Cascade("tiny", 8.0, 0.5, 0.5 * 0.05)
    seen(model, 3, 0)
    assert model.sure == pytest.approx(4 / 5, rel=0.01)
    seen(model, 0, 2_000)
    assert model.sure < 0.01
    seen(model, 2_000, 0)
    assert 0.99 < model.sure < 1


def test_records_of_an_earlier_start_count() -> None:
    model = SmallModel("tiny", 8.0, Audit(None))
    model.resume([(True, 0), (True, None), (False, None)])
    assert model.sure == pytest.approx(3 / 5, rel=0.01)


@pytest.mark.parametrize(
    ("promised", "agrees", "disagrees", "share"),
    [
        (0.05, 0, 0, 0.05),  # the promise, until audits show better
        (0.05, 98, 0, 0.01),
        (0.05, 45, 3, 0.05),  # not refuted
        (None, 0, 0, 0.5),  # the prior
        (None, 45, 3, 0.08),
    ],
)
def test_the_share_that_disagrees_is_that_of_audits_and_at_most_the_promise(
    promised: float | None, agrees: int, disagrees: int, share: float
) -> None:
    audit = Audit(promised)
    for number in range(agrees + disagrees):
        audit.add(agrees=number < agrees)
    model = SmallModel("tiny", 8.0, audit)
    seen(model, 900, 100)
    assert model.wrong == pytest.approx(model.sure * share)


def test_its_time_is_measured_less_the_time_that_it_saves() -> None:
    model = SmallModel("tiny", 8.0, Audit(0.05))
    model.ran(FirstRun(True, 30.0))
    measured = 8 + 0.3 * (30 - 8)
    for edge_factor in (1.0, 2.0):  # the large model's profile is of no concern
        believed = model.believed(edge_factor)
        assert believed is not None
        assert believed.small_ms * edge_factor == pytest.approx(measured)
    model.prepared(6.0)  # for the large model; its answers save that
    believed = model.believed(2.0)
    assert believed is not None
    assert believed.small_ms * 2 == pytest.approx(measured - model.sure * 6)


def test_a_drift_ends_with_audits_of_tried_samples() -> None:
    audit = Audit(0.05)
    model = SmallModel("tiny", 8.0, audit)
    seen(model, 900, 100)
    for _ in range(3):
        audit.add(agrees=False)
    assert model.believed(1.0) is None
    assert [model.is_due(9.0) for _ in range(EVERY_DRIFTED * 2)].count(True) == 2
    for _ in range(200):
        audit.add(agrees=True)
    assert model.believed(1.0) is not None


@pytest.mark.parametrize(
    ("disagree", "audits", "needed"), [(3, 3, 2), (12, 40, 45), (60, 60, 179), (200, 200, 179)]
)
def test_a_drift_ends_after_as_many_audits_as_documented(
    disagree: int, audits: int, needed: int
) -> None:
    audit = Audit(0.05)
    model = SmallModel("tiny", 8.0, audit)
    for number in range(audits):
        audit.add(agrees=number < audits - disagree)
    for _ in range(needed):
        assert model.believed(1.0) is None
        audit.add(agrees=True)
    assert model.believed(1.0) is not None


def test_tries_are_rare_once_the_small_model_is_known() -> None:
    model, tries = SmallModel("tiny", 8.0, Audit(0.05)), list[int]()
    for frame in range(EVERY * EVERY):
        if model.is_due(9.0):
            tries.append(frame)
            model.ran(FirstRun(True, 8.0))
    assert tries[:5] == [0, 1, 3, 6, 10]
    assert tries[-1] - tries[-2] == EVERY


def test_a_small_model_that_seems_too_slow_takes_one_per_cent_of_the_time() -> None:
    model = SmallModel("tiny", 8.0, Audit(0.05))
    seen(model, EVERY, 0)
    tries = [frame for frame in range(1_000) if model.is_due(5.0)]
    assert tries == [159, 319, 479, 639, 799, 959]  # 8 ms in 160 frames of 5 ms


def test_one_slow_run_does_not_shut_the_small_model_out() -> None:
    model = SmallModel("tiny", 30.0, Audit(0.05))
    seen(model, 50, 0, ms=30.0)
    seen(model, 1, 0, ms=200.0)
    believed = list[float]()
    for _ in range(1_000):
        if model.is_due(65.0):
            model.ran(FirstRun(True, 30.0))
        cascade = model.believed(1.0)
        assert cascade is not None
        believed.append(cascade.small_ms)
    assert believed[0] > 65
    assert believed[-1] < 32


def test_an_edge_slower_than_its_profile_does_not_shut_the_small_model_out() -> None:
    """The large model takes 2.5 times its profile from the first frame on, the small one 75 ms."""
    small = SmallModel("tiny", 30.0, Audit(0.05))
    made = candidates(EDGE, EDGE)
    whole = 2.5 * float(made.edge_ms[-1])
    assert whole > 100
    chooser = Adapting(create("adaptive", made, AT_ONCE), learner=small)
    chooser.connection(alive=False)
    firsts = 0
    for frame in range(200):
        decision = chooser.choose(STEP, frame / 5)
        run = FirstRun(True, 75.0) if decision.small else None
        firsts += decision.small == "first"
        answered = 75.0 if decision.small == "first" else whole
        stages = {"load": 2.0, "head": answered}
        chooser.observe(Outcome(decision, True, 2 + answered, stages, 0.0, run), frame / 5)
    assert firsts > 180


# ------------------------------------------------------------------------------- mode Adaptive

EDGE = profile(
    [1, 1, 50],
    [1_000_000, 400_000, 100_000],
    [codec("raw", [1_000_000, 400_000, 100_000, 100])],
    [codec("uint8", [1_000_000])],
)


def spec(**adaptive: Any) -> ExperimentSpec:
    cascade = {"model": {"name": "tiny"}, "statistic": "Margin", "thresholdPerMillion": 1}
    return ExperimentSpec.model_validate(
        {
            "model": {"name": "net"},
            "partition": {
                "mode": "Adaptive",
                "adaptive": {"policy": "Adaptive", **adaptive},
                "cascade": cascade,
            },
            "edge": {"slowdownPercent": 1000},
        },
        by_alias=True,
    )


def hear(to: Adapting, bits_per_second: float, start: float) -> float:
    """Some transfers at a rate; returns when they have ended, in seconds."""
    now = start
    for number, nbytes in enumerate([1_000, 100_000, 100_000, 100_000]):
        link_ms = 20 + nbytes * 8e3 / bits_per_second
        to.sent(number, 2, nbytes, now)
        now += (link_ms + 50) / 1e3
        to.heard(number, Transfer(2, nbytes, 100, link_ms, {"tail": 50.0}), now)
    return now


def finished(
    decision: Decision, total: float, run: FirstRun | None = None, **stages: float
) -> Outcome:
    return Outcome(decision, True, total, stages, 0.0, run)


def chooser(ms: float = 20.0, **adaptive: Any) -> tuple[Adapting, SmallModel, Audit]:
    audit = Audit(0.05)
    model = SmallModel("tiny", ms, audit)
    return adapting(spec(**adaptive), EDGE, EDGE, [], learner=model), model, audit


def test_a_link_that_slows_down_brings_the_small_model_in() -> None:
    one, model, audit = chooser()
    now = hear(one, 1e9, 0.0)
    start = one.choose(STEP, now)  # 79 ms against 20 + 0.5 * 79
    assert choice(start) == (0, True)
    seen(model, 0, 60, ms=20.0)  # it is hardly ever sure
    decided = [one.choose(STEP, now) for _ in range(60)]
    assert {choice(each) for each in decided} == {(0, False)}
    assert [each.small for each in decided] == [None] * 59 + ["after"]
    tried = decided[-1]
    assert (tried.codec, tried.reason) == (PictureCodec(), "explore")
    seen(model, 60, 0, ms=20.0)
    now = hear(one, 8e6, now)
    first = one.choose(STEP, now)
    assert (choice(first), first.reason) == ((2, True), "better")
    assert first.epoch == tried.epoch + 1
    for _ in range(5):
        audit.add(agrees=False)
    left = one.choose(STEP, now)
    assert (choice(left), left.epoch) == ((2, False), first.epoch + 1)


def test_predictions_contain_the_stages_around_both_models() -> None:
    """Reading takes 30 ms, preparing and finishing 12 for each model."""
    one, model, _ = chooser(ms=32.0)
    now = hear(one, 8e6, 0.0)
    first = one.choose(STEP, now)
    rest = first.predicted_ms
    assert choice(first) == (2, True)
    assert rest is not None
    ran = {"small": 62.0, "prepare": 10.0, "finish": 2.0, "head": 20.0, "link": 80.0}
    one.observe(finished(first, 174.0, FirstRun(False, 32.0), **ran), now)
    second = one.choose(STEP, now)
    assert choice(second) == (2, True)
    assert second.predicted_ms is not None
    latency = one.expected_ms(2, now) - 42  # without the stages around it
    share = 1 - model.sure
    assert second.predicted_ms == pytest.approx(30 + 32 + share * (12 + latency), rel=0.01)
    # From a sample that the small model answered nothing is learnt about the large one.
    before = one.beliefs(now)
    own = {"load": 30.0, "prepare": 10.0, "head": 20.0, "finish": 2.0}
    answered = replace(second, cut=3)
    one.observe(finished(answered, 62.0, FirstRun(True, 32.0), **own), now)
    after = one.beliefs(now)
    assert replace(after, cascade=None) == replace(before, cascade=None)
    assert model.sure > 1 - share


def test_a_sample_that_was_tried_is_learnt_from() -> None:
    one, model, _ = chooser(ms=150.0)
    now = hear(one, 8e6, 0.0)
    tried = one.choose(STEP, now)
    assert (choice(tried), tried.small) == ((2, False), "after")
    one.observe(finished(tried, 180.0, FirstRun(True, 9.0), head=20.0, link=110.0), now)
    assert model.sure == pytest.approx(2 / 3, rel=0.01)
    cheaper = one.choose(STEP, now)
    assert (choice(cheaper), cheaper.reason) == ((2, True), "better")


def test_a_cut_that_is_not_ready_is_replaced_behind_the_small_model() -> None:
    ready = {0, 3}
    model = SmallModel("tiny", 20.0, Audit(0.05))
    seen(model, 30, 30, ms=20.0)
    one = adapting(spec(), EDGE, EDGE, [], ready=lambda d: d.cut in ready, learner=model)
    assert model.sure < 0.7
    now = hear(one, 1e9, 0.0)
    assert choice(one.choose(STEP, now)) == (0, True)
    now = hear(one, 8e6, now)
    waits = one.choose(STEP, now)
    assert (choice(waits), waits.reason) == ((0, True), "not ready")
    assert waits.predicted_ms == pytest.approx(20 + (1 - model.sure) * one.expected_ms(0, now))


def test_memory_of_the_small_model_counts() -> None:
    model = SmallModel("tiny", 20.0, Audit(0.05), memory_bytes=1 << 20)
    one = adapting(spec(edgeMemoryMebibytes=1), EDGE, EDGE, [], learner=model)
    now = hear(one, 8e6, 0.0)
    assert choice(one.choose(STEP, now)) == (2, False)


class FirstAlways(Policy):
    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        return Decision(cut=2, small="first")


def test_a_policy_of_ones_own_cannot_use_a_small_model_that_has_drifted() -> None:
    policy = OwnPolicy("mine:FirstAlways", FirstAlways, three(), PolicyOptions())
    assert policy.decide(0.0, link(MIDDLE)).small == "first"
    with pytest.raises(SplittracrError, match="mine:FirstAlways: decided small=first, expected"):
        policy.decide(0.0, link(MIDDLE, None))


# ---------------------------------------------------------------------------------- simulation


def changing(seed: int) -> tuple[Span, ...]:
    draw = random.Random(seed)
    rates = [int(10 ** draw.uniform(5, 9)) for _ in range(60)]
    return tuple(span for rate in rates for span in constant(rate, 20_000_000))


@pytest.mark.parametrize("small_ms", [8.0, 60.0, 400.0])
@pytest.mark.parametrize("name", ["adaptive", "deadline", "hedge"])
def test_deciding_is_as_good_as_the_better_fixed_choice(name: str, small_ms: float) -> None:
    cascade = replace(TINY, small_ms=small_ms)

    def mean(given: Cascade | None, *, decides: bool = False) -> float:
        runs = [
            simulate(create(name, three(), PolicyOptions()), changing(i), given, decides=decides)
            for i in range(4)
        ]
        return float(np.concatenate([run.latencies for run in runs]).mean())

    fixed = min(mean(None), mean(cascade))
    assert mean(cascade, decides=True) <= 1.02 * fixed


def test_the_oracle_tries_only_what_the_small_model_answers() -> None:
    spans = constant(8_000_000, 20_000_000) * 10
    found = oracle(three(), spans, TINY, decides=True).latencies
    assert set(np.round(found, 1)) == {8.0, 180.1}
    slow = oracle(three(), spans, replace(TINY, small_ms=400), decides=True).latencies
    assert set(np.round(slow, 1)) == {180.1}


@pytest.mark.parametrize(
    ("accuracy", "wrong", "expected"),
    [
        (None, 0.03, {8, 121.1}),
        (0.969, 0.03, {8, 121.1}),  # behind the small model only `cut1` and the edge keep it
        (0.98, 0.03, {121.1}),
        (0.99, 0.03, {180.1}),
        (0.99, 0.0, {8, 129.1}),  # the picture keeps it only behind the small model
    ],
)
def test_the_oracle_keeps_the_accuracy(
    accuracy: float | None, wrong: float, expected: set[float]
) -> None:
    """A picture of 50,000 bytes takes 50 ms on the link, 20.1 of latency and reply, 51 of tail."""
    one = profile(
        [1, 50], [1_000_000, 100_000], pictures=[codec("jpeg90", [50_000], accuracy=[0.98])]
    )
    spans = constant(8_000_000, 20_000_000) * 10
    offered, cascade = candidates(one, one, slowdown=10), replace(TINY, wrong=wrong)
    found = oracle(offered, spans, cascade, decides=True, accuracy=accuracy).latencies
    assert set(np.round(found, 1)) == expected
