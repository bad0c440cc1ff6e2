import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.planning.estimate import Answer, LinkEstimate, LinkEstimator, Tracker

rates = st.floats(1e5, 1e9)
latencies = st.floats(0, 300)


def fed(
    link: LinkEstimate, sizes: list[int], estimator: LinkEstimator | None = None, at: float = 0.0
) -> tuple[LinkEstimator, float]:
    """An estimator that saw transfers of these sizes, one after the other, and when it did."""
    estimator = estimator or LinkEstimator()
    for nbytes in sizes:
        elapsed = link.time_ms(nbytes)
        at += elapsed
        estimator.observe(at, nbytes, elapsed)
    return estimator, at


@given(rates, latencies)
def test_sizes_that_differ_tell_latency_and_rate(rate: float, latency: float) -> None:
    truth = LinkEstimate.of(rate, latency)
    found = fed(truth, [1_000, 400_000, 50_000, 200_000] * 5)[0].estimate(0)
    for nbytes in (1_000, 100_000, 400_000):
        assert found.time_ms(nbytes) == pytest.approx(truth.time_ms(nbytes), rel=0.05, abs=0.5)


@given(rates, latencies, st.integers(1_000, 1_000_000))
def test_equal_sizes_tell_the_time_of_that_size(rate: float, latency: float, nbytes: int) -> None:
    truth = LinkEstimate.of(rate, latency)
    found = fed(truth, [nbytes] * 20)[0].estimate(0)
    assert found.time_ms(nbytes) == pytest.approx(truth.time_ms(nbytes), rel=0.01)
    assert found.ms_per_byte > 0
    assert 0 <= found.fixed_ms <= truth.time_ms(nbytes)


@given(
    st.lists(st.tuples(st.integers(1, 10**7), st.floats(0, 1e6), st.floats(0, 1e5)), max_size=40)
)
def test_any_history_gives_a_possible_link(history: list[tuple[int, float, float]]) -> None:
    estimator, at = LinkEstimator(), 0.0
    for nbytes, elapsed, pause in history:
        at += elapsed + pause
        estimator.observe(at, nbytes, elapsed)
        found = estimator.estimate(at)
        assert 0 <= found.fixed_ms < math.inf
        assert 0 < found.ms_per_byte < math.inf
        assert 0 <= found.spread < 2
        assert found.fixed_ms <= elapsed or len(history) > 1


def test_a_step_is_followed_within_three_transfers() -> None:
    fast, slow = LinkEstimate.of(50e6, 10), LinkEstimate.of(2e6, 10)
    estimator, at = fed(fast, [2_000, 100_000] * 10)
    estimator, at = fed(slow, [100_000] * 3, estimator, at)
    assert estimator.estimate(at).bits_per_second == pytest.approx(2e6, rel=0.3)
    estimator, at = fed(fast, [100_000] * 3, estimator, at + 100)
    assert estimator.estimate(at).bits_per_second > 10e6


def test_an_outage_is_not_taken_for_latency() -> None:
    link = LinkEstimate.of(10e6, 20)
    estimator, at = fed(link, [2_000, 100_000] * 10)
    at += 30_000
    estimator.observe(at, 100_000, 30_000.0)
    assert estimator.estimate(at).fixed_ms < 25
    estimator, at = fed(link, [20_000] * 6, estimator, at)
    assert estimator.estimate(at).time_ms(100_000) == pytest.approx(link.time_ms(100_000), rel=0.5)


def test_doubt_grows_with_errors_and_with_silence() -> None:
    draw = random.Random(1)
    steady, at = fed(LinkEstimate.of(10e6, 10), [50_000, 100_000] * 20)
    unsteady, now = LinkEstimator(), 0.0
    for _ in range(40):
        elapsed = LinkEstimate.of(10e6 * draw.uniform(0.2, 5), 10).time_ms(100_000)
        now += elapsed
        unsteady.observe(now, 100_000, elapsed)
    assert steady.estimate(at).spread < 0.1 < unsteady.estimate(now).spread
    assert steady.estimate(at).spread < steady.estimate(at + 5_000).spread


def answer(nbytes: int, network_ms: float, wait: float = 0.0, factor: float = 1.0) -> Answer:
    return Answer(
        bytes_up=nbytes,
        bytes_down=500,
        network_ms=network_ms,
        server_wait_ms=wait,
        server_ms=10 * factor,
        expected_server_ms=10,
    )


def test_tracker_learns_link_server_and_edge() -> None:
    tracker, now = Tracker(), 0.0
    for number, nbytes in enumerate([1_000, 200_000, 50_000] * 8):
        tracker.sent(number, now, nbytes)
        network = 20 + nbytes / 1000  # 8 Mbit/s, and 20 ms for the way and back
        now += network + 30
        tracker.answered(number, now, answer(nbytes, network, wait=10, factor=2))
        tracker.computed(36.0, 12.0)
    believed = tracker.beliefs(now)
    assert believed.server_wait_ms == pytest.approx(10)
    assert believed.server_factor == pytest.approx(2, rel=0.1)
    assert believed.edge_factor == pytest.approx(3, rel=0.1)
    both = believed.up.time_ms(100_000) + believed.down.time_ms(500)
    assert both == pytest.approx(120, rel=0.1)
    assert (believed.backlog_ms, believed.idle_ms) == (0, 0)


def test_what_is_under_way_makes_a_backlog_until_it_is_answered_or_lost() -> None:
    tracker = Tracker(LinkEstimate.of(8e6, 10))
    tracker.sent(1, 0.0, 100_000)  # 100 ms
    tracker.sent(2, 0.0, 50_000)
    assert tracker.beliefs(0.0).backlog_ms == pytest.approx(150)
    assert tracker.beliefs(60.0).backlog_ms == pytest.approx(90)
    # Overdue: as long again as it has taken.
    assert tracker.beliefs(1_000.0).backlog_ms >= 1_000
    tracker.answered(1, 1_010.0, answer(100_000, 1_000))
    assert tracker.beliefs(1_010.0).backlog_ms > 0
    tracker.forget()
    assert tracker.beliefs(1_010.0).backlog_ms == 0
