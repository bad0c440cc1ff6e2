"""calibrate as a user runs it: two small models on tensors, without labels."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml
from typer.testing import CliRunner

from splittracr.api import load
from splittracr.cli.calibrate import Goal, Question, block, sentences
from splittracr.cli.main import app
from splittracr.experiment.calibration import Calibration
from splittracr.experiment.contracts import Statistic
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import CascadeSpec, Mode, ModelSpec, PartitionSpec
from splittracr.experiment.versions import parse
from splittracr.planning.binomial import upper_bound
from tests.cli.processes import manifest

OWN = '''
import torch
from torch import nn

from splittracr.data.contracts import Sample

class Points:
    """Samples (x, error): x is a feature, and the error is what the small model adds to it."""

    classes = None

    def __init__(self, count, lost=0):
        self.lost = lost
        made = torch.Generator().manual_seed(1)
        self.points = torch.randn(count, 2, generator=made) * torch.tensor([1.0, 0.1])

    def __len__(self):
        return len(self.points)

    def name(self, index):
        return str(index)

    def load(self, index):
        if index < self.lost:
            raise OSError("gone")
        return Sample(str(index), data=self.points[index])

class Large(nn.Module):
    """Class 1 if x is above 0."""

    def forward(self, points):
        x = torch.relu(points[:, 0] + 10) - 10
        return torch.stack([-2 * x, 2 * x], 1)

class Small(nn.Module):
    """The same of x with its error. With `classes` of 3 one more class, which is never the first;
    with `swapped` the classes are the other way round."""

    def __init__(self, classes=2, swapped=False):
        super().__init__()
        self.classes, self.sign = classes, -1 if swapped else 1

    def forward(self, points):
        x = self.sign * (points[:, 0] + points[:, 1])
        return torch.stack([-2 * x, 2 * x, torch.full_like(x, -50)][: self.classes], 1)
'''


@dataclass(frozen=True)
class Study:
    """A manifest with models and data set of its own, and a file for the result."""

    file: Path
    out: Path

    def calibrate(self, count: int, *options: str, args: str = "{}") -> tuple[int, str]:
        """The exit code and the output of the command, on `count` samples."""
        small = f"{{name: 'points_study:Small', input: {{shape: [2]}}, args: {args}}}"
        data = ["--set", f"spec.dataset.args.count={count}", "--out", str(self.out)]
        arguments = ["calibrate", str(self.file), "--small", small, *data, *options]
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "NO_COLOR": "1"})
        return done.exit_code, " ".join(done.output.split())

    def made(self, count: int, *options: str, args: str = "{}") -> tuple[Calibration, str]:
        """What a calibration leaves in its file and on the terminal."""
        code, out = self.calibrate(count, *options, args=args)
        assert code == 0, out
        return parse(Calibration, self.out.read_text(), "made.json", "a calibration"), out


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the module of `OWN`, which is imported once."""
    made = tmp_path_factory.mktemp("study")
    (made / "points_study.py").write_text(OWN)
    return made


@pytest.fixture
def study(folder: Path, tmp_path: Path) -> Study:
    sections = {
        "model": {"name": "points_study:Large", "input": {"shape": [2]}},
        "dataset": {"source": "Class", "class": "points_study:Points", "args": {"count": 1}},
        "postprocess": {"name": "classification"},
        "partition": {"mode": "ServerOnly"},
        "workload": {},
    }
    return Study(manifest(folder, sections), tmp_path / "made.json")


def by_hand(count: int, threshold: int, seed: int = 1) -> tuple[int, int]:
    """How many samples are sure, and how many of these disagree; seed 1 is that of the study."""
    points = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    points = points * torch.tensor([1.0, 0.1])
    guess = points.sum(1)
    first, second = torch.stack([-2 * guess, 2 * guess], 1).softmax(1).sort(1)[0].T
    sure = (second - first) * 1e6 >= threshold
    return int(sure.sum()), int((sure & (guess.sign() != points[:, 0].sign())).sum())


