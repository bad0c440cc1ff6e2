"""Labelled masks of pictures: the class of each pixel, as PASCAL VOC keeps them in PNG files.

The value of a pixel is its class, also in a file with a palette. Pixels of value 255 do not count.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from splittracr.data import listing
from splittracr.data.contracts import IGNORED, Mask, Reduced
from splittracr.data.home import expanded
from splittracr.data.rgb import UnreadablePicture
from splittracr.data.tensors import is_tensor
from splittracr.experiment.errors import InvalidInput, of_system, some, why
from splittracr.experiment.spec import DatasetSpec

FIELD = "spec.dataset.annotations"

_PICTURES, _MASKS = "JPEGImages", "SegmentationClass"
"""Folders of PASCAL VOC."""

_MODES = ("1", "L", "P")
"""Pillow's modes with one value a pixel, which is at most 255."""


@dataclass(frozen=True)
class Place:
    """Folders of pictures and masks. `names` are those in use, without extension; None for all."""

    pictures: Path
    masks: Path
    names: tuple[str, ...] | None = None


def place(root: Path, spec: DatasetSpec, base: Path) -> Place:
    """The places of a data set: `annotations` is the folder of masks, or a list as VOC has it.

    Raises InvalidInput if it is neither, or a list without VOC's folders.
    """
    assert spec.annotations is not None  # the manifest is refused without it
    given = base / expanded(spec.annotations, FIELD)
    if given.is_dir():
        return Place(root, given)
    try:
        names = tuple(filter(None, map(str.strip, given.read_text("utf-8").splitlines())))
    except (OSError, ValueError) as error:
        expected = f"a folder of masks, or a text file with one name a line ({why(error)})"
        raise InvalidInput(FIELD, spec.annotations, expected) from error
    for folder in (root / _PICTURES, root / _MASKS):
        if not folder.is_dir():
            expected = f"VOC's folder with {_PICTURES} and {_MASKS} (there is no {folder})"
            raise InvalidInput("spec.dataset.path", spec.path, expected)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if not names or twice:
        value = f"{some(twice)} of {spec.annotations}" if twice else spec.annotations
        raise InvalidInput(FIELD, value, "names, each of them once")
    return Place(root / _PICTURES, root / _MASKS, names)


def matched(place: Place, pictures: Sequence[str]) -> dict[str, Path]:
    """The mask of each of the `pictures` in use, paths below their folder.

    Raises InvalidInput for a picture without a mask, a mask without a picture, and two pictures of
    one mask.
    """
    try:
        found = listing.pictures_below(place.masks, _is_png).pictures
    except OSError as error:
        expected = f"a folder whose subfolders can be read ({of_system(error)})"
        raise InvalidInput(FIELD, str(place.masks), expected) from error
    masks = {_stem(name): place.masks / name for name in found}
    stems = {name: _stem(name) for name in pictures}
    twice = [name for name, count in Counter(stems.values()).items() if count > 1]
    if twice:
        raise InvalidInput(FIELD, f"several pictures {some(twice)}", "one picture for each mask")
    wanted = set(masks if place.names is None else place.names)
    lone = sorted(wanted - set(stems.values()))
    if lone:
        expected = f"a picture in {place.pictures} for each mask"
        raise InvalidInput("spec.dataset.path", f"no picture {some(lone)}", expected)
    used = {name: stem for name, stem in stems.items() if stem in wanted or place.names is None}
    missing = [name for name, stem in used.items() if stem not in masks]
    if missing:
        expected = f"a PNG file of the same name in {place.masks} for each picture"
        raise InvalidInput(FIELD, f"no mask of {some(missing)}", expected)
    return {name: masks[stem] for name, stem in used.items()}


def values(image: Image.Image, name: str) -> Mask:
    """The values of the pixels of a mask. Raises UnreadablePicture for one with several channels
    or more than 8 bits.
    """
    if image.mode not in _MODES:
        expected = "one channel of 8 bits or a palette, whose values are classes"
        raise UnreadablePicture(f"{name}: Pillow's mode is {image.mode}, expected {expected}")
    return np.asarray(image).astype(np.uint8)


def checked(made: Any, name: str, size: tuple[int, int]) -> Mask:
    """The mask `made` of the sample `name`, whose height and width are `size`.

    Raises UnreadablePicture unless it has an integer for each pixel.
    """
    array = np.asarray(made.cpu() if is_tensor(made) else made)
    if array.dtype.kind not in "ui" or array.shape != size:
        got = f"{array.dtype} {list(array.shape)}"
        expected = f"integers {list(size)}, the size of its picture"
        raise UnreadablePicture(f"{name}: mask: got {got}, expected {expected}")
    return array


def is_mask(reduced: Reduced) -> bool:
    """Whether a result has a class for each pixel."""
    mask = reduced.get("mask")
    return mask is not None and len(mask.shape) == 2 and "int" in str(mask.dtype)


def found(reduced: Reduced) -> NDArray[Any]:
    """The classes of a result's pixels."""
    mask: Any = reduced["mask"]
    return np.asarray(mask.cpu() if is_tensor(mask) else mask)


def resized(mask: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """A mask in another height and width. Each pixel takes the one that its centre lies in."""
    rows, columns = (
        (2 * np.arange(wanted) + 1) * have // (2 * wanted)
        for wanted, have in zip(size, mask.shape, strict=True)
    )
    return np.asarray(mask[rows[:, None], columns])


def counted(labelled: NDArray[Any], predicted: NDArray[Any]) -> list[dict[str, int]]:
    """Pixels by class: labelled, predicted, and both. Pixels that are IGNORED do not count."""
    counts = labelled != IGNORED
    truth, guess = labelled[counts].astype(np.int64), predicted[counts].astype(np.int64)
    size = int(max(truth.max(initial=-1), guess.max(initial=-1))) + 1
    columns = {
        "labelled": np.bincount(truth, minlength=size),
        "predicted": np.bincount(guess, minlength=size),
        "both": np.bincount(truth[truth == guess], minlength=size),
    }
    present = np.flatnonzero(columns["labelled"] + columns["predicted"])
    return [
        {"class": int(i), **{name: int(column[i]) for name, column in columns.items()}}
        for i in present
    ]


def missed(counts: Sequence[Mapping[str, int]]) -> list[dict[str, int]]:
    """The counts of the same labelled mask if no pixel was predicted."""
    return [dict(one) | {"predicted": 0, "both": 0} for one in counts if one["labelled"]]


def _is_png(name: str) -> bool:
    return listing.is_visible(name) and name.lower().endswith(".png")


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
