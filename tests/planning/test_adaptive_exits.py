"""Whether exits go first in mode Adaptive: decisions with values computed by hand."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import ExperimentSpec
from splittracr.planning.adapt import Adapting, adapting
from splittracr.planning.audit import Audit
from splittracr.planning.cascade import Cascade, Exit
from splittracr.planning.cost import Z95, Candidates, Objective
from splittracr.planning.decision import Decision, FirstRun, Outcome
from splittracr.planning.emulated_link import constant
from splittracr.planning.estimate import Beliefs
from splittracr.planning.learner import EVERY, EVERY_DRIFTED, LearntExits
from splittracr.planning.own_policy import OwnPolicy
from splittracr.planning.policy import Adaptive, Deadline, Hedge, Policy, PolicyOptions
from splittracr.planning.registry import create
from splittracr.planning.schedule import Step, Trial
from splittracr.planning.simulate import oracle, simulate
from tests.planning.profiles import links, profile, sets
from tests.planning.test_cascade import EXITS, five
from tests.planning.test_small_model import changing, choice, hear

STEP = Step(Trial(0, 4, 0), 0)
AT_ONCE = PolicyOptions(hysteresis=0.0)
SLOW, MIDDLE, FAST = 1e5, 8e6, 1e9
LAST = 2
"""The cut of the last of `EXITS`: 20 of 100 samples end after 12 ms, 40 after 35 ms, and 40 go on
after 5 ms of exits.
"""
ENDED = 0.2 * 12 + 0.4 * 35


def link(rate: float, cascade: Cascade | None = EXITS) -> Beliefs:
    return replace(Beliefs.of_link(rate, 20), cascade=cascade)


@pytest.mark.parametrize(
    ("rate", "expected", "predicted"),
    [
        (MIDDLE, (3, True), ENDED + 0.4 * (5 + 224.1)),
        (SLOW, (4, True), ENDED + 0.4 * (5 + 500)),  # nothing is sent
        (FAST, (0, True), ENDED + 0.4 * (5 + 30 + 78.0008)),  # against 78.0008
    ],
)
def test_the_better_choice_is_taken(
    rate: float, expected: tuple[int, bool], predicted: float
) -> None:
    decision = Adaptive(five(), AT_ONCE).decide(0.0, link(rate))
    assert choice(decision) == expected
    assert decision.predicted_ms == pytest.approx(predicted, rel=1e-3)
    slow_exits = [replace(one, own_ms=300.0) for one in EXITS.exits]
    slow = Cascade.of_exits(slow_exits, EXITS.sure, EXITS.wrong)
    alone = Adaptive(five(), AT_ONCE).decide(0.0, link(rate, slow))
    assert choice(alone) == (expected[0], False)


@pytest.mark.parametrize("made", [Adaptive, Deadline, Hedge])
@given(
    offered=sets(),
    beliefs=links(),
    factor=st.floats(0.3, 3),
    wanted=st.lists(
        st.tuples(st.integers(1, 12), st.floats(0, 20), st.floats(0.01, 1)), min_size=1, max_size=3
    ),
    sure=st.floats(0, 0.99),
)
def test_exits_go_first_exactly_when_that_is_cheaper(
    made: type[Adaptive],
    offered: Candidates,
    beliefs: Beliefs,
    factor: float,
    wanted: list[tuple[int, float, float]],
    sure: float,
) -> None:
    whole = int(offered.cut[-1])
    heads = {int(cut): float(ms) for cut, ms in zip(offered.cut, offered.edge_ms, strict=True)}
    ordered = sorted({min(cut, whole): (own, part) for cut, own, part in wanted}.items())
    parts = sum(part for _, (_, part) in ordered)
    exits = [Exit(f"cut{cut}", cut, heads[cut], own, part / parts) for cut, (own, part) in ordered]
    cascade = Cascade.of_exits(exits, sure, wrong=0.0)
    now = replace(beliefs, edge_factor=factor, cascade=cascade)
    decision = made(offered, AT_ONCE).decide(0.0, now)

    spent, mean = 0.0, 0.0
    for one in exits:
        spent += one.own_ms * factor
        mean += sure * one.share * (one.head_ms * factor + spent)
    alone = [alone_ms(made, offered, now, i) for i in range(len(offered))]
    behind = []
    for i, cut in enumerate(offered.cut):
        head = exits[-1].head_ms if cut == 0 else float(offered.edge_ms[i])
        rest = alone_ms(made, offered, now, i, head)
        follows = cut == 0 or cut > exits[-1].cut
        behind.append(mean + (1 - sure) * (spent + rest) if follows else np.inf)
    found = offered.position(decision.cut, str(decision.codec))
    best = min(min(alone), min(behind))
    assert (behind if decision.small else alone)[found] == pytest.approx(best)
    if min(behind) != pytest.approx(min(alone)):
        assert (decision.small == "first") is (min(behind) < min(alone))
    if decision.small:
        assert decision.cut == 0 or decision.cut > exits[-1].cut


def alone_ms(
    made: type[Adaptive], c: Candidates, beliefs: Beliefs, i: int, head: float | None = None
) -> float:
    """The expected latency of a candidate after a head, without spread."""
    factor = beliefs.edge_factor
    head = (float(c.edge_ms[i]) if head is None else head) * factor
    if i == c.edge_only:
        return head * (1 - Hedge.MIN_GAIN if made is Hedge else 1)
    before = head + float(c.encode_ms[i]) * factor
    up, down = beliefs.up, beliefs.down
    left = max(before, beliefs.backlog_ms) + float(c.bytes_up[i]) * up.ms_per_byte
    back = up.fixed_ms + down.fixed_ms + c.bytes_down * down.ms_per_byte
    reply = left + back + float(c.server_ms[i]) * beliefs.server_factor + beliefs.server_wait_ms
    itself = head + float(c.rest_ms[i]) * factor
    return min(reply, itself) if made is Hedge else reply


@pytest.mark.parametrize("made", [Deadline, Hedge])
def test_percentiles_are_of_all_samples(made: type[Deadline]) -> None:
    varies = replace(link(MIDDLE), up=replace(link(MIDDLE).up, spread=0.5))
    options = replace(AT_ONCE, objective=Objective(z=Z95))
    behind = made(five(), options).costs_of_choices(varies)[5:]
    z = 1.15034938  # of 87.5 %: the rest is 40 % of the samples
    reply = 60 + 44 + 20.1 + 100 * np.exp(z * 0.5)
    latest = 500 if made is Hedge else 60 + 1.5 * 164.1 + 440
    assert behind[3] == pytest.approx(5 + min(reply, latest))
    assert np.isinf(behind).tolist() == [False, True, True, False, False]
    often = replace(varies, cascade=replace(EXITS, sure=0.96))
    often_behind = made(five(), options).costs_of_choices(often)[5:]
    assert often_behind[[0, 3, 4]].tolist() == [35, 35, 35]


def test_a_deadline_counts_from_the_head_behind_exits() -> None:
    """The backlog has left when the exits have run: then 28 ms of link, 50 of server."""
    policy = Deadline(five(), replace(AT_ONCE, deadline=2.0))
    busy = replace(link(FAST), backlog_ms=30.0)
    decision = policy.decide(0.0, busy)
    assert choice(decision) == (0, True)
    assert decision.deadline_ms == pytest.approx(2 * (28 + 50), rel=0.001)


def test_heads_beside_exits_have_less_memory() -> None:
    """Heads take 1,000 to 5,000 bytes. That of the whole input is the one up to the last exit."""
    exits = tuple(replace(one, head_bytes=1_000 * (one.cut + 1)) for one in EXITS.exits)
    beliefs = link(MIDDLE, replace(EXITS, exits=exits))
    for limit, expected in ((2_999, []), (3_000, [0]), (4_000, [0, 3]), (5_000, [0, 3, 4])):
        costs = Adaptive(five(), replace(AT_ONCE, memory_beside_small=limit)).costs_of_choices(
            beliefs
        )
        assert np.flatnonzero(np.isfinite(costs[5:])).tolist() == expected


def test_without_a_server_exits_may_still_go_first() -> None:
    lost = replace(link(MIDDLE), connected=False)
    decision = Adaptive(five(), PolicyOptions()).decide(0.0, lost)
    assert (choice(decision), decision.reason) == ((4, True), "server lost")


def test_the_accuracy_kept_counts() -> None:
    """Exits keep 97 %."""
    for least, expected in ((0.97, True), (0.971, False)):
        policy = Adaptive(five(), replace(AT_ONCE, accuracy=least))
        assert choice(policy.decide(0.0, link(MIDDLE))) == (3, expected)


class FirstAt2(Policy):
    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        return Decision(cut=LAST, small="first")


def test_a_policy_of_ones_own_cannot_cut_before_the_last_exit() -> None:
    policy = OwnPolicy("mine:FirstAt2", FirstAt2, five(), PolicyOptions())
    expected = "decided small=first with cut 2, expected input, or a cut after the last exit"
    with pytest.raises(SplittracrError, match=expected):
        policy.decide(0.0, link(MIDDLE))
    early = Cascade.of_exits(EXITS.exits[:1], EXITS.sure, EXITS.wrong)
    assert policy.decide(0.0, link(MIDDLE, early)).cut == LAST


# ------------------------------------------------------------------------------------ learning


def learnt(promised: float | None = 0.05) -> tuple[LearntExits, Audit]:
    audit = Audit(promised)
    return LearntExits(EXITS.exits, audit), audit


def at(number: int | None, own: tuple[float, float] = (2.0, 3.0)) -> FirstRun:
    """A run that ends at an exit, or goes on."""
    last = 1 if number is None else number
    return FirstRun.of_exits(own[: last + 1], sure=number is not None)


def believed(model: LearntExits, edge_factor: float = 1.0) -> Cascade:
    found = model.believed(edge_factor)
    assert found is not None
    return found


def shares(model: LearntExits) -> list[float]:
    """Of all samples, by exit."""
    found = believed(model)
    return [one.share * found.sure for one in found.exits]


def test_shares_begin_with_a_prior_and_follow_the_stream() -> None:
    model, _ = learnt()
    assert shares(model) == pytest.approx([0.25, 0.25])
    for _ in range(2_000):
        for number in (0, None, 1, 1):
            model.ran(at(number))
    assert shares(model) == pytest.approx([0.25, 0.5], abs=0.01)
    for _ in range(2_000):
        model.ran(at(0))
    assert shares(model) == pytest.approx([1, 0], abs=0.01)
    for _ in range(200_000):
        model.ran(at(None))
    assert shares(model) == [0, 0]
    model.resume([(True, None)])
    assert shares(model) == pytest.approx([1 / 512, 1 / 512], rel=0.01)


def test_own_times_are_measured_by_exit() -> None:
    model, _ = learnt()
    model.ran(at(0, (12.0, 0.0)))
    for edge_factor in (1.0, 2.0):  # the profile of the model is of no concern
        found = believed(model, edge_factor)
        own = [one.own_ms * edge_factor for one in found.exits]
        assert own == pytest.approx([2 + 0.3 * 10, 3])
        assert found.small_ms * edge_factor == pytest.approx(8)
        assert [one.head_ms for one in found.exits] == [10, 30]
    model.ran(at(None, (5.0, 33.0)))
    assert [one.own_ms for one in believed(model).exits] == pytest.approx([5, 3 + 0.3 * 30])


def test_records_of_an_earlier_start_count() -> None:
    """An answer has the cut of its exit, a try does not."""
    model, _ = learnt()
    model.resume([(True, 1), (True, 1), (False, None), (True, None)])
    # 0.5 and 2.5 of 5 samples, then one more in this proportion.
    assert shares(model) == pytest.approx([(0.5 + 1 / 6) / 6, (2.5 + 5 / 6) / 6], rel=0.02)


def test_a_drift_shuts_exits_off_until_audits_of_tries_agree() -> None:
    model, audit = learnt()
    for _ in range(100):
        model.ran(at(0))
    for _ in range(3):
        audit.add(agrees=False)
    assert model.believed(1.0) is None
    assert [model.is_due(50.0) for _ in range(EVERY_DRIFTED * 2)].count(True) == 2
    for _ in range(2):
        assert model.believed(1.0) is None
        audit.add(agrees=True)
    for _ in range(200):
        audit.add(agrees=True)
    assert believed(model).wrong == pytest.approx(believed(model).sure / 202)


def test_exits_that_seem_too_slow_take_one_per_cent_of_the_time() -> None:
    """Answers take 23.5 ms on average, on an edge twice as slow as its profile 43.5 ms."""
    model, _ = learnt()
    for number in (0, 1) * EVERY:
        model.ran(at(number))
    assert [model.is_due(25.0) for _ in range(1_000)].count(True) == 1_000 // EVERY
    for edge_factor, mean in ((1.0, 23.5), (2.0, 43.5)):
        tries = [frame for frame in range(2_000) if model.is_due(10.0, edge_factor)]
        assert len(tries) > 2
        assert np.diff(tries) == pytest.approx(100 * mean / 10, abs=2)


# ------------------------------------------------------------------------------- mode Adaptive

EDGE = profile([1, 2, 3, 44], [1_000_000, 400_000, 200_000, 100_000])
"""As in `five`: ten times slower heads take 10, 30, 60 and 500 ms."""


def spec(**adaptive: Any) -> ExperimentSpec:
    cascade = {"exits": "e.safetensors", "statistic": "Margin", "thresholdPerMillion": 1}
    partition = {"mode": "Adaptive", "cascade": cascade}
    return ExperimentSpec.model_validate(
        {
            "model": {"name": "net"},
            "partition": {**partition, "adaptive": {"policy": "Adaptive", **adaptive}},
            "edge": {"slowdownPercent": 1000},
        },
        by_alias=True,
    )


def chooser(named: tuple[int, ...] = (), **adaptive: Any) -> tuple[Adapting, LearntExits, Audit]:
    model, audit = learnt()
    return adapting(spec(**adaptive), EDGE, EDGE, named, learner=model), model, audit


def finished(decision: Decision, total: float, run: FirstRun | None, **stages: float) -> Outcome:
    return Outcome(decision, True, total, stages, 0.0, run)


def test_a_link_that_slows_down_brings_the_exits_in() -> None:
    one, model, audit = chooser()
    for _ in range(60):
        model.ran(at(None))  # they are hardly ever sure
    now = hear(one, 1e9, 0.0)
    decided = [one.choose(STEP, now) for _ in range(61)]
    assert {choice(each) for each in decided} == {(0, False)}
    assert [each.small for each in decided].count("after") == 1
    assert {each.reason for each in decided if each.small} == {"explore"}
    for _ in range(60):
        model.ran(at(0))
    now = hear(one, 8e6, now)
    first = one.choose(STEP, now)
    assert (choice(first), first.reason) == ((3, True), "better")
    assert first.epoch == decided[-1].epoch + 1
    for _ in range(5):
        audit.add(agrees=False)
    left = one.choose(STEP, now)
    assert (choice(left), left.reason, left.epoch) == ((3, False), "excluded", first.epoch + 1)


@pytest.mark.parametrize(
    ("named", "rate", "first", "alone"),
    [((), MIDDLE, 3, 3), ((0,), MIDDLE, 4, 4), ((0,), FAST, 0, 0), ((1, LAST), MIDDLE, 4, LAST)],
)
def test_of_the_named_cuts_those_after_exits_follow(
    named: tuple[int, ...], rate: float, first: int, alone: int
) -> None:
    one, model, _ = chooser(named, hysteresisPercent=0)
    now = hear(one, rate, 0.0)
    assert choice(one.choose(STEP, now)) == (first, True)
    for _ in range(1_000):
        model.ran(at(None))
    assert choice(one.choose(STEP, now)) == (alone, False)


def test_an_edge_slower_than_its_profile_is_seen_in_answers_of_exits() -> None:
    one, _, _ = chooser()
    now = hear(one, 8e6, 0.0)
    before = one.beliefs(now)
    decided = one.choose(STEP, now)
    assert choice(decided) == (3, True)
    answered = replace(decided, cut=LAST)
    for _ in range(50):
        stages = {"load": 5.0, "prepare": 2.0, "head": 90.0, "exit": 5.0, "finish": 1.0}
        one.observe(finished(answered, 103.0, at(1), **stages), now)
    after = one.beliefs(now)
    assert after.edge_factor == pytest.approx((90 + 51) / (30 + 51), rel=0.01)  # of 500 in all
    assert replace(after, cascade=None, edge_factor=1.0) == replace(before, cascade=None)


class Noting(Policy):
    """Sends the whole input and keeps what it learns."""

    def __init__(self, candidates: Candidates, settings: PolicyOptions) -> None:
        super().__init__(candidates, settings)
        self.noted: list[tuple[int, float]] = []

    def decide(self, now: float, beliefs: Beliefs) -> Decision:
        return Decision(cut=0, small="first", predicted_ms=0.0)

    def learn(self, candidate: int, latency_ms: float, beliefs: Beliefs) -> None:
        self.noted.append((int(self.candidates.cut[candidate]), latency_ms))


@pytest.mark.parametrize(("cut", "rest"), [(0, 100 + 4), (3, 100 + 4 + 75)])
def test_a_sample_that_goes_on_teaches_the_time_of_its_candidate(cut: int, rest: float) -> None:
    """The head takes half as long again. After exits one up to the last is not the candidate's."""
    policy, model = Noting(five(), PolicyOptions()), learnt()[0]
    one = Adapting(policy, learner=model)
    head = 1.5 * (30 if cut == 0 else 50)
    stages = {"load": 3.0, "prepare": 2.0, "head": head, "exit": 7.0, "encode": 4.0, "link": 100.0}
    decision = replace(one.choose(STEP, 0.0), cut=cut)
    total = sum(stages.values())
    one.observe(finished(decision, total, at(None, (3.0, 4.0)), **stages), 0.0)
    ((noted, latency),) = policy.noted
    assert noted == cut
    assert latency == pytest.approx(rest)
    assert one.choose(STEP, 0.0).predicted_ms == pytest.approx(5)  # load and prepare
    expected = 30 if cut == 0 else 60
    # A tenth of the whole model is added to both: 50 ms and 1.
    found = one.beliefs(0.0).edge_factor
    assert found == pytest.approx((head + 4 + 51) / (expected + 51))


