"""A calibrated cascade beside the candidates, with values computed by hand."""

import random
from dataclasses import replace

import numpy as np
import pytest

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.cascade import Cascade, Exit
from splittracr.planning.cost import Z95, Candidates, Limits, Objective, Power, candidates
from splittracr.planning.emulated_link import constant
from splittracr.planning.estimate import Beliefs
from splittracr.planning.plan import Row, plan
from splittracr.planning.policy import PolicyOptions
from splittracr.planning.registry import create
from splittracr.planning.simulate import oracle, simulate
from tests.planning.profiles import codec, profile

TINY = Cascade("tiny", small_ms=8, sure=0.6, wrong=0.03)
LINK = Beliefs.of_link(8e6, 20)
"""1,000 bytes a millisecond."""


def three() -> Candidates:
    """At cut1: 10 ms of head, 100 ms of sending, 20.1 ms of latency and reply, 50 ms of tail."""
    one = profile([1, 50], [1_000_000, 100_000])
    return candidates(one, one, slowdown=10)


def test_what_a_sample_takes_is_the_small_model_and_a_share_of_the_rest() -> None:
    made = plan(three(), LINK, cascade=TINY)
    row = made.cascade
    assert row is not None
    assert row.title == "cascade of tiny, then cut1 as raw"
    parts = (row.edge_ms, row.link_ms, row.server_ms)
    assert parts == pytest.approx((8 + 0.4 * 10, 0.4 * 120.1, 0.4 * 50))
    assert (row.latency_ms, row.cost) == pytest.approx((80.04, 80.04))
    assert row.bytes_up == 40_000
    assert row.accuracy == pytest.approx(0.57 + 0.4)
    assert row.frames_per_second == pytest.approx(1e3 / (0.4 * 100))  # the link is the slowest
    assert made.best is row
    assert made.reason == (
        "Cascade: tiny answers 60 % of the samples on the edge, the others go on as cut1 as raw. A "
        "frame takes 80.0 ms on average, against 180.1 ms without it (cut1 as raw)."
    )
    assert plan(three(), LINK).cascade is None


def test_a_small_model_that_is_not_small_does_not_win() -> None:
    made = plan(three(), LINK, cascade=replace(TINY, small_ms=110))
    assert made.best is made.rows[1]
    assert made.reason.startswith("Cut at cut1")


def test_on_a_slow_link_the_rest_stays_on_the_edge() -> None:
    row = plan(three(), Beliefs.of_link(1e5, 40), cascade=TINY).cascade
    assert row is not None
    assert row.title == "cascade of tiny, then edge only"
    assert row.latency_ms == pytest.approx(8 + 0.4 * 510)
    assert row.bytes_up == 0


@pytest.mark.parametrize(
    ("limits", "excluded"),
    [
        (Limits(accuracy=0.97), None),
        (Limits(accuracy=0.98), "keeps too little accuracy"),
        (Limits(memory_bytes=10_000), "memory of the small model is not known"),
        (Limits(deadline_ms=181), None),
    ],
)
def test_a_cascade_keeps_the_limits(limits: Limits, excluded: str | None) -> None:
    made = plan(three(), LINK, limits=limits, cascade=TINY)
    assert made.cascade is not None
    assert made.cascade.excluded == excluded
    assert (made.best is made.cascade) == (excluded is None)


@pytest.mark.parametrize(
    ("limit", "rest", "memory"),
    [(2_500, "cut1", 2_500), (2_499, "cut0", 1_500), (1_500, "cut0", 1_500), (1_499, None, None)],
)
def test_the_small_model_takes_memory_beside_a_head(
    limit: int, rest: str | None, memory: int | None
) -> None:
    """The heads take 1,000 bytes at cut0 and 2,000 at cut1, and 3,000 on the edge alone."""
    tiny = replace(TINY, own_bytes=500)
    row = plan(three(), LINK, limits=Limits(memory_bytes=limit), cascade=tiny).cascade
    fits(row, "tiny", rest, memory)


