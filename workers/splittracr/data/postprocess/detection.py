"""Boxes, masks and keypoints of torchvision's detectors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.ops import batched_nms
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from torchvision.utils import draw_bounding_boxes, draw_keypoints, draw_segmentation_masks

from splittracr.data.contracts import Geometry, Reduced
from splittracr.data.drawing import Colour, colour, label_boxes, line_width
from splittracr.data.postprocess import masks
from splittracr.data.postprocess.common import (
    detections,
    label_of,
    numbers,
    on_cpu,
    resized_to_picture,
)
from splittracr.experiment.spec import PostprocessSpec

VISIBLE = 2.0
"""The minimum score (a logit) of keypoints that are drawn; Detectron's threshold."""

_FACE = [(0, 1), (0, 2), (1, 3), (2, 4), (0, 5), (0, 6)]
_ARMS = [(5, 6), (5, 7), (6, 8), (7, 9), (8, 10)]
_BODY = [(5, 11), (6, 12), (11, 12), (11, 13), (12, 14), (13, 15), (14, 16)]
SKELETON = [*_FACE, *_ARMS, *_BODY]
"""Limbs between COCO's 17 keypoints."""


@dataclass(frozen=True)
class TorchvisionDetection:
    """Raw output: for each picture a mapping with `boxes` `[n, 4]`, `labels` and `scores`.

    Boxes are x1, y1, x2, y2 in pixels of the network's input. Some networks add `masks`
    `[n, 1, H, W]`, or `keypoints` `[n, K, 3]` with `keypoints_scores` `[n, K]`.

    Reduced: `boxes`, `scores`, `classes` (int32), best first; masks as run lengths (`masks.py`);
    `keypoints` `[n, K, 3]` as x, y, score. The networks suppress overlaps themselves. `iouPercent`
    has an effect if it is stricter.
    """

    spec: PostprocessSpec
    classes: tuple[str, ...]

    def reduce(self, output: Sequence[Mapping[str, Tensor]]) -> list[Reduced]:
        """Return the detections within the limits of `spec`, best first."""
        return [self._reduce(found) for found in output]

    def _reduce(self, found: Mapping[str, Tensor]) -> Reduced:
        boxes, scores, labels = found["boxes"].float(), found["scores"].float(), found["labels"]
        sure = (scores >= self.spec.confidence_percent / 100).nonzero().flatten()
        overlap = self.spec.iou_percent / 100
        apart = batched_nms(boxes[sure], scores[sure], labels[sure], overlap)
        kept = sure[apart[: self.spec.max_detections]]
        reduced = {
            "boxes": boxes[kept],
            "scores": scores[kept],
            "classes": labels[kept].to(torch.int32),
        }
        if "masks" in found:
            reduced |= masks.encode(found["masks"][kept, 0] > 0.5)
        if "keypoints" in found:
            certainty = found["keypoints_scores"][kept, :, None]
            points = found["keypoints"][kept, :, :2]
            reduced["keypoints"] = torch.cat([points, certainty], -1).float()
        return reduced

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """Return the detections: label, class, score, box.

        If the network has them, with `area` of the mask in square pixels and `keypoints` (x, y,
        score).
        """
        found = _in_picture(reduced, geometry)
        more = {}
        if "mask_pixels" in found:
            height, width = found["mask_size"].tolist()[1:]
            scale = geometry.picture[0] * geometry.picture[1] / (height * width)
            more["area"] = [round(pixels * scale) for pixels in found["mask_pixels"].tolist()]
        if "keypoints" in found:
            more["keypoints"] = numbers(found["keypoints"], 1)
        return detections(self.classes, found, **more)

    def draw(self, picture: Image.Image, reduced: Reduced, geometry: Geometry) -> Image.Image:
        """Draw masks, keypoints and labelled boxes on a copy of the picture."""
        found = _in_picture(reduced, geometry)
        if not len(found["scores"]):
            return picture.copy()
        # The best detection is drawn last, over the others.
        found |= {key: found[key].flip(0) for key in ("boxes", "scores", "classes")}
        image = pil_to_tensor(picture)
        colours = [colour(index) for index in found["classes"].tolist()]
        if "mask_runs" in found:
            image = _with_masks(image, masks.decode(found).flip(0), colours)
        if "keypoints" in found:
            image = _with_keypoints(image, found["keypoints"])
        width = line_width(*picture.size)
        image = draw_bounding_boxes(image, found["boxes"], colors=list(colours), width=width)
        drawn: Image.Image = to_pil_image(image)
        corners = [(x, y) for x, y, *_ in found["boxes"].tolist()]
        label_boxes(drawn, corners, self._labels(found), colours)
        return drawn

    def _labels(self, found: Mapping[str, Tensor]) -> list[str]:
        pairs = zip(found["classes"].tolist(), found["scores"].tolist(), strict=True)
        return [f"{label_of(self.classes, index)} {score:.2f}" for index, score in pairs]

    def ranking(self, reduced: Reduced) -> list[int] | None:
        """Return None, because a picture has no single class."""
        return None


def _in_picture(reduced: Reduced, geometry: Geometry) -> dict[str, Tensor]:
    """Return the detections with boxes and keypoints in pixels of the decoded picture."""
    found = on_cpu(reduced)
    found["boxes"] = resized_to_picture(found["boxes"], geometry)
    if "keypoints" in found:
        points = resized_to_picture(found["keypoints"][..., :2], geometry)
        found["keypoints"] = torch.cat([points, found["keypoints"][..., 2:]], -1)
    return found


def _with_masks(image: Tensor, instances: Tensor, colours: list[Colour]) -> Tensor:
    full = functional.interpolate(instances[None].float(), image.shape[1:])[0] > 0.5
    drawn: Tensor = draw_segmentation_masks(image, full, 0.5, list(colours))
    return drawn


def _with_keypoints(image: Tensor, keypoints: Tensor) -> Tensor:
    width = line_width(image.shape[2], image.shape[1])
    drawn: Tensor = draw_keypoints(
        image,
        keypoints[..., :2],
        connectivity=SKELETON if keypoints.shape[1] == 17 else None,
        colors="cyan",
        radius=width + 1,
        width=width,
        visibility=keypoints[..., 2] >= VISIBLE,
    )
    return drawn
