"""Any other output: the shape and the first values of its tensors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from splittracr.data.contracts import Geometry, Reduced
from splittracr.data.drawing import Row, with_rows
from splittracr.data.postprocess.common import by_field, numbers
from splittracr.experiment.spec import PostprocessSpec

FIRST = 8
"""Values kept of each tensor."""


@dataclass(frozen=True)
class Raw:
    """Raw output: tensors in nested tuples, lists and mappings, dimension 0 the batch.

    Reduced: for a tensor at `a.0`, its shape without the batch as `a.0:shape` (int64) and its first
    values as `a.0:first` (float64, up to FIRST). A tensor that stands alone is called `output`. A
    list is taken for one output a picture, which is torchvision's custom.
    """

    spec: PostprocessSpec
    classes: tuple[str, ...]

    def reduce(self, output: Any) -> list[Reduced]:
        """Shape and first values of each tensor of each picture."""
        if isinstance(output, list):
            return [_summary(dict(_tensors(one))) for one in output]
        named = dict(_tensors(output))
        return [
            _summary({name: value[i] for name, value in named.items()})
            for i in range(min((len(value) for value in named.values()), default=0))
        ]

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """One object a tensor: its name, shape and first values."""
        found = [name.removesuffix(":shape") for name in reduced if name.endswith(":shape")]
        return [
            {
                "name": name,
                "shape": reduced[f"{name}:shape"].tolist(),
                "first": numbers(reduced[f"{name}:first"], 6),
            }
            for name in found
        ]

    def draw(self, picture: Image.Image, reduced: Reduced, geometry: Geometry) -> Image.Image:
        """The picture with a line for each tensor below."""
        rows = [Row(_line(one)) for one in self.describe(reduced, geometry)[:8]]
        return with_rows(picture, rows)

    def ranking(self, reduced: Reduced) -> list[int] | None:
        """None: nothing is known about the output's meaning."""
        return None


def _line(one: Mapping[str, Any]) -> str:
    return f"{one['name']} {one['shape']}  {' '.join(map(str, one['first'][:4]))} …"


def _tensors(output: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    output = by_field(output)
    if isinstance(output, Tensor):
        yield name or "output", output
    elif isinstance(output, Mapping | tuple | list):
        parts = output.items() if isinstance(output, Mapping) else enumerate(output)
        for key, part in parts:
            yield from _tensors(part, f"{name}.{key}" if name else str(key))


def _summary(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    reduced = {}
    for name, value in named.items():
        first = value.flatten()[:FIRST].cpu()  # some accelerators have no float64
        reduced[f"{name}:shape"] = torch.tensor(value.shape, dtype=torch.int64)
        reduced[f"{name}:first"] = first.to(torch.float64, copy=True)
    return reduced