def fits(row: Row | None, first: str, rest: str | None, memory: int | None) -> None:
    """Assert what goes on after `first` and its memory, or that no candidate fits if `rest` is
    None.
    """
    assert row is not None
    if rest is None:
        assert row.excluded == "more memory than the edge has"
    else:
        assert (row.excluded, row.name) == (None, f"{first}, then {rest}")
        assert row.memory_bytes == memory


def test_memory_that_is_not_known_is_absent() -> None:
    row = plan(three(), LINK, cascade=TINY).cascade
    assert row is not None
    assert row.memory_bytes is None


def test_a_cascade_alone_meets_a_deadline() -> None:
    """On average it takes 80.04 ms; the fastest candidate takes 180.1."""
    made = plan(three(), LINK, limits=Limits(deadline_ms=100), cascade=TINY)
    assert made.cascade is not None
    assert made.best is made.cascade
    assert made.cascade.latency_ms == pytest.approx(80.04)
    assert all(row.excluded == "later than the deadline" for row in made.rows)
    assert made.reason.startswith("Cascade: tiny answers 60 %")
    with pytest.raises(InvalidInput, match="limits that leave a candidate"):
        plan(three(), LINK, limits=Limits(deadline_ms=70), cascade=TINY)


def test_a_percentile_is_one_of_all_samples() -> None:
    """Of 100 samples 60 take 8 ms, and the 95th takes what the 87.5th of the rest does."""
    varies = replace(LINK, up=replace(LINK.up, spread=0.3))
    assert TINY.latency_ms(three(), varies, 0.2).tolist() == [8, 8, 8]  # the 58th percentile
    expected = 8 + 10 + 50 + 20.1 + 100 * np.exp(1.15034938 * 0.3)
    assert TINY.latency_ms(three(), varies, Z95)[1] == pytest.approx(expected)
    row = plan(three(), varies, Objective(z=Z95), cascade=TINY).cascade
    assert row is not None
    assert row.cost == row.tail_ms


@pytest.mark.parametrize(
    ("rate", "title", "mean"),
    [
        (8e6, "cascade of tiny, then cut1 as raw", 8 + 0.03 * 180.1),
        (1e5, "cascade of tiny, then edge only", 8 + 0.03 * 510),
    ],
)
def test_up_to_the_share_of_sure_samples_the_mean_decides(
    rate: float, title: str, mean: float
) -> None:
    """97 of 100 samples take 8 ms, and so does the 95th, at any latency of the other three."""
    rarely = replace(TINY, sure=0.97)
    row = plan(three(), Beliefs.of_link(rate, 20), Objective(z=Z95), cascade=rarely).cascade
    assert row is not None
    assert (row.title, row.cost) == (title, 8)
    assert row.latency_ms == pytest.approx(mean)


def test_energy_and_throughput_count_the_small_model() -> None:
    power = Power(compute=5, transmit=2, idle=1)
    joules = Objective(latency=0, energy=1, power=power)
    row = plan(three(), LINK, joules, cascade=TINY).cascade
    assert row is not None
    assert row.millijoules == pytest.approx(5 * 8 + 0.4 * (5 * 10 + 2 * 100 + 70.1))
    assert row.cost == pytest.approx(168.04 / (5 * 510))
    rate = plan(three(), LINK, Objective(latency=0, throughput=1), cascade=TINY).cascade
    assert rate is not None
    assert rate.cost == pytest.approx(40 / 510)


def test_what_the_rest_has_to_keep() -> None:
    assert TINY.least_kept(0.97) == pytest.approx(1)
    assert TINY.least_kept(0.9) == pytest.approx(0.825)
    always = Cascade("tiny", 8, sure=1.0, wrong=0.03)
    assert always.least_kept(0.97) == 0
    assert always.least_kept(0.98) == np.inf


