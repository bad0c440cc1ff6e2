"""A study with labelled boxes: mAP in records, summary, tables and report."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from splittracr.results import journal
from tests.cli.processes import manifest, splittracr

OWN = '''
import torch
from torch import nn

class Net(nn.Module):
    """What is brighter than half."""

    def forward(self, x):
        return torch.relu(x - 0.5)

class Squares:
    """One box around the red pixels; the score is their brightness."""

    def __init__(self, spec, classes):
        pass

    def reduce(self, output):
        made = []
        for red in output[:, 0]:
            ys, xs = (red > 0).nonzero(as_tuple=True)
            box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            found = {"boxes": box[None], "scores": red.max()[None]}
            made.append(found | {"classes": torch.ones(1, dtype=torch.int32)})
        return made

    def describe(self, reduced, geometry):
        (box,), (score,) = reduced["boxes"].tolist(), reduced["scores"].tolist()
        return [{"label": "square", "class": 1, "score": round(score, 4), "box": box}]

    def draw(self, picture, reduced, geometry):
        return picture

    def ranking(self, reduced):
        return None
'''


def squares(folder: Path, count: int) -> None:
    """Pictures with a red square, labelled where it is; the last label is two pixels beside."""
    images, annotations = [], []
    (folder / "pictures").mkdir(parents=True)
    for i in range(count):
        x, y, side = 2 + i, 3 + i, 8 + i % 3
        image = Image.new("RGB", (32, 32))
        image.paste((140 + 10 * i, 0, 0), (x, y, x + side, y + side))
        image.save(folder / "pictures" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 32, "height": 32})
        box = [x + 2 * (i == count - 1), y, side, side]
        annotations.append(
            {"id": i + 1, "image_id": i + 1, "category_id": 5, "bbox": box, "area": side * side}
            | {"iscrowd": 0}
        )
    categories = [{"id": 5, "name": "1"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))


def study(folder: Path, **changes: Any) -> Path:
    (folder / "mine.py").write_text(OWN)
    dataset = {"source": "Coco", "path": "pictures", "annotations": "boxes.json"}
    sections = {
        "model": {"name": "mine:Net", "inputSize": [32, 32]},
        "dataset": dataset,
        "postprocess": {"name": "mine:Squares"},
        "workload": {},
        "partition": {"mode": "Sweep", "cuts": ["input", 2, "output"]},
        "transport": {"codec": "uint8"},
    }
    return manifest(folder, sections | changes)


def by_hand(labels: Path, out: Path) -> list[float]:
    """The figures of pycocotools for the labels' own file and the records at cut `output`."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(labels))
        results = [
            {
                "image_id": int(record.name.removesuffix(".png")) + 1,
                "category_id": 5,
                "bbox": [one["box"][0], one["box"][1], *sides(one["box"])],
                "score": one["score"],
            }
            for record in journal.read(out / journal.FILE)
            if record.cut == "output"
            for one in record.prediction
        ]
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def sides(box: list[float]) -> tuple[float, float]:
    return box[2] - box[0], box[3] - box[1]


def test_map_is_in_summary_tables_and_report(tmp_path: Path) -> None:
    squares(tmp_path, 8)
    done = splittracr("run", str(study(tmp_path)), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    out = tmp_path / "out"
    expected = by_hand(tmp_path / "boxes.json", out)
    assert 0.7 < expected[0] < expected[1] == pytest.approx(1)
    summary = json.loads((out / "summary.json").read_text())
    assert [cut["cut"] for cut in summary["cuts"]] == ["input", "sub", "output"]
    for cut in summary["cuts"]:
        assert cut["detection"]["map50_95"]["value"] == pytest.approx(expected[0])
        assert cut["detection"]["map50"]["value"] == pytest.approx(expected[1])
        assert cut["detection"]["n"] == cut["detection"]["boxes"] == 8
    rows = list(csv.DictReader((out / "summary.csv").read_text("utf-8-sig").splitlines()))
    assert [float(row["map50_95"]) for row in rows] == pytest.approx([expected[0]] * 3)
    assert [row["labelled"] for row in rows] == ["8"] * 3
    (lossy,) = summary["agreement"]
    assert (lossy["cut"], lossy["codec"], lossy["top1"]) == ("sub", "uint8", None)
    assert lossy["detections"] == 1.0
    assert "uint8 at sub: 100 % of detections matched in 8 samples" in " ".join(done.out.split())
    assert f"{expected[0]:.3f}" in done.out
    assert f"<td>{expected[0]:.3f} (" in (out / "report.html").read_text()
    (record,) = (r for r in journal.read(out / journal.FILE) if (r.cut, r.sample) == ("input", 0))
    assert record.boxes == [{"class": 1, "box": [2.0, 3.0, 10.0, 11.0], "crowd": False}]


def test_labels_of_a_class_that_the_model_lacks_are_refused(tmp_path: Path) -> None:
    squares(tmp_path, 2)
    labels = json.loads((tmp_path / "boxes.json").read_text())
    labels["categories"].append({"id": 6, "name": "lynx"})
    labels["annotations"][0]["category_id"] = 6
    (tmp_path / "boxes.json").write_text(json.dumps(labels))
    done = splittracr("run", str(study(tmp_path)), "--out", "out", cwd=tmp_path)
    assert done.code == 2
    assert "spec.dataset.annotations: got 'lynx', expected" in done.err
    assert not (tmp_path / "out" / "records.jsonl").exists()
