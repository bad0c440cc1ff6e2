"""Functions that several post-processors use."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from splittracr.data.contracts import Geometry
from splittracr.data.tensors import is_array
from splittracr.experiment.errors import FrameFailed

if TYPE_CHECKING:  # edges of other backends have no torch
    from torch import Tensor


def label_of(classes: tuple[str, ...], index: int) -> str:
    """Return the class's name, or `class 7` if the network has no names."""
    return classes[index] if 0 <= index < len(classes) else f"class {index}"


def number(value: float, digits: int = 4) -> float | None:
    """Return a rounded float for JSON; None if it is not finite."""
    return round(value, digits) if math.isfinite(value) else None


def numbers(values: "Tensor", digits: int) -> Any:
    """Return a tensor as nested lists of floats for JSON."""
    return _rounded(values.tolist(), digits)


def _rounded(value: Any, digits: int) -> Any:
    return (
        [_rounded(v, digits) for v in value] if isinstance(value, list) else number(value, digits)
    )


def by_field(output: Any) -> Any:
    """Return the fields of a data class by name, and other values unchanged."""
    if dataclasses.is_dataclass(output) and not isinstance(output, type | Mapping):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    return output


def first_tensor(output: Any) -> Any:
    """Return the first tensor, or array, of an output of nested tuples, lists and mappings.

    Raises FrameFailed if it is complex, because half of each score would be lost.
    """
    while not is_array(output):
        output = by_field(output)
        output = next(iter(output.values() if isinstance(output, Mapping) else output))
    if "complex" in str(output.dtype):
        raise FrameFailed(f"the model's output is {output.dtype}, expected real numbers")
    return output


def resized_to_picture(points: "Tensor", geometry: Geometry) -> "Tensor":
    """Convert points `[..., 2k]`, x and y alternating, from the network's pixels to the picture's.

    For networks whose input is the picture resized without padding.
    """
    height = geometry.picture[0] / geometry.network[0]
    width = geometry.picture[1] / geometry.network[1]
    return points * points.new_tensor([width, height]).repeat(points.shape[-1] // 2)


def detections(
    classes: tuple[str, ...], found: Mapping[str, "Tensor"], **more: list[Any]
) -> list[dict[str, Any]]:
    """Return one JSON object for each detection, best first.

    `found` has `boxes` `[n, 4]` in pixels of the picture, `scores` `[n]` and `classes` `[n]`. Each
    of `more` has one value for each detection.
    """
    boxes, scores = numbers(found["boxes"], 1), numbers(found["scores"], 4)
    indices = found["classes"].tolist()
    return [
        {"label": label_of(classes, index), "class": index, "score": score, "box": box}
        | {key: values[i] for key, values in more.items()}
        for i, (index, score, box) in enumerate(zip(indices, scores, boxes, strict=True))
    ]


def on_cpu(reduced: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Return the tensors on the CPU, for drawing and JSON."""
    return {name: value.detach().cpu() for name, value in reduced.items()}
