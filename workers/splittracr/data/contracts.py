"""The two interfaces users implement: `Dataset` and `PostProcessor`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:  # edges of other backends have no torch
    from torch import Tensor


Keypoint: TypeAlias = tuple[float, float, int]
"""x, y and visibility: 0 is not labelled, 1 labelled and hidden, 2 labelled and visible."""


@dataclass(frozen=True)
class LabelledBox:
    """A labelled object of a picture. `label` is an index into the data set's `classes`.

    `box` is x1, y1, x2, y2 in pixels of the decoded picture. A `crowd` is a region with many
    objects: detections in it are neither right nor wrong. `keypoints` are in pixels, too; None if
    unknown. `area` is that of the object in square pixels, by which keypoints are judged; None if
    unknown.
    """

    label: int
    box: tuple[float, float, float, float]
    crowd: bool = False
    keypoints: tuple[Keypoint, ...] | None = None
    area: float | None = None


Mask: TypeAlias = NDArray[np.integer[Any]]
"""The class of each pixel, `[H, W]`."""

IGNORED = 255
"""The value of pixels of a labelled mask that do not count."""


@dataclass(frozen=True)
class Sample:
    """One decoded sample.

    `picture` is RGB. For inputs that are no pictures `data` replaces it: a tensor without the batch
    dimension, passed to the network unchanged. `label` is an index into the data set's `classes`.
    `boxes` are all labelled objects of the picture, none for a picture without; None if unknown.
    `mask` returns the labelled classes of the picture's pixels. It is called when the latency has
    ended, so that reading labels takes no part in it. None if unknown.
    """

    name: str
    picture: Image.Image | None = None
    data: "Tensor | None" = None
    label: int | None = None
    boxes: tuple[LabelledBox, ...] | None = None
    mask: Callable[[], Mask] | None = None


class Dataset(Protocol):
    """A finite sequence of samples. If `load` raises, the sample is recorded as failed."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """Return a name for records, such as the picture's path below its folder."""

    def load(self, index: int) -> Sample:
        """Return the sample at `index`, from 0 to the length less 1."""

    @property
    def classes(self) -> Sequence[str] | None:
        """Class names in label order; None without names, or if labels are the network's."""


@dataclass(frozen=True)
class Geometry:
    """Sizes (height, width) in pixels of the decoded picture and of the network's input."""

    picture: tuple[int, int]
    network: tuple[int, int]


Reduced: TypeAlias = "Mapping[str, Tensor]"
"""The part of a reply for one picture: a few small named tensors."""


class PostProcessor(Protocol):
    """Converts raw output to a labelled prediction.

    `reduce` runs after the tail, on the same machine and device. `describe` and `draw` run on the
    edge.
    """

    def reduce(self, output: Any) -> list[Reduced]:
        """Reduce the raw output of a batch to a few small tensors for each picture."""

    def describe(self, reduced: Reduced, geometry: Geometry) -> Any:
        """Return the prediction as JSON-compatible data, in pixels of the decoded picture."""

    def draw(self, picture: Image.Image, reduced: Reduced, geometry: Geometry) -> Image.Image:
        """Return a copy of the picture with the prediction drawn on it."""

    def ranking(self, reduced: Reduced) -> list[int] | None:
        """Return classes, best first, for accuracy against labels; None if that has no meaning."""
