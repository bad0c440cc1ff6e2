"""COCO's mean average precision of detections against labelled boxes, or of their keypoints against
labelled ones, with its interval.

pycocotools matches detections with labels and makes the figures. It is an optional extra, which is
imported when there is something to evaluate.
"""

import contextlib
import importlib.util
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from splittracr.results.intervals import moved, resamples
from splittracr.results.summary import MIN_FRAMES, Detection, Estimate, Keypoints

MISSING = (
    "There are labelled boxes, but no mAP: it needs pip install 'splittracr[coco]', then "
    "splittracr report."
)

Kind = Literal["bbox", "keypoints"]
"""Boxes or keypoints, by pycocotools' names."""

_MAX_DETECTIONS: Mapping[Kind, int] = {"bbox": 100, "keypoints": 20}
"""Of a picture and class, as in COCO's own figures."""

_OF_PERSON = 17
"""Keypoints whose tolerances COCO has measured."""

_AREA = 0.53
"""Share of its box that an object of unknown area covers, as ultralytics assumes."""

_BLOCK = 1_000_000
"""Most values held at once."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Distinct pictures, labelled objects, classes that have some, and both precisions."""

    pictures: int
    objects: int
    classes: int
    map50_95: Estimate
    map50: Estimate


@dataclass(frozen=True)
class Matches:
    """The detections of a class, best first: picture `[D]`, right and wrong `[T, D]` for each
    overlap. `objects` `[pictures]` counts the labelled boxes.
    """

    picture: NDArray[np.int64]
    right: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    objects: Array


def is_available() -> bool:
    """Whether pycocotools is installed."""
    return importlib.util.find_spec("pycocotools") is not None


def of_rows(rows: pl.DataFrame) -> Detection | None:
    """The figures of records with the columns `name`, `codec`, `prediction` and `boxes`.

    None without labelled boxes, without detections in the records' predictions, or without
    pycocotools. Repeats of a picture count once if codec and predictions are equal.
    """
    made = _of_rows(rows, "bbox")
    if made is None:
        return None
    return Detection(
        n=made.pictures,
        boxes=made.objects,
        classes=made.classes,
        map50_95=made.map50_95,
        map50=made.map50,
    )


def keypoints_of_rows(rows: pl.DataFrame) -> Keypoints | None:
    """The same for keypoints; None also without labelled ones, or without any in predictions."""
    made = _of_rows(rows, "keypoints")
    if made is None:
        return None
    return Keypoints(
        n=made.pictures,
        objects=made.objects,
        classes=made.classes,
        map50_95=made.map50_95,
        map50=made.map50,
    )


def _of_rows(rows: pl.DataFrame, kind: Kind) -> Figures | None:
    known = rows.filter(pl.col("boxes").is_not_null()).select(
        "name", "codec", "prediction", "boxes"
    )
    if known.is_empty() or not is_available():
        return None
    distinct = known.unique(maintain_order=True)
    found: list[Any] = [json.loads(text) if text else None for text in distinct["prediction"]]
    boxes = [json.loads(text) for text in distinct["boxes"]]
    if not can_compare(boxes, found, kind):
        return None
    names = {name: place for place, name in enumerate(sorted(set(distinct["name"])))}
    pictures = np.array([names[name] for name in distinct["name"]])
    return evaluate(boxes, found, pictures, kind)


def can_compare(
    boxes: Sequence[Sequence[Mapping[str, Any]]], found: Sequence[Any], kind: Kind
) -> bool:
    """Whether there are labels of this kind, and results that they can be compared with."""
    objects = [one for each in boxes for one in each if not one["crowd"]]
    if not objects or not all(map(are_detections, found)):
        return False
    if kind == "bbox":
        return True
    labelled = [one["keypoints"] for one in objects if "keypoints" in one]
    detected = [one.get("keypoints") for each in found for one in each]
    if not any(visible for points in labelled for _, _, visible in points):
        return False
    numbers = {None if points is None else len(points) for points in (*labelled, *detected)}
    return bool(detected) and None not in numbers and len(numbers) == 1


