"""Decodes picture files with Pillow."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import BinaryIO, TypeVar

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from splittracr.data import listing
from splittracr.data.rgb import UnreadablePicture, check_size, to_rgb

# Formats that Pillow only identifies, or decodes with another program (EPS runs Ghostscript).
_NO_PHOTOGRAPHS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}

_TURNED = (5, 6, 7, 8)
"""EXIF orientations that swap width and height."""

T = TypeVar("T")


def decode(source: Path | BinaryIO, name: str) -> Image.Image:
    """Decode a picture to RGB, rotated by its EXIF orientation.

    Raises UnreadablePicture with `name` and the reason.
    """
    return read_file(source, name, lambda image: to_rgb(ImageOps.exif_transpose(image), name))


def read_file(source: Path | BinaryIO, name: str, convert: Callable[[Image.Image], T]) -> T:
    """Open a picture, check its size and `convert` it. Raises what `decode` raises."""
    try:
        with _pillow_open()(source, formats=_formats()) as image:
            check_size(image.width, image.height, name)  # before it is decoded
            return convert(image)
    except UnidentifiedImageError as error:
        raise UnreadablePicture(f"{name}: not a picture in a format that Pillow reads") from error
    except (
        Image.DecompressionBombError,
        Image.DecompressionBombWarning,
        EOFError,
        OSError,
        SyntaxError,  # raised by Pillow for a broken PNG
        ValueError,
    ) as error:
        raise UnreadablePicture(f"{name}: {error}") from error


def size_of(path: Path) -> tuple[int, int] | None:
    """Width and height of a picture once it is decoded; None if it cannot be read."""

    def turned(image: Image.Image) -> tuple[int, int]:
        swapped = image.getexif().get(ExifTags.Base.Orientation) in _TURNED
        return image.size[::-1] if swapped else image.size

    try:
        return read_file(path, path.name, turned)
    except UnreadablePicture:
        return None


def is_picture(name: str) -> bool:
    """Whether a visible file has an extension that Pillow reads."""
    return listing.is_visible(name) and Path(name).suffix.lower() in _extensions()


def _pillow_open() -> Callable[..., Image.Image]:
    """Return Pillow's own `Image.open`.

    Importing ultralytics replaces it by a function that tries to install a package if a file is no
    picture.
    """
    patches = sys.modules.get("ultralytics.utils.patches")
    opener: Callable[..., Image.Image] = getattr(patches, "_image_open", Image.open)
    return opener


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(sorted(set(Image.OPEN) - _NO_PHOTOGRAPHS))


@cache
def _extensions() -> frozenset[str]:
    formats = _formats()
    return frozenset(
        e for e, format_ in Image.registered_extensions().items() if format_ in formats
    )
