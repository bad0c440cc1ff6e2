"""Exits as a user has them: trained, calibrated, and answering in a local study."""

import json
from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from splittracr.cli.main import app
from splittracr.experiment.calibration import Calibration
from splittracr.experiment.types import Record
from splittracr.experiment.versions import parse
from splittracr.results import journal
from tests.cli.processes import manifest, splittracr

OWN = '''
import torch
from torch import nn

from splittracr.data.contracts import Sample
from splittracr.models.registry import register

class Points:
    """Points (x, y) of a normal distribution. With `labels` 1 if x is above 0, else 0."""

    classes = None

    def __init__(self, count, seed=1, labels=False):
        self.points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
        self.labels = labels

    def __len__(self):
        return len(self.points)

    def name(self, index):
        return str(index)

    def load(self, index):
        point = self.points[index]
        label = int(point[0] > 0) if self.labels else None
        return Sample(str(index), data=point, label=label)

def sizes(points):
    """x and y as two numbers each, of which one is 0: what `relu` returns in `Net`."""
    return torch.relu(torch.stack([points[:, 0], -points[:, 0], points[:, 1], -points[:, 1]], 1))

def decide(points):
    return 2 * points[:, 0] + points[:, 1].square() - 0.5

class Early(nn.Module):
    """Ignores y."""

    def forward(self, sizes):
        sure = 5 * (sizes[:, 0] - sizes[:, 1])
        return torch.stack([-sure, sure], 1)

@register("exit_points", shape=(2,), input_dtype=torch.float32, exits={"relu": "early"})
class Net(nn.Module):
    """Class 1 if 2x + y² is above 0.5."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 4, bias=False)
        self.first.weight.data = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
        self.early = Early()

    def forward(self, points):
        sizes = torch.relu(self.first(points))
        squares = sizes * sizes
        sure = 2 * (sizes[:, 0] - sizes[:, 1]) + squares[:, 2] + squares[:, 3] - 0.5
        return torch.stack([-sure, sure], 1)
'''


