"""mAP of keypoints, compared with pycocotools used by hand and with OKS computed by hand."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from splittracr.results import detection
from splittracr.results.summary import Keypoints
from splittracr.results.tables import frame, summarise
from tests.results import synthetic

Objects = list[list[dict[str, Any]]]


def made(pictures: int, number: int = 17, seed: int = 0) -> tuple[Objects, Objects]:
    """Labelled people and detections beside them: some points hidden or not labelled, some people
    without any, crowds, and detections missed, doubled and invented.
    """
    random = np.random.default_rng(seed)
    boxes, found = [], []
    for _ in range(pictures):
        here, there = [], []
        for _ in range(int(random.integers(0, 4))):
            x, y = random.uniform(0, 60, 2)
            w, h = random.uniform(20, 60, 2)
            points = np.stack(
                [random.uniform(x, x + w, number), random.uniform(y, y + h, number)], axis=1
            )
            seen = random.choice([0, 1, 2], number, p=[0.2, 0.2, 0.6])
            seen = seen * (random.random() < 0.9)
            one = {"class": 0, "box": [x, y, x + w, y + h], "crowd": bool(random.random() < 0.1)}
            labelled = [[*p, int(v)] for p, v in zip(points.tolist(), seen, strict=True)]
            here.append(one | {"keypoints": labelled, "area": 0.6 * w * h})
            for _ in range(int(random.integers(0, 3))):
                moved = points + random.normal(0, random.uniform(0.5, 5), points.shape)
                there.append(guess(one["box"], moved, random.random()))
        x, y = random.uniform(0, 60, 2)
        there.append(guess([x, y, x + 9, y + 9], random.uniform(0, 60, (number, 2)), 0.3))
        boxes.append(here)
        found.append(sorted(there, key=lambda one: -one["score"]))
    return boxes, found


def guess(box: Any, points: Any, score: float) -> dict[str, Any]:
    listed = [[*point, 0.9] for point in points.tolist()]
    return {"class": 0, "score": score, "box": box, "keypoints": listed}


def by_hand(boxes: Objects, found: Objects, folder: Path) -> list[float]:
    """What `COCOeval.summarize` gives for files written from the same people."""
    flat = [(image, one) for image, each in enumerate(boxes) for one in each]
    truth = {
        "images": [{"id": image} for image in range(len(boxes))],
        "categories": [{"id": 0}],
        "annotations": [
            {
                "id": key, "image_id": image, "category_id": 0, "bbox": xywh(one["box"]),
                "area": one["area"], "iscrowd": int(one["crowd"]),
                "keypoints": np.ravel(one["keypoints"]).tolist(),
                "num_keypoints": sum(v > 0 for _, _, v in one["keypoints"]),
            }
            for key, (image, one) in enumerate(flat, 1)
        ],
    }  # fmt: skip
    (folder / "truth.json").write_text(json.dumps(truth))
    results = [
        {"image_id": i, "category_id": 0, "score": one["score"]}
        | {"keypoints": np.ravel(one["keypoints"]).tolist()}
        for i, each in enumerate(found)
        for one in each
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(folder / "truth.json"))
        evaluator = COCOeval(reference, reference.loadRes(results), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def xywh(box: list[float]) -> list[float]:
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def rows(boxes: Objects, found: Objects) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "name": [f"{i}.jpg" for i in range(len(boxes))],
            "prediction": [json.dumps(one) for one in found],
            "boxes": [json.dumps(one) for one in boxes],
            "codec": ["raw"] * len(boxes),
        }
    )


def evaluated(boxes: Objects, found: Objects) -> Keypoints:
    figures = detection.keypoints_of_rows(rows(boxes, found))
    assert figures is not None
    return figures


def test_map_is_that_of_pycocotools(tmp_path: Path) -> None:
    boxes, found = made(60)
    figures = evaluated(boxes, found)
    expected = by_hand(boxes, found, tmp_path)
    assert figures.map50_95.value == pytest.approx(expected[0], abs=1e-12)
    assert figures.map50.value == pytest.approx(expected[1], abs=1e-12)
    assert 0.1 < figures.map50_95.value < figures.map50.value < 0.95
    people = [one for each in boxes for one in each]
    counted = [p for p in people if not p["crowd"] and any(v for _, _, v in p["keypoints"])]
    assert (figures.n, figures.objects, figures.classes) == (60, len(counted), 1)
    assert len(counted) < len(people)
    assert figures.map50_95.low is not None
    assert figures.map50_95.high is not None
    assert figures.map50_95.low < figures.map50_95.value < figures.map50_95.high


def test_a_resample_counts_like_the_pictures_that_it_drew(tmp_path: Path) -> None:
    boxes, found = made(12, seed=3)
    evaluator = detection.evaluated(boxes, found, "keypoints")
    times = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12))
    drawn = np.repeat(np.arange(12), times)
    (one,) = detection.matches(evaluator, np.arange(12))
    values = detection.precision(one, times[None].astype(float), evaluator.params.recThrs)
    expected = by_hand([boxes[i] for i in drawn], [found[i] for i in drawn], tmp_path)
    assert float(values.mean()) == pytest.approx(expected[0], abs=1e-12)


def similarity(boxes: Objects, found: Objects, tolerance: float) -> float:
    """The OKS of the only detection with the only object, by COCO's formula."""
    ((one,),), ((other,),) = boxes, found
    x1, y1, x2, y2 = one["box"]
    area = one.get("area", 0.53 * (x2 - x1) * (y2 - y1))
    terms = [
        np.exp(-((x - u) ** 2 + (y - v) ** 2) / (2 * area * (2 * tolerance) ** 2))
        for (x, y, seen), (u, v, _) in zip(one["keypoints"], other["keypoints"], strict=True)
        if seen
    ]
    return float(np.mean(terms))


