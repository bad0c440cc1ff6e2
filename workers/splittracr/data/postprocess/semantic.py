"""Semantic segmentation: one class for each pixel."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splittracr.data import masks
from splittracr.data.contracts import Geometry, Reduced
from splittracr.data.drawing import MUTED, Bar, colour, with_bars
from splittracr.data.postprocess.common import first_tensor, label_of, number
from splittracr.experiment.spec import PostprocessSpec

BACKGROUND = ("__background__", "background")

_OPACITY = 0.6


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
        if isinstance(best, np.ndarray):
            return [{"mask": m} for m in best.astype(np.uint8 if channels <= 256 else np.int32)]
        return [{"mask": mask.byte() if channels <= 256 else mask.int()} for mask in best]

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """Return the share of pixels of each class that is present, largest first."""
        mask = masks.found(reduced)
        counts = np.bincount(mask.flatten())
        order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        return [
            {
                "label": label_of(self.classes, index),
                "class": index,
                "share": number(count / mask.size),
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
        return with_bars(_overlay(picture, masks.found(reduced), shown), rows)

    def ranking(self, reduced: Reduced) -> list[int] | None:
        """Return None, because a picture has no single class."""
        return None


def _overlay(picture: Image.Image, mask: NDArray[Any], shown: list[int]) -> Image.Image:
    """The picture with the pixels of each class in `shown` in its colour."""
    if not shown:
        return picture.copy()
    image = np.asarray(picture)
    height, width = image.shape[:2]
    full = masks.resized(mask, (height, width))
    drawn = image.copy()
    for index in shown:
        drawn[full == index] = colour(index)
    mixed = image * np.float32(1 - _OPACITY) + drawn * np.float32(_OPACITY)
    return Image.fromarray(mixed.astype(np.uint8))
