"""mAP of detections, compared with pycocotools used by hand."""

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from splittracr.experiment.types import Record
from splittracr.results import detection
from splittracr.results.summary import Detection
from splittracr.results.tables import frame, summarise
from tests.results import synthetic

Boxes = list[list[dict[str, Any]]]


def made(pictures: int, seed: int = 0) -> tuple[Boxes, Boxes]:
    """Labelled boxes of three classes, and detections beside them, missed, doubled and invented."""
    random = np.random.default_rng(seed)
    boxes, found = [], []
    for _ in range(pictures):
        here, there = [], []
        for _ in range(int(random.integers(0, 5))):
            x, y = random.uniform(0, 60, 2)
            w, h = random.uniform(10, 40, 2)
            box, label = [x, y, x + w, y + h], int(random.integers(3))
            here.append({"class": label, "box": box, "crowd": bool(random.random() < 0.1)})
            for _ in range(int(random.integers(0, 3))):
                moved = (np.array(box) + random.normal(0, 3, 4)).tolist()
                there.append({"class": label, "score": random.random(), "box": moved})
        x, y = random.uniform(0, 60, 2)
        score = random.random() / 2
        there.append({"class": 1, "score": score, "box": [x, y, x + 20, y + 20]})
        boxes.append(here)
        found.append(sorted(there, key=lambda one: -one["score"]))
    return boxes, found


