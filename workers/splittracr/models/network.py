"""The result of a family's `build`: a module for uint8 pictures, and how to prepare them.

Normalisation is part of the module. The first cut (`input`) is therefore full offload of uint8
pixels, and all cuts are positions in one graph.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import chain

import torch
from PIL import Image
from torch import Tensor, nn

from splittracr.experiment.errors import InvalidInput
from splittracr.experiment.spec import Source
from splittracr.models.weights import brief


class Task(StrEnum):
    """The meaning of the network's output."""

    CLASSIFY = "classify"
    DETECT = "detect"
    SEGMENT = "segment"  # one class for each pixel
    INSTANCES = "instances"  # boxes with masks
    POSE = "pose"  # boxes with keypoints
    OBB = "obb"  # rotated boxes
    OTHER = "other"


@dataclass(frozen=True)
class Network:
    """A network ready to be captured.

    `module` is in eval mode and maps a batch `[N, *shape]` of `input_dtype` to its raw output. For
    pictures the input is uint8 RGB `[N, 3, H, W]`. `prepare` converts one decoded picture to such
    an input without the batch dimension. Modules of a class in `leaves` are one operation.
    `within` is the path in `module` of the network that the user wrote. `keypoints` is how many an
    object has; None if none, or unknown. `exits` are classifiers by the name of a cut: each takes
    the live values there and returns logits `[N, classes]`.
    """

    name: str
    source: Source
    task: Task
    module: nn.Module
    prepare: Callable[[Image.Image], Tensor]
    shape: tuple[int, ...]
    postprocessor: str
    weights: str  # label of the weights, such as "IMAGENET1K_V2" or "none (random, seed 0)"
    classes: tuple[str, ...] = ()
    input_dtype: torch.dtype = torch.uint8
    leaves: tuple[type[nn.Module], ...] = field(default=())
    variable_shape: bool = False  # pictures keep their own height and width
    within: str = ""
    keypoints: int | None = None
    exits: Mapping[str, nn.Module] = field(default_factory=dict)

    @property
    def preparation(self) -> str | None:
        """How a picture becomes an input, in words; None if only `prepare` knows."""
        return getattr(self.prepare, "in_words", None)

    @property
    def pictures(self) -> bool:
        """Whether the inputs are pictures, so that a picture codec can encode them."""
        return self.input_dtype is torch.uint8 and len(self.shape) == 3 and self.shape[0] == 3


def check_size(network: Network, size: tuple[int, int], expected: str) -> None:
    """Raise InvalidInput if the network fails for inputs of this size; computes only shapes.

    Networks that find boxes are not tried, since their shapes depend on values.
    """
    if network.task not in (Task.CLASSIFY, Task.SEGMENT):
        return
    # A copy without values, since some networks keep tensors of a size from one call to the next.
    state = chain(network.module.parameters(), network.module.buffers())
    module = copy.deepcopy(network.module, {id(tensor): tensor.to("meta") for tensor in state})
    example = torch.empty((1, *network.shape), dtype=network.input_dtype, device="meta")
    try:
        with torch.no_grad():
            module(example)
    except (RuntimeError, ValueError, AssertionError) as error:
        expected = f"{expected} ({brief(error)})"
        raise InvalidInput("spec.model.inputSize", list(size), expected) from error
