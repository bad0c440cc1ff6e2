import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from splittracr.backends.torch import verify
from splittracr.models import custom


class _Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((1, 2, 3)) * 0.0


class _Conjugates(nn.Module):
    """A conjugation that torch puts off shares storage across a cut."""

    def forward(self, x: Tensor) -> Tensor:
        z = torch.complex(x, x + 1.0)
        other = z.conj()
        z.mul_(2.0)
        return (other + z).real


class _Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x * 2.0, 0.5, training=True) + x.mean()


@pytest.fixture(autouse=True)
def _own_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "_registered", {})
    monkeypatch.setattr(verify, "ROUNDS", 1)
    custom.register("constant", shape=(3, 64, 64))(_Constant)
    custom.register("conjugates", shape=(3, 64, 64))(_Conjugates)
    custom.register("random", shape=(3, 64, 64))(_Random)


def test_exact_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify.main(["--only", "resnet18", "--json", str(tmp_path / "v.json")]) == 0
    line, summary = capsys.readouterr().out.splitlines()
    assert line.startswith("resnet18 ")
    assert line.endswith("exact")
    assert summary == "1 models, 71 cuts, 0 models with problems"
    (found,) = json.loads((tmp_path / "v.json").read_text())["networks"]
    assert (found["name"], found["source"], found["problems"]) == ("resnet18", "torchvision", [])


def test_detectors_find_something_to_compare() -> None:
    torch.set_num_threads(1)
    verdict = verify.check("ssdlite320_mobilenet_v3_large")
    assert verdict.problems == ()
    assert verdict.cuts > 200


def test_outputs_that_say_nothing() -> None:
    assert verify.check("constant").problems == ("the output is constant",)


def test_networks_that_are_not_exact() -> None:
    verdict = verify.check("conjugates")
    assert verdict.refused == ("conj",)
    assert verdict.problems
    assert "NOT EXACT: cut conj" in verdict.line()


def test_random_networks() -> None:
    verdict = verify.check("random")
    assert verdict.cuts == 0
    assert "NOT EXACT: _Random is not the same twice: the operation dropout" in verdict.line()


def test_networks_that_cannot_be_built() -> None:
    verdict = verify.check("alexnt")
    assert "spec.model.name: got 'alexnt'" in verdict.problems[0]
    assert not verify.verify(["alexnt"])


def test_the_list() -> None:
    names = verify.everything()
    assert len(names) > 150
    assert len(names) == len(set(names))
    assert {"efficientnet_lite0", "regnet_y_128gf", "maskrcnn_resnet50_fpn", "yolo11n-obb"} <= {
        *names
    }
    assert {"yolov5nu", "yolov8n-cls", "yolov9t", "rtdetr-l"} <= {*names}


def test_a_pattern_without_a_network() -> None:
    with pytest.raises(SystemExit):
        verify.main(["--only", "nothing*"])


def test_a_verdict_is_one_line() -> None:
    verdict = verify.Verdict("a", "custom", 3, (), 1.0, 0.1, ())
    assert "\n" not in verdict.line()
    assert dataclasses.replace(verdict, problems=("x", "y")).line().endswith("NOT EXACT: x; y")