def evaluate(
    boxes: Sequence[Sequence[Mapping[str, Any]]],
    found: Sequence[Sequence[Mapping[str, Any]]],
    pictures: NDArray[np.int64],
    kind: Kind = "bbox",
) -> Figures:
    """The figures of `found` detections against labelled `boxes`, one entry each a result.

    Both have `class` and `box` (x1, y1, x2, y2), detections a `score`, boxes `crowd`, and both
    `keypoints` (x, y and more) if these are compared. `pictures` has the number of the picture of
    each result: whole pictures are resampled.
    """
    evaluator = evaluated(boxes, found, kind)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.accumulate()
    exact = evaluator.eval["precision"][..., 0, -1]  # [overlap, recall, class]
    values = exact.mean(axis=1).T  # [class, overlap]; -1 without boxes
    values[values < 0] = np.nan
    classes = list(matches(evaluator, pictures))
    resampled = _resampled(classes, evaluator.params.recThrs, int(pictures.max()) + 1)
    return Figures(
        pictures=int(pictures.max()) + 1,
        objects=int(sum(one.objects.sum() for one in classes)),
        classes=int((~np.isnan(values[:, 0])).sum()),
        map50_95=_precision(values, resampled, slice(None)),
        map50=_precision(values, resampled, slice(1)),
    )


def are_detections(prediction: Any) -> bool:
    """Whether a prediction of a record is a list of detections with upright boxes."""
    return isinstance(prediction, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("class"), int)
        and isinstance(one.get("score"), int | float)
        and isinstance(one.get("box"), list)
        and len(one["box"]) == 4
        for one in prediction
    )


def evaluated(
    boxes: Sequence[Sequence[Mapping[str, Any]]],
    found: Sequence[Sequence[Mapping[str, Any]]],
    kind: Kind = "bbox",
) -> Any:
    """The evaluator of pycocotools for objects of all sizes, its detections matched."""
    from pycocotools.cocoeval import COCOeval

    objects = (one for each in boxes for one in each)
    number = next((len(one["keypoints"]) for one in objects if "keypoints" in one), 0)
    truth = [
        _annotation(image, one) | _labelled(one, number)
        for image, each in enumerate(boxes)
        for one in each
    ]
    guesses = [
        _annotation(image, one) | _detected(one) for image, each in enumerate(found) for one in each
    ]
    classes = sorted({one["category_id"] for one in truth})
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        evaluator = COCOeval(
            _index(truth, classes, len(boxes)), _index(guesses, classes, len(boxes)), kind
        )
    evaluator.params.maxDets = [_MAX_DETECTIONS[kind]]
    if kind == "keypoints" and number != _OF_PERSON:
        evaluator.params.kpt_oks_sigmas = np.ones(number) / number  # as ultralytics
    evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluator.evaluate()
    return evaluator


def _annotation(image: int, one: Mapping[str, Any]) -> dict[str, Any]:
    x1, y1, x2, y2 = one["box"]
    box = [x1, y1, x2 - x1, y2 - y1]
    return {"image_id": image, "category_id": one["class"], "bbox": box, "area": box[2] * box[3]}


def _labelled(one: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The keys of a labelled object for pycocotools beside its box."""
    points = one.get("keypoints", [[0, 0, 0]] * number)
    x1, y1, x2, y2 = one["box"]
    return {
        "iscrowd": int(one["crowd"]),
        "area": one.get("area", _AREA * (x2 - x1) * (y2 - y1)),
        "keypoints": [value for point in points for value in point],
        "num_keypoints": sum(visible > 0 for _, _, visible in points),
    }


def _detected(one: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a detection for pycocotools beside its box. All keypoints count as visible."""
    points = one.get("keypoints", ())
    shown = [value for x, y, *_ in points for value in (x, y, 1)]
    return {"score": float(one["score"]), "iscrowd": 0, "keypoints": shown}


def _index(annotations: Sequence[dict[str, Any]], classes: Sequence[int], images: int) -> Any:
    from pycocotools.coco import COCO

    made = COCO()
    made.dataset = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": label} for label in classes],
        # From 1 on: pycocotools takes 0 for no match.
        "annotations": [one | {"id": key} for key, one in enumerate(annotations, 1)],
    }
    made.createIndex()
    return made


