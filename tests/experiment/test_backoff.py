from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.backoff import Backoff


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(first=0.5, longest=3.0)
    assert [backoff.seconds(attempt) for attempt in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@given(
    attempt=st.integers(0, 10**9),
    draw=st.floats(0, 1, exclude_max=True),
    first=st.floats(0.01, 10),
    factor=st.floats(1, 100),
)
def test_half_of_a_wait_is_random(attempt: int, draw: float, first: float, factor: float) -> None:
    backoff = Backoff(first, first * factor)
    whole = backoff.seconds(attempt)
    assert first <= whole <= backoff.longest
    assert whole / 2 <= backoff.seconds(attempt, draw) <= whole
