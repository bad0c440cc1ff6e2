"""Fair shares: no edge waits for one with many requests."""

from collections import defaultdict
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from splittracr.server.queue import FairQueue

Item = tuple[int, int, int]  # edge, number, kind


def same_kind(a: Item, b: Item) -> bool:
    return a[2] == b[2]


@st.composite
def fills(draw: st.DrawFn) -> list[Item]:
    edges = draw(st.lists(st.integers(0, 4), max_size=40))
    numbers: dict[int, int] = defaultdict(int)
    items = []
    for edge in edges:
        items.append((edge, numbers[edge], draw(st.integers(0, 1))))
        numbers[edge] += 1
    return items


def filled(items: list[Item]) -> FairQueue[int, Item]:
    queue: FairQueue[int, Item] = FairQueue()
    for item in items:
        queue.add(item[0], item)
    return queue


@given(fills(), st.integers(1, 6))
def test_everything_is_taken_once_and_an_edge_is_never_overtaken_by_itself(
    items: list[Item], most: int
) -> None:
    queue, taken = filled(items), []
    while batch := queue.take(most, same_kind):
        assert len(batch) <= most
        assert len({item[2] for item in batch}) == 1
        taken += batch
    assert sorted(taken) == sorted(items)
    assert len(queue) == 0
    for edge in range(5):
        assert [i for i in taken if i[0] == edge] == [i for i in items if i[0] == edge]


@given(fills())
def test_between_two_turns_of_an_edge_all_others_that_wait_have_one(items: list[Item]) -> None:
    queue = filled(items)
    left: dict[int, int] = defaultdict(int)
    for edge, _, _ in items:
        left[edge] += 1
    since: dict[int, set[int]] = {}
    while batch := queue.take(1, same_kind):
        edge = batch[0][0]
        if edge in since:
            waited = {other for other, count in left.items() if count and other != edge}
            assert waited <= since[edge]
        left[edge] -= 1
        for seen in since.values():
            seen.add(edge)
        since[edge] = set()


@given(fills(), st.integers(0, 4), st.integers(0, 3))
def test_what_is_removed_or_dropped_is_gone(items: list[Item], edge: int, number: int) -> None:
    queue = filled(items)
    removed = queue.remove(edge, lambda item: item[1] == number)
    assert removed == [i for i in items if i[:2] == (edge, number)]
    assert queue.drop(edge) == [i for i in items if i[0] == edge and i not in removed]
    assert queue.drop(edge) == []
    assert len(queue) == sum(i[0] != edge for i in items)


def test_a_batch_is_filled_by_other_edges_first() -> None:
    queue = filled([(0, 0, 0), (0, 1, 0), (1, 0, 0), (2, 0, 1)])
    assert queue.take(3, same_kind) == [(0, 0, 0), (1, 0, 0), (0, 1, 0)]
    assert queue.take(3, same_kind) == [(2, 0, 1)]
    assert queue.take(3, same_kind) == []


@given(fills(), st.integers(1, 6), st.integers(1, 6))
def test_a_share_takes_the_first_of_them_and_leaves_the_others_their_turn(
    items: list[Item], most: int, share: int
) -> None:
    whole, part = filled(items), filled(items)
    found: list[list[Item]] = []

    def some(together: Sequence[Item]) -> int:
        found.append(list(together))
        return min(share, len(together))

    taken = part.take(most, same_kind, some)
    together = whole.take(most, same_kind)
    assert found == ([together] if items else [])
    assert taken == together[:share]
    assert len(part) == len(items) - len(taken)
