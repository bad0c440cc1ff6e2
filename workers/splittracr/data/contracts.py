"""The two interfaces users implement: `Dataset` and `PostProcessor`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from PIL import Image

if TYPE_CHECKING:  # edges of other backends have no torch
    from torch import Tensor


@dataclass(frozen=True)
class Sample:
    """One decoded sample.

    `picture` is RGB; `data` replaces it where inputs are no pictures (a tensor without the batch
    dimension, given to the network as it is). `label` is an index into the data set's `classes`.
    """

    name: str
    picture: Image.Image | None = None
    data: "Tensor | None" = None
    label: int | None = None


class Dataset(Protocol):
    """A finite sequence of samples; `load` may raise, and the sample is then recorded as failed."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """A name for records, such as the picture's path below its folder."""

    def load(self, index: int) -> Sample:
        """The sample at `index`, 0 to the length."""

    @property
    def classes(self) -> Sequence[str] | None:
        """Class names in label order; None where there are none or labels are the network's."""


@dataclass(frozen=True)
class Geometry:
    """Sizes (height, width) in pixels of the picture as decoded and as the network saw it."""

    picture: tuple[int, int]
    network: tuple[int, int]


Reduced: TypeAlias = "Mapping[str, Tensor]"
"""What travels back for one picture: a few small named tensors."""


class PostProcessor(Protocol):
    """From raw output to a labelled prediction.

    `reduce` is numeric, runs where the tail ran, on its device, and returns one `Reduced` a
    picture of the batch. `describe` and `draw` run on the edge.
    """

    def reduce(self, output: Any) -> list[Reduced]:
        """The raw output of a batch, a few small tensors a picture."""

    def describe(self, reduced: Reduced, geometry: Geometry) -> Any:
        """The prediction as JSON-compatible data, in the coordinates of the decoded picture."""

    def draw(self, picture: Image.Image, reduced: Reduced, geometry: Geometry) -> Image.Image:
        """A copy of the picture with the prediction drawn on it."""

    def ranking(self, reduced: Reduced) -> list[int] | None:
        """Classes, best first, for accuracy against labels; None where that means nothing."""