@dataclass(frozen=True)
class Study:
    """A manifest with model and data set of its own, and the folder of it."""

    file: Path
    folder: Path

    def call(self, *arguments: str) -> tuple[int, str]:
        """The exit code and the output of a command in this process."""
        done = CliRunner().invoke(app, [*arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
        return done.exit_code, " ".join(done.output.split())

    @property
    def exits(self) -> str:
        """The file of exits."""
        return str(self.folder / "exits.safetensors")

    def train(self, *options: str, count: int = 400) -> tuple[int, str]:
        data = ["--set", f"spec.dataset.args.count={count}"]
        out = ["--out", self.exits]
        return self.call("exits", "train", str(self.file), *data, *out, *options)

    def calibrate(self, *options: str, count: int = 600, seed: int = 2) -> tuple[int, str]:
        args = {"count": count, "seed": seed}
        data = [
            part for key, n in args.items() for part in ("--set", f"spec.dataset.args.{key}={n}")
        ]
        out = ["--out", str(self.folder / "made.json")]
        return self.call("calibrate", str(self.file), *data, *out, *options)

    def made(self) -> Calibration:
        text = (self.folder / "made.json").read_text()
        return parse(Calibration, text, "made.json", "a calibration")


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module of `OWN`, which is imported once."""
    made = tmp_path_factory.mktemp("study")
    (made / "exit_points_study.py").write_text(OWN)
    return made


@pytest.fixture
def study(module: Path) -> Study:
    sections = {
        "model": {"name": "exit_points_study:Net"},
        "dataset": {
            "source": "Class",
            "class": "exit_points_study:Points",
            "args": {"count": 1},
        },
        "postprocess": {"name": "classification"},
        "partition": {"mode": "Static", "cut": "after_first.mul"},
        "results": {"pictures": 0},
        "workload": {},
    }
    return Study(manifest(module, sections), module)


def points(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))


def test_a_study_with_exits_from_training_to_records(study: Study) -> None:
    code, out = study.train("--at", "first", "--at", "relu")
    assert code == 0, out
    assert "have learnt the answers of the model of 320 pictures. On 80 others:" in out
    code, out = study.calibrate("--exits", study.exits, "--max-disagreement", "5")
    assert code == 0, out
    found = study.made()
    assert found.exits_digest == f"sha256:{sha256(Path(study.exits).read_bytes()).hexdigest()}"
    assert found.exits is not None
    assert list(found.exits) == ["first", "relu"]
    assert sum(found.exits.values()) >= found.sure > 240  # of 480 that tested it
    assert found.exit_ms is not None
    assert list(found.exit_ms) == list(found.exits)
    assert min(found.exit_ms.values()) > 0
    assert found.small_ms is None
    weights = 2 * (4 * 2 + 2)  # two linear layers from 4 means to 2 classes
    assert found.memory_bytes == 4 * weights
    assert (found.cut, found.learnt) == ("after_first.mul", 0)
    assert "exits: exits.safetensors" in out
    assert f"thresholdPerMillion: {found.threshold_per_million}" in out

    document = yaml.safe_load(study.file.read_text())
    document["metadata"]["name"] = "exits"
    document["spec"]["dataset"]["args"] = {"count": 300, "seed": 3}
    document["spec"]["partition"] |= {
        "mode": "Cascade",
        "cascade": {
            "exits": "exits.safetensors",
            "statistic": found.statistic.value,
            "thresholdPerMillion": found.threshold_per_million,
            "maxDisagreementPerMillion": 50_000,
            "auditPercent": 20,
        },
    }
    file = study.folder / "exits.yaml"
    file.write_text(yaml.safe_dump(document))
    run = splittracr("run", str(file), "--out", "run", cwd=study.folder)
    assert run.code == 0, run.err
    lines = (study.folder / "run" / journal.FILE).read_text().splitlines()
    records = [Record.model_validate_json(line) for line in lines]
    assert Counter(record.sample for record in records) == Counter(range(300))
    kinds = Counter((record.network, record.cut) for record in records)
    assert set(kinds) >= {("exit", "relu"), ("large", "after_first.mul")}
    assert set(kinds) <= {("exit", "first"), ("exit", "relu"), ("large", "after_first.mul")}
    summary = json.loads((study.folder / "run" / "summary.json").read_text())
    counted = {cut["cut"]: (cut["n"], cut["unanswered"]) for cut in summary["cuts"]}
    assert counted == {cut: (count, 0) for (_, cut), count in kinds.items()}
    sums = points(300, 3)
    truth = (2 * sums[:, 0] + sums[:, 1].square() > 0.5).int().tolist()
    wrong = Counter(
        record.network
        for record in records
        if record.prediction[0]["class"] != truth[record.sample]
    )
    assert wrong["large"] == 0
    exited = [record for record in records if record.network == "exit"]
    assert wrong["exit"] <= 0.1 * len(exited)
    assert all(record.bytes_up == 0 for record in exited if record.audit is None)
    audits = Counter(record.audit for record in exited)
    assert 0 < audits["agrees"] < len(exited)
    for record in exited:
        right = record.prediction[0]["class"] == truth[record.sample]
        assert record.audit in (None, "agrees" if right else "disagrees")


def test_other_exits_do_not_continue_a_study(study: Study) -> None:
    assert study.train("--at", "relu")[0] == 0
    document = yaml.safe_load(study.file.read_text())
    document["spec"]["dataset"]["args"] = {"count": 20}
    document["spec"]["partition"] = {
        "mode": "Cascade",
        "cut": "output",
        "cascade": {
            "exits": "exits.safetensors",
            "statistic": "Margin",
            "thresholdPerMillion": 500_000,
        },
    }
    file = study.folder / "again.yaml"
    file.write_text(yaml.safe_dump(document))
    edge = ("edge", str(file), "--out", "again", "--set", "spec.transport.security=Plain")
    assert splittracr(*edge, cwd=study.folder).code == 0
    again = splittracr(*edge, "--resume", cwd=study.folder)
    assert again.code == 0, again.err
    assert study.train("--at", "relu", "--seed", "1")[0] == 0
    other = splittracr(*edge, "--resume", cwd=study.folder)
    assert other.code == 2
    assert "exits: got 'sha256:" in other.error


def test_pictures_that_trained_exits_prove_nothing(study: Study) -> None:
    assert study.train("--at", "relu", count=500)[0] == 0
    goal = ("--exits", study.exits, "--max-kilobytes", "1")
    code, out = study.calibrate(*goal, count=500, seed=1)
    assert code == 0, out
    assert (study.made().pictures, study.made().learnt) == (100, 400)
    assert "Left out: 400 pictures that the exits have learnt from." in out


def test_declared_exits_need_no_training(study: Study) -> None:
    code, out = study.calibrate("--exits", "Declared", "--max-kilobytes", "0.004")
    assert code == 0, out
    found = study.made()
    assert found.exits == {"relu": found.sure}
    assert "exits: Declared" in out
    sums = points(600, 2)
    x = sums[:, 0]
    first, second = torch.stack([-5 * x, 5 * x], 1).softmax(1).sort(1)[0].T
    sure = (second - first) * 1e6 >= found.threshold_per_million
    truth = 2 * x + sums[:, 1].square() > 0.5
    assert found.sure == pytest.approx(int(sure.sum()), abs=1)
    assert found.disagreeing == pytest.approx(int((sure & (truth != (x > 0))).sum()), abs=1)


def test_labels_are_learnt_if_there_are_any(study: Study) -> None:
    labels = ("--set", "spec.dataset.args.labels=true")
    code, out = study.train("--at", "relu", *labels)
    assert code == 0, out
    assert "have learnt the labels" in out
    assert "The model itself: accuracy" in out
    code, out = study.train("--at", "relu", *labels, "--targets", "Answers")
    assert code == 0, out
    assert "have learnt the answers of the model" in out


@pytest.mark.parametrize(
    ("options", "count", "words"),
    [
        (["--at", "nothing"], 60, "--at: got 'nothing', expected a cut of this model"),
        (["--at", "output"], 60, "--at: got 'output', expected a cut inside"),
        (["--at", "input"], 60, "--at: got 'input', expected a cut inside"),
        (["--at", "relu"], 30, "spec.dataset: got '30 usable', expected at least 50 samples"),
        (["--at", "relu", "--targets", "Labels"], 60, "--targets: got 'Labels', expected Answers"),
        (["--at", "relu", "--set", "spec.postprocess.name=raw"], 60, "spec.postprocess.name"),
        (["--at", "relu", "--out", "exits.pt"], 60, "--out: got 'exits.pt'"),
    ],
)
def test_what_cannot_be_trained_is_refused_by_name(
    study: Study, options: list[str], count: int, words: str, tmp_path: Path
) -> None:
    code, out = Study(study.file, tmp_path).train(*options, count=count)
    assert code == 2
    assert words in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--small: got nothing, expected a model, or --exits"),
        (["--exits", "Declared", "--small", "alexnet"], "expected nothing, or no --small"),
        (["--exits", "none.safetensors"], "--exits: got"),
        (["--exits", "Declared", "--classes", "{a: b}"], "--classes: got {'a': 'b'}"),
        (["--exits", "Declared", "--set", "spec.partition.cut=first"],
         "spec.partition.cut: got 'first', expected input, or a cut after the last exit, relu"),
        (["--exits", "Declared", "--statistic", "MinScore"],
         "--statistic: got 'MinScore', expected one of: Margin, Probability, Entropy"),
        (["--exits", "Declared", "--set", "spec.edge.runtime=OnnxRuntime"],
         "spec.edge.runtime: got 'OnnxRuntime', expected Torch"),
    ],
)  # fmt: skip
def test_what_cannot_be_calibrated_is_refused_by_name(
    study: Study, options: list[str], words: str
) -> None:
    code, out = study.calibrate(*options, "--max-kilobytes", "1")
    assert code == 2
    assert words in out


def test_a_file_says_what_it_is(study: Study) -> None:
    assert study.train("--at", "relu", "--held-out", "25", "--seed", "7")[0] == 0
    content = (study.folder / "exits.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["splittracr"])
    assert header["schemaVersion"] == 2
    assert (header["pictures"], header["held_out"], header["seed"]) == (300, 100, 7)
    assert header["model"] == "exit_points_study:Net"
    assert header["exits"][0]["cut"] == "relu"
    assert header["exits"][0]["agreement"] > 0.8
