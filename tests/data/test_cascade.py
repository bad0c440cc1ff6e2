"""Results of a small and a large model: classes, sureness, agreement."""

from typing import Any

import pytest
import torch
from torch import Tensor

from splittracr.data.cascade import (
    Answer,
    ClassMap,
    Judge,
    Labels,
    in_picture,
    mapped,
    statistics,
)
from splittracr.data.contracts import Geometry
from splittracr.experiment.contracts import DETECTED, RANKED, Statistic
from splittracr.experiment.errors import InvalidInput

SMALL, LARGE = Labels("small", ("cat", "dog", "car")), Labels("large", ("car", "cat", "dog"))


def ranked(*classes: int, scores: tuple[float, ...] = (0.7, 0.2)) -> dict[str, Tensor]:
    return {"classes": torch.tensor(classes), "scores": torch.tensor(scores)}


def detected(*rows: tuple[float, float, float, float, int, float]) -> dict[str, Tensor]:
    """Detections as x1, y1, x2, y2, class, score."""
    table = torch.tensor(rows).reshape(-1, 6)
    return {"boxes": table[:, :4], "classes": table[:, 4].int(), "scores": table[:, 5]}


def ranking(reduced: Any) -> list[int] | None:
    return None if "boxes" in reduced else [int(i) for i in reduced["classes"]]


def judge(statistic: Statistic, classes: ClassMap, least_match: float = 0.5) -> Judge:
    return Judge(statistic, ranking, ranking, classes, least_match)


@pytest.mark.parametrize(
    ("small", "large"),
    [
        (LARGE, Labels("other", LARGE.names)),
        (Labels("small", (), 3), LARGE),
        (LARGE, Labels("large", (), 3)),
        (Labels("small"), LARGE),  # the number of a detector's classes is not known
    ],
)
def test_the_same_classes_need_no_mapping(small: Labels, large: Labels) -> None:
    assert mapped(small, large, None) == ClassMap()
    assert ClassMap().of(7) == 7


@pytest.mark.parametrize(
    ("small", "words"),
    [
        (SMALL, "its class 0 is 'cat', that of large 'car'"),
        (Labels("small", ("cat",)), "it has 1 classes, large has 3"),
        (Labels("small", (), 4), "it has 4 classes, large has 3"),
    ],
)
def test_other_classes_ask_for_a_mapping(small: Labels, words: str) -> None:
    with pytest.raises(InvalidInput, match="--small: got 'small', expected a model with the") as it:
        mapped(small, LARGE, None)
    assert words in it.value.expected
    assert "a mapping in --classes" in it.value.expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (1, 2, 0)),  # names decide
        ({"cat": "dog", "dog": "cat"}, (2, 1, 0)),
        ({"0": "2", "2": 1}, (2, 2, 1)),
        ({"car": None}, (1, 2, None)),
    ],
)
def test_a_mapping_goes_from_names_or_numbers_to_names_or_numbers(
    given: dict[str, object], expected: tuple[int | None, ...]
) -> None:
    found = mapped(SMALL, LARGE, given)
    assert found.classes == expected
    assert (found.of(0), found.of(3), found.of(-1)) == (expected[0], None, None)


@pytest.mark.parametrize(
    ("small", "given", "words"),
    [
        (SMALL, {"cow": "cat"}, "got 'cow', expected a class of small"),
        (SMALL, {"cat": "cow"}, "got 'cow', expected a class of large"),
        (SMALL, {"cat": "3"}, "got '3', expected a class of large"),
        (Labels("small", ("cat", "cow")), {"cat": "cat"}, "there is none for 'cow'"),
        (Labels("small", (), 2), {"0": "cat"}, "there is none for 1"),
        (Labels("small"), {"0": "cat"}, "the number of classes of small is unknown"),
        (Labels("small", ("cat", "cat")), {"cat": "cat"}, "got 'cat', expected a class of small"),
    ],
)
def test_a_wrong_mapping_is_refused_by_name(
    small: Labels, given: dict[str, object], words: str
) -> None:
    with pytest.raises(InvalidInput, match=r"^--classes") as it:
        mapped(small, LARGE, given)
    assert words in str(it.value)


def test_rankings_agree_by_the_first_class() -> None:
    one = judge(Statistic.MARGIN, ClassMap((1, 2, None)))
    assert one.agrees(ranked(0, 1), ranked(1, 0))
    assert not one.agrees(ranked(0, 1), ranked(2, 1))
    assert one.sureness(ranked(0, 2)) == pytest.approx(500_000, abs=1)
    assert one.sureness(ranked(2, 0)) == 0  # a class without a counterpart


CAT, DOG = (0.0, 0.0, 10.0, 10.0, 1, 0.9), (20.0, 20.0, 30.0, 40.0, 2, 0.5)