def test_a_promise_is_in_the_file_and_in_words(study: Study) -> None:
    found, out = study.made(600, "--max-disagreement", "2")
    assert (found.small, found.large) == ("points_study:Small", "points_study:Large")
    assert (found.statistic, found.cut, found.codec) == ("Margin", "input", "raw")
    assert (found.promised_disagreement, found.confidence, found.match_percent) == (
        0.02,
        0.95,
        None,
    )
    assert found.small_ms is not None
    assert (found.pictures, found.failed) == (480, 0)  # a fifth chose where the tests began
    assert found.disagreement_bound == upper_bound(found.disagreeing, found.sure, 0.95) <= 0.02
    sure, disagreeing = by_hand(600, found.threshold_per_million)
    assert 240 < sure < 560
    assert found.disagreeing <= disagreeing
    assert disagreeing / sure < 0.02
    held_out, wrong = by_hand(100_000, found.threshold_per_million, seed=2)
    assert held_out > 40_000
    assert wrong / held_out < 0.02
    # Two numbers in float32 at cut `input`, for the samples that are not sure.
    assert found.kilobytes_without == 0.008
    assert found.kilobytes == pytest.approx(0.008 * (1 - sure / 600))
    words = " ".join(out.split())
    assert f"at least {found.threshold_per_million:,} millionths" in words
    assert (
        "With 95 % confidence at most 2 % of such answers disagree with points_study:Large" in words
    )


def test_the_file_says_which_models_it_is_of(study: Study) -> None:
    found, _ = study.made(600, "--max-disagreement", "2")
    small, large = found.small_identity, found.large_identity
    assert small is not None
    assert large is not None
    assert (large.input, large.dtype) == ((2,), "float32")
    assert small.graph_fingerprint != large.graph_fingerprint
    assert found.postprocess is not None
    assert found.postprocess["name"] == "classification"
    assert found.exits_digest is None
    assert found.memory_bytes is not None
    assert found.memory_bytes >= 2 * 4  # the input; the small model has no weights


def test_a_loaded_model_is_compared_with_a_calibration(study: Study) -> None:
    study.made(600, "--max-disagreement", "2")
    model = load("points_study:Large", input_shape=[2])
    plan = model.plan(calibration=study.out)
    assert any("points_study:Small, then" in title for title in plan.table["title"])
    made = json.loads(study.out.read_text())
    made["large_identity"]["graph_fingerprint"] = "sha256:other"
    study.out.write_text(json.dumps(made))
    expected = "large_identity.graph_fingerprint of .*: got 'sha256:other', expected .* the model"
    with pytest.raises(InvalidInput, match=expected):
        model.plan(calibration=study.out)


def test_the_keys_that_are_printed_are_those_of_a_manifest(study: Study) -> None:
    given = {"other": None, "kitten": "cat"}
    small = ModelSpec(name="points_study:Small", seed=3)
    found, out = study.made(600, "--max-disagreement", "2")
    assert "mode: Cascade cut: input cascade: model:" in out
    question = Question(small, Goal(0.02, None), None, 50, given)
    keys = yaml.safe_load(block(found, question, Path()))["spec"]["partition"]
    read = PartitionSpec.model_validate(keys, by_alias=True)
    assert (read.mode, read.cut) == (Mode.CASCADE, "input")
    assert read.cascade == CascadeSpec(
        model=small,
        statistic=Statistic.MARGIN,
        threshold_per_million=found.threshold_per_million,
        max_disagreement_per_million=20_000,
        classes=given,
    )


@pytest.mark.parametrize("weights", [("none", "official"), ("official", "none"), ("none", "none")])
def test_random_weights_of_either_of_two_models_of_one_name_are_told(
    study: Study, weights: tuple[str, str]
) -> None:
    found, _ = study.made(100, "--max-kilobytes", "0.004")
    small, large = weights
    models = {"small": "net", "large": "net", "small_weights": small, "large_weights": large}
    said = list(sentences(found.model_copy(update=models)))
    assert said.count("net has random weights: the shares mean nothing.") == 1


