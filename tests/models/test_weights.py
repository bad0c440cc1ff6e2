from pathlib import Path

import pytest
import torch
from torch import nn

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ModelSpec
from splittracr.models import weights
from tests.models.helpers import Tiny


class _Runs:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.fixture
def spec() -> ModelSpec:
    return ModelSpec(name="tiny")


def test_round_trip(tmp_path: Path, spec: ModelSpec) -> None:
    net, other = Tiny(), Tiny()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    weights.load_state(other, weights.read_state(tmp_path / "w.pth"), spec, "w.pth")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_checkpoint_around_a_state_dict(tmp_path: Path, key: str) -> None:
    torch.save({key: Tiny().state_dict(), "epoch": 3}, tmp_path / "w.pth")
    assert "conv.weight" in weights.read_state(tmp_path / "w.pth")


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    torch.save({"conv.weight": _Runs(tmp_path / "ran")}, tmp_path / "w.pth")
    with pytest.raises(InvalidInput, match=r"weightsFile: got '.*w.pth', expected a state dict"):
        weights.read_state(tmp_path / "w.pth")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 a broken archive"])
def test_unreadable_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(InvalidInput, match=r"expected a state dict saved by torch.save \("):
        weights.read_state(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"<!DOCTYPE html>", "(it is a web page; the download went wrong)"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear was not an allowed global by default)"),
    ],
)
def test_the_reason_is_not_pytorchs_advice(tmp_path: Path, value: object, reason: str) -> None:
    if isinstance(value, bytes):
        (tmp_path / "w.pth").write_bytes(value)
    else:
        torch.save(value, tmp_path / "w.pth")
    with pytest.raises(InvalidInput) as caught:
        weights.read_state(tmp_path / "w.pth")
    assert caught.value.expected.endswith(reason)


@pytest.mark.parametrize("value", [{}, {"a": 1}, [torch.ones(1)], torch.ones(1)])
def test_file_without_a_state_dict(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(InvalidInput, match="tensors by name"):
        weights.read_state(tmp_path / "w.pth")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"weightsFile: got 'a/w.pth', expected a file that"):
        weights.file_path(ModelSpec(name="tiny", weights_file="a/w.pth"), tmp_path)


def test_relative_file_starts_at_the_base(tmp_path: Path) -> None:
    (tmp_path / "w.pth").touch()
    spec = ModelSpec(name="tiny", weights_file="w.pth")
    assert weights.file_path(spec, tmp_path) == tmp_path / "w.pth"


def test_missing_unexpected_and_misshapen_keys(spec: ModelSpec) -> None:
    state = Tiny().state_dict()
    less = {k: v for k, v in state.items() if not k.startswith("fc")}
    with pytest.raises(InvalidInput, match=r"expected fc.weight in it \(and 1 more\)"):
        weights.load_state(Tiny(), less, spec, "w.pth")
    with pytest.raises(InvalidInput, match=r"and it has extra that this network lacks"):
        weights.load_state(Tiny(), {**less, "extra": torch.ones(1)}, spec, "w.pth")
    with pytest.raises(InvalidInput, match=r"nothing but this network's weights, it has extra"):
        weights.load_state(Tiny(), {**state, "extra": torch.ones(1)}, spec, "w.pth")
    with pytest.raises(InvalidInput, match=r"conv.weight of shape \[8, 3, 3, 3\], there it is \[4"):
        weights.load_state(Tiny(), Tiny(width=4).state_dict(), spec, "w.pth")


def test_another_number_of_classes_has_to_be_asked_for() -> None:
    state = Tiny(num_classes=5).state_dict()

    def is_head(name: str, _own: torch.Size, _other: torch.Size) -> bool:
        return name.startswith("fc.")

    with pytest.raises(InvalidInput, match=r"set spec.model.numClasses where"):
        weights.load_state(Tiny(), state, ModelSpec(name="tiny"), "w.pth", is_head)
    net = Tiny()
    weights.load_state(net, state, ModelSpec(name="tiny", num_classes=10), "w.pth", is_head)
    assert torch.equal(net.conv.weight, state["conv.weight"])
    again = Tiny()
    weights.load_state(again, state, ModelSpec(name="tiny", num_classes=10), "w.pth", is_head)
    assert torch.equal(net.fc.weight, again.fc.weight)  # seeded, not torch's own numbers


def test_counters_of_batch_norms_may_be_missing(spec: ModelSpec) -> None:
    net = nn.BatchNorm2d(4)
    state = {k: v for k, v in net.state_dict().items() if k != "num_batches_tracked"}
    weights.load_state(net, state, spec, "w.pth")