def test_detections_agree_by_the_share_that_matches() -> None:
    both, mirrored = detected(CAT, DOG), detected((*CAT[:4], 0, 0.9), (*DOG[:4], 1, 0.5))
    whole = judge(Statistic.MEAN_SCORE, ClassMap((1, 2)), 1.0)
    assert whole.agrees(mirrored, both)
    assert not judge(Statistic.MEAN_SCORE, ClassMap()).agrees(mirrored, both)
    one_missing = detected((*CAT[:4], 0, 0.9))  # 2 of 3 detections have a partner
    assert not whole.agrees(one_missing, both)
    assert judge(Statistic.MEAN_SCORE, ClassMap((1, 2)), 0.66).agrees(one_missing, both)
    assert whole.agrees(detected(), detected())
    assert whole.sureness(mirrored) == pytest.approx(700_000, abs=1)
    assert whole.sureness(detected()) == 0
    assert whole.sureness(both) == 0  # the small model's class 2 has no counterpart


def test_boxes_are_those_of_the_description_in_the_picture() -> None:
    boxes = [[4.0, 8.0, 24.0, 28.0], [44.0, 48.0, 64.0, 88.0]]
    described = [{"class": 1, "score": 0.9, "box": box} for box in boxes]
    small, large = detected(CAT, DOG), detected((*boxes[0], 1, 0.9), (*boxes[1], 2, 0.5))  # type: ignore[arg-type]
    one = judge(Statistic.MEAN_SCORE, ClassMap(), 1.0)
    assert not one.agrees(small, large)
    assert one.agrees(in_picture(small, described), large)
    assert in_picture(small, described)["boxes"].tolist() == boxes
    assert in_picture(detected(), [])["boxes"].shape == (0, 4)


HERE, OTHER = Geometry((32, 32), (64, 64)), Geometry((32, 32), (128, 128))
CATS = detected(CAT)
IN_PICTURE = [{"class": 1, "score": 0.9, "box": [float(one) for one in CAT[:4]]}]
HALF = [{"class": 1, "score": 0.9, "box": [one / 2 for one in CAT[:4]]}]


@pytest.mark.parametrize(
    ("small", "large", "agrees"),
    [
        # Both are in pixels of the picture, for inputs of any size.
        (Answer(CATS, HALF, HERE), Answer(CATS, HALF, OTHER), True),
        (Answer(CATS, IN_PICTURE, HERE), Answer(CATS, HALF, OTHER), False),
        # Only one is: the numbers happen to be equal, and mean other places.
        (Answer(CATS, HALF, HERE), Answer(CATS, ["a cat"], HERE), None),
        (Answer(CATS, None, HERE), Answer(CATS, HALF, HERE), None),
        (Answer(CATS, IN_PICTURE, HERE), Answer(CATS, {"box": 1}, OTHER), None),
        # Neither is: in pixels of inputs of one size, or of two.
        (Answer(CATS, ["a cat"], HERE), Answer(CATS, None, HERE), True),
        (Answer(CATS, ["a cat"], HERE), Answer(CATS, ["a cat"], OTHER), None),
        # Without a box nothing is mixed.
        (Answer(detected(), [], HERE), Answer(CATS, ["a cat"], OTHER), False),
        (Answer(CATS, IN_PICTURE, HERE), Answer(detected(), None, OTHER), False),
        (Answer(detected(), [], HERE), Answer(detected(), None, OTHER), True),
    ],
)
def test_boxes_in_coordinates_of_two_kinds_are_not_compared(
    small: Answer, large: Answer, agrees: bool | None
) -> None:
    assert judge(Statistic.MEAN_SCORE, ClassMap()).compared(small, large) is agrees


def test_classes_need_no_coordinates() -> None:
    small, large = Answer(ranked(1, 0), None, HERE), Answer(ranked(1, 2), [], OTHER)
    assert judge(Statistic.MARGIN, ClassMap()).compared(small, large) is True


@pytest.mark.parametrize(
    ("result", "described"),
    [
        (detected(CAT, DOG), [{"box": [1, 2, 3, 4]}]),
        (detected(CAT), [{"score": 0.9}]),
        (detected(CAT), {"box": [1, 2, 3, 4]}),
        ({**detected(CAT), "boxes": torch.zeros(1, 5)}, [{"box": [1, 2, 3, 4]}]),  # oriented
        (ranked(0, 1), [{"class": 0}, {"class": 1}]),
    ],
)
def test_results_that_are_not_described_by_boxes_stay(result: Any, described: Any) -> None:
    assert in_picture(result, described) is result


def test_a_statistic_suits_classes_or_boxes() -> None:
    assert statistics(ranking, ranked(0, 1)) == RANKED
    assert statistics(ranking, detected(CAT)) == statistics(ranking, detected()) == DETECTED
    assert statistics(ranking, ranked(0, 1, scores=(7.3, -2.0))) == ()  # no probabilities
    assert statistics(ranking, {"outputs": torch.zeros(3)}) == ()
