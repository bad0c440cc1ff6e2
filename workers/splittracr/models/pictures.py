"""Converts a decoded picture to a network's input, in two parts.

`prepare` makes uint8 pixels, the live tensor at cut `input`. `Pixels`, the first operation of the
network, makes the normalised values. Together they equal the published transforms of the weights,
bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as transforms

from splittracr.data.preparation import Preparation, check_resized, cropped


@dataclass(frozen=True)
class ResizeAndCrop:
    """Makes pixels `[3, H, W]` uint8: resized, then cropped to the middle if `crop` is given.

    `resize` is the length of the shorter edge, or height and width. Sizes are in pixels. Half a
    pixel before the crop is rounded as by torchvision, or down with `crop_down`.
    """

    resize: tuple[int, ...]
    crop: tuple[int, int] | None = None
    interpolation: InterpolationMode = InterpolationMode.BILINEAR
    antialias: bool | None = True
    crop_down: bool = False

    @property
    def in_words(self) -> str:
        """For results."""
        return _in_words(self.resize, self.crop)

    @property
    def description(self) -> Preparation:
        """The same without torch."""
        return Preparation.model_validate(
            {
                "resize": self.resize,
                "crop": self.crop,
                # Pillow has no other kind of nearest.
                "interpolation": self.interpolation.value.removesuffix("-exact"),
                "crop_down": self.crop_down,
            }
        )

    def __call__(self, picture: Image.Image) -> Tensor:
        check_resized(picture, self.resize)
        image = transforms.resize(
            picture, list(self.resize), self.interpolation, None, self.antialias
        )
        if self.crop is not None and self.crop_down:
            image = cropped(image, *self.crop, down=True)
        elif self.crop is not None:
            image = transforms.center_crop(image, list(self.crop))
        return keep_size(image)


@dataclass(frozen=True)
class StillClip:
    """Makes a clip `[T, 3, H, W]` uint8 that repeats a picture `frames` times."""

    frames: int
    resize: tuple[int, ...]
    crop: tuple[int, int]
    interpolation: InterpolationMode = InterpolationMode.BILINEAR

    def __call__(self, picture: Image.Image) -> Tensor:
        check_resized(picture, self.resize)
        # torchvision's video transform resizes tensors, without antialias.
        image = transforms.resize(
            keep_size(picture)[None], list(self.resize), self.interpolation, None, False
        )
        image = transforms.center_crop(image, list(self.crop))
        clip: Tensor = image.expand(self.frames, -1, -1, -1).contiguous()
        return clip


def _in_words(resize: tuple[int, ...], crop: tuple[int, int] | None) -> str:
    if len(resize) > 1:
        words = f"resized to {' x '.join(map(str, resize))}"
    else:
        words = f"shorter side resized to {resize[0]}"
    return words if crop is None else f"{words}, the middle {crop[0]} x {crop[1]} of it"


def keep_size(picture: Image.Image) -> Tensor:
    """Return the pixels `[3, H, W]` uint8 of the whole picture."""
    pixels: Tensor = transforms.pil_to_tensor(picture)
    return pixels


class Pixels(nn.Module):
    """Converts uint8 pixels `[..., 3, H, W]` to values (pixel / 255 - mean) / std of `dtype`.

    The arithmetic is that of torchvision's `convert_image_dtype` and `normalize`, in float32.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1))
        self.dtype = dtype

    def forward(self, pixels: Tensor) -> Tensor:
        values = pixels.to(torch.float32) / 255
        return values.sub_(self.mean).div_(self.std).to(self.dtype)

    def values(self) -> "Values":
        """The same stage for inputs that are normalised values already."""
        return Values(self.dtype)

    def extra_repr(self) -> str:
        mean, std = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return f"mean={mean}, std={std}, dtype={self.dtype}"


class Scale(nn.Module):
    """Converts uint8 pixels to values in [0, 1] of `dtype`, for networks without normalisation."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, pixels: Tensor) -> Tensor:
        # Converted before the division, as by ultralytics for half precision.
        return pixels.to(self.dtype) / 255

    def values(self) -> "Values":
        """The same stage for inputs that are values in [0, 1] already."""
        return Values(self.dtype)

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}"


class Values(nn.Module):
    """Converts values that the data set has normalised to `dtype`."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, values: Tensor) -> Tensor:
        return values.to(self.dtype)

    def extra_repr(self) -> str:
        return f"dtype={self.dtype}"


class FromPixels(nn.Module):
    """A network after its input stage."""

    def __init__(self, pixels: nn.Module, net: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels
        self.net = net

    def forward(self, batch: Tensor) -> object:
        return self.net(self.pixels(batch))


def described(prepare: Callable[[Image.Image], Tensor]) -> Preparation | None:
    """What `prepare` does, for a machine without torch; None if it cannot be described."""
    if prepare is keep_size:
        return Preparation()
    return prepare.description if isinstance(prepare, ResizeAndCrop) else None
