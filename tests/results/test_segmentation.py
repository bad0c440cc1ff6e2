"""mIoU, compared with a confusion matrix made by hand and with scikit-learn."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from splittracr.data import masks
from splittracr.experiment.types import Record
from splittracr.results import segmentation
from splittracr.results.summary import Segmentation
from splittracr.results.tables import frame, summarise
from tests.results import synthetic

Pixels = list[dict[str, int]]
Masks = list[tuple[NDArray[np.int64], NDArray[np.int64]]]


def made(pictures: int, seed: int = 0) -> Masks:
    """Labelled masks of up to four classes with pixels that do not count, and guesses beside them,
    better in some pictures than in others.
    """
    random = np.random.default_rng(seed)
    found = []
    for _ in range(pictures):
        labelled = random.choice([0, 0, 1, 2, 4, 255], size=(6, 8))
        if random.random() < 0.5:
            labelled[labelled == 4] = 0
        wrong = random.random(labelled.shape) < random.uniform(0, 0.7)
        guess = np.where(wrong, random.integers(0, 6, labelled.shape), labelled % 255)
        found.append((labelled, guess))
    return found


def counted(pairs: Masks) -> list[Pixels]:
    return [masks.counted(labelled, guess) for labelled, guess in pairs]


def evaluated(pairs: Masks) -> Segmentation:
    figures = segmentation.evaluate(counted(pairs), np.arange(len(pairs)))
    assert figures is not None
    return figures


def by_hand(pairs: Masks) -> tuple[float, float, int]:
    """mIoU, pixel accuracy and classes by the confusion matrix of the whole set."""
    matrix = np.zeros((256, 256))
    for labelled, guess in pairs:
        np.add.at(matrix, (labelled, guess), labelled != 255)
    overlaps = []
    for i in range(256):
        union = matrix[i].sum() + matrix[:, i].sum() - matrix[i, i]
        if union > 0:
            overlaps.append(matrix[i, i] / union)
    return sum(overlaps) / len(overlaps), np.trace(matrix) / matrix.sum(), len(overlaps)


def test_figures_are_those_of_the_confusion_matrix() -> None:
    pairs = made(60)
    figures = evaluated(pairs)
    overlap, accuracy, classes = by_hand(pairs)
    assert figures.miou.value == pytest.approx(overlap, abs=1e-12)
    assert figures.pixel_accuracy.value == pytest.approx(accuracy, abs=1e-12)
    assert (figures.n, figures.classes) == (60, classes)
    assert 0.2 < overlap < accuracy < 0.9


def test_figures_are_those_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    pairs = made(20, seed=1)
    counts = [labelled != 255 for labelled, _ in pairs]
    truth = np.concatenate([one[0][c] for one, c in zip(pairs, counts, strict=True)])
    guess = np.concatenate([one[1][c] for one, c in zip(pairs, counts, strict=True)])
    figures = evaluated(pairs)
    overlap = metrics.jaccard_score(truth, guess, average="macro")
    assert figures.miou.value == pytest.approx(overlap, abs=1e-12)
    accuracy = metrics.accuracy_score(truth, guess)
    assert figures.pixel_accuracy.value == pytest.approx(accuracy, abs=1e-12)


def test_two_small_masks_by_hand() -> None:
    # Class 0: 2 of 3 pixels. Class 1: 1 of 4. Class 2 was predicted only: 0 of 1.
    pairs = [
        (np.array([[0, 0, 1, 255]]), np.array([[0, 0, 0, 1]])),
        (np.array([[1, 1, 1, 255]]), np.array([[1, 2, 0, 0]])),
    ]
    figures = evaluated(pairs)
    assert figures.miou.value == pytest.approx((2 / 4 + 1 / 4 + 0) / 3)
    assert figures.pixel_accuracy.value == pytest.approx(3 / 6)
    assert (figures.n, figures.classes, figures.miou.low) == (2, 3, None)


def test_a_resample_counts_like_the_pictures_that_it_drew() -> None:
    pairs = made(12, seed=3)
    times = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12))
    drawn = [pairs[i] for i in np.repeat(np.arange(12), times)]
    counts = segmentation.counts(counted(pairs), np.arange(12))
    overlap, accuracy, _ = by_hand(drawn)
    assert segmentation.miou(counts, times[None].astype(float))[0] == pytest.approx(overlap)
    assert segmentation.accuracy(counts, times[None].astype(float))[0] == pytest.approx(accuracy)


def test_intervals_hold_the_value_and_narrow_with_pictures() -> None:
    widths = []
    for pictures in (20, 200):
        figures = evaluated(made(pictures))
        for whole in (figures.miou, figures.pixel_accuracy):
            assert whole.low is not None
            assert whole.high is not None
            assert whole.low < whole.value < whole.high
        assert figures.miou.low is not None
        assert figures.miou.high is not None
        widths.append(figures.miou.high - figures.miou.low)
    assert widths[1] < widths[0] / 2
    assert evaluated(made(4)).miou.low is None


def test_intervals_cover_the_figure_of_many_pictures() -> None:
    truth = evaluated(made(3000)).miou.value
    ends = [evaluated(made(60, seed)).miou for seed in range(1, 41)]
    held = [one.low < truth < one.high for one in ends if one.low and one.high]
    assert len(held) == 40
    assert sum(held) >= 34


def test_pictures_without_a_counting_pixel_are_no_division_by_zero() -> None:
    nothing = [(np.full((2, 2), 255), np.zeros((2, 2), int))] * 6
    right = [(np.zeros((2, 2), int), np.zeros((2, 2), int))]
    assert segmentation.evaluate(counted(nothing), np.arange(6)) is None
    figures = evaluated([*nothing, *right])
    assert (figures.miou.value, figures.miou.low, figures.miou.high) == (1, 1, 1)


def rows(pixels: list[Pixels], repeats: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "name": [f"{i:02}.jpg" for i in range(len(pixels))] * repeats,
            "pixels": [json.dumps(one) for one in pixels] * repeats,
            "codec": ["raw"] * len(pixels) * repeats,
        }
    )


def test_the_order_of_records_does_not_matter() -> None:
    known = rows(counted(made(20)))
    assert segmentation.of_rows(known.reverse()) == segmentation.of_rows(known)


def test_repeats_of_a_picture_count_once() -> None:
    pixels = counted(made(20))
    once, often = segmentation.of_rows(rows(pixels)), segmentation.of_rows(rows(pixels, repeats=3))
    assert once == often == segmentation.evaluate(pixels, np.arange(20))
    assert segmentation.of_rows(rows(pixels).with_columns(pixels=pl.lit(None, pl.String))) is None


CUT = synthetic.cuts(6)[1]
RIGHT = [{"class": 0, "labelled": 4, "predicted": 4, "both": 4}]
WRONG = [
    {"class": 0, "labelled": 4, "predicted": 0, "both": 0},
    {"class": 1, "labelled": 0, "predicted": 4, "both": 0},
]


def masked(codec: str, sample: int, pixels: Pixels) -> Record:
    shares: list[dict[str, Any]] = [{"label": "a", "class": 0, "share": 1.0}]
    return synthetic.record(CUT, sample, pixels=pixels, prediction=shares, codec=codec)


def test_codecs_of_a_cut_have_their_own_figures() -> None:
    exact = [masked("raw", i, RIGHT) for i in range(6)]
    lossy = [masked("uint4", i, RIGHT if i < 3 else WRONG) for i in range(6)]
    (cut,) = summarise(frame([*exact, *lossy]), synthetic.environment([CUT])).cuts
    assert cut.segmentation is not None
    assert cut.segmentation.n == 6
    assert cut.segmentation.pixel_accuracy.value == pytest.approx(9 / 12)
    assert cut.segmentation.miou.value == pytest.approx((36 / 48 + 0) / 2)
    by_codec = {name: one.miou.value for name, one in cut.segmentation_by_codec.items()}
    assert by_codec == pytest.approx({"raw": 1, "uint4": (12 / 24 + 0) / 2})
    scores = {name: one["mIoU"].value for name, one in cut.scores_by_codec.items()}
    assert scores == by_codec
    (alone,) = summarise(frame(exact), synthetic.environment([CUT])).cuts
    assert alone.segmentation_by_codec == {}
    assert list(alone.scores) == ["mIoU"]
