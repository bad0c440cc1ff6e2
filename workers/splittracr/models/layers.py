"""The modules right below a network as its library builds it, without the input stage here."""

from torch import nn

from splittracr.models.detection import Detector
from splittracr.models.pictures import FromPixels


def top_level(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The children of the library's network by their paths in `module`, a `Network`'s module."""
    if isinstance(module, FromPixels):
        return [(f"net.{name}", child) for name, child in module.net.named_children()]
    if isinstance(module, Detector):
        heads = module.heads.detector.named_children()
        return [
            ("pixels", module.pixels.transform),
            ("backbone", module.backbone),
            *((f"heads.detector.{name}", child) for name, child in heads if name != "transform"),
        ]
    return list(module.named_children())
