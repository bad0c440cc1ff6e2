"""torchvision's detectors as three parts: input stage, backbone, heads.

The backbone can be cut anywhere. The input stage (normalise, resize, pad) is the first operation.
The heads (proposals, boxes, suppression) are the last one, because their shapes depend on the
content of the picture. Pictures of one batch have the same size, which crosses a cut as integers.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops.misc import FrozenBatchNorm2d

Sizes = tuple[int, ...]
"""Height and width of the pictures, of the resized pictures, and of these with padding."""


class Detector(nn.Module):
    """A detector of torchvision in three parts: uint8 `[N, 3, H, W]` to one dict for each picture.

    The original `detector` loses its backbone. `dtype` is that of the backbone. The heads compute
    in float32, because smaller types are too inaccurate for box coordinates.
    """

    def __init__(self, detector: Any, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.pixels = Resized(detector.transform, dtype)
        self.backbone = detector.backbone.to(dtype)
        del detector.backbone
        self.heads = (
            ProposalHeads(detector) if isinstance(detector, GeneralizedRCNN) else Heads(detector)
        )

    def forward(self, batch: Tensor) -> list[dict[str, Tensor]]:
        prepared = self.pixels(batch)
        values, sizes = prepared[0], prepared[1]  # unpacked here, so that the pair crosses no cut
        found: list[dict[str, Tensor]] = self.heads(self.backbone(values), sizes)
        return found


class Resized(nn.Module):
    """Converts uint8 pictures to the backbone's input and the sizes for the heads."""

    def __init__(self, transform: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.transform = transform
        self.dtype = dtype

    def forward(self, batch: Tensor) -> tuple[Tensor, Sizes]:
        images, _ = self.transform(list(batch.to(torch.float32) / 255))
        padded: Tensor = images.tensors
        sizes = (*batch.shape[-2:], *images.image_sizes[0], *padded.shape[-2:])
        return padded.to(self.dtype), sizes

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}"


class Heads(nn.Module):
    """All operations after the backbone, for detectors that score anchors directly."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, features: dict[str, Tensor], sizes: Sizes) -> list[dict[str, Tensor]]:
        features = {name: tensor.float() for name, tensor in features.items()}
        count = len(next(iter(features.values())))
        resized = [(sizes[2], sizes[3])] * count
        # The heads use only the padded size of the pictures, so their pixels need not cross a cut.
        images = ImageList(torch.empty((count, 0, sizes[4], sizes[5])), resized)
        found = self.detect(features, images)
        original = [(sizes[0], sizes[1])] * count
        detections: list[dict[str, Tensor]] = self.detector.transform.postprocess(
            found, resized, original
        )
        return detections

    def detect(self, features: dict[str, Tensor], images: ImageList) -> Any:
        """Return the detections in pixels of the resized pictures."""
        levels = list(features.values())
        scored = self.detector.head(levels)
        anchors = self.detector.anchor_generator(images, levels)
        if not isinstance(self.detector, SSD):  # the others keep the best of every level
            places = [level.shape[2] * level.shape[3] for level in levels]
            each = scored["cls_logits"].shape[1] // sum(places)
            counts = [n * each for n in places]
            scored = {name: list(tensor.split(counts, dim=1)) for name, tensor in scored.items()}
            anchors = [list(a.split(counts)) for a in anchors]
        return self.detector.postprocess_detections(scored, anchors, images.image_sizes)


class ProposalHeads(Heads):
    """All operations after the backbone, for detectors that refine proposals."""

    def detect(self, features: dict[str, Tensor], images: ImageList) -> Any:
        proposals, _ = self.detector.rpn(images, features)
        found, _ = self.detector.roi_heads(features, proposals, images.image_sizes)
        return found


LEAVES: tuple[type[nn.Module], ...] = (Resized, Heads, FrozenBatchNorm2d)
"""Classes whose instances are one operation."""
