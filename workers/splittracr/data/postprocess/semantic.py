"""Semantic segmentation: one class for each pixel."""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_segmentation_masks

from splittracr.data.contracts import Geometry, Reduced
from splittracr.data.drawing import MUTED, Bar, colour, with_bars
from splittracr.data.postprocess.common import first_tensor, label_of, number
from splittracr.experiment.spec import PostprocessSpec

BACKGROUND = ("__background__", "background")


@dataclass(frozen=True)
class SemanticSegmentation:
    """Raw output: scores `[N, classes, H, W]`; of a mapping the entry "out".

    Reduced: `mask` `[H, W]`, the best class of each pixel of the network's input. Of equal scores
    the lower class wins. The dtype is uint8 for up to 256 classes, otherwise int32. With a single
    output channel the class is 1 for a positive score, otherwise 0.
    """

    spec: PostprocessSpec
    classes: tuple[str, ...]

    def reduce(self, output: Any) -> list[Reduced]:
        """Return the best class of every pixel."""
        scores = output["out"] if isinstance(output, dict) else first_tensor(output)
        channels = scores.shape[1]
        best = scores.argmax(1) if channels > 1 else scores[:, 0] > 0
        dtype = torch.uint8 if channels <= 256 else torch.int32
        return [{"mask": mask.to(dtype)} for mask in best]

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """Return the share of pixels of each class that is present, largest first."""
        mask = reduced["mask"].cpu()
        counts = torch.bincount(mask.flatten().int())
        order = counts.sort(descending=True, stable=True).indices[: int((counts > 0).sum())]
        return [
            {
                "label": label_of(self.classes, index),
                "class": index,
                "share": number(count / mask.numel()),
            }
            for index, count in zip(order.tolist(), counts[order].tolist(), strict=True)
        ]

    def draw(self, picture: Image.Image, reduced: Reduced, geometry: Geometry) -> Image.Image:
        """Draw all classes except the background, with the shares as bars below."""
        shares = self.describe(reduced, geometry)
        shown = [s["class"] for s in shares if s["label"] not in BACKGROUND]
        rows = [
            Bar(s["label"], s["share"], colour(s["class"]) if s["class"] in shown else MUTED)
            for s in shares[:8]
        ]
        return with_bars(self._overlay(picture, reduced["mask"], shown), rows)

    @staticmethod
    def _overlay(picture: Image.Image, mask: Tensor, shown: list[int]) -> Image.Image:
        if not shown:
            return picture.copy()
        image = pil_to_tensor(picture)
        full = functional.interpolate(mask[None, None].float().cpu(), image.shape[1:])[0, 0]
        masks = torch.stack([full == index for index in shown])
        colours = [colour(index) for index in shown]
        drawn: Image.Image = to_pil_image(draw_segmentation_masks(image, masks, 0.6, colours))
        return drawn

    def ranking(self, reduced: Reduced) -> list[int] | None:
        """Return None, because a picture has no single class."""
        return None
