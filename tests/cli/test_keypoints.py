"""A study with labelled keypoints: their mAP in records, summary, tables and report, and `rate`."""

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
from splittracr.results.rate import Metric
from tests.cli.processes import manifest, splittracr
from tests.cli.test_rate import rated

OWN = '''
import torch
from torch import nn

class Net(nn.Module):
    """What is brighter than half."""

    def forward(self, x):
        return torch.relu(x - 0.5)

class Corners:
    """One box around the red pixels with 17 keypoints on its diagonal."""

    def __init__(self, spec, classes):
        pass

    def reduce(self, output):
        made = []
        for red in output[:, 0]:
            ys, xs = (red > 0).nonzero(as_tuple=True)
            box = torch.stack([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]).float()
            share = torch.linspace(0, 1, 17)[:, None]
            points = box[:2] + share * (box[2:] - box[:2])
            found = {"boxes": box[None], "scores": red.max()[None], "keypoints": points[None]}
            made.append(found | {"classes": torch.zeros(1, dtype=torch.int32)})
        return made

    def describe(self, reduced, geometry):
        (box,), (score,) = reduced["boxes"].tolist(), reduced["scores"].tolist()
        (points,) = reduced["keypoints"].tolist()
        one = {"label": "person", "class": 0, "score": round(score, 4), "box": box}
        return [one | {"keypoints": [[x, y, 0.5] for x, y in points]}]

    def draw(self, picture, reduced, geometry):
        return picture

    def ranking(self, reduced):
        return None
'''
COUNT = 8


def people(folder: Path) -> None:
    """Pictures with a red square, whose keypoints are farther from its diagonal each time."""
    images, annotations = [], []
    (folder / "pictures").mkdir(parents=True)
    for i in range(COUNT):
        x, y, side = 2 + i, 3 + i, 8 + i % 3
        image = Image.new("RGB", (32, 32))
        image.paste((140 + 10 * i, 0, 0), (x, y, x + side, y + side))
        image.save(folder / "pictures" / f"{i}.png")
        images.append({"id": i + 1, "file_name": f"{i}.png", "width": 32, "height": 32})
        points = [
            value
            for k in range(17)
            for value in (x + side * k / 16 + 0.3 * i, y + side * k / 16, 2 if k % 5 else 0)
        ]
        annotations.append(
            {"id": i + 1, "image_id": i + 1, "category_id": 1, "bbox": [x, y, side, side]}
            | {"area": side * side * 0.7, "iscrowd": 0, "keypoints": points, "num_keypoints": 13}
        )
    categories = [{"id": 1, "name": "0", "keypoints": [str(k) for k in range(17)]}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "boxes.json").write_text(json.dumps(content))


def study(folder: Path) -> Path:
    (folder / "own_pose.py").write_text(OWN)
    sections: dict[str, Any] = {
        "model": {"name": "own_pose:Net", "inputSize": [32, 32]},
        "dataset": {"source": "Coco", "path": "pictures", "annotations": "boxes.json"},
        "postprocess": {"name": "own_pose:Corners"},
        "workload": {},
        "partition": {"mode": "Sweep", "cuts": ["input", "output"]},
    }
    return manifest(folder, sections)


def by_hand(folder: Path, out: Path) -> list[float]:
    """The figures of pycocotools for the labels' own file and the records at cut `output`."""
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(folder / "boxes.json"))
        results = [
            {
                "image_id": int(record.name.removesuffix(".png")) + 1,
                "category_id": 1,
                "keypoints": [value for point in one["keypoints"] for value in point],
                "score": one["score"],
            }
            for record in journal.read(out / journal.FILE)
            if record.cut == "output"
            for one in record.prediction
        ]
        evaluator = COCOeval(truth, truth.loadRes(results), "keypoints")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [float(value) for value in evaluator.stats]


def test_map_of_keypoints_is_in_summary_tables_and_report(tmp_path: Path) -> None:
    people(tmp_path)
    done = splittracr("run", str(study(tmp_path)), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    out = tmp_path / "out"
    expected = by_hand(tmp_path, out)
    assert 0.1 < expected[0] < expected[1]
    summary = json.loads((out / "summary.json").read_text())
    for cut in summary["cuts"]:
        assert cut["keypoints"]["map50_95"]["value"] == pytest.approx(expected[0])
        assert cut["keypoints"]["map50"]["value"] == pytest.approx(expected[1])
        assert cut["keypoints"]["n"] == cut["keypoints"]["objects"] == COUNT
        assert cut["detection"]["map50"]["value"] == pytest.approx(1)
    rows = list(csv.DictReader((out / "summary.csv").read_text("utf-8-sig").splitlines()))
    assert [float(row["keypoint_map50_95"]) for row in rows] == pytest.approx([expected[0]] * 2)
    said = " ".join(done.out.split())
    assert "OKS mAP is COCO's for keypoints" in said
    assert f"{expected[0]:.3f}" in said
    assert f"<td>{expected[0]:.3f} (" in (out / "report.html").read_text()
    (record,) = (r for r in journal.read(out / journal.FILE) if (r.cut, r.sample) == ("input", 0))
    assert record.boxes[0]["area"] == pytest.approx(0.7 * 64)
    assert record.boxes[0]["keypoints"][1] == [2.5, 3.5, 2]


def test_rate_judges_labelled_keypoints(tmp_path: Path) -> None:
    people(tmp_path)
    made, said = rated(study(tmp_path), tmp_path / "out", "--codec", "raw", "--cut", "1")
    assert (made.metric, made.judged) == (Metric.KEYPOINTS, COUNT)
    raw = next(one for one in made.points if one.codec == "raw")
    assert (raw.accuracy, raw.agreement) == (made.uncut, 1)
    assert f"mAP 50-95 of keypoints (OKS) of {COUNT} samples" in " ".join(said.split())
