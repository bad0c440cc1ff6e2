import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splittracr.planning.cost import Candidates, candidates
from splittracr.planning.emulated_link import Span, constant
from splittracr.planning.policy import PolicyOptions
from splittracr.planning.registry import POLICIES, create
from splittracr.planning.simulate import oracle, simulate
from tests.planning.profiles import profile

SECOND, MILLISECOND = 10**9, 10**6


def three() -> Candidates:
    one = profile([1, 50], [1_000_000, 100_000])
    return candidates(one, one, slowdown=10)


def trace(rates: list[int], round_trip_ms: int = 20) -> tuple[Span, ...]:
    """A second at each rate, in kbit/s."""
    return tuple(Span(SECOND, rate * 1000, round_trip_ms * MILLISECOND) for rate in rates)


def traces() -> st.SearchStrategy[tuple[Span, ...]]:
    rates = st.lists(st.integers(0, 50_000), min_size=1, max_size=8).filter(any)
    return st.builds(trace, rates, st.integers(0, 100))


def test_a_constant_link_takes_what_the_plan_says() -> None:
    spans = constant(8_000_000, 20 * MILLISECOND) * 10
    found = simulate(create("adaptive", three(), PolicyOptions()), spans)
    # 10 ms of head, 100 ms of sending, 50 ms of tail, 20 ms of latency, 0.1 ms for the reply.
    np.testing.assert_allclose(found.latencies[3:], 180.1, atol=0.01)
    assert len(found.latencies) == pytest.approx(10_000 / 180, abs=4)
    assert found.switches <= 1


@st.composite
def slow_edges(draw: st.DrawFn) -> Candidates:
    """Networks that take an edge long enough for a trace to have few frames."""
    times = draw(st.lists(st.floats(5, 50), min_size=2, max_size=6))
    sizes = draw(st.lists(st.integers(1_000, 1_000_000), min_size=len(times), max_size=len(times)))
    one = profile(times, sizes)
    return candidates(one, one, slowdown=10)


@settings(max_examples=30)
@given(traces(), slow_edges())
def test_a_hedged_frame_is_never_later_than_on_the_edge(
    spans: tuple[Span, ...], offered: Candidates
) -> None:
    alone = offered.edge_ms[offered.edge_only]
    found = simulate(create("hedge", offered, PolicyOptions()), spans)
    assert (found.latencies <= alone * (1 + 1e-9) + 1e-6).all()


@settings(max_examples=30)
@given(traces(), st.sampled_from(sorted(POLICIES)))
def test_no_first_frame_beats_the_oracles(spans: tuple[Span, ...], name: str) -> None:
    found = simulate(create(name, three(), PolicyOptions()), spans)
    assert oracle(three(), spans).latencies[0] <= found.latencies[0] + 1e-3


def test_the_oracle_is_exact_on_a_link_that_hangs() -> None:
    # The frame at the end of the first second would wait for the third: the edge is quicker.
    spans = trace([8_000, 0, 0, 8_000])
    found = oracle(three(), spans)
    assert found.latencies.max() == pytest.approx(510)
    assert found.latencies.min() == pytest.approx(180.1, abs=0.01)


def test_what_was_sent_keeps_the_next_frame_waiting() -> None:
    spans = trace([8_000, 8_000, 1, 1, 1, 1, 1, 1, 8_000, 8_000])
    waiting = simulate(create("server-only", three(), PolicyOptions()), spans).latencies
    assert waiting.max() > 6_000
    hedged = simulate(create("hedge", three(), PolicyOptions()), spans).latencies
    assert hedged.max() <= 510.0001
    assert hedged[-1] == pytest.approx(180, abs=20)  # back to the split


def test_a_policy_cannot_see_the_future() -> None:
    same, other = trace([5_000] * 5 + [100] * 5), trace([5_000] * 5 + [50_000] * 5)
    for name in POLICIES:
        first, second = (
            simulate(create(name, three(), PolicyOptions()), spans).latencies
            for spans in (same, other)
        )
        ended = np.flatnonzero(np.cumsum(first) < 4_000)
        np.testing.assert_array_equal(first[ended], second[ended])
