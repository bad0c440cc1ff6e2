"""Post-processors of ultralytics' networks, with its own suppression, geometry and drawing.

No other module of this package needs the optional extra `splittracr[ultralytics]`.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torchvision  # noqa: F401  (ultralytics suppresses with torchvision's kernel if it is loaded)
from PIL import Image
from torch import Tensor

from splittracr.data.contracts import Geometry, Reduced
from splittracr.data.drawing import line_width
from splittracr.data.importing import import_ultralytics
from splittracr.data.postprocess import masks
from splittracr.data.postprocess.common import (
    detections,
    first_tensor,
    label_of,
    numbers,
    on_cpu,
)
from splittracr.experiment.errors import SplittracrError
from splittracr.experiment.spec import PostprocessSpec

_ops = import_ultralytics("ultralytics.utils.ops")
_suppress = import_ultralytics("ultralytics.utils.nms").non_max_suppression
_Results = import_ultralytics("ultralytics.engine.results").Results


@dataclass(frozen=True)
class Detect:
    """Raw output: `[N, 4 + classes, anchors]` with x, y, w, h in the network's pixels, then scores.

    The output of an end-to-end family is `[N, n, 6]`: x1, y1, x2, y2, score, class. Of a tuple the
    first entry is used.

    Reduced: `boxes` `[n, 4]` as x1, y1, x2, y2 in the network's pixels, `scores` `[n]`, `classes`
    `[n]` int32, best first.
    """

    spec: PostprocessSpec
    classes: tuple[str, ...]

    rotated: ClassVar[bool] = False

    def reduce(self, output: Any) -> list[Reduced]:
        """Return the detections within the limits of `spec`."""
        return [self._columns(found) for found in self._suppressed(first_tensor(output), 0)]

    def _suppressed(self, predictions: Tensor, extra: int) -> list[Tensor]:
        """Return the detections `[n, 6 + extra]` of each picture, as ultralytics' predictor does.

        `extra` is the number of the task's columns beyond box and class.
        """
        end_to_end = predictions.shape[2] == 6 + extra
        classes = len(self.classes) or predictions.shape[1] - 4 - extra
        if not end_to_end and predictions.shape[1] != 4 + classes + extra:
            shape = tuple(predictions.shape)
            raise SplittracrError(
                f"the model's output is {shape}, expected [N, {4 + classes + extra}, anchors] "
                f"for {classes} classes, or [N, n, {6 + extra}]; set another "
                "spec.postprocess.name or another spec.dataset.classNames"
            )
        found: list[Tensor] = _suppress(
            predictions.float(),
            self.spec.confidence_percent / 100,
            self.spec.iou_percent / 100,
            max_det=self.spec.max_detections,
            nc=classes,
            max_time_img=math.inf,  # the default drops pictures on a slow processor
            rotated=self.rotated,
            end2end=end_to_end,
        )
        return found

    def _columns(self, found: Tensor) -> dict[str, Tensor]:
        return {
            "boxes": found[:, :4].clone(),
            "scores": found[:, 4].clone(),
            "classes": found[:, 5].to(torch.int32),
        }

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """Return the detections: label, class, score, box."""
        return detections(self.classes, self._in_picture(reduced, geometry))

    def _in_picture(self, reduced: Reduced, geometry: Geometry) -> dict[str, Tensor]:
        """Return the detections in pixels of the decoded picture, without the letterbox."""
        found = on_cpu(reduced)
        boxes = found["boxes"].clone()  # scaled in place
        found["boxes"] = _ops.scale_boxes(geometry.network, boxes, geometry.picture)
        return found

    def draw(self, picture: Image.Image, reduced: Reduced, geometry: Geometry) -> Image.Image:
        """Return the picture with ultralytics' drawing of the results."""
        found = self._in_picture(reduced, geometry)
        results = _Results(
            np.ascontiguousarray(np.asarray(picture)[..., ::-1]),  # BGR, as OpenCV draws
            path="",
            names=self._names(found["classes"]),
            **self._drawable(found),
        )
        drawn = results.plot(kpt_radius=line_width(*picture.size))
        return Image.fromarray(np.ascontiguousarray(drawn[..., ::-1]))

    def _names(self, classes: Tensor) -> dict[int, str]:
        """Return ASCII names of the classes; for other letters ultralytics downloads a font."""
        return {
            index: label_of(self.classes, index).encode("ascii", "replace").decode()
            for index in classes.tolist()
        }

    def _drawable(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the detections as arguments of ultralytics' `Results`."""
        columns = [found["boxes"], found["scores"][:, None], found["classes"][:, None].float()]
        return {"boxes": torch.cat(columns, 1)}

    def ranking(self, reduced: Reduced) -> list[int] | None:
        """Return None, because a picture has no single class."""
        return None


class Segment(Detect):
    """Raw output: a pair of predictions and prototypes, or a tuple whose first entry is that pair.

    The predictions are those of `Detect` with p mask coefficients at the end. The prototypes are
    `[N, p, H / 4, W / 4]`.

    Reduced: as for `Detect`, and masks in the network's pixels as run lengths (`masks.py`).
    Detections with an empty mask are dropped, as by ultralytics' predictor.
    """

    def reduce(self, output: Any) -> list[Reduced]:
        """Return the detections within the limits of `spec`, with their masks."""
        predictions, prototypes = output[0] if isinstance(output[0], tuple | list) else output[:2]
        found = self._suppressed(predictions, prototypes.shape[1])
        return [self._masked(f, p) for f, p in zip(found, prototypes, strict=True)]

    def _masked(self, found: Tensor, prototypes: Tensor) -> Reduced:
        height, width = prototypes.shape[1:]
        shape = (4 * height, 4 * width)  # every family has its prototypes at stride 4
        pixels = _ops.process_mask(prototypes, found[:, 6:], found[:, :4], shape, upsample=True) > 0
        kept = pixels.flatten(1).any(1)
        return self._columns(found[kept]) | masks.encode(pixels[kept])

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """Return the detections of `Detect`, with `area` of the mask in square pixels."""
        gain = min(n / p for n, p in zip(geometry.network, geometry.picture, strict=True))
        area = [round(pixels / gain**2) for pixels in reduced["mask_pixels"].tolist()]
        return detections(self.classes, self._in_picture(reduced, geometry), area=area)

    def _drawable(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        return super()._drawable(found) | {"masks": masks.decode(found).byte()}


class Pose(Detect):
    """Raw output: as for `Detect` with K keypoints at the end, x, y and visibility of each.

    Reduced: as for `Detect`, and `keypoints` `[n, K, 3]`. If the number of columns is no multiple
    of 3, the keypoints are x and y only, `[n, K, 2]`.
    """

    def reduce(self, output: Any) -> list[Reduced]:
        """Return the detections within the limits of `spec`, with their keypoints."""
        predictions = first_tensor(output)
        # More rows than columns: an end-to-end family, whose rows are detections, not channels.
        end_to_end = predictions.shape[1] > predictions.shape[2]
        columns = predictions.shape[2] - 6 if end_to_end else self._extra(predictions.shape[1])
        return [self._posed(found) for found in self._suppressed(predictions, columns)]

    def _extra(self, channels: int) -> int:
        return channels - 4 - max(len(self.classes), 1)

    def _posed(self, found: Tensor) -> Reduced:
        values = found[:, 6:]
        each = 3 if values.shape[1] % 3 == 0 else 2
        keypoints = values.reshape(len(values), values.shape[1] // each, each)
        return self._columns(found) | {"keypoints": keypoints.clone()}

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """Return the detections of `Detect`, with `keypoints` (x, y, visibility)."""
        found = self._in_picture(reduced, geometry)
        points = numbers(found["keypoints"], 2)
        return detections(self.classes, found, keypoints=points)

    def _in_picture(self, reduced: Reduced, geometry: Geometry) -> dict[str, Tensor]:
        found = super()._in_picture(reduced, geometry)
        points = found["keypoints"].clone()  # scaled in place
        found["keypoints"] = _ops.scale_coords(geometry.network, points, geometry.picture)
        return found

    def _drawable(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        return super()._drawable(found) | {"keypoints": found["keypoints"]}


class OrientedBoxes(Detect):
    """Raw output: as for `Detect` with the angle at the end. Boxes are x, y, w, h in all families.

    Reduced: `boxes` `[n, 5]` as x, y, w, h and the angle in radians, in the network's pixels.
    """

    rotated: ClassVar[bool] = True

    def reduce(self, output: Any) -> list[Reduced]:
        """Return the detections within the limits of `spec`, with their angles."""
        return [self._columns(found) for found in self._suppressed(first_tensor(output), 1)]

    def _columns(self, found: Tensor) -> dict[str, Tensor]:
        boxes = torch.cat([found[:, :4], found[:, 6:7]], 1)
        return super()._columns(found) | {"boxes": boxes}

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """Return the detections; `corners` are those of the rotated box, `box` is around them."""
        found = self._in_picture(reduced, geometry)
        corners = _ops.xywhr2xyxyxyxy(found["boxes"])
        found["boxes"] = torch.cat([corners.amin(1), corners.amax(1)], 1)
        return detections(self.classes, found, corners=numbers(corners, 1))

    def _in_picture(self, reduced: Reduced, geometry: Geometry) -> dict[str, Tensor]:
        found = on_cpu(reduced)
        boxes = found["boxes"].clone()  # scaled in place
        upright = _ops.scale_boxes(geometry.network, boxes[:, :4], geometry.picture, xywh=True)
        found["boxes"] = torch.cat([upright, boxes[:, 4:]], 1)
        return found

    def _drawable(self, found: dict[str, Tensor]) -> dict[str, Tensor]:
        columns = [found["boxes"], found["scores"][:, None], found["classes"][:, None].float()]
        return {"obb": torch.cat(columns, 1)}
