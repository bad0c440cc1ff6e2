import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

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
    with pytest.raises(InvalidInput, match=r"and it has extra that this model lacks"):
        weights.load_state(Tiny(), {**less, "extra": torch.ones(1)}, spec, "w.pth")
    with pytest.raises(InvalidInput, match=r"only this model's weights, it has extra"):
        weights.load_state(Tiny(), {**state, "extra": torch.ones(1)}, spec, "w.pth")
    with pytest.raises(
        InvalidInput, match=r"conv.weight of shape \[8, 3, 3, 3\], in the file it is \[4"
    ):
        weights.load_state(Tiny(), Tiny(width=4).state_dict(), spec, "w.pth")


def test_another_number_of_classes_has_to_be_asked_for() -> None:
    state = Tiny(num_classes=5).state_dict()

    def is_head(name: str, _own: torch.Size, _other: torch.Size) -> bool:
        return name.startswith("fc.")

    with pytest.raises(InvalidInput, match=r"set spec.model.numClasses if"):
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


def _changed(name: str, change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
    state = dict(Tiny().state_dict())
    return {**state, name: change(state[name])}


def _with(value: float, count: int = 1) -> Callable[[Tensor], Tensor]:
    def change(tensor: Tensor) -> Tensor:
        changed = tensor.clone()
        changed.view(-1)[:count] = value
        return changed

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.to(torch.int8), "float32 values in conv.weight, there they are int8"),
        (lambda t: t.to(torch.int64), "float32 values in conv.weight, there they are int64"),
        (lambda t: t.bool(), "float32 values in conv.weight, there they are bool"),
        (lambda t: t.to(torch.complex64), "in conv.weight, there they are complex64"),
        (lambda t: t.to_sparse(), "in conv.weight, there they are sparse_coo float32"),
        (
            lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
            "in conv.weight, there they are quantised",
        ),
        (_with(math.nan), "finite values in conv.weight, 1 of 216 are not (float32)"),
        (_with(math.inf, 3), "finite values in conv.weight, 3 of 216 are not (float32)"),
        (_with(-math.inf, 216), "finite values in conv.weight, 216 of 216 are not (float32)"),
        (
            lambda t: _with(1e300, 2)(t.double()),
            "in conv.weight, 2 of 216 are not (float64, loaded as float32)",
        ),
        (lambda t: _with(math.nan)(t.half()), "1 of 216 are not (float16, loaded as float32)"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantize.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_values_that_are_no_weights(
    tmp_path: Path, spec: ModelSpec, change: Callable[[Tensor], Tensor], expected: str
) -> None:
    torch.save(_changed("conv.weight", change), tmp_path / "w.pth")
    net = Tiny()
    before = net.conv.weight.clone()
    with pytest.raises(InvalidInput) as caught:
        weights.load_state(net, weights.read_state(tmp_path / "w.pth"), spec, "w.pth")
    assert (caught.value.field, caught.value.value) == ("spec.model.weightsFile", "w.pth")
    assert expected in caught.value.expected
    assert torch.equal(net.conv.weight, before)


def test_how_many_tensors_are_no_weights(spec: ModelSpec) -> None:
    state = {name: value.to(torch.int8) for name, value in Tiny().state_dict().items()}
    with pytest.raises(InvalidInput, match=r"there they are int8 \(and 3 more\)"):
        weights.load_state(Tiny(), state, spec, "w.pth")
    state = {name: value * math.nan for name, value in Tiny().state_dict().items()}
    with pytest.raises(InvalidInput, match=r"216 of 216 are not \(float32\) \(and 3 more\)"):
        weights.load_state(Tiny(), state, spec, "w.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_real_types_are_weights(spec: ModelSpec, dtype: torch.dtype) -> None:
    net, state = Tiny(), {k: v.to(dtype) for k, v in Tiny().state_dict().items()}
    weights.load_state(net, state, spec, "w.pth")
    assert torch.equal(net.conv.weight, state["conv.weight"].float())


class Masked(nn.Module):
    """A buffer with values that are not finite, as a mask of attention has."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -math.inf).triu(1))


def test_a_mask_that_the_network_itself_has_is_taken(spec: ModelSpec) -> None:
    state = Masked().state_dict()
    weights.load_state(Masked(), state, spec, "w.pth")
    with pytest.raises(InvalidInput, match=r"finite values in mask, 1 of 9 are not"):
        weights.load_state(Masked(), {"mask": _with(math.inf)(state["mask"])}, spec, "w.pth")