@pytest.mark.parametrize("area", [None, 700.0])
def test_another_number_of_keypoints_by_hand(area: float | None) -> None:
    labelled = [[10.0, 10.0, 2], [30.0, 20.0, 1], [0.0, 0.0, 0], [20.0, 30.0, 2]]
    one = {"class": 0, "box": [5.0, 5.0, 45.0, 35.0], "crowd": False, "keypoints": labelled}
    shifted = np.array(labelled)[:, :2] + [[9, 0], [0, 12], [99, 99], [5, 5]]
    boxes = [[one if area is None else one | {"area": area}]]
    found = [[guess(one["box"], shifted, 0.9)]]
    met = similarity(boxes, found, 1 / 4)
    assert 0.5 < met < 0.95
    figures = evaluated(boxes, found)
    assert figures.map50.value == pytest.approx(1)
    overlaps = np.linspace(0.5, 0.95, 10)
    assert figures.map50_95.value == pytest.approx(np.mean(overlaps <= met))


def test_keypoints_of_two_numbers_count_like_those_of_three() -> None:
    boxes, found = made(20)
    short = [
        [one | {"keypoints": [point[:2] for point in one["keypoints"]]} for one in each]
        for each in found
    ]
    assert evaluated(boxes, short) == evaluated(boxes, found)


def test_labels_and_results_without_keypoints_have_no_figures() -> None:
    boxes, found = made(6)
    bare = [[{k: v for k, v in one.items() if k != "keypoints"} for one in p] for p in found]
    assert detection.keypoints_of_rows(rows(boxes, bare)) is None
    plain = [[{k: v for k, v in one.items() if k != "keypoints"} for one in p] for p in boxes]
    assert detection.keypoints_of_rows(rows(plain, found)) is None
    five = [[one | {"keypoints": one["keypoints"][:5]} for one in each] for each in found]
    assert detection.keypoints_of_rows(rows(boxes, five)) is None
    assert detection.of_rows(rows(boxes, bare)) == detection.of_rows(rows(boxes, found))


def test_crowds_alone_have_no_figures() -> None:
    boxes, found = made(6)
    crowds = [[one | {"crowd": True} for one in each] for each in boxes]
    assert detection.keypoints_of_rows(rows(crowds, found)) is None
    assert detection.of_rows(rows(crowds, found)) is None


CUT = synthetic.cuts(6)[1]


def test_a_cut_has_both_figures_and_those_of_each_codec() -> None:
    boxes, found = made(8)
    records = [
        synthetic.record(CUT, i, boxes=boxes[i], prediction=each, codec=codec)
        for codec, results in (("raw", found), ("uint4", [one[-1:] for one in found]))
        for i, each in enumerate(results)
    ]
    (cut,) = summarise(frame(records), synthetic.environment([CUT])).cuts
    assert list(cut.scores) == ["mAP", "OKS mAP"]
    assert set(cut.keypoints_by_codec) == {"raw", "uint4"}
    by_codec = cut.scores_by_codec
    assert by_codec["raw"]["OKS mAP"].value == evaluated(boxes, found).map50_95.value
    assert by_codec["uint4"]["OKS mAP"].value < by_codec["raw"]["OKS mAP"].value
