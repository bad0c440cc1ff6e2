"""The picture settings of a network of timm, from its `pretrained_cfg`.

timm itself is not imported: a manifest names `timm:create_model` with `args`.
"""

import math
from collections.abc import Mapping
from typing import Any

from torch import nn

_KEYS = ("input_size", "mean", "std")


def description(net: nn.Module) -> dict[str, Any]:
    """Fields of `Registration`: shape, normalisation and preparation as timm evaluates `net`.

    Empty for another network, or if its crop is none from the middle of a square.
    """
    config = getattr(net, "pretrained_cfg", None)
    if not isinstance(config, Mapping) or not all(config.get(key) for key in _KEYS):
        return {}
    channels, height, width = config["input_size"]
    if config.get("crop_mode", "center") != "center" or height != width or channels != 3:
        return {}
    # Imported here, because registering must not need torchvision.
    from torchvision.transforms import InterpolationMode

    from splittracr.models.pictures import ResizeAndCrop

    resize = math.floor(height / config.get("crop_pct", 0.875))
    kind = InterpolationMode(config.get("interpolation", "bilinear"))
    return {
        "shape": (channels, height, width),
        "mean": tuple(config["mean"]),
        "std": tuple(config["std"]),
        "prepare": ResizeAndCrop((resize,), (height, width), kind),
    }
