import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.planning.estimate import LinkEstimate, LinkEstimator, Tracker
from splittracr.planning.transfer import Transfer

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
        assert found.fixed_ms <= elapsed, "no more than the shortest recent transfer"


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


def probe(link_ms: float) -> Transfer:
    return Transfer(None, 1_000, 100, link_ms, {})


def answer(nbytes: int, link_ms: float, wait: float = 0.0, factor: float = 1.0) -> Transfer:
    """One for which the server computes 10 ms by its profile, and `factor` times as long."""
    return Transfer(
        cut=1,
        bytes_up=nbytes,
        bytes_down=500,
        link_ms=link_ms,
        stages={"server_wait": wait, "tail": 10 * factor},
    )


def test_tracker_learns_link_server_and_edge() -> None:
    tracker, now = Tracker(), 0.0
    for number, nbytes in enumerate([1_000, 200_000, 50_000] * 8):
        tracker.sent(number, now, nbytes)
        link_ms = 20 + nbytes / 1000  # 8 Mbit/s, and 20 ms for the way and back
        now += link_ms + 30
        tracker.answered(number, now, answer(nbytes, link_ms, wait=10, factor=2), 10)
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
    # Its answer was due after 120 ms: as long again as it is overdue, and the other one.
    assert tracker.beliefs(1_000.0).backlog_ms == pytest.approx(930)
    tracker.answered(1, 1_010.0, answer(100_000, 1_000), 10)
    assert tracker.beliefs(1_010.0).backlog_ms > 0
    tracker.forget()
    assert tracker.beliefs(1_010.0).backlog_ms == 0


@given(st.floats(0, 1_000), st.floats(0, 500), st.floats(1, 2_000))
def test_what_the_server_works_on_does_not_block_the_link(
    after: float, wait: float, server_ms: float
) -> None:
    tracker = Tracker(LinkEstimate.of(8e6, 10))
    tracker.answered(0, 0.0, answer(1_000, 21, wait), 10)  # to no request
    tracker.sent(1, 0.0, 20_000, nbytes_down=50_000, server_ms=server_ms)
    # It has left after 20 ms, and the answer is due 10 + 10 + 50 ms and the server's time later.
    due = 90 + wait + server_ms
    assert tracker.beliefs(after).backlog_ms == pytest.approx(
        max(0.0, 20 - after, after - due), abs=1e-6
    )


def test_requests_that_queue_teach_the_links_own_rate() -> None:
    tracker = Tracker(LinkEstimate.of(8e6, 10))
    sent, answers, left = [0.0] * 40, list[float](), 0.0
    for number in range(40):  # four of 100 kB at a time, 100 ms each
        if number >= 4:
            sent[number] = now = answers[number - 4]
            tracker.answered(number - 4, now, answer(100_000, now - sent[number - 4]), 10)
        tracker.sent(number, sent[number], 100_000)
        left = max(left, sent[number]) + 100
        answers.append(left + 20)
    believed = tracker.beliefs(sent[-1])
    assert believed.up.bits_per_second == pytest.approx(8e6, rel=0.02)
    assert believed.backlog_ms == pytest.approx(left - sent[-1], rel=0.02)


def test_an_answer_that_was_overtaken_still_counts_in_full() -> None:
    tracker = Tracker(LinkEstimate.of(8e6, 10))
    tracker.sent(1, 0.0, 100_000, server_ms=300)
    tracker.sent(2, 150.0, 1_000)
    tracker.answered(2, 171.0, probe(21))
    tracker.answered(1, 420.0, answer(100_000, 120), 10)
    assert tracker.beliefs(420.0).up.bits_per_second == pytest.approx(8e6, rel=0.05)


def test_probes_say_nothing_of_the_servers_wait_which_fades() -> None:
    tracker = Tracker()
    for number in (1, 2):
        tracker.sent(number, 0.0, 1_000)
        tracker.answered(number, 20.0, probe(20))
    tracker.sent(3, 20.0, 1_000)
    tracker.answered(3, 540.0, answer(1_000, 20, wait=500), 10)
    for number in range(4, 9):
        tracker.sent(number, 540.0, 1_000)
        tracker.answered(number, 560.0, probe(20))
    assert tracker.beliefs(560.0).server_wait_ms == pytest.approx(500, rel=0.01)
    assert tracker.beliefs(60_000.0).server_wait_ms < 1


def test_a_transfer_under_way_is_no_idle_link() -> None:
    tracker = Tracker()
    tracker.sent(1, 0.0, 1_000)
    tracker.answered(1, 20.0, probe(20))
    tracker.sent(2, 1_500.0, 1_000)
    assert tracker.beliefs(1_510.0).idle_ms == 10
