"""Networks and pictures that several tests here need."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torchvision import models

from splittracr.experiment.spec import ModelSpec
from splittracr.models import registry
from splittracr.models.network import Network
from splittracr.models.random_weights import WithoutRandomInit, randomise


def build(base: Path = Path(), **fields: Any) -> Network:
    """The network of a manifest with these fields of `spec.model`."""
    return registry.build(ModelSpec(**fields), base)


def random_picture(height: int = 120, width: int = 160, seed: int = 0) -> Image.Image:
    """Noise over a gradient, neither square nor of a size that any network is made for."""
    draw = np.random.default_rng(seed)
    noise = draw.integers(0, 96, (height, width, 3))
    gradient = np.linspace(0, 159, width)[None, :, None]
    return Image.fromarray((noise + gradient).astype(np.uint8))


def published_state(name: str, gain: float = 2.0, **options: Any) -> dict[str, Tensor]:
    """A state dict such as torchvision publishes for `name`, with random numbers in it."""
    with WithoutRandomInit():
        net: nn.Module = models.get_model(name, weights=None, **options)
    randomise(net, 7, gain=gain)
    return net.state_dict()


def tensors(output: Any) -> list[Tensor]:
    """All tensors of an output, in order."""
    return [leaf for leaf in tree_flatten(output)[0] if isinstance(leaf, Tensor)]


def identical(left: Any, right: Any) -> bool:
    """Whether two outputs have the same tensors, bit for bit, and at least one number in them."""
    a, b = tensors(left), tensors(right)
    return (
        len(a) == len(b)
        and sum(t.numel() for t in a) > 0
        and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    )


class Tiny(nn.Module):
    """A network of one's own, with two layers."""

    def __init__(self, num_classes: int = 10, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.fc(torch.relu(self.conv(x)).mean((2, 3)))
        return scores


def broken(_width: int = 3) -> nn.Module:
    """A builder that fails."""
    raise RuntimeError("no such luck")


NOT_CALLABLE = 3