def test_simulated_frames_begin_with_the_small_model() -> None:
    spans = constant(8_000_000, 20_000_000) * 10
    found = simulate(create("adaptive", three(), PolicyOptions()), spans, TINY).latencies
    sure = np.isclose(found, 8)
    assert 0.5 < sure.mean() < 0.7
    np.testing.assert_allclose(found[~sure][3:], 188.1, atol=0.01)
    best = oracle(three(), spans, TINY).latencies
    assert (np.isclose(best[: len(found)], 8) == sure[: len(best)]).all()


def test_limits_may_leave_the_cascade_alone() -> None:
    """`cut1` keeps 90 % alone, and 97 - 1 + 3 * 0.9 % behind the small model."""
    coded = codec("uint4", [250_000, 25_000, 25], accuracy=[0.9] * 3)
    one = profile([1, 50], [1_000_000, 100_000], [coded])
    limits = Limits(cuts=(1,), accuracy=0.95)
    offered = candidates(one, one, slowdown=10)
    made = plan(offered, LINK, limits=limits, cascade=replace(TINY, sure=0.97, wrong=0.01))
    assert made.cascade is not None
    assert made.best is made.cascade
    assert made.cascade.title == "cascade of tiny, then cut1 as uint4"
    assert made.cascade.accuracy == pytest.approx(0.987)
    assert made.break_even == ()


# ------------------------------------------------------------------------------------------ exits

HEADS_MS = (10, 30)
EXITS = Cascade.of_exits(
    [Exit("cut1", 1, HEADS_MS[0], 2, share=1 / 3), Exit("cut2", 2, HEADS_MS[1], 3, share=2 / 3)],
    sure=0.6,
    wrong=0.03,
)
"""Of 100 samples 20 end after 10 + 2 ms, 40 after 30 + 2 + 3 ms. 40 go on, after 5 ms of exits."""


def five(count: int = 5) -> Candidates:
    """Heads of 0, 10, 30, 60 and 500 ms. At cut3: 100 ms of sending, 20.1 ms of latency and reply,
    44 ms of tail.
    """
    one = profile([1, 2, 3, 44], [1_000_000, 400_000, 200_000, 100_000])
    made = candidates(one, one, slowdown=10)
    return made.only(np.arange(len(made)) >= len(made) - count)


def test_an_exit_adds_only_its_own_time() -> None:
    row = plan(five(), LINK, cascade=EXITS).cascade
    assert row is not None
    assert (row.title, row.name) == ("2 exits, then cut3 as raw", "2 exits, then cut3")
    parts = (row.edge_ms, row.link_ms, row.server_ms)
    ended = 0.2 * 12 + 0.4 * 35
    assert parts == pytest.approx((ended + 0.4 * (5 + 60), 0.4 * 120.1, 0.4 * 44))
    assert (row.latency_ms, row.cost) == pytest.approx((108.04, 108.04))
    assert row.bytes_up == 40_000
    assert row.accuracy == pytest.approx(0.97)
    assert row.frames_per_second == pytest.approx(1e3 / (ended + 0.4 * 65))  # the edge is slowest


def test_exits_in_words() -> None:
    made = plan(five(), LINK, cascade=EXITS)
    assert made.best is made.cascade
    assert made.reason == (
        "Exit early: 2 exits answer 60 % of the samples on the edge (cut1 20 %, cut2 40 %), the "
        "others go on as cut3 as raw. A frame takes 108.0 ms on average, against 224.1 ms without "
        "it (cut3 as raw)."
    )
    one = Cascade.of_exits([Exit("cut1", 1, 10, 2, share=1)], sure=0.6, wrong=0)
    assert plan(five(), LINK, cascade=one).reason.startswith("Exit early: 1 exit answers 60 %")


