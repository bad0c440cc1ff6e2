"""The picture settings of a network of timm, from its `pretrained_cfg`.

timm is imported only for a preparation that needs its own code. So a network that a manifest names
as `timm:create_model` has its settings, too.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL import Image

_KEYS = ("input_size", "mean", "std")


def description(net: nn.Module, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """Fields of `Registration`: shape, normalisation and preparation as timm evaluates `net`.

    `size` is the height and width if they are not those of the settings. Empty for another network,
    or one that does not take three colours.
    """
    config = getattr(net, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not all(config.get(key) for key in _KEYS):
        return {}
    channels, *own = config["input_size"]
    if channels != 3:
        return {}
    height, width = size or own
    return {
        "shape": (channels, height, width),
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "prepare": _preparation(config, (height, width)),
    }


@dataclass(frozen=True)
class TimmTransform:
    """Makes pixels `[3, H, W]` uint8 by timm's own transform for evaluation."""

    size: tuple[int, int]
    crop_pct: float
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]

    @property
    def in_words(self) -> str:
        """For results."""
        height, width = self.size
        return f"timm's transform to {height} x {width}, crop {self.crop_mode} {self.crop_pct:g}"

    def __call__(self, picture: "Image.Image") -> Tensor:
        transform = import_module("timm.data.transforms_factory").transforms_imagenet_eval(
            img_size=self.size,
            crop_pct=self.crop_pct,
            crop_mode=self.crop_mode,
            interpolation=self.interpolation,
            mean=self.mean,
            use_prefetcher=True,  # the pixels, before the normalisation
        )
        pixels: Tensor = transform(picture)
        return pixels


def _preparation(
    config: Mapping[str, Any], size: tuple[int, int]
) -> "Callable[[Image.Image], Tensor]":
    # Imported here, because registering must not need torchvision.
    from torchvision.transforms import InterpolationMode

    from splittracr.models.pictures import ResizeAndCrop

    share = config.get("crop_pct") or 0.875
    mode = config.get("crop_mode") or "center"
    interpolation = config.get("interpolation") or "bicubic"
    resized = (math.floor(size[0] / share), math.floor(size[1] / share))
    kind = InterpolationMode(interpolation)
    if mode == "squash":
        return ResizeAndCrop(resized, size, kind)
    if mode == "center" and resized[0] == resized[1]:
        return ResizeAndCrop(resized[:1], size, kind)
    return TimmTransform(size, share, mode, interpolation, tuple(config["mean"]))
