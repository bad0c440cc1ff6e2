"""Mean overlap of masks with labelled ones, with its interval.

Pixels are counted over all pictures first: of each class those labelled, those predicted, and those
that are both. They are the margins and the diagonal of the confusion matrix.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from splittracr.results.intervals import moved, resamples
from splittracr.results.summary import MIN_FRAMES, Segmentation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pixels:
    """Counts of pixels `[picture, class]`."""

    labelled: Array
    predicted: Array
    both: Array


def of_rows(rows: pl.DataFrame) -> Segmentation | None:
    """The figures of records with the columns `name`, `codec` and `pixels`.

    None without labelled masks. Repeats of a picture count once if codec and counts are equal.
    """
    known = rows.filter(pl.col("pixels").is_not_null()).select("name", "codec", "pixels")
    if known.is_empty():
        return None
    distinct = known.unique(maintain_order=True)
    names = {name: place for place, name in enumerate(sorted(set(distinct["name"])))}
    pictures = np.array([names[name] for name in distinct["name"]])
    return evaluate([json.loads(text) for text in distinct["pixels"]], pictures)


def evaluate(
    pixels: Sequence[Sequence[Mapping[str, int]]], pictures: NDArray[np.int64]
) -> Segmentation | None:
    """The figures of counts by class, one entry each a result; None without a labelled pixel.

    `pictures` has the number of the picture of each result: whole pictures are resampled.
    """
    found = counts(pixels, pictures)
    if not found.labelled.any():
        return None
    count = len(found.labelled)
    times = resamples(count, found.labelled.size).astype(float)
    if count < MIN_FRAMES:
        times = times[:0]
    once = np.ones((1, count))
    return Segmentation(
        n=count,
        classes=found.labelled.shape[1],
        miou=moved(float(miou(found, once)[0]), miou(found, times)),
        pixel_accuracy=moved(float(accuracy(found, once)[0]), accuracy(found, times)),
    )


def counts(pixels: Sequence[Sequence[Mapping[str, int]]], pictures: NDArray[np.int64]) -> Pixels:
    """The counts as arrays, with one row for each picture."""
    classes = sorted({one["class"] for each in pixels for one in each})
    places = {label: place for place, label in enumerate(classes)}
    made = np.zeros((3, int(pictures.max()) + 1, len(classes)))
    for picture, each in zip(pictures, pixels, strict=True):
        for one in each:
            made[:, picture, places[one["class"]]] += (
                one["labelled"],
                one["predicted"],
                one["both"],
            )
    return Pixels(*made)


def miou(found: Pixels, weights: Array) -> Array:
    """The mean overlap (IoU) `[resample]` if picture p counts `weights[:, p]` times.

    The overlap of a class is its intersection over its union, of all pictures together. Classes
    that were neither labelled nor predicted do not count.
    """
    both = weights @ found.both
    union = weights @ found.labelled + weights @ found.predicted - both
    overlaps = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return _share(overlaps.sum(axis=1), (union > 0).sum(axis=1))


def accuracy(found: Pixels, weights: Array) -> Array:
    """The share of labelled pixels `[resample]` whose class is right."""
    return _share((weights @ found.both).sum(axis=1), (weights @ found.labelled).sum(axis=1))


def _share(part: Array, whole: Array) -> Array:
    """The share, nan without a whole, as of a resample without labelled pixels."""
    return np.asarray(np.divide(part, whole, out=np.full(len(part), np.nan), where=whole > 0))
