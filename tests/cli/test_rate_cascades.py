"""`splittracr rate` with a small model or exits: cascades beside operating points."""

import csv
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

from splittracr.edge.first_answers import thresholds
from splittracr.results.rate import Metric
from tests.cli.test_detection import squares
from tests.cli.test_rate import STUDY, rated, run, study

COUNT = 12
LOSSLESS = ("uint8", "png", "webp", "raw")
NET = "rate_unlabelled:Net"
SMALL = f"{{name: '{NET}', weightsFile: small.pt, inputSize: [8, 8]}}"
SEEDED = f"{{name: '{NET}', weights: none, inputSize: [8, 8], seed: 5}}"
POINTS = ("--codec", "raw", "--cut", "1")

DECLARED = """
from splittracr.models.registry import register
from rate_unlabelled import Net, nn

class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(16, 3)

    def forward(self, live):
        return self.fc(live.mean((2, 3)))

@register("with_exits", shape=(3, 8, 8), exits={"after_first.relu": "early"})
class WithExits(Net):
    def __init__(self):
        super().__init__()
        self.early = Mean()
"""


def unlabelled(folder: Path, **model: object) -> Path:
    """A study of twelve pictures without labels."""
    file = study(
        folder,
        model={"name": NET, "weights": "none", "inputSize": [8, 8], **model},
        dataset={"source": "Class", "class": "rate_unlabelled:Noise"},
    )
    module = folder / "rate_unlabelled.py"
    module.write_text(STUDY.replace("label=index % 3", "label=None"))
    return file


def scores(weights: Path, seed: int) -> torch.Tensor:
    """Probabilities of a network with seeded weights, `[12, 3]`. Writes its weights."""
    names: dict[str, Any] = {}
    exec(STUDY, names)
    torch.manual_seed(seed)
    net, noise = names["Net"]().eval(), names["Noise"]()
    torch.save(net.state_dict(), weights)
    made = []
    for i in range(COUNT):
        pixels = torch.frombuffer(bytearray(noise.load(i).picture.tobytes()), dtype=torch.uint8)
        made.append(net(pixels.reshape(1, 8, 8, 3).permute(0, 3, 1, 2) / 255).softmax(1)[0])
    return torch.stack(made).detach()


def test_the_figures_are_those_by_hand(tmp_path: Path) -> None:
    large = scores(tmp_path / "net.pt", 3).argmax(1).tolist()
    by_small = scores(tmp_path / "small.pt", 4)
    small, best = by_small.argmax(1).tolist(), by_small.sort(descending=True, dim=1)[0]
    margins = ((best[:, 0] - best[:, 1]) * 1e6).tolist()
    file = unlabelled(tmp_path, weightsFile="net.pt", weights=None)
    made, said = rated(file, tmp_path / "out", "--small", SMALL, *POINTS)
    assert (made.metric, made.uncut.value) == (Metric.CLASSES, 1)
    bytes_of = {(one.cut_index, one.codec): one.bytes for one in made.points}
    assert {one.answered for one in made.cascades} == {
        n / COUNT for n in (1, 2, 3, 4, 6, 7, 8, 9, 10)
    }
    checked = 0
    for one in made.cascades:
        assert one.family == f"cascade of {NET}"
        sure = [margin >= one.threshold_per_million - 1 for margin in margins]
        assert one.answered == sum(sure) / COUNT
        if one.codec in LOSSLESS:
            answers = [a if s else b for a, b, s in zip(small, large, sure, strict=True)]
            same = sum(a == b for a, b in zip(answers, large, strict=True)) / COUNT
            assert (one.accuracy.value, one.agreement) == (same, same)
            assert one.codec == "uint8", "the smallest one without loss"
            left = (1 - one.answered) * bytes_of[one.cut_index, one.codec]
            assert one.bytes == pytest.approx(left, abs=1)
            checked += 1
    assert checked > 0
    assert any(one.on_front for one in made.cascades)
    for each in (each for each in made.everything if each.on_front):
        assert not any(
            other.bytes <= each.bytes and other.accuracy.value > each.accuracy.value
            for other in made.everything
        )
    rows = list(csv.DictReader((tmp_path / "out" / "rate.csv").read_text("utf-8-sig").splitlines()))
    assert [row["answered"] for row in rows[: len(made.points)]] == [""] * len(made.points)
    assert [float(row["answered"]) for row in rows[len(made.points) :]] == [
        one.answered for one in made.cascades
    ]
    assert said.split("codec")[1].split()[:2] == ["answered", "edge"]
    assert {one.family for one in made.curves} >= {f"cascade of {NET}", "all pictures"}