def test_bytes_choose_a_threshold_without_a_promise(study: Study) -> None:
    found, out = study.made(100, "--max-kilobytes", "0.002", "--statistic", "Entropy")
    assert (found.statistic, found.promised_disagreement) == ("Entropy", None)
    assert (found.pictures, found.sure) == (100, 75)
    assert found.kilobytes == pytest.approx(0.002)
    assert "That is no promise" in " ".join(out.split())


def test_a_mapping_translates_other_classes(study: Study) -> None:
    plain, _ = study.made(200, "--max-kilobytes", "0.004")
    swapped, _ = study.made(
        200, "--max-kilobytes", "0.004", "--classes", "{'0': 1, '1': 0}",
        args="{swapped: true}",
    )  # fmt: skip
    own = {"small_ms": swapped.small_ms, "small_identity": swapped.small_identity}
    assert swapped == plain.model_copy(update=own)
    # Class 0, half of the answers, must not be given on the edge.
    half, _ = study.made(
        200, "--max-kilobytes", "0.004", "--classes",
        "{'0': null, '1': 1, '2': 0}", args="{classes: 3}",
    )  # fmt: skip
    assert half.sure < 110
    assert half.threshold_per_million < plain.threshold_per_million


@pytest.mark.parametrize(
    ("count", "options", "args", "words"),
    [
        (73, ["--max-disagreement", "5"], "{}", "73 pictures can prove, or at least 74"),
        (80, ["--max-disagreement", "5"], "{swapped: true}", "surest answers disagree"),
        (80, ["--max-disagreement", "0.01"], "{}", "at least 37,"),
        (80, ["--max-disagreement", "100"], "{}", "a number from 0.01 to 99"),
        (80, [], "{}", "--max-disagreement: got nothing, expected a share in per cent, or"),
        (80, ["--max-disagreement", "5", "--max-kilobytes", "1"], "{}", "keeps one of them"),
        (80, ["--max-kilobytes", "1"], "{classes: 3}", "has 3 classes, points_study:Large has 2"),
        (80, ["--max-kilobytes", "1"], "{size: 3}", "--small"),
        (80, ["--max-kilobytes", "1", "--statistic", "MinScore"], "{}",
         "--statistic: got 'MinScore', expected one of: Margin, Probability, Entropy"),
        (80, ["--max-kilobytes", "1", "--classes", "{'7': 0}"], "{}",
         "--classes: got '7', expected a class of points_study:Small"),
        (80, ["--max-kilobytes", "1", "--classes", "{'0': 0}"], "{}",
         "for each class of points_study:Small"),
        (80, ["--max-kilobytes", "0", "--classes", "{'0': null, '1': 1}"], "{}",
         "the edge is never sure of"),
        (80, ["--max-kilobytes", "1", "--set", "spec.partition.mode=EdgeOnly"], "{}",
         "spec.partition.mode: got 'EdgeOnly', expected Static, ServerOnly or Cascade"),
        (80, ["--max-kilobytes", "1", "--set", "spec.postprocess.name=raw"], "{}",
         "with scores from 0 to 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_calibrated_is_refused_by_name(
    study: Study, count: int, options: list[str], args: str, words: str
) -> None:
    code, out = study.calibrate(count, *options, args=args)
    assert code == 2
    assert words in out
    assert not study.out.exists()


def test_pictures_that_a_model_cannot_take_are_counted(study: Study) -> None:
    found, out = study.made(20, "--max-kilobytes", "1", "--set", "spec.dataset.args.lost=3")
    assert (found.pictures, found.failed) == (17, 3)
    assert "Left out: 3 pictures that could not be judged." in out
    assert json.loads(study.out.read_text())["schemaVersion"] == 2
