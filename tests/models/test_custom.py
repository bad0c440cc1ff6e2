from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import ModelSpec, Source
from splittracr.models import custom, registry
from splittracr.models.network import Task
from tests.models.helpers import Tiny, build, identical, random_picture

HELPERS = "tests.models.helpers"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(custom, "_registered", {})


def _entry_points(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    entries = EntryPoints(EntryPoint(k, v, custom.GROUP) for k, v in values.items())
    monkeypatch.setattr(custom, "entry_points", lambda **wanted: entries.select(**wanted))


def test_decorator() -> None:
    registry.register("tiny", shape=(3, 32, 48), task=Task.CLASSIFY, classes=tuple("abcdefghij"))(
        Tiny
    )
    network = build(name="tiny")
    assert network.source is Source.CUSTOM
    assert network.shape == (3, 32, 48)
    assert network.classes == tuple("abcdefghij")
    assert network.postprocessor == "classification"
    assert network.weights == "as built (seed 0)"
    assert not network.module.training
    sample = network.prepare(random_picture())
    assert sample.shape == (3, 32, 48)
    assert sample.dtype is torch.uint8
    assert network.module(sample[None]).shape == (1, 10)
    assert registry.names()[Source.CUSTOM] == ["tiny"]


def test_values_are_normalised_in_front() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)
    registry.register("tiny", shape=(3, 8, 8), mean=mean, std=std)(Tiny)
    registry.register("raw", shape=(3, 8, 8), normalise=False)(Tiny)
    network, raw = build(name="tiny"), build(name="raw")
    pixels = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    values = pixels / 255 - torch.tensor(mean).view(3, 1, 1)
    values = values / torch.tensor(std).view(3, 1, 1)
    assert identical(network.module(pixels), raw.module(values))
    assert isinstance(raw.module, Tiny)


def test_same_seed_same_weights() -> None:
    registry.register("tiny")(Tiny)
    built: list[Any] = [build(name="tiny", seed=s) for s in (1, 1, 2)]
    digests = [network.module.net.fc.weight for network in built]
    assert torch.equal(digests[0], digests[1])
    assert not torch.equal(digests[0], digests[2])
    assert build(name="tiny", weights="none", seed=4).weights == "none (random, seed 4)"


def test_arguments_and_number_of_classes() -> None:
    registry.register("tiny", shape=(3, 8, 8), classes=tuple("abcdefghij"))(Tiny)
    network: Any = build(name="tiny", args={"width": 4}, num_classes=3)
    assert network.module.net.conv.out_channels == 4
    assert network.module(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)).shape == (1, 3)
    assert network.classes == ()
    with pytest.raises(InvalidInput, match=r"spec.model.args: got .*unexpected keyword.*'depth'"):
        build(name="tiny", args={"depth": 4})


def test_by_path() -> None:
    network = build(name=f"{HELPERS}:Tiny", input_size=(20, 30))
    assert network.shape == (3, 20, 30)
    assert network.module(network.prepare(random_picture())[None]).shape == (1, 10)


def test_a_path_to_a_registered_class_keeps_its_registration() -> None:
    registry.register("tiny", shape=(3, 16, 16))(Tiny)
    assert build(name=f"{HELPERS}:Tiny").shape == (3, 16, 16)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no.such.module:Net", "a module that can be imported"),
        (f"{HELPERS}:Missing", "a name that"),
        (f"{HELPERS}:NOT_CALLABLE", "a module class, or a function"),
        (f"{HELPERS}:broken", r"can be built \(RuntimeError: no such luck\)"),
        (f"{HELPERS}:random_picture", "a builder of modules"),
    ],
)
def test_paths_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        build(name=name)


def test_a_name_can_be_taken_once() -> None:
    registry.register("tiny")(Tiny)
    registry.register("tiny")(Tiny)  # the same again, as when a module is reloaded
    with pytest.raises(ValueError, match="it is taken"):
        registry.register("tiny")(torch.nn.Linear)
    with pytest.raises(ValueError, match="has a colon"):
        registry.register("a:b")(Tiny)


def test_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    _entry_points(monkeypatch, tiny=f"{HELPERS}:Tiny", other="no.such.module:Net")
    assert registry.names()[Source.CUSTOM] == ["other", "tiny"]  # without loading any
    assert build(name="tiny").shape == (3, 224, 224)


def test_broken_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    _entry_points(monkeypatch, lost="no.such.module:Net", number=f"{HELPERS}:NOT_CALLABLE")
    expected = r"entry point lost = no.such.module:Net of group splittracr.models cannot be loaded"
    with pytest.raises(SplittracrError, match=expected):
        build(name="lost")
    with pytest.raises(SplittracrError, match=r"number = .* is no model's builder"):
        build(name="number")
    assert build(name="resnet18", weights="none").name == "resnet18"  # others do not suffer


def test_weights_file(tmp_path: Path) -> None:
    registry.register("tiny", shape=(3, 8, 8))(Tiny)
    net = Tiny()
    torch.save(net.state_dict(), tmp_path / "w.pth")
    network: Any = build(tmp_path, name="tiny", weights_file="w.pth")
    assert network.weights == "file w.pth"
    assert torch.equal(network.module.net.fc.weight, net.fc.weight)
    with pytest.raises(InvalidInput, match="as its builder makes it"):
        build(name="tiny", weights="IMAGENET1K_V1")