def matches(evaluator: Any, pictures: NDArray[np.int64]) -> Iterator[Matches]:
    """The matches of `evaluator`, by class."""
    images, overlaps = len(pictures), len(evaluator.params.iouThrs)
    for start in range(0, len(evaluator.evalImgs), images):
        scores, places = [np.zeros(0)], [np.zeros(0, int)]
        right, wrong = [np.zeros((overlaps, 0), bool)], [np.zeros((overlaps, 0), bool)]
        objects = np.zeros(int(pictures.max()) + 1)
        for image, one in enumerate(evaluator.evalImgs[start : start + images]):
            if one is None:
                continue
            matched, ignored = one["dtMatches"] > 0, one["dtIgnore"].astype(bool)
            scores.append(np.asarray(one["dtScores"], float))
            places.append(np.full(len(one["dtScores"]), pictures[image]))
            right.append(matched & ~ignored)
            wrong.append(~matched & ~ignored)
            objects[pictures[image]] += np.count_nonzero(np.asarray(one["gtIgnore"]) == 0)
        order = np.argsort(-np.concatenate(scores), kind="stable")
        yield Matches(
            np.concatenate(places)[order],
            np.concatenate(right, axis=1)[:, order],
            np.concatenate(wrong, axis=1)[:, order],
            objects,
        )


def _resampled(classes: Sequence[Matches], recalls: Array, pictures: int) -> Array:
    """Precision `[class, overlap, resample]` of resamples of the pictures; nan without boxes."""
    if pictures < MIN_FRAMES:
        return np.zeros((len(classes), len(classes[0].right), 0))
    times = resamples(pictures, sum(one.right.size for one in classes)).astype(float)
    return np.array([precision(one, times, recalls) for one in classes])


def precision(one: Matches, weights: Array, recalls: Array) -> Array:
    """Average precision `[overlap, resample]` if picture p counts `weights[:, p]` times.

    It is COCO's: the precision at each of `recalls` is the best one at that recall or above. nan
    without boxes.
    """
    objects = weights @ one.objects
    made = np.empty((len(one.right), len(weights)))
    rows = max(1, _BLOCK // max(1, len(one.picture)))
    for start in range(0, len(weights), rows):
        block = slice(start, start + rows)
        times = weights[block][:, one.picture]
        for overlap, (right, wrong) in enumerate(zip(one.right, one.wrong, strict=True)):
            hits = np.cumsum(times * right, axis=1)
            shown = hits + np.cumsum(times * wrong, axis=1)
            best = np.divide(hits, shown, out=np.zeros_like(hits), where=shown > 0)
            best = np.maximum.accumulate(best[:, ::-1], axis=1)[:, ::-1]
            reached = hits / np.maximum(objects[block], 1)[:, None]
            passed = np.searchsorted(recalls, reached, side="right")
            made[overlap, block] = (best * np.diff(passed, axis=1, prepend=0)).sum(axis=1)
    made /= len(recalls)
    made[:, objects == 0] = np.nan
    return made


def _precision(values: Array, resampled: Array, overlaps: slice) -> Estimate:
    """The mean over classes and `overlaps`, and its interval from the resamples.

    Drawing pictures twice makes precision noisier, and COCO takes the best precision at a recall or
    above, so that resamples are too high.
    """
    mean = float(np.nanmean(values[:, overlaps]))
    return moved(mean, _mean_of_known(resampled[:, overlaps]))


def _mean_of_known(resampled: Array) -> Array:
    """The mean `[resample]` over classes with boxes; resamples without any are left out."""
    known = ~np.isnan(resampled)
    counts = known.sum(axis=(0, 1))
    sums = np.where(known, resampled, 0).sum(axis=(0, 1))
    return np.asarray(sums[counts > 0] / counts[counts > 0])