def by_hand(boxes: Boxes, found: Boxes, folder: Path) -> list[float]:
    """What `COCOeval.summarize` gives for files written from the same boxes."""

    def xywh(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    flat = [(image, one) for image, each in enumerate(boxes) for one in each]
    truth = {
        "images": [{"id": image} for image in range(len(boxes))],
        "categories": [{"id": label} for label in range(3)],
        "annotations": [
            {
                "id": key, "image_id": image, "category_id": one["class"],
                "bbox": xywh(one["box"]), "area": xywh(one["box"])[2] * xywh(one["box"])[3],
                "iscrowd": int(one["crowd"]),
            }
            for key, (image, one) in enumerate(flat, 1)
        ],
    }  # fmt: skip
    (folder / "truth.json").write_text(json.dumps(truth))
    results = [
        {"image_id": i, "category_id": d["class"], "bbox": xywh(d["box"]), "score": d["score"]}
        for i, each in enumerate(found)
        for d in each
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO(str(folder / "truth.json"))
        evaluator = COCOeval(reference, reference.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def rows(boxes: Boxes, found: Boxes, repeats: int = 1) -> pl.DataFrame:
    content = {
        "name": [f"{i}.jpg" for i in range(len(boxes))] * repeats,
        "prediction": [json.dumps(one) for one in found] * repeats,
        "boxes": [json.dumps(one) for one in boxes] * repeats,
        "codec": ["raw"] * len(boxes) * repeats,
    }
    return pl.DataFrame(content)


def evaluated(boxes: Boxes, found: Boxes, repeats: int = 1) -> Detection:
    figures = detection.of_rows(rows(boxes, found, repeats))
    assert figures is not None
    return figures


def test_map_is_that_of_pycocotools(tmp_path: Path) -> None:
    boxes, found = made(60)
    figures = evaluated(boxes, found)
    expected = by_hand(boxes, found, tmp_path)
    assert figures.map50_95.value == pytest.approx(expected[0], abs=1e-12)
    assert figures.map50.value == pytest.approx(expected[1], abs=1e-12)
    assert 0.1 < figures.map50_95.value < figures.map50.value < 0.9
    assert figures.n == 60
    assert figures.boxes == sum(not one["crowd"] for each in boxes for one in each)
    assert figures.classes == 3


def test_a_resample_counts_like_the_pictures_that_it_drew(tmp_path: Path) -> None:
    boxes, found = made(12, seed=3)
    evaluator = detection.evaluated(boxes, found)
    classes = detection.matches(evaluator, np.arange(12))
    times = np.random.default_rng(1).multinomial(12, np.full(12, 1 / 12))
    drawn = np.repeat(np.arange(12), times)
    weights = times[None].astype(float)
    values = [detection.precision(one, weights, evaluator.params.recThrs) for one in classes]
    expected = by_hand([boxes[i] for i in drawn], [found[i] for i in drawn], tmp_path)
    assert float(np.nanmean(values)) == pytest.approx(expected[0], abs=1e-12)
    assert float(np.nanmean([one[0] for one in values])) == pytest.approx(expected[1], abs=1e-12)


def test_intervals_hold_the_value_and_narrow_with_pictures() -> None:
    widths = []
    for pictures in (20, 200):
        whole = evaluated(*made(pictures)).map50_95
        assert whole.low is not None
        assert whole.high is not None
        assert whole.low < whole.value < whole.high
        widths.append(whole.high - whole.low)
    assert widths[1] < widths[0] / 2
    assert evaluated(*made(4)).map50_95.low is None


def test_intervals_cover_the_figure_of_many_pictures() -> None:
    truth = evaluated(*made(1500)).map50_95.value
    ends = [evaluated(*made(100, seed)).map50_95 for seed in range(1, 21)]
    held = [one.low < truth < one.high for one in ends if one.low and one.high]
    assert len(held) == 20
    assert sum(held) >= 17


def test_repeats_of_a_picture_count_once() -> None:
    boxes, found = made(20)
    assert evaluated(boxes, found, repeats=3) == evaluated(boxes, found)


def test_perfect_and_empty_detections() -> None:
    boxes = [[{"class": 0, "box": [1.0, 1.0, 9.0, 9.0], "crowd": False}]] * 6
    right = [[{"class": 0, "score": 0.9, "box": [1.0, 1.0, 9.0, 9.0]}]] * 6
    perfect, nothing = evaluated(boxes, right), evaluated(boxes, [[] for _ in boxes])
    assert (perfect.map50_95.value, perfect.map50_95.low, perfect.map50.value) == (1, 1, 1)
    assert (nothing.map50_95.value, nothing.map50_95.high, nothing.map50.value) == (0, 0, 0)


def test_half_of_the_boxes_found_by_hand() -> None:
    # One class, two boxes, the first found with an overlap of 0.64, and a worse wrong detection.
    # At overlaps up to 0.60 the precision is 1 up to a recall of 0.5: 51 of 101 recalls, 3 of 10.
    boxes = [[{"class": 0, "box": [x, 0.0, x + 10.0, 10.0], "crowd": False} for x in (0.0, 50.0)]]
    found = [
        [
            {"class": 0, "score": 0.9, "box": [0.0, 0.0, 8.0, 8.0]},
            {"class": 0, "score": 0.8, "box": [20.0, 20.0, 30.0, 30.0]},
        ]
    ]
    figures = evaluated(boxes, found)
    assert figures.map50.value == pytest.approx(51 / 101)
    assert figures.map50_95.value == pytest.approx(0.3 * 51 / 101)


def test_records_without_boxes_or_detections_have_no_figures() -> None:
    boxes, found = made(6)
    known = rows(boxes, found)
    assert detection.of_rows(known.with_columns(boxes=pl.lit(None, pl.String))) is None
    classes = json.dumps([{"label": "cat", "class": 1, "score": 0.5}])
    assert detection.of_rows(known.with_columns(prediction=pl.lit(classes))) is None


CUT = synthetic.cuts(6)[1]


def detected(codec: str, sample: int, found: list[dict[str, Any]]) -> Record:
    labelled = [{"class": 0, "box": [1.0, 1.0, 9.0, 9.0], "crowd": False}]
    return synthetic.record(CUT, sample, boxes=labelled, prediction=found, codec=codec)


RIGHT = [{"label": "a", "class": 0, "score": 0.9, "box": [1.0, 1.0, 9.0, 9.0]}]
RECORDS = [detected("raw", i, RIGHT) for i in range(6)]
LOSSY = [detected("uint4", i, RIGHT if i < 3 else []) for i in range(6)]


def test_codecs_of_a_cut_have_their_own_figures() -> None:
    (cut,) = summarise(frame([*RECORDS, *LOSSY]), synthetic.environment([CUT])).cuts
    assert cut.detection is not None
    assert cut.detection.map50.value == pytest.approx(76 / 101)  # recalls up to 9 of 12
    by_codec = {name: one.map50.value for name, one in cut.detection_by_codec.items()}
    assert by_codec == pytest.approx({"raw": 1, "uint4": 51 / 101})
    (alone,) = summarise(frame(RECORDS), synthetic.environment([CUT])).cuts
    assert alone.detection_by_codec == {}


def test_without_pycocotools_the_summary_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    summary = summarise(frame(RECORDS), synthetic.environment([CUT]), "Labels: matched.")
    assert summary.cuts[0].detection is None
    assert summary.study.labels == f"Labels: matched. {detection.MISSING}"
    assert "pip install 'splittracr[coco]'" in detection.MISSING