def test_a_slow_edge_is_slow_up_to_its_exits() -> None:
    twice = replace(LINK, edge_factor=2.0)
    figures = EXITS.latency_ms(five(), twice), EXITS.interval_ms(five(), twice)
    ended = 2 * (0.2 * 12 + 0.4 * 35)
    assert figures[0][3] == pytest.approx(ended + 0.4 * (2 * 65 + 164.1))
    assert figures[1][3] == pytest.approx(ended + 0.4 * 2 * 65)


def test_a_percentile_of_exits_is_one_of_all_samples() -> None:
    varies = replace(LINK, up=replace(LINK.up, spread=0.3))
    for z, expected in ((-1.0, 12), (-0.5, 35), (0.2, 35)):  # 16, 31 and 58 %
        assert EXITS.latency_ms(five(), varies, z).tolist() == pytest.approx([expected] * 5)
    expected = 5 + 60 + 44 + 20.1 + 100 * np.exp(1.15034938 * 0.3)  # 87.5 % of the rest
    assert EXITS.latency_ms(five(), varies, Z95)[3] == pytest.approx(expected)


def test_energy_and_weights_with_exits() -> None:
    power = Power(compute=5, transmit=2, idle=1)
    energy = 5 * (0.2 * 12 + 0.4 * 35 + 0.4 * 5) + 0.4 * (5 * 60 + 2 * 100 + 64.1)
    row = plan(five(), LINK, Objective(power=power), cascade=EXITS).cascade
    assert row is not None
    assert row.millijoules == pytest.approx(energy)
    weighted = Objective(latency=1, throughput=2, energy=3, power=power)
    cost = EXITS.costs(weighted, five(), LINK)[3]
    assert cost == pytest.approx(108.04 / 500 + 2 * 42.4 / 500 + 3 * energy / (5 * 500))


def test_cuts_up_to_the_last_exit_are_no_candidates_for_the_rest() -> None:
    assert EXITS.follows(five()).tolist() == [True, False, False, True, True]
    costs = EXITS.costs(Objective(), five(), LINK)
    assert np.isinf(costs).tolist() == [False, True, True, False, False]


def test_the_whole_input_goes_on_after_the_head_up_to_the_last_exit() -> None:
    """30 ms of head and 5 of exits, 1,000 ms of sending, 20.1 of latency and reply, 50 of tail."""
    limits = Limits(cuts=(0, 1))
    power = Objective(power=Power(compute=5, transmit=2, idle=1))
    row = plan(five(), LINK, power, limits, cascade=EXITS).cascade
    assert row is not None
    assert (row.name, row.excluded) == ("2 exits, then cut0", None)
    ended = 0.2 * 12 + 0.4 * 35
    parts = (row.edge_ms, row.link_ms, row.server_ms)
    assert parts == pytest.approx((ended + 0.4 * 35, 0.4 * 1020.1, 0.4 * 50))
    assert row.cost == pytest.approx(sum(parts))
    assert row.bytes_up == 400_000
    energy = 5 * (ended + 0.4 * 5) + 0.4 * (5 * 30 + 2 * 1000 + 70.1)
    assert row.millijoules == pytest.approx(energy)
    fast = replace(LINK, up=replace(LINK.up, ms_per_byte=0.0))
    assert EXITS.interval_ms(five(), fast)[0] == pytest.approx(ended + 0.4 * 35)
    assert EXITS.latency_ms(five(), LINK, Z95)[0] == pytest.approx(35 + 1020.1 + 50)


@pytest.mark.parametrize(
    ("limits", "excluded"),
    [
        (Limits(cuts=(2,)), "no allowed cut is input or after the last exit"),
        (Limits(cuts=(1, 2)), "no allowed cut is input or after the last exit"),
        (Limits(cuts=(2, 3)), None),
        (Limits(cuts=(2, 3), accuracy=0.98), "keeps too little accuracy"),
        (Limits(memory_bytes=10_000), "memory of the exits is not known"),
        (Limits(cuts=(2,), deadline_ms=300), "no allowed cut is input or after the last exit"),
    ],
)
def test_exits_keep_the_limits(limits: Limits, excluded: str | None) -> None:
    made = plan(five(), LINK, limits=limits, cascade=EXITS)
    assert made.cascade is not None
    assert made.cascade.excluded == excluded
    assert (made.best is made.cascade) == (excluded is None)


