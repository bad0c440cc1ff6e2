"""Masks of a frame, compared with labelled ones once its latency has ended."""

import asyncio
from typing import Any

import numpy as np
import pytest

from splittracr.data.contracts import Geometry, Mask, Sample
from splittracr.data.labels import Matching
from splittracr.edge import masks, truths
from splittracr.edge.frame import Prediction, Truth
from splittracr.edge.result import Result
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.types import Cut, Place
from splittracr.planning.decision import Decision
from tests.backends.numpy_backend import Means8x8

REDUCED: Any = {"mask": np.array([[0, 1]], np.uint8)}
GEOMETRY = Geometry(picture=(2, 4), network=(1, 2))
RIGHT = np.array([[0, 0, 1, 1]] * 2)
COUNTS = [
    {"class": 0, "labelled": 4, "predicted": 4, "both": 4},
    {"class": 1, "labelled": 4, "predicted": 4, "both": 4},
]


TWO = Means8x8(classes=("sky", "road"))
BY_NUMBER = Matching()


def known(labelled: object, matching: Matching = BY_NUMBER, network: Means8x8 = TWO) -> Truth:
    def read() -> Mask:
        if isinstance(labelled, Exception):
            raise labelled
        return labelled  # type: ignore[return-value]

    return truths.truth(matching, network, Sample("a.jpg", mask=read))


def result(*predictions: Prediction) -> Result:
    """A frame of these samples and one that has failed."""
    return Result(
        cut=Cut(index=1, name="relu", live=(), bytes=1, work=0.5),
        decision=Decision(1),
        due=0.0,
        started_at=0.0,
        size=len(predictions) + 1,
        predictions=dict(enumerate(predictions)),
        failures={len(predictions): "broken"},
        digest=None,
        finished_on=Place.EDGE,
        fallback=None,
        late=None,
        exchange=None,
        stages={"head": 2.0},
        total_ms=2.0,
    )


def judged(*predictions: Prediction) -> Result:
    return asyncio.run(masks.judged(result(*predictions)))


def prediction(truth: Truth, reduced: Any = REDUCED) -> Prediction:
    return Prediction(reduced, GEOMETRY, [], truth)


def test_masks_are_counted_at_the_pixels_of_the_picture() -> None:
    made = judged(prediction(known(RIGHT)))
    assert made.predictions[0].pixels == COUNTS
    assert made.failures == {1: "broken"}
    assert (made.stages, made.total_ms) == ({"head": 2.0}, 2.0)


def test_classes_of_an_own_data_set_are_those_of_the_model() -> None:
    labelled = np.where(RIGHT == 0, 1, 0)
    labelled[0, 0] = 255
    truth = known(labelled, Matching((1, 0)))
    assert truth.mask is not None
    expected = RIGHT.copy()
    expected[0, 0] = 255
    assert np.array_equal(truth.mask((2, 4)), expected)


@pytest.mark.parametrize(
    ("labelled", "words"),
    [
        (OSError("gone"), "gone"),
        (RIGHT[:1], "a.jpg: mask: got int64 [1, 4], expected integers [2, 4]"),
        (RIGHT + 1, "a.jpg: mask: got class 2, expected 0 to 1, or 255 for pixels"),
        (RIGHT - 1, "a.jpg: mask: got class -1, expected 0 to 1, or 255"),
    ],
)
def test_a_sample_whose_mask_cannot_be_used_fails_alone(labelled: object, words: str) -> None:
    made = judged(prediction(known(RIGHT)), prediction(known(labelled)))
    assert list(made.predictions) == [0]
    assert made.failures[1].startswith(words)
    assert made.failures[2] == "broken"


def test_results_that_are_no_masks_are_not_compared() -> None:
    boxes = prediction(known(SplittracrError("never read")), {"boxes": np.zeros((1, 4))})
    assert judged(boxes).predictions[0] is boxes
    scores = prediction(known(SplittracrError("never read")), {"mask": np.zeros((1, 2))})
    assert judged(scores).predictions[0] is scores


def test_without_labels_nothing_is_done() -> None:
    given = result(prediction(Truth()))
    assert asyncio.run(masks.judged(given)) is given


def test_without_class_names_any_class_is_possible() -> None:
    truth = known(np.full((2, 4), 30), network=Means8x8(classes=()))
    assert truth.mask is not None
    assert truth.mask((2, 4)).max() == 30
