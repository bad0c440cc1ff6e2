"""The size of a batch follows what sizes were measured to bring."""

from hypothesis import given
from hypothesis import strategies as st

from splittracr.server.pace import Pace


def learnt(times: dict[int, float], cut: int = 0) -> Pace:
    pace = Pace()
    for size, ms in times.items():
        pace.observe(cut, size, 1000 * ms)  # warms up, and tells nothing
        pace.observe(cut, size, ms)
    return pace


def test_what_was_not_measured_is_tried() -> None:
    pace = Pace()
    assert pace.best(0, 5) == 5
    pace.observe(0, 5, 10.0)
    assert pace.best(0, 5) == 5
    assert learnt({1: 1.0, 4: 8.0}).best(0, 3) == 3
    assert learnt({1: 1.0, 4: 8.0}).best(1, 4) == 4


def test_a_batch_that_is_slower_than_one_after_the_other_is_not_made() -> None:
    pace = learnt({1: 10.0, 2: 25.0, 4: 45.0, 8: 44.0})
    assert [pace.best(0, waiting) for waiting in (1, 2, 4, 8)] == [1, 1, 1, 8]


@given(st.lists(st.floats(0.1, 1000), min_size=1, max_size=8))
def test_no_other_measured_size_brings_more(times: list[float]) -> None:
    known = dict(enumerate(times, 1))
    best = learnt(known).best(0, len(times))
    assert all(best / known[best] >= size / ms for size, ms in known.items())


def test_a_size_given_up_is_tried_again_and_its_new_time_counts() -> None:
    pace = learnt({1: 10.0, 2: 25.0})
    tried = 0
    for _ in range(2000):
        size = pace.best(0, 2)
        tried += size == 2
        pace.observe(0, size, {1: 10.0, 2: 12.0}[size])
    assert tried > 1000
