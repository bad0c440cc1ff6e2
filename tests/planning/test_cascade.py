"""A calibrated cascade beside the candidates, with values computed by hand."""

from dataclasses import replace

import numpy as np
import pytest

from splittracr.experiment.errors import InvalidInput
from splittracr.planning.cascade import Cascade
from splittracr.planning.cost import Z95, Candidates, Limits, Objective, Power, candidates
from splittracr.planning.emulated_link import constant
from splittracr.planning.estimate import Beliefs
from splittracr.planning.plan import plan
from splittracr.planning.policy import PolicyOptions
from splittracr.planning.registry import create
from splittracr.planning.simulate import oracle, simulate
from tests.planning.profiles import profile

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
