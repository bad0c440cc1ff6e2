"""`splittracr rate`: what it measures on labelled and unlabelled samples, and what it refuses."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from splittracr.cli.main import app
from splittracr.results import detection, journal
from splittracr.results.rate import Metric, Rate
from tests.cli.processes import manifest, splittracr
from tests.cli.test_detection import OWN, squares
from tests.cli.test_detection import study as boxed

STUDY = '''
import numpy as np
import torch
from PIL import Image
from torch import nn

from splittracr.data.contracts import Sample

class Net(nn.Module):
    """Classes by two convolutions."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.second = nn.Conv2d(16, 4, 3, padding=1)
        self.fc = nn.Linear(4 * 64, 3)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.fc(torch.relu(self.second(x)).flatten(1))

class Noise:
    """Twelve pictures of noise with labels."""

    classes = None

    def __len__(self):
        return 12

    def name(self, index):
        return str(index)

    def load(self, index):
        pixels = np.random.default_rng(index).integers(0, 256, (2, 2, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((8, 8), 3)
        return Sample(str(index), picture=picture, label=index % 3)
'''
SMALL = ("--quality", "5", "--quality", "50", "--scale", "50")


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "120", "NO_COLOR": "1"})
    return done.exit_code, done.output


def rated(file: Path, out: Path, *more: str) -> tuple[Rate, str]:
    code, said = run("rate", str(file), "--out", str(out), *SMALL, *more)
    assert code == 0, said
    return Rate.model_validate_json((out / "rate.json").read_text()), said


def study(folder: Path, **changes: Any) -> Path:
    (folder / "rate_study.py").write_text(STUDY)
    sections: dict[str, Any] = {
        "model": {"name": "rate_study:Net", "weights": "none", "inputSize": [8, 8]},
        "dataset": {"source": "Class", "class": "rate_study:Noise"},
        "partition": {"mode": "ServerOnly"},
        "workload": {"batchSize": 3},
    }
    return manifest(folder, sections | changes)


def test_cuts_and_pictures_are_measured_on_labelled_samples(tmp_path: Path) -> None:
    accuracy = by_hand(tmp_path / "net.pt")
    model = {"name": "rate_study:Net", "weightsFile": "net.pt", "inputSize": [8, 8]}
    out = tmp_path / "out"
    codecs = ("--codec", "raw", "--codec", "uint4")
    made, said = rated(study(tmp_path, model=model), out, *codecs, "--cut", "1", "--cut", "5")
    assert (made.metric, made.judged, made.samples, made.failed) == (Metric.TOP1, 12, 12, 0)
    assert made.identity is not None
    assert (made.identity.input, made.identity.dtype) == ((3, 8, 8), "float32")
    pictures = [one for one in made.points if one.cut_index == 0]
    assert [one.codec for one in pictures] == [
        "uint8", "png", "webp",
        "jpeg5", "jpeg50", "jpeg5@50", "jpeg50@50", "webp5", "webp50", "webp5@50", "webp50@50",
        "avif5", "avif50", "avif5@50", "avif50@50",
    ]  # fmt: skip
    cuts = [(one.cut_index, one.codec) for one in made.points if one.cut_index]
    assert cuts == [(1, "raw"), (1, "uint4"), (5, "raw"), (5, "uint4")]
    for one in made.points:
        if one.codec in ("uint8", "png", "webp", "raw"):
            assert (one.accuracy, one.agreement) == (made.uncut, 1)
    raw = next(one for one in made.points if (one.cut_index, one.codec) == (1, "raw"))
    assert 3 * 8 * 8 * 4 < raw.bytes < 3 * 8 * 8 * 4 + 1000  # of one sample, not of three
    assert all(one.encode_ms is not None and one.decode_ms is not None for one in made.points)
    assert made.uncut.value == accuracy
    rows = list(csv.DictReader((out / "rate.csv").read_text("utf-8-sig").splitlines()))
    assert [float(row["bytes"]) for row in rows] == [one.bytes for one in made.points]
    assert (out / "rate.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "rate.svg").read_text().startswith("<?xml")
    assert "top-1 accuracy of 12 samples" in " ".join(said.split())
    assert "Bjontegaard delta rate against input jpeg" in said


def test_its_files_go_beside_the_records_of_a_study(tmp_path: Path) -> None:
    records = tmp_path / "out" / "records.jsonl"
    records.parent.mkdir()
    records.write_text("{}\n")
    made, _ = rated(study(tmp_path), tmp_path / "out", "--codec", "raw", "--cut", "1")
    assert records.read_text() == "{}\n"
    assert made.samples == 12


def by_hand(weights: Path) -> float:
    """The accuracy of the same model, run without cuts. Writes its weights."""
    names: dict[str, Any] = {}
    exec(STUDY, names)
    torch.manual_seed(3)
    net, noise = names["Net"]().eval(), names["Noise"]()
    torch.save(net.state_dict(), weights)
    hits = 0
    for i in range(12):
        sample = noise.load(i)
        pixels = torch.frombuffer(bytearray(sample.picture.tobytes()), dtype=torch.uint8)
        x = pixels.reshape(1, 8, 8, 3).permute(0, 3, 1, 2) / 255
        hits += int(net(x).argmax()) == sample.label
    return hits / 12


def test_labelled_boxes_give_mean_average_precision(tmp_path: Path) -> None:
    squares(tmp_path, 6)
    (tmp_path / "mine.py").write_text(OWN)
    file = manifest(
        tmp_path,
        {
            "model": {"name": "mine:Net", "inputSize": [32, 32]},
            "dataset": {"source": "Coco", "path": "pictures", "annotations": "boxes.json"},
            "postprocess": {"name": "mine:Squares"},
            "workload": {},
            "partition": {"mode": "ServerOnly"},
        },
    )
    made, _ = rated(file, tmp_path / "out", "--codec", "raw", "--cut", "1")
    assert (made.metric, made.judged) == (Metric.MAP, 6)
    # The detection with the best score overlaps by 2/3: it is right at 4 of 10 overlaps. At the
    # others the precision is 5/6 at the 84 of 101 recalls up to 5/6.
    assert made.uncut.value == pytest.approx(0.4 + 0.6 * 5 / 6 * 84 / 101)
    raw = next(one for one in made.points if one.codec == "raw")
    assert (raw.accuracy, raw.agreement) == (made.uncut, 1)
    worst = next(one for one in made.points if one.codec == "jpeg5@50")
    assert worst.accuracy.value < made.uncut.value


def test_samples_without_labels_are_judged_by_agreement(tmp_path: Path) -> None:
    pictures = tmp_path / "pictures"
    squares(tmp_path, 3)
    (pictures / "broken.png").write_bytes(b"\x89PNG")
    file = study(tmp_path, dataset={"source": "Folder", "path": "pictures"})
    made, said = rated(file, tmp_path / "out", "--codec", "raw")
    assert (made.metric, made.judged, made.failed) == (Metric.CLASSES, 3, 1)
    assert made.uncut.value == 1
    assert made.reason is not None
    assert made.reason.startswith("broken.png: ")
    assert "1 sample left out, the first one: broken.png" in " ".join(said.split())
    one, _ = rated(file, tmp_path / "one", "--codec", "raw", "--samples", "1")
    assert one.samples + one.failed == 1


def test_bytes_are_those_of_a_study(tmp_path: Path) -> None:
    one = {"workload": {"batchSize": 1, "samples": 4}, "transport": {"codec": "uint8"}}
    file = study(tmp_path, partition={"mode": "Sweep", "cuts": ["input", 5]}, **one)
    made, _ = rated(file, tmp_path / "out", "--codec", "uint8", "--cut", "5", "--samples", "4")
    done = splittracr("run", str(file), "--out", "study", cwd=tmp_path)
    assert done.code == 0, done.err + done.out
    sent: dict[int, list[int]] = {0: [], 5: []}
    for record in journal.read(tmp_path / "study" / journal.FILE):
        sent[record.cut_index].append(record.bytes_up)
    of = {(one.cut_index, one.codec): one.bytes for one in made.points}
    # A request's number has one digit here, and two from the tenth on.
    assert of[0, "uint8"] == pytest.approx(sum(sent[0]) / 4, abs=2)
    assert of[5, "uint8"] == pytest.approx(sum(sent[5]) / 4, abs=2)


def test_labelled_boxes_need_pycocotools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squares(tmp_path, 2)
    monkeypatch.setattr(detection, "is_available", lambda: False)
    code, said = run("rate", str(boxed(tmp_path)), "--out", str(tmp_path / "out"))
    assert code != 0
    expected = (
        "spec.dataset: got 'labelled boxes of 0.png', expected pip install 'splittracr[coco]'"
    )
    assert expected in " ".join(said.split())


def test_agreement_of_detections_has_an_interval_over_samples(tmp_path: Path) -> None:
    squares(tmp_path, 6)
    file = boxed(tmp_path, dataset={"source": "Folder", "path": "pictures"})
    made, _ = rated(file, tmp_path / "out", "--codec", "raw", "--cut", "1")
    assert made.metric is Metric.DETECTIONS
    assert made.uncut.value == 1
    raw = next(one.accuracy for one in made.points if one.codec == "raw")
    assert (raw.value, raw.low, raw.high) == (1, 1, 1)
    between = [one.accuracy for one in made.points if 0 < one.accuracy.value < 1]
    assert between
    for one in between:
        assert one.low is not None
        assert one.high is not None
        assert one.low < one.value < one.high


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--codec", "uint9"), "--codec: got 'uint9', expected raw, float16"),
        (("--codec", "acme.topk"), "--codec: got 'acme.topk', expected"),
        (("--cut", "nowhere"), "--cut: got 'nowhere', expected"),
        (("--cut", "output"), "--cut: got 'output', expected a cut between input and output"),
        (("--cut", "input"), "--cut: got 'input', expected a cut between input and output"),
        (("--quality", "0"), "--quality: got 0, expected 1 to 100"),
        (("--scale", "101"), "--scale: got 101, expected 1 to 100"),
    ],
)
def test_bad_options_are_named(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    code, said = run("rate", str(study(tmp_path)), "--out", str(tmp_path / "out"), *arguments)
    assert code != 0
    assert words in " ".join(said.replace("│", " ").split())
    assert not (tmp_path / "out" / "rate.json").exists()


def test_results_that_cannot_be_compared_are_refused(tmp_path: Path) -> None:
    file = study(
        tmp_path,
        dataset={"source": "Samples"},
        postprocess={"name": "raw"},
        model={"name": "mobilenet_v3_small", "weights": "none"},
    )
    code, said = run("rate", str(file), "--samples", "1", "--out", str(tmp_path / "out"))
    assert code != 0
    assert "expected a model whose results are classes, upright boxes or masks" in " ".join(
        said.split()
    )


def test_json_has_the_version_of_its_keys(tmp_path: Path) -> None:
    rated(study(tmp_path), tmp_path / "out", "--codec", "raw", "--samples", "2", "--cut", "1")
    assert json.loads((tmp_path / "out" / "rate.json").read_text())["schemaVersion"] == 2
