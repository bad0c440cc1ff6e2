"""Networks that take the user's tensors as they are, and those that other packages build."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models as vision
from torchvision.transforms import InterpolationMode

from splittracr.backends.torch.proven import prepared
from splittracr.data.contracts import Sample
from splittracr.experiment.errors import InvalidInput, SplittracrError
from splittracr.experiment.spec import InputSpec, InputType, ModelSpec
from splittracr.models import registry
from splittracr.models.pictures import ResizeAndCrop
from tests.models.helpers import Tiny, identical

HERE = __name__


def build(name: str, shape: tuple[int, ...], dtype: str = "float32", **fields: Any) -> Any:
    given = InputSpec(shape=shape, dtype=InputType(dtype))
    spec = ModelSpec(name=name, weights="none", input=given, **fields)
    return registry.build(spec, Path())


def test_a_shipped_network_takes_normalised_values() -> None:
    network = build("resnet18", (3, 64, 48))
    batch = torch.randn(2, 3, 64, 48)
    plain = vision.resnet18()
    plain.load_state_dict(network.module.net.state_dict())
    with torch.inference_mode():
        assert identical(network.module(batch), plain.eval()(batch))
    assert (network.shape, network.input_dtype, network.pictures) == (
        (3, 64, 48),
        torch.float32,
        False,
    )


def test_a_video_network_takes_clips_of_values_and_of_bytes() -> None:
    values, pixels = build("r3d_18", (4, 3, 32, 32)), build("r3d_18", (4, 3, 32, 32), "uint8")
    clip = torch.randint(0, 256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    stage = pixels.module.pixels
    normal = (clip / 255 - stage.mean) / stage.std
    with torch.inference_mode():
        assert identical(values.module(normal), pixels.module(clip))
        assert identical(values.module(normal), values.module.net(normal.transpose(1, 2)))


def test_a_callable_of_a_library_is_called_with_args() -> None:
    network = build("torchvision.models:resnet18", (3, 32, 32), args={"num_classes": 7})
    assert isinstance(network.module, vision.ResNet)
    assert network.module(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    with pytest.raises(InvalidInput, match=r"spec\.model\.args: .*expected arguments that"):
        registry.build(ModelSpec(name=f"{HERE}:configured", args={"x": 1}, weights="none"), Path())


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("resnet18", (8,), "spec.model.input.shape: got [8], expected 3 dimensions for resnet18"),
        ("fasterrcnn_resnet50_fpn", (3, 64, 64), "expected nothing, since fasterrcnn_resnet50_fpn"),
    ],
)
def test_an_input_that_a_network_cannot_have_is_named(
    name: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InvalidInput) as error:
        build(name, shape)
    assert message in str(error.value)


def test_a_tensor_that_does_not_fit_says_what_to_declare() -> None:
    network = registry.build(ModelSpec(name=f"{HERE}:Tiny", weights="none"), Path())
    with pytest.raises(SplittracrError) as error:
        prepared(network, Sample("a", data=torch.zeros(3, 8, 9)))
    assert "declare spec.model.input: {shape: [3, 8, 9], dtype: float32}" in str(error.value)


class Configured(nn.Module):
    """What timm's networks have: their own account of the pictures they take."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {
            "input_size": (3, 20, 20),
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": (0.5, 0.4, 0.3),
            "std": (0.2, 0.2, 0.1),
        }
        self.net = Tiny()

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


def configured() -> nn.Module:
    return Configured()


def test_a_network_of_timm_tells_its_input_itself() -> None:
    spec = ModelSpec(name=f"{HERE}:configured", weights="none")
    network: Any = registry.build(spec, Path())
    assert network.shape == (3, 20, 20)
    bicubic = InterpolationMode.BICUBIC
    assert network.prepare == ResizeAndCrop((math.floor(20 / 0.9),), (20, 20), bicubic)
    assert network.module.pixels.mean.flatten().tolist() == pytest.approx([0.5, 0.4, 0.3])