def test_a_cut_that_is_not_ready_is_replaced_behind_the_exits() -> None:
    ready, (model, _) = {0, 4}, learnt()
    for number in (0, 0, 0, None) * 20:
        model.ran(at(number))
    one = adapting(spec(), EDGE, EDGE, [], ready=lambda d: d.cut in ready, learner=model)
    now = hear(one, 1e9, 0.0)
    assert choice(one.choose(STEP, now)) == (0, True)
    now = hear(one, 8e6, now)
    waits = one.choose(STEP, now)
    assert (choice(waits), waits.reason) == ((0, True), "not ready")
    expected = believed(model).latency_ms(five(), replace(one.beliefs(now), cascade=None))[0]
    assert waits.predicted_ms == pytest.approx(expected)


# ---------------------------------------------------------------------------------- simulation


@pytest.mark.parametrize("own_ms", [1.0, 20.0, 200.0])
@pytest.mark.parametrize("name", ["adaptive", "deadline", "hedge"])
def test_deciding_is_as_good_as_the_better_fixed_choice(name: str, own_ms: float) -> None:
    exits = [replace(one, own_ms=own_ms) for one in EXITS.exits]
    cascade = Cascade.of_exits(exits, EXITS.sure, EXITS.wrong)
    onward = cascade.onward(five()).only(cascade.follows(five()))

    def mean(given: Cascade | None, offered: Candidates, *, decides: bool = False) -> float:
        runs = [
            simulate(create(name, offered, PolicyOptions()), changing(i), given, decides=decides)
            for i in range(4)
        ]
        return float(np.concatenate([run.latencies for run in runs]).mean())

    fixed = min(mean(None, five()), mean(cascade, onward))
    assert mean(cascade, five(), decides=True) <= 1.03 * fixed


def test_the_oracle_tries_only_what_exits_answer() -> None:
    spans = constant(8_000_000, 20_000_000) * 20
    found = oracle(five(), spans, EXITS, decides=True).latencies
    assert set(np.round(found, 1)) == {12.0, 35.0, 224.1}