def test_input_that_is_no_picture() -> None:
    registry.register("linear", shape=(12,), input_dtype=torch.float32, task=Task.OTHER)(
        torch.nn.Linear
    )
    network = build(name="linear", args={"in_features": 12, "out_features": 2})
    assert network.module(torch.ones(1, 12)).shape == (1, 2)
    assert network.postprocessor == "raw"
    with pytest.raises(InvalidInput, match=r"inputSize: got \[2, 2\], expected nothing"):
        build(name="linear", args={"in_features": 12, "out_features": 2}, input_size=(2, 2))


class Mixed(torch.nn.Module):
    """A float32 layer, a complex filter, a float64 table and a counter."""

    table: torch.Tensor

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 2)
        self.filter = torch.nn.Parameter(torch.tensor([1 + 2j, 3 - 4j]))
        self.register_buffer("table", torch.tensor([scale, 0.1], dtype=torch.float64))
        self.register_buffer("steps", torch.tensor([2**40]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = self.fc(x.mean((2, 3)))
        scores: torch.Tensor = (values * self.filter).imag.double() * self.table
        return scores


def test_types_that_a_network_mixes_stay_as_they_are() -> None:
    registry.register("mixed", shape=(3, 8, 8), normalise=False)(Mixed)
    network: Any = build(name="mixed")
    own, plain = network.module, Mixed()
    plain.load_state_dict(own.state_dict())
    types = {name: value.dtype for name, value in own.state_dict().items()}
    assert types == {name: value.dtype for name, value in plain.state_dict().items()}
    x = torch.rand(2, 3, 8, 8)
    assert torch.equal(own(x), plain(x))
    assert own(x).dtype is torch.float64


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_complex_numbers_do_not_lose_half_of_themselves(dtype: str) -> None:
    registry.register("mixed", shape=(3, 8, 8))(Mixed)
    expected = "expected a type that holds filter, which is complex64"
    with pytest.raises(InvalidInput, match=rf"spec.model.dtype: got '{dtype}', {expected}"):
        build(name="mixed", dtype=dtype)


class Wide(torch.nn.Module):
    """A float64 layer and a buffer with one value."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(3, 2).double()
        self.register_buffer("scale", torch.tensor([value, 0.0], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("value", "dtype", "lost"),
    [
        (1e5, "float16", r"1 of 2 values become infinite \(the largest is 1e\+05\)"),
        (-1e300, "bfloat16", r"1 of 2 values become infinite \(the largest is 1e\+300\)"),
        (1e39, "float32", r"1 of 2 values become infinite \(the largest is 1e\+39\)"),
        (1e-9, "float16", r"all 2 values become zero \(the largest is 1e-09\)"),
    ],
)
def test_values_that_the_type_cannot_hold_are_refused(value: float, dtype: str, lost: str) -> None:
    registry.register("wide", shape=(3, 8, 8))(Wide)
    expected = f"spec.model.dtype: got '{dtype}', expected a type that holds scale, {lost}"
    with pytest.raises(InvalidInput, match=expected):
        build(name="wide", args={"value": value}, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_a_network_of_one_other_type_is_cast(dtype: str) -> None:
    registry.register("wide", shape=(3, 8, 8))(Wide)
    network: Any = build(name="wide", args={"value": 100.0}, dtype=dtype)
    assert {t.dtype for t in network.module.net.state_dict().values()} == {getattr(torch, dtype)}


class LazyPictures(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU())
        self.fc = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x).flatten(1))  # type: ignore[no-any-return]


class NeverUsed(LazyPictures):
    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.LazyLinear(3)


LAZY = {"source": "custom", "name": f"{__name__}:LazyPictures", "inputSize": [16, 16]}


@pytest.mark.parametrize("chosen", ["official", "none"])
def test_lazy_modules_get_their_shapes_from_the_input(chosen: str, tmp_path: Path) -> None:
    spec = ModelSpec.model_validate({**LAZY, "weights": chosen})
    one, other = (custom.build(spec, tmp_path).module for _ in range(2))
    assert one.state_dict()["net.fc.weight"].shape == (4, 8 * 14 * 14)
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), "both ends have the same weights"


def test_a_weights_file_of_a_lazy_network_is_loaded(tmp_path: Path) -> None:
    net = LazyPictures().eval()
    net(torch.zeros(1, 3, 16, 16))
    torch.save(net.state_dict(), tmp_path / "w.pt")
    spec = ModelSpec.model_validate({**LAZY, "weightsFile": "w.pt"})
    made = custom.build(spec, tmp_path).module
    assert torch.equal(made.state_dict()["net.fc.weight"], net.fc.weight)


def test_a_lazy_module_that_forward_never_uses_is_named(tmp_path: Path) -> None:
    spec = ModelSpec.model_validate({**LAZY, "name": f"{__name__}:NeverUsed"})
    with pytest.raises(InvalidInput, match=r"spare\.weight"):
        custom.build(spec, tmp_path)


class Branching(nn.Module):
    """A network with a module that only its exit uses."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.early = Tiny(), nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)  # type: ignore[no-any-return]


def test_exits_are_modules_of_the_network() -> None:
    registry.register("branching", exits={"net.first": "early"})(Branching)
    network = build(name="branching")
    (found,) = network.exits.items()
    assert found == ("net.first", network.module.get_submodule("net.early"))
    assert isinstance(found[1], nn.Linear)


def test_an_exit_without_its_module_is_refused() -> None:
    registry.register("branching", exits={"net.first": "late"})(Branching)
    with pytest.raises(InvalidInput, match="a model with the module 'late'"):
        build(name="branching")
