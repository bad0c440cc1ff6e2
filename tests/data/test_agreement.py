"""Agreement of two results for the same pictures."""

import numpy as np
import pytest
import torch
from torch import Tensor

from splittracr.data.agreement import (
    Agreed,
    detections,
    first_classes,
    none_of,
    pixels,
    results,
)


def found(*rows: tuple[float, float, float, float, int, float]) -> dict[str, Tensor]:
    """Detections as x1, y1, x2, y2, class, score."""
    table = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": table[:, :4], "classes": table[:, 4].int(), "scores": table[:, 5]}


CAT, DOG = (0, 0, 10, 10, 1, 0.9), (20, 20, 30, 40, 2, 0.8)


def ranking(reduced: object) -> list[int] | None:
    return reduced if isinstance(reduced, list) else None


@pytest.mark.parametrize(
    ("other", "same", "total"),
    [
        ([CAT, DOG], 4, 4),
        ([DOG, CAT], 4, 4),  # in any order
        ([CAT], 2, 3),  # one is missing
        ([CAT, DOG, (50, 50, 60, 60, 1, 0.3)], 4, 5),  # one was invented
        ([CAT, (20, 20, 30, 40, 3, 0.8)], 2, 4),  # another class
        ([(0, 0, 10, 5, 1, 0.9), DOG], 4, 4),  # an overlap of 0.5
        ([(0, 0, 10, 4.9, 1, 0.9), DOG], 2, 4),  # one below
        ([CAT, CAT, DOG], 4, 5),  # doubled
        ([], 0, 2),
    ],
)
def test_detections_need_a_partner(
    other: list[tuple[float, float, float, float, int, float]], same: int, total: int
) -> None:
    assert detections([found(CAT, DOG)], [found(*other)]) == Agreed(same, total)
    assert detections([found(*other)], [found(CAT, DOG)]) == Agreed(same, total)


def test_counts_of_pictures_add_up_and_nothing_on_both_sides_agrees() -> None:
    assert detections([found(CAT), found()], [found(CAT), found(DOG)]) == Agreed(2, 3)
    nothing = detections([found()], [found()])
    assert nothing == Agreed(0, 0)
    assert nothing.share == 1


def test_the_best_detection_takes_the_box_that_overlaps_most() -> None:
    exact = found((0, 0, 10, 10, 1, 0.5), (0, 0, 10, 8, 1, 0.9))
    other = found((0, 0, 10, 8, 1, 0.9), (0, 0, 10, 10, 1, 0.9))
    assert detections([exact], [other]) == Agreed(4, 4)


def test_arrays_count_like_tensors() -> None:
    arrays = {key: np.asarray(value) for key, value in found(CAT, DOG).items()}
    assert detections([arrays], [arrays]) == Agreed(4, 4)  # type: ignore[list-item]


def test_rankings_come_first_and_rotated_boxes_are_no_upright_ones() -> None:
    assert first_classes(ranking, [[1, 2], [3]], [[1, 3], [4]]) == Agreed(1, 2)  # type: ignore[list-item]
    assert first_classes(ranking, [found(CAT)], [found(CAT)]) is None
    assert results(ranking, [found(CAT)], [found(CAT)]) == Agreed(2, 2)
    rotated = found(CAT) | {"boxes": torch.zeros(1, 5)}
    assert results(ranking, [rotated], [rotated]) is None


def test_pixels_agree_if_their_class_is_the_same() -> None:
    exact = {"mask": torch.tensor([[0, 1], [2, 2]], dtype=torch.uint8)}
    other = {"mask": torch.tensor([[0, 2], [2, 2]], dtype=torch.uint8)}
    assert pixels([exact, exact], [other, exact]) == Agreed(7, 8)
    assert results(lambda _: None, [exact], [other]) == Agreed(3, 4)
    assert pixels([exact], [found(CAT)]) is None
    scores = {"mask": torch.zeros(2, 2)}
    assert pixels([scores], [scores]) is None


def test_nothing_agrees_with_a_run_without_results() -> None:
    def unranked(_: object) -> None:
        return None

    mask = {"mask": torch.zeros(2, 3, dtype=torch.uint8)}
    assert none_of(unranked, [mask, mask]) == Agreed(0, 12)
    assert none_of(unranked, [found(CAT, DOG)]) == Agreed(0, 4)
    assert none_of(lambda _: [1], [mask]) == Agreed(0, 1)
    assert none_of(unranked, [{"raw": torch.zeros(3)}]) == Agreed(0, 1)
