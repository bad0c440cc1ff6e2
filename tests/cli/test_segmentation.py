"""A study with labelled masks: mIoU in records, summary, tables and report, and `rate`."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from splittracr.results import journal
from splittracr.results.rate import Metric
from tests.cli.processes import manifest, splittracr
from tests.cli.test_rate import rated

OWN = '''
import torch
from torch import nn

class Net(nn.Module):
    """Class 1 is what is redder than half."""

    def forward(self, x):
        red = torch.relu(x[:, :1] - 0.25)
        return torch.cat([torch.full_like(red, 0.25), red], 1)
'''
COUNT, SIDE = 8, 32


def squares(folder: Path) -> None:
    """Pictures with a red square and masks of them; the last two masks are two pixels beside, and
    the first row counts nowhere.
    """
    for name in ("pictures", "masks"):
        (folder / name).mkdir(parents=True)
    for i in range(COUNT):
        x, y, side = 3 + i, 3 + i, 9 + i % 3
        picture = Image.new("RGB", (SIDE, SIDE))
        picture.paste((220, 0, 0), (x, y, x + side, y + side))
        picture.save(folder / "pictures" / f"{i}.png")
        values = np.zeros((SIDE, SIDE), np.uint8)
        beside = 2 * (i >= COUNT - 2)
        values[y : y + side, x + beside : x + beside + side] = 1
        values[0] = 255
        mask = Image.fromarray(values)
        mask.putpalette([0, 0, 0, 128, 0, 0] + [255] * 762)  # a short one would cut the values
        mask.save(folder / "masks" / f"{i}.png")


def study(folder: Path, **changes: Any) -> Path:
    (folder / "own_masks.py").write_text(OWN)
    sections: dict[str, Any] = {
        "model": {"name": "own_masks:Net", "inputSize": [SIDE // 2, SIDE // 2]},
        "dataset": {"source": "Masks", "path": "pictures", "annotations": "masks"},
        "postprocess": {"name": "semantic-segmentation"},
        "workload": {},
        "partition": {"mode": "Sweep", "cuts": ["input", "relu", "output"]},
        "transport": {"codec": "uint4"},
    }
    return manifest(folder, sections | changes)


def predicted(folder: Path, name: str) -> NDArray[np.bool_]:
    """The class of each pixel by the network, computed without torch."""
    with Image.open(folder / "pictures" / name) as picture:
        small = picture.resize((SIDE // 2, SIDE // 2), Image.Resampling.BILINEAR)
    red = np.asarray(small)[..., 0].astype(np.float32) / np.float32(255)
    wins = np.maximum(red - np.float32(0.25), 0) > np.float32(0.25)
    return np.asarray(wins).repeat(2, 0).repeat(2, 1)


def by_hand(folder: Path) -> tuple[float, float]:
    """mIoU and pixel accuracy by the confusion matrix of all pictures."""
    matrix = np.zeros((2, 2))
    for i in range(COUNT):
        with Image.open(folder / "masks" / f"{i}.png") as mask:
            labelled = np.asarray(mask)
        guess = predicted(folder, f"{i}.png").astype(int)
        counts = labelled != 255
        np.add.at(matrix, (labelled[counts], guess[counts]), 1)
    both = np.diag(matrix)
    overlaps = both / (matrix.sum(axis=0) + matrix.sum(axis=1) - both)
    return float(overlaps.mean()), float(both.sum() / matrix.sum())


def test_miou_is_in_summary_tables_and_report(tmp_path: Path) -> None:
    squares(tmp_path)
    done = splittracr("run", str(study(tmp_path)), "--out", "out", cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    out = tmp_path / "out"
    overlap, accuracy = by_hand(tmp_path)
    assert 0.6 < overlap < accuracy < 1
    summary = json.loads((out / "summary.json").read_text())
    cuts = {cut["cut"]: cut for cut in summary["cuts"]}
    assert list(cuts) == ["input", "relu", "output"]
    for name in ("input", "output"):  # at the other one the codec takes its share
        found = cuts[name]["segmentation"]
        assert found["miou"]["value"] == pytest.approx(overlap)
        assert found["miou"]["low"] < overlap < found["miou"]["high"]
        assert found["pixel_accuracy"]["value"] == pytest.approx(accuracy)
        assert (found["n"], found["classes"]) == (COUNT, 2)
    rows = list(csv.DictReader((out / "summary.csv").read_text("utf-8-sig").splitlines()))
    assert float(rows[0]["miou"]) == pytest.approx(overlap)
    assert [row["labelled"] for row in rows] == [str(COUNT)] * 3
    (lossy,) = summary["agreement"]
    assert (lossy["cut"], lossy["codec"], lossy["top1"]) == ("relu", "uint4", None)
    assert 0.5 < lossy["pixels"] <= 1
    said = " ".join(done.out.split())
    assert "uint4 at relu: same class for " in said
    assert f"of pixels in {COUNT} samples" in said
    assert "mIoU is the mean overlap of classes" in said
    assert "Labels: the values of the masks are classes of the model." in said
    assert f"{overlap:.3f}" in done.out
    assert f"<td>{overlap:.3f} (" in (out / "report.html").read_text()
    assert "mIoU" in (out / "summary.tex").read_text()
    (record,) = (r for r in journal.read(out / journal.FILE) if (r.cut, r.sample) == ("input", 0))
    assert [one["class"] for one in record.pixels] == [0, 1]
    assert sum(one["labelled"] for one in record.pixels) == SIDE * (SIDE - 1)


def test_rate_judges_labelled_masks_by_miou(tmp_path: Path) -> None:
    squares(tmp_path)
    made, said = rated(study(tmp_path), tmp_path / "out", "--codec", "raw", "--cut", "relu")
    overlap, _ = by_hand(tmp_path)
    assert (made.metric, made.judged, made.failed) == (Metric.MIOU, COUNT, 0)
    assert made.uncut.value == pytest.approx(overlap)
    assert f"mIoU of {COUNT} samples; uncut and uncoded {overlap:.3f}" in " ".join(said.split())
    raw = next(one for one in made.points if one.codec == "raw")
    assert (raw.accuracy, raw.agreement) == (made.uncut, 1)
    worst = next(one for one in made.points if one.codec == "jpeg5@50")
    assert worst.accuracy.value < made.uncut.value
    assert worst.agreement is not None
    assert worst.agreement < 1


def test_rate_judges_masks_without_labels_by_their_pixels(tmp_path: Path) -> None:
    squares(tmp_path)
    file = study(tmp_path, dataset={"source": "Folder", "path": "pictures"})
    made, _ = rated(file, tmp_path / "out", "--codec", "raw", "--cut", "relu")
    assert (made.metric, made.judged, made.uncut.value) == (Metric.PIXELS, COUNT, 1)
    worst = next(one for one in made.points if one.codec == "jpeg5@50")
    assert worst.accuracy.value == worst.agreement
    assert worst.accuracy.low is not None
    assert worst.accuracy.low < worst.accuracy.value < 1


def test_a_mask_of_another_size_is_refused_before_anything_is_measured(tmp_path: Path) -> None:
    squares(tmp_path)
    Image.new("L", (SIDE, 8)).save(tmp_path / "masks" / "3.png")
    done = splittracr("run", str(study(tmp_path)), "--out", "out", cwd=tmp_path)
    assert done.code == 2
    said = " ".join(done.err.split())
    assert "spec.dataset.annotations: got " in said
    assert "3.png of 32 x 8', expected the size of its picture 3.png, 32 x 32" in said
    assert not (tmp_path / "out" / "records.jsonl").exists()
