"""From a decoded picture to the pixels that a network takes, with Pillow and numpy only.

The result equals that of torchvision's transforms for pictures, bit for bit: those resize with
Pillow, too. torchvision resizes tensors with kernels of its own, so a preparation that works on
tensors has no description here.
"""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from splittracr.data.rgb import MAX_PIXELS, UnreadablePicture
from splittracr.experiment.types import Frozen

Interpolation = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]


class Preparation(Frozen):
    """Resizes a picture, then crops it to the middle, each if given.

    `resize` is the length of the shorter edge, or height and width, `crop` height and width, in
    pixels. Half a pixel before the crop is rounded to the even number, as torchvision does it, or
    down with `crop_down`.
    """

    resize: tuple[int, ...] = ()
    crop: tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    crop_down: bool = False

    def __call__(self, picture: Image.Image) -> NDArray[Any]:
        """The pixels `[3, H, W]` uint8.

        Raises UnreadablePicture for a picture that would exhaust the memory once it is resized.
        """
        if self.resize:
            check_resized(picture, self.resize)
            picture = _resized(picture, self.resize, self.interpolation)
        if self.crop is not None:
            picture = cropped(picture, *self.crop, self.crop_down)
        return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def check_resized(picture: Image.Image, resize: tuple[int, ...]) -> None:
    """Refuse a thin picture whose longer edge, once resized, would exhaust the memory."""
    if len(resize) > 1:
        return
    longer, shorter = max(picture.size), min(picture.size)
    if resize[0] * resize[0] * longer > MAX_PIXELS * shorter:
        raise UnreadablePicture(
            f"a picture of {picture.width} x {picture.height} pixels, with its shorter edge "
            f"resized to {resize[0]}, has more than the limit of {MAX_PIXELS} pixels"
        )


def _resized(
    picture: Image.Image, resize: tuple[int, ...], interpolation: Interpolation
) -> Image.Image:
    width, height = picture.size
    if len(resize) > 1:
        size = (resize[1], resize[0])
    else:  # truncated, as torchvision does it
        longer = int(resize[0] * max(width, height) / min(width, height))
        size = (resize[0], longer) if width <= height else (longer, resize[0])
    if size == picture.size:
        return picture
    return picture.resize(size, Image.Resampling[interpolation.upper()])


def cropped(picture: Image.Image, height: int, width: int, down: bool = False) -> Image.Image:
    """The middle of a picture; a smaller one gets a black border first.

    Half a pixel is rounded to the even number, or down.
    """
    missing = (max(width - picture.width, 0), max(height - picture.height, 0))
    if any(missing):
        x, y = missing
        border = (x // 2, y // 2, (x + 1) // 2, (y + 1) // 2)
        picture = ImageOps.expand(picture, border, 0)
    rounded = math.floor if down else round
    left, top = rounded((picture.width - width) / 2), rounded((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))