def test_samples_that_go_on_take_the_points_on_the_front(tmp_path: Path) -> None:
    made, _ = rated(unlabelled(tmp_path), tmp_path / "out", "--small", SEEDED, *POINTS)
    best: dict[tuple[float, float], tuple[str, str]] = {}
    for one in made.points:
        beaten = any(
            other.bytes <= one.bytes and other.accuracy.value >= one.accuracy.value
            for other in made.points
            if (other.bytes, other.accuracy.value) != (one.bytes, one.accuracy.value)
        )
        if not beaten:  # the first one of several equal ones
            best.setdefault((one.bytes, one.accuracy.value), (one.cut, one.codec))
    front = best.values()
    shares = {one.threshold_per_million for one in made.cascades}
    found = [(one.cut, one.codec, one.threshold_per_million) for one in made.cascades]
    assert sorted(found) == sorted((*point, share) for point, share in product(front, shares))


def test_after_exits_a_sample_goes_on_as_a_picture_or_at_a_later_cut(tmp_path: Path) -> None:
    (tmp_path / "rate_exits.py").write_text(DECLARED)
    file = unlabelled(tmp_path, name="rate_exits:WithExits")
    cuts = [part for name in ("first", "second", "after_second.relu") for part in ("--cut", name)]
    made, _ = rated(file, tmp_path / "out", "--exits", "Declared", "--codec", "raw", *cuts)
    assert {one.family for one in made.cascades} == {"exits"}
    assert {one.cut for one in made.points} == {"input", "first", "second", "after_second.relu"}
    assert "first" not in {one.cut for one in made.cascades}
    assert "input" in {one.cut for one in made.cascades}
    assert all(0 < one.answered < 1 for one in made.cascades)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--classes", "{a: b}"), "--small: got nothing, expected a model, or --exits"),
        (("--small", "alexnet", "--exits", "x"), "--exits: got 'x', expected nothing, or no"),
        (("--small", "{name: alexnet, weights: none, numClasses: 7}"),
         "--small: got 'alexnet', expected a model with the classes of"),
        (("--exits", "none.safetensors"), "--exits: got"),
    ],
)  # fmt: skip
def test_bad_options_are_named(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    file, out = study(tmp_path), tmp_path / "out"
    code, said = run("rate", str(file), "--out", str(out), "--samples", "2", *POINTS, *arguments)
    assert code != 0
    assert words in " ".join(said.replace("│", " ").split())
    assert not (out / "rate.json").exists()


def test_a_small_model_whose_results_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    squares(tmp_path, 2)
    file = study(
        tmp_path,
        dataset={"source": "Folder", "path": "pictures"},
        model={"name": "lraspp_mobilenet_v3_large", "weights": "none", "inputSize": [64, 64]},
    )
    small = "{name: squeezenet1_1, weights: none, inputSize: [64, 64], numClasses: 21}"
    code, said = run("rate", str(file), "--out", str(tmp_path / "out"), "--small", small, *POINTS)
    assert code != 0
    assert "--small: got 'squeezenet1_1', expected a model whose results, as those of" in " ".join(
        said.split()
    )


def test_thresholds_answer_a_tenth_more_each() -> None:
    assert thresholds([5, 1, 4, 2, 3, 9, 8, 7, 6, 10]) == [2, 3, 4, 5, 6, 7, 8, 9, 10]
    assert thresholds([7] * 20) == []
    assert thresholds([7] * 19 + [0]) == [7]
    assert thresholds([3, 1]) == [3]
    assert thresholds([3]) == []
