"""Any other output, described by the shape and the first values of its tensors."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from splittracr.data.contracts import Geometry, Reduced
from splittracr.data.drawing import Bar, with_bars
from splittracr.data.postprocess.common import by_field, numbers
from splittracr.data.tensors import is_array
from splittracr.experiment.errors import FrameFailed, InvalidInput
from splittracr.experiment.spec import PostprocessSpec

FIELD = "spec.postprocess.name"

FIRST = 8
"""Values kept of each tensor."""


@dataclass(frozen=True)
class Layout:
    """Which parts of an output are per picture.

    `lists` are the places of sequences with one entry for each picture. Elsewhere dimension 0 of a
    tensor is the batch. Tensors at places in `common` belong to every picture.
    """

    lists: frozenset[str] = frozenset()
    common: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Raw:
    """Raw output: tensors in nested tuples, lists and mappings.

    Reduced: for a tensor at `a.0`, its shape without the batch as `a.0:shape` (int64) and up to
    FIRST values as `a.0:first` (float64). Of complex values the real and imaginary parts alternate.
    A single tensor is called `output`.

    `layout` is the result of `layout_of`. If it is None, a list at the top has one entry for each
    picture, as in torchvision, and otherwise dimension 0 of each tensor is the batch.
    """

    spec: PostprocessSpec
    classes: tuple[str, ...]
    layout: Layout | None = None

    def reduce(self, output: Any) -> list[Reduced]:
        """Return shape and first values of each tensor of each picture.

        Raises FrameFailed if the parts of the output differ in their number of pictures.
        """
        layout = self.layout or Layout(frozenset([""] if isinstance(output, list) else []))
        lengths = {place or "output": len(part) for place, part in _parts(output, layout)}
        if len(set(lengths.values())) > 1:
            raise FrameFailed(f"parts of the output differ in their number of pictures: {lengths}")
        count = next(iter(lengths.values()), 0)
        return [_summary(dict(_tensors(_of_picture(output, layout, i)))) for i in range(count)]

    def describe(self, reduced: Reduced, geometry: Geometry) -> list[dict[str, Any]]:
        """Return one object for each tensor: its name, shape and first values."""
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
        """Return the picture with a line for each tensor below."""
        rows = [Bar(_line(one)) for one in self.describe(reduced, geometry)[:8]]
        return with_bars(picture, rows)

    def ranking(self, reduced: Reduced) -> list[int] | None:
        """Return None, because the meaning of the output is unknown."""
        return None


def _line(one: Mapping[str, Any]) -> str:
    return f"{one['name']} {one['shape']}  {' '.join(map(str, one['first'][:4]))} …"


def layout_of(output: Any, batch: int, larger: Any = None) -> Layout:
    """Find which parts of an output are per picture.

    `output` is that of a batch of `batch` pictures, `larger` that of a batch with one picture more.
    Parts that are larger in the latter are per picture. Without `larger` (None) these are the parts
    whose size equals `batch`.

    Raises InvalidInput if no part is per picture, or if sizes are ambiguous.
    """
    lists: set[str] = set()
    common: set[str] = set()
    by_picture = _compare("", output, batch, larger, lists, common)
    if not by_picture and batch == 1 and larger is not None:  # pictures are mixed, but there is one
        return layout_of(output, batch)
    if not by_picture:
        raise InvalidInput(FIELD, "raw", "a model whose output has one part for each picture")
    return Layout(frozenset(lists), frozenset(common))


def _compare(
    place: str, output: Any, batch: int, larger: Any, lists: set[str], common: set[str]
) -> bool:
    """Enter the places below `place` into the sets; returns whether any part is per picture."""
    if is_array(output):
        grown = not is_array(larger) or _rows(larger) == batch + 1
        if _rows(output) == batch and grown:
            return True
        common.add(place)
        return False
    if isinstance(output, tuple | list) and _has_one_each(place, output, batch, larger):
        lists.add(place)
        return True
    others = dict(_children(larger))
    found = [
        _compare(_join(place, key), part, batch, others.get(key), lists, common)
        for key, part in _children(output)
    ]
    return any(found)


def _has_one_each(place: str, output: Sequence[Any], batch: int, larger: Any) -> bool:
    """Whether a sequence has one entry for each picture, and is no sequence of batches."""
    if isinstance(larger, tuple | list):
        return len(output) == batch and len(larger) == batch + 1
    firsts = {_rows(value) for _, value in _tensors(output)}
    if len(output) != batch or not firsts:
        return False
    if firsts == {batch} and batch > 1:
        expected = (
            f"an unambiguous output: {place or 'it'} has {batch} entries with {batch} rows each, "
            "and both numbers are the batch size. Return a tensor, set another "
            "spec.workload.batchSize, or name a post-processor of your own"
        )
        raise InvalidInput(FIELD, "raw", expected)
    return firsts != {batch}


def _rows(tensor: Any) -> int | None:
    if not tensor.ndim:
        return None
    return len(tensor) if isinstance(tensor, np.ndarray) else int(tensor.size(0))  # nested, too


def _is_part(output: Any, layout: Layout, place: str) -> bool:
    if is_array(output):
        return place not in layout.common
    return place in layout.lists and isinstance(output, tuple | list)


def _of_picture(output: Any, layout: Layout, index: int, place: str = "") -> Any:
    """Return the output of one picture, in dicts."""
    if _is_part(output, layout, place):
        return output[index]
    children = _children(output)
    if not children:
        return output
    return {key: _of_picture(part, layout, index, _join(place, key)) for key, part in children}


def _parts(output: Any, layout: Layout, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all parts that are per picture, with their places."""
    if _is_part(output, layout, place):
        yield place, output
    else:
        for key, part in _children(output):
            yield from _parts(part, layout, _join(place, key))


def _tensors(output: Any) -> Iterator[tuple[str, Any]]:
    """Yield all tensors with their names."""
    return ((place or "output", value) for place, value in _places(output))


def _places(output: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if is_array(output):
        yield place, output
    for key, part in _children(output):
        yield from _places(part, _join(place, key))


def _children(output: Any) -> list[tuple[str, Any]]:
    output = by_field(output)
    if isinstance(output, Mapping):
        return [(str(key), part) for key, part in output.items()]
    if isinstance(output, tuple | list):
        return [(str(i), part) for i, part in enumerate(output)]
    return []


def _join(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _summary(named: Mapping[str, Any]) -> dict[str, Any]:
    return dict(part for name, value in named.items() for part in _parts_of(name, value).items())


def _parts_of(name: str, value: Any) -> dict[str, Any]:
    """Shape and first values of a tensor of torch, or of an array."""
    first = value.flatten()[:FIRST]
    if isinstance(first, np.ndarray):
        if np.iscomplexobj(first):
            first = np.stack([first.real, first.imag], -1).flatten()[:FIRST]
        shape: Any = np.array(value.shape, np.int64)
        return {f"{name}:shape": shape, f"{name}:first": first.astype(np.float64)}
    torch: Any = sys.modules["torch"]  # a tensor is here, so it is imported
    first = first.cpu()  # some accelerators have no float64
    if first.is_complex():
        first = torch.view_as_real(first.resolve_conj()).flatten()[:FIRST]
    shape = torch.tensor(value.shape, dtype=torch.int64)
    return {f"{name}:shape": shape, f"{name}:first": first.to(torch.float64, copy=True)}
