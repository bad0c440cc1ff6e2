"""Cuts by layer are where the seed stops: after the first call of that layer or a later one."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from splittracr.backends.torch import build
from splittracr.backends.torch.examples import example_batch
from splittracr.backends.torch.proven import ProvenNetwork
from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import ExperimentSpec, LayerRef
from splittracr.splitting.capture import capture
from splittracr.splitting.compare import same
from splittracr.splitting.layers import Layers, layers


class Block(nn.Module):
    """A residual block whose activation is shared with other blocks."""

    def __init__(self, shared: nn.Module) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.act = shared

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = x + self.act(self.conv(x))
        return made


class Nested(nn.Module):
    """Containers that are called and one that is not, and a module that is never called."""

    def __init__(self) -> None:
        super().__init__()
        shared = nn.ReLU()
        self.stem = nn.Conv2d(3, 3, 1)
        self.unused = nn.Linear(3, 3)
        self.stage = nn.Sequential(Block(shared), Block(shared))
        self.parts = nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Sigmoid()])
        self.same = nn.Sequential()
        self.head = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage(self.stem(x) * 2)
        for part in self.parts:
            x = part(x)
        made: Tensor = self.head(self.same(x)).mean((2, 3))
        return made


class Backwards(nn.Module):
    """Calls its layers in another order than it registers them."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Conv2d(3, 3, 1)
        self.first = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.first(x))
        return made


def found(module: nn.Module, depth: int, leaves: tuple[type[nn.Module], ...] = ()) -> Layers:
    """The layers of `module`."""
    example = torch.rand(1, 3, 4, 4)
    tape = capture(module.eval(), example, leaves)
    return layers(tape, list(module.named_children()), partial(module, example), depth)


def cut_names(module: nn.Module, depth: int) -> dict[str, str | None]:
    """The name of the cut after each layer."""
    tape = capture(module.eval(), torch.rand(1, 3, 4, 4))
    made = found(module, depth)
    cuts = [None if cut is None else tape.cut_names[cut] for cut in made.cuts]
    return dict(zip(made.names, cuts, strict=True))


def test_layers_at_each_depth() -> None:
    assert cut_names(Nested(), 1) == {
        "stem": "stem",
        "stage": "stage.1.add",
        "parts": "parts.1",  # never called: it stops at the next layer, which changes nothing
        "same": "parts.1",
        "head": "head",
    }
    assert list(found(Nested(), 2).names) == [
        "stem",
        "stage.0",
        "stage.1",
        "parts.0",
        "parts.1",
        "same",
        "head",
    ]
    assert cut_names(Nested(), 2)["stage.0"] == "stage.0.add"


def test_a_layer_that_is_called_before_lower_ones_stops_them_too() -> None:
    assert cut_names(Backwards(), 2) == {"last": "first", "first": "first"}


def test_layers_inside_an_operation_have_no_cut() -> None:
    made = found(Nested(), 3, leaves=(Block,))
    names = dict(zip(made.names, made.cuts, strict=True))
    assert names["stage.0.conv"] is None
    assert names["stem"] is not None
    assert made.valid() == "0 (stem), 5 (parts.0) to 8 (head)"


def test_an_exported_network_has_the_same_layers() -> None:
    class Exported(Nested):
        """A branch on a value, which torch.fx cannot trace."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x if len(x.shape) == 4 and x.shape[0] < 9 else x[0])

    module = Exported().eval()
    assert capture(module, torch.rand(1, 3, 4, 4)).fixed_shape is not None
    assert found(module, 2).names == found(Nested(), 2).names
    cuts = found(module, 2).cuts
    assert None not in cuts
    assert sorted(filter(None, cuts)) == list(cuts)


class Stop(Exception):
    """Ends a run, as the seed does, with what the layer gave."""


def seeds_value(own: ProvenNetwork, name: str, batch: Tensor) -> Any:
    """What the seed sends after the layer `name`."""

    def stop(_module: nn.Module, _inputs: Any, output: Any) -> None:
        raise Stop(output)

    module = own.network.module
    handle = module.get_submodule(name).register_forward_hook(stop)
    try:
        with torch.inference_mode(), pytest.raises(Stop) as stopped:
            module(batch)
    finally:
        handle.remove()
    return stopped.value.args[0]


def built(name: str, **partition: Any) -> tuple[ProvenNetwork, ExperimentSpec]:
    model = {"name": name, "weights": "none", "inputSize": [64, 64]}
    spec = ExperimentSpec.model_validate({"model": model, "partition": partition})
    return build.build(spec, "edge", Path()), spec


@pytest.mark.parametrize(
    ("network", "layer", "name"),
    [
        ("alexnet", 12, "features.12"),
        ("resnet18", 10, "layer4.0"),
        ("mobilenet_v2", 8, "features.8"),
        ("yolov8n", 3, "model.3"),
        ("yolov8n", 9, "model.9"),
        ("vit_b_16", 2, "encoder.layers"),
    ],
)
def test_the_live_tensors_are_those_that_the_seed_sends(
    network: str, layer: int, name: str
) -> None:
    own, spec = built(network, layer=layer)
    reference = spec.partition.static_cut
    assert reference == LayerRef(layer, 2)
    cut = own.cut(LayerRef(layer, 2))
    batch = example_batch(own.network, 1)
    live = own.head(cut.index, batch)
    sent = seeds_value(own, f"net.{name}", batch)
    assert any(same([value], [sent]) for value in live)


def test_the_error_lists_the_layers() -> None:
    own, _ = built("alexnet", layer=0)
    with pytest.raises(InvalidInput) as error:
        own.cut(LayerRef(21, 2))
    assert str(error.value) == (
        "spec.partition.layer: got 21, expected a layer of alexnet, "
        "0 (features.0) to 20 (classifier.6)"
    )
    assert own.cut(LayerRef(20, 2)).name == "output"


def test_a_detectors_heads_are_one_operation() -> None:
    own, _ = built("fasterrcnn_resnet50_fpn", layer=0)
    assert own.cut(LayerRef(5, 3)).name.startswith("backbone.body.layer1.2")
    with pytest.raises(InvalidInput, match=r"rpn\.head\.conv lies inside an operation") as error:
        own.cut(LayerRef(13, 3))
    assert "0 (pixels) to 11 (backbone.fpn.extra_blocks)" in str(error.value)
