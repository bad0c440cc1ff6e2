"""Compares the results of two runs of a network for the same pictures, without labels.

A result with a ranking agrees if the first class is the same. Detections agree if they are of the
same class and their boxes overlap by at least half (IoU), pixels if their class is the same.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splittracr.data import masks
from splittracr.data.contracts import Reduced

OVERLAP = 0.5
"""The least overlap (IoU) of two boxes that are the same object."""

Ranking = Callable[[Any], Sequence[int] | None]
"""The classes of one result, best first; None if it ranks none."""


@dataclass(frozen=True)
class Agreed:
    """Counts that can be added up: `same` of `total` first classes, detections or pixels.

    Detections of both runs count, so `same` is twice the number of pairs.
    """

    same: int = 0
    total: int = 0

    def __add__(self, other: "Agreed") -> "Agreed":
        return Agreed(self.same + other.same, self.total + other.total)

    @property
    def share(self) -> float:
        """The share that agrees; 1 if neither run found anything."""
        return self.same / self.total if self.total else 1.0


def first_classes(
    ranking: Ranking, exact: Sequence[Reduced], other: Sequence[Reduced]
) -> Agreed | None:
    """How many pictures have the same first class; None if `exact` has one without a ranking."""
    firsts, others = ([_first(ranking(one)) for one in each] for each in (exact, other))
    if None in firsts:
        return None
    return Agreed(sum(a == b for a, b in zip(firsts, others, strict=True)), len(firsts))


def detections(exact: Sequence[Reduced], other: Sequence[Reduced]) -> Agreed | None:
    """How many detections of the pictures agree; None if the results are no upright boxes."""
    if not all(map(_has_boxes, (*exact, *other))):
        return None
    return sum(map(_paired, exact, other), Agreed())


def pixels(exact: Sequence[Reduced], other: Sequence[Reduced]) -> Agreed | None:
    """How many pixels have the same class; None if the results are no masks."""
    if not all(map(masks.is_mask, (*exact, *other))):
        return None
    pairs = [(masks.found(one), masks.found(two)) for one, two in zip(exact, other, strict=True)]
    return Agreed(
        sum(int(np.count_nonzero(one == two)) for one, two in pairs),
        sum(one.size for one, _ in pairs),
    )


def results(ranking: Ranking, exact: Sequence[Reduced], other: Sequence[Reduced]) -> Agreed | None:
    """The first classes that agree, or else the detections, or the pixels; None without any."""
    return first_classes(ranking, exact, other) or detections(exact, other) or pixels(exact, other)


def none_of(ranking: Ranking, exact: Sequence[Reduced]) -> Agreed:
    """No result of `exact` agrees, as if the other run had failed."""
    found = results(ranking, exact, exact)
    return Agreed(0, found.total if found else len(exact))


def _first(ranking: Sequence[int] | None) -> int | None:
    return ranking[0] if ranking else None


def _has_boxes(reduced: Reduced) -> bool:
    columns = all(key in reduced for key in ("boxes", "classes", "scores"))
    return columns and len(reduced["boxes"].shape) == 2 and reduced["boxes"].shape[1] == 4


def _paired(exact: Reduced, other: Reduced) -> Agreed:
    """Pairs each detection, best first, with the most overlapping one that is left."""
    boxes, found = (np.asarray(one["boxes"].tolist()).reshape(-1, 4) for one in (exact, other))
    classes, others = (np.asarray(one["classes"].tolist()) for one in (exact, other))
    overlaps = np.where(classes[:, None] == others, _overlaps(boxes, found), 0.0)
    pairs = 0
    for row in np.argsort(-np.asarray(exact["scores"].tolist()), kind="stable"):
        if not overlaps.shape[1] or overlaps[row].max() < OVERLAP:
            continue
        overlaps[:, overlaps[row].argmax()] = 0
        pairs += 1
    return Agreed(2 * pairs, len(boxes) + len(found))


def _overlaps(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of boxes x1, y1, x2, y2: `[first, second]`."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    shared = np.clip(high - low, 0, None).prod(axis=2)
    areas = [np.clip(one[:, 2:] - one[:, :2], 0, None).prod(axis=1) for one in (first, second)]
    union = areas[0][:, None] + areas[1] - shared
    share: NDArray[np.float64] = np.divide(
        shared, union, out=np.zeros_like(shared), where=union > 0
    )
    return share
