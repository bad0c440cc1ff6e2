"""The order of frames, their times, and the choice of cuts."""

from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splittracr.experiment.errors import CutRefused
from splittracr.experiment.spec import Mode, OpenLoop, PartitionSpec
from splittracr.experiment.types import Cut
from splittracr.planning.schedule import Trial, chosen, due_times, order, spread, total, trials


@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 12), st.integers(0, 99))
def test_every_frame_of_every_trial_runs_once(
    cuts: int, repeats: int, frames: int, seed: int
) -> None:
    planned = trials(range(cuts), repeats)
    steps = list(order(planned, frames, seed))
    assert set(Counter(steps).values()) == {1}
    assert len(steps) == total(planned, frames) == cuts * repeats * frames
    assert steps == list(order(planned, frames, seed))
    assert [s.trial.repeat for s in steps] == sorted(s.trial.repeat for s in steps)


def test_a_sweep_is_interleaved_and_a_single_cut_is_not_shuffled() -> None:
    steps = list(order(trials([0, 5, 9], 1), 20, 1))
    first_half = Counter(step.trial.cut for step in steps[:30])
    assert all(4 <= first_half[cut] <= 16 for cut in (0, 5, 9))
    assert steps != list(order(trials([0, 5, 9], 1), 20, 2))
    assert [s.frame for s in order(trials([5], 1), 20, 1)] == list(range(20))


def test_the_first_frame_of_a_long_study_does_not_wait_for_the_rest() -> None:
    # All of it would be 10^8 steps; grouping again for each repeat, 10^10 comparisons.
    planned = trials(range(10), 10_000)
    steps = order(planned, 1000, 0)
    assert next(steps).trial.repeat == 0
    assert total(planned, 1000) == 10**8


def test_repeats_are_grouped_once() -> None:
    """As many looks at the trials for many repeats as for few."""

    class Counting(list[Trial]):
        passes = 0

        def __iter__(self) -> Iterator[Trial]:
            self.passes += 1
            return super().__iter__()

    few, many = Counting(trials([1, 2], 2)), Counting(trials([1, 2], 50))
    assert len(list(order(few, 3, 0))) == 12
    assert len(list(order(many, 3, 0))) == 300
    assert many.passes == few.passes


def test_regular_arrivals_have_equal_gaps() -> None:
    times = list(islice(due_times(OpenLoop(mode="Open", frames_per_minute=600)), 5))
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_poisson_arrivals_have_the_mean_asked_for() -> None:
    arrival = OpenLoop(mode="Open", frames_per_minute=600, process="Poisson", seed=3)
    times = list(islice(due_times(arrival), 4000))
    gaps = [b - a for a, b in pairwise(times)]
    assert min(gaps) >= 0
    assert sum(gaps) / len(gaps) == pytest.approx(0.1, rel=0.05)
    assert sum(g > 0.1 for g in gaps) / len(gaps) == pytest.approx(0.368, abs=0.03)


def network(works: list[float], sizes: list[int]) -> list[Cut]:
    return [
        Cut(index=i, name=str(i), live=(), bytes=size, work=work)
        for i, (work, size) in enumerate(zip(sorted(works), sizes, strict=True))
    ]


@given(st.data())
def test_a_sweep_chooses_ends_and_no_more_than_asked(data: st.DataObject) -> None:
    count = data.draw(st.integers(2, 40))
    works = data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count))
    sizes = data.draw(st.lists(st.integers(1, 100), min_size=count, max_size=count))
    most = data.draw(st.integers(2, 20))
    picked = spread(network(works, sizes), most)
    assert picked == sorted(set(picked))
    assert (picked[0], picked[-1]) == (0, count - 1)
    assert len(picked) <= most


def test_a_sweep_prefers_the_cut_that_sends_least_and_the_later_of_equals() -> None:
    cuts = network([0, 0.1, 0.2, 0.3, 0.6, 0.7, 1], [9, 5, 3, 3, 8, 9, 1])
    assert spread(cuts, 4) == [0, 3, 4, 6]


def test_modes_choose_their_cuts() -> None:
    cuts = network([0, 0.5, 1], [3, 2, 1])
    assert chosen(PartitionSpec(mode=Mode.EDGE_ONLY), cuts, [], 2) == [2]
    assert chosen(PartitionSpec(mode=Mode.SERVER_ONLY), cuts, [], 2) == [0]
    assert chosen(PartitionSpec(mode=Mode.STATIC, cut=1), cuts, [1], 2) == [1]
    assert chosen(PartitionSpec(mode=Mode.SWEEP, cuts=(1, 0)), cuts, [1, 0, 1], 2) == [1, 0]
    assert chosen(PartitionSpec(mode=Mode.SWEEP), cuts, [], 2) == [0, 1, 2]


@pytest.mark.parametrize("kept", [[], [1], [0, 1]])
def test_no_cut_stands_in_for_a_refused_end(kept: list[int]) -> None:
    offered = [cut for cut in network([0, 0.5, 1], [3, 2, 1]) if cut.index in kept]
    assert chosen(PartitionSpec(mode=Mode.EDGE_ONLY), offered, [], 2) == [2]
    assert chosen(PartitionSpec(mode=Mode.SERVER_ONLY), offered, [], 2) == [0]


@pytest.mark.parametrize("kept", [[1], [0], [0, 1], [1, 2], [0, 2]])
def test_a_sweep_runs_what_is_offered(kept: list[int]) -> None:
    offered = [cut for cut in network([0, 0.5, 1], [3, 2, 1]) if cut.index in kept]
    assert chosen(PartitionSpec(mode=Mode.SWEEP), offered, [], 2) == kept


def test_a_sweep_with_every_cut_refused_says_so() -> None:
    with pytest.raises(CutRefused, match="every cut of the model was refused"):
        chosen(PartitionSpec(mode=Mode.SWEEP), [], [], 2)
    assert spread([], 16) == []