@pytest.mark.parametrize(
    ("limit", "rest", "memory"),
    [(4_100, "cut3", 4_100), (4_099, "cut0", 3_100), (3_100, "cut0", 3_100), (3_099, None, None)],
)
def test_exits_take_memory_beside_a_head_that_ends_after_the_last(
    limit: int, rest: str | None, memory: int | None
) -> None:
    """The heads take 1,000 bytes more at each cut. Before the input is sent, the head up to cut2
    has run.
    """
    heads = [replace(one, head_bytes=1_000 * (one.cut + 1)) for one in EXITS.exits]
    exits = replace(EXITS, exits=tuple(heads), own_bytes=100)
    row = plan(five(), LINK, limits=Limits(memory_bytes=limit), cascade=exits).cascade
    fits(row, "2 exits", rest, memory)


def test_exits_that_are_never_sure_cost_their_time() -> None:
    never = Cascade.of_exits([replace(one, share=0.0) for one in EXITS.exits], sure=0, wrong=0)
    plain = five()
    more = [35, 5, 5, 5, 5]  # of the whole input also the head up to the last exit
    assert never.latency_ms(plain, LINK) == pytest.approx(more + plain.latency_ms(LINK))
    assert never.latency_ms(plain, LINK, Z95) == pytest.approx(more + plain.latency_ms(LINK, Z95))
    made = plan(plain, LINK, cascade=never)
    assert made.best is made.rows[3]


def test_exits_that_are_always_sure_send_nothing() -> None:
    always = replace(EXITS, sure=1.0)
    row = plan(five(), LINK, Objective(power=Power(5, 2, 1)), cascade=always).cascade
    assert row is not None
    mean = 12 / 3 + 35 * 2 / 3
    assert (row.latency_ms, row.bytes_up, row.accuracy) == pytest.approx((mean, 0, 0.97))
    assert row.millijoules == pytest.approx(5 * mean)
    assert 1e3 / row.frames_per_second == pytest.approx(mean)
    assert row.tail_ms == pytest.approx(35)


def test_an_exit_at_the_start_is_a_small_model() -> None:
    """Without a head before it, an exit takes its own time of each sample, as a small model."""
    start = Cascade.of_exits([Exit("cut1", 1, 0, 8, share=1)], sure=0.6, wrong=0.03)
    objective = Objective(1, 1, 1, Z95, Power(5, 2, 1))
    found, small = (one.costs(objective, five(3), LINK) for one in (start, TINY))
    assert found == pytest.approx(small)


def test_simulated_frames_end_at_an_exit_or_go_on() -> None:
    spans = constant(8_000_000, 20_000_000) * 20
    offered = EXITS.onward(five()).only(EXITS.follows(five()))
    runs = {
        "policy": simulate(create("adaptive", offered, PolicyOptions()), spans, EXITS),
        "oracle": oracle(offered, spans, EXITS),
    }
    for run in runs.values():
        drawn = random.Random(0)
        quantiles = np.array([drawn.random() for _ in run.latencies])
        by_hand = np.select([quantiles < 0.2, quantiles < 0.6], [12, 35], 5 + 224.1)
        assert {12, 35, 229.1} == {*by_hand}
        np.testing.assert_allclose(run.latencies[5:], by_hand[5:], atol=0.01)
        assert run.latencies[5:].sum() == pytest.approx(by_hand[5:].sum(), abs=1)
    whole = create("server-only", offered, PolicyOptions())
    found = simulate(whole, constant(8_000_000, 20_000_000) * 60, EXITS).latencies
    last = float(found[found > 35][-1])
    assert last == pytest.approx(35 + 1070.1, abs=0.01)
